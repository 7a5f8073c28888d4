package alias

import (
	"errors"
	"time"

	"github.com/miekg/dns"
)

// destination is where a target leads to inside ZONES: to a name outside, that an upstream knows about, or to data
// of this server.
type destination struct {
	question        // what to ask upstream, unless own is set
	limit    uint32 // the smallest TTL on the way
	links    uint8  // how many links there are to it
	own      bool   // this server's own data says it
	addrs    []byte // what that says
}

// locate follows the target of al as long as it is inside ZONES, through aliases and through the backend's CNAMEs.
// The error is a *failure: a cycle, a chain that is too long, or a backend that is too slow.
func (a *Alias) locate(al *alias, qtype uint16) (destination, error) {
	d := destination{question: question{al.target, qtype}, limit: al.ttl}
	if !al.inside {
		return d, nil
	}
	c := newChain(al.target)
	for began := time.Now(); a.zones.inside(c.end()); {
		if time.Since(began) > 2*a.upstreams.timeout || a.cache.ctx.Err() != nil {
			return d, networkFailure("timeout", errors.New("the backend is too slow"))
		}
		name := c.end()
		if err := a.advance(&d, c, qtype); err != nil || d.own {
			return d, err
		}
		if c.end() == name {
			break
		}
	}
	d.question, d.links = question{c.end(), qtype}, c.links()
	return d, nil
}

// advance takes a step along c, which ends inside ZONES. It takes none when the backend has no data of its own there.
func (a *Alias) advance(d *destination, c *chain, qtype uint16) error {
	q := question{c.end(), qtype}
	if r, _ := a.records.find(q.name); r.alias != nil {
		if a.inForce(r, q) {
			d.limit = min(d.limit, r.ttl)
			return c.extend(r.target)
		}
	}
	h := a.look(q)
	if !h.own() {
		return nil
	}
	addrs, err := c.follow(h.m.Answer, qtype)
	d.limit = min(d.limit, c.ttl)
	switch {
	case err != nil:
		return err
	case len(addrs) > 0:
		d.own, d.addrs = true, addrs
	case c.end() != q.name:
	case h.alias != nil:
		d.limit = min(d.limit, h.alias.ttl)
		return c.extend(h.alias.target)
	case h.m.Rcode == dns.RcodeSuccess, h.m.Rcode == dns.RcodeNameError:
		d.own = true
	}
	return nil
}
