package alias

import (
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"

	"github.com/miekg/dns"
)

// localWriter is the client of the queries that alias itself asks, and takes responses of any size: it seems to be
// on TCP. With a smaller buffer a longer packet that is cut between two records would pass for a whole response.
type localWriter struct{}

var (
	_ dns.ResponseWriter = localWriter{}

	errNoClient = errors.New("no client")
	loopback    = net.IPv4(127, 0, 0, 1)
)

func (localWriter) LocalAddr() net.Addr       { return &net.TCPAddr{IP: loopback, Port: 53} }
func (localWriter) RemoteAddr() net.Addr      { return &net.TCPAddr{IP: loopback} }
func (localWriter) WriteMsg(*dns.Msg) error   { return errNoClient }
func (localWriter) Write([]byte) (int, error) { return 0, errNoClient }
func (localWriter) Close() error              { return nil }
func (localWriter) TsigStatus() error         { return nil }
func (localWriter) TsigTimersOnly(bool)       {}
func (localWriter) Hijack()                   {}

// holding is what the backend has for a name and type.
type holding struct {
	m        *dns.Msg // nil when the backend gave no response
	wildcard bool     // m was made from a wildcard
}

// own reports whether the backend answers with data of its own, and not with a referral or what it got elsewhere.
func (h holding) own() bool { return h.m != nil && h.m.Authoritative }

// exists reports whether the backend's zone has the name, which is in zone, or has delegated it.
func (h holding) exists(zone string) bool {
	switch {
	case h.m == nil, h.wildcard:
		return false
	case h.m.Authoritative:
		return h.m.Rcode != dns.RcodeNameError || len(h.m.Answer) > 0
	}
	return h.m.Rcode == dns.RcodeSuccess && len(h.m.Answer) == 0 && slices.ContainsFunc(h.m.Ns, func(rr dns.RR) bool {
		h := rr.Header()
		return h.Rrtype == dns.TypeNS && dns.IsSubDomain(zone, h.Name) && !strings.EqualFold(zone, h.Name)
	})
}

// validFor returns how long h is good.
func (h holding) validFor() time.Duration {
	if h.own() {
		return ownFor
	}
	return foreignFor
}

// ask puts a question to the backend, and waits for it as long as for an upstream. What the holding has belongs to
// the backend and must not be changed.
func (a *Alias) ask(name string, qtype uint16) holding {
	if a.Next == nil {
		return holding{}
	}
	answers := make(chan holding, 1)
	go func() {
		defer func() {
			if r := recover(); r != nil {
				log.Errorf("Recovered from panic in the backend: %v", r)
				answers <- holding{}
			}
		}()
		m := new(dns.Msg)
		m.SetQuestion(name, qtype)
		// Without the server in the context file does not look up by itself where a CNAME leads to.
		ctx := metadata.ContextWithMetadata(context.Background())
		w := nonwriter.New(localWriter{})
		plugin.NextOrFailure(a.Name(), a.Next, ctx, w, m)
		answers <- holding{w.Msg, metadata.ValueFunc(ctx, "zone/wildcard") != nil}
	}()
	patience := time.NewTimer(a.upstreams.timeout)
	defer patience.Stop()
	select {
	case h := <-answers:
		return h
	case <-patience.C:
		return holding{}
	}
}

// soa returns a copy of the SOA record of the backend's zone that name is in, or nil.
func (a *Alias) soa(name string) *dns.SOA {
	h := a.ask(name, dns.TypeSOA)
	if soa := h.soa(name); soa != nil || h.m == nil {
		return soa
	}
	// A CNAME or a delegation at the name hides it.
	apex := a.zones.match(name)
	if off, end := dns.NextLabel(name, 0); apex == "." && !end {
		apex = name[off:]
	}
	if apex == name {
		return nil
	}
	return a.ask(apex, dns.TypeSOA).soa(name)
}

// soa returns a copy of the SOA record in h of a zone that name is in, or nil.
func (h holding) soa(name string) *dns.SOA {
	if h.m == nil {
		return nil
	}
	for _, section := range [][]dns.RR{h.m.Answer, h.m.Ns} {
		if soa := soaFor(section, name); soa != nil {
			return dns.Copy(soa).(*dns.SOA)
		}
	}
	return nil
}

// destination is where a target leads to inside ZONES: to a name outside, that an upstream knows about, or to data
// of this server.
type destination struct {
	question          // what to ask upstream, unless own is set
	limit    uint32   // the smallest TTL on the way
	links    int      // how many links there are to it
	own      *outcome // what this server's own data says; good for a second
}

// locate follows target as long as it is inside ZONES, through records and through the backend's CNAMEs. limit is
// the TTL of the record. The error is a *failure: a cycle, or a chain that is too long.
func (a *Alias) locate(target string, qtype uint16, limit uint32) (destination, error) {
	c := newChain(target)
	for a.inside(c.end()) {
		name := c.end()
		r, _ := a.records.find(name)
		var h holding
		if r == nil || r.wildcard {
			h = a.ask(name, qtype)
		}
		if r != nil && !h.exists(r.zone) {
			limit = min(limit, r.ttl)
			if err := c.extend(r.target); err != nil {
				return destination{}, err
			}
			continue
		}
		if !h.own() {
			break
		}
		addrs, err := c.follow(h.m.Answer, qtype)
		limit = min(limit, c.ttl)
		switch {
		case err != nil:
			return destination{}, err
		case len(addrs) > 0:
			return destination{limit: limit, own: &outcome{addrs: addrs, ttl: limit}}, nil
		case c.end() != name:
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

// existingWriter does not let the backend deny a name that exists because of a record: NXDOMAIN becomes NODATA, or
// resolvers would take it that nothing exists at and below the name (RFC 8020).
type existingWriter struct{ dns.ResponseWriter }

// WriteMsg implements dns.ResponseWriter.
func (w existingWriter) WriteMsg(m *dns.Msg) error {
	// Behind a CNAME the code is about the target's name.
	if m.Rcode != dns.RcodeNameError || len(m.Answer) > 0 {
		return w.ResponseWriter.WriteMsg(m)
	}
	n := *m
	n.Rcode = dns.RcodeSuccess
	// The proofs that the name does not exist have to go too.
	n.Ns = slices.DeleteFunc(slices.Clone(m.Ns), func(rr dns.RR) bool {
		sig, signature := rr.(*dns.RRSIG)
		return rr.Header().Rrtype != dns.TypeSOA && !(signature && sig.TypeCovered == dns.TypeSOA)
	})
	return w.ResponseWriter.WriteMsg(&n)
}
