package alias

import "github.com/miekg/dns"

// destination is where a target leads to inside ZONES: to a name outside, that an upstream knows about, or to data
// of this server.
type destination struct {
	question          // what to ask upstream, unless own is set
	limit    uint32   // the smallest TTL on the way
	links    int      // how many links there are to it
	own      *outcome // what this server's own data says; good for a second
}

// locate follows target as long as it is inside ZONES, through aliases and through the backend's CNAMEs. limit is the TTL
// of the alias. The error is a *failure: a cycle, or a chain that is too long.
func (a *Alias) locate(target string, qtype uint16, limit uint32) (destination, error) {
	c := newChain(target)
	for a.inside(c.end()) {
		q := question{c.end(), qtype}
		if r, _ := a.records.find(q.name); r != nil {
			if _, ok := a.inForce(r, q); ok {
				limit = min(limit, r.ttl)
				if err := c.extend(r.target); err != nil {
					return destination{}, err
				}
				continue
			}
		}
		h := a.look(q)
		if !h.own() {
			break
		}
		addrs, err := c.follow(h.m.Answer, qtype)
		if err == nil && c.end() == q.name && h.alias != nil {
			c.ttl = min(c.ttl, h.alias.ttl)
			err = c.extend(h.alias.target)
		}
		limit = min(limit, c.ttl)
		switch {
		case err != nil:
			return destination{}, err
		case len(addrs) > 0:
			return destination{limit: limit, own: &outcome{addrs: addrs, ttl: limit}}, nil
		case c.end() != q.name:
			continue
		case h.m.Rcode == dns.RcodeSuccess, h.m.Rcode == dns.RcodeNameError:
			return destination{limit: limit, own: new(outcome)}, nil
		}
		break
	}
	return destination{question: question{c.end(), qtype}, limit: limit, links: c.links()}, nil
}

// inside reports whether name is in ZONES. The root zone does not count.
func (a *Alias) inside(name string) bool {
	z := a.zones.match(name)
	return z != "" && z != "."
}
