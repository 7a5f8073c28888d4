package alias

import (
	"context"
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/subnet"

	"github.com/coredns/coredns/core/dnsserver"

	"github.com/miekg/dns"
)

// pass hands a query to the backend. The client gets the published serial.
func (a *Alias) pass(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, q *incoming) (int, error) {
	ctx, w = a.numbered(ctx, w)
	return a.hand(ctx, w, r, q)
}

// hand hands a query to the backend, and its response to w.
func (a *Alias) hand(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, q *incoming) (int, error) {
	ctx = context.WithValue(ctx, handedKey{}, true)
	if !q.exists {
		return a.backend.ServeDNS(ctx, w, r)
	}
	rcode, err := a.backend.ServeDNS(ctx, existingWriter{w}, r)
	if rcode == dns.RcodeNameError {
		rcode = dns.RcodeSuccess
	}
	return rcode, err
}

// handedKey marks the context of a query that was handed to the backend.
type handedKey struct{}

// isNested reports whether ctx is that of a query with which another plugin looks up in the server, as file does where a
// CNAME record leads. Such a plugin keeps the message, but its writer lets what is written in wire form through to the
// client. The plugin is in a server block with alias, or it counts in the context how deep it is, as file does.
func isNested(ctx context.Context) bool {
	depth, _ := ctx.Value(dnsserver.LoopKey{}).(int)
	return depth > 0 || ctx.Value(handedKey{}) != nil
}

// numberedKey marks the context of a query whose response gets the published serials of a zone on the way to the client.
type numberedKey struct{ p *primary.Primary }

// numbered returns a writer to w that puts the published serial into responses, once: the backend may look up in the
// server where a CNAME record leads, and has the response to that in its own. Such a query has the context that numbered
// returns, or what the Backend itself queries, which keeps the zone's own serial.
func (a *Alias) numbered(ctx context.Context, w dns.ResponseWriter) (context.Context, dns.ResponseWriter) {
	key := numberedKey{a.primary}
	if a.primary == nil || backend.IsInside(ctx) || ctx.Value(key) != nil {
		return ctx, w
	}
	return context.WithValue(ctx, key, true), a.primary.Writer(w)
}

// passFollowed hands a query of a type that aliases are followed for to the backend, and answers it when the zone there has
// an alias for it.
func (a *Alias) passFollowed(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, q *incoming) (int, error) {
	if a.zones.Match(q.Name) == "" || backend.IsInside(ctx) {
		return a.pass(ctx, w, r, q)
	}
	a.backend.UseServer(ctx)
	marked, numbered := a.numbered(ctx, w)
	held := &heldWriter{ResponseWriter: numbered, name: q.Name} // before it is numbered: the Backend keeps the zone's own serial
	rcode, err := a.hand(marked, held, r, q)
	if held.m == nil {
		return rcode, err
	}
	if a.backend.MayHaveAlias(held.m) {
		has := a.backend.Received(q.Question, held.m)
		switch {
		case has.Alias != nil:
			return a.serve(ctx, w, r, q, has.Alias)
		case has.TimedOut && a.onFailure != dns.RcodeSuccess: // there may be an alias
			return a.onFailure, nil
		case has.TimedOut: // and no resolver is to cache for long that there is nothing
			numbered.WriteMsg(withShortTTL(held.m))
			return rcode, err
		}
	}
	if m := a.completed(ctx, r, held.m, q); m != nil {
		w.WriteMsg(m)
	} else {
		numbered.WriteMsg(held.m)
	}
	return rcode, err
}

// completed returns m, the backend's response to q, with the addresses of the alias that its CNAME records lead to, or nil
// when they do not lead to a name inside ZONES that has an alias. r is the query.
func (a *Alias) completed(ctx context.Context, r, m *dns.Msg, q *incoming) *dns.Msg {
	c := lookup.NewChain(q.Name)
	for cname := lookup.CNAMEOf(m.Answer, c.End()); cname != nil; cname = lookup.CNAMEOf(m.Answer, c.End()) {
		if c.Extend(lookup.Canonical(cname.Target)) != nil {
			return nil
		}
	}
	if c.Links() == 0 || !a.zones.Inside(c.End()) {
		return nil
	}
	end := incoming{Question: lookup.Question{Name: c.End(), Type: q.Type}}
	end.record, end.exists = a.records.Find(end.Name)
	al := a.find(&end, true)
	if al == nil {
		return nil
	}
	var ans answer
	if a.subnets.on && !a.subnets.setClient(&ans, r) {
		return new(dns.Msg).SetRcode(r, dns.RcodeFormatError)
	}
	a.resolve(&ans, end.Question, al)
	ans.setScope()
	a.count(ctx, &ans)
	n := *m
	n.Rcode, n.Ns = ans.Rcode, ans.NS
	if ans.Subnet != nil {
		n.Extra = subnet.With(m.Extra, ans.Subnet)
	}
	n.Answer = slices.DeleteFunc(slices.Clone(m.Answer), func(rr dns.RR) bool { return strings.EqualFold(rr.Header().Name, end.Name) })
	n.Answer = append(n.Answer, lookup.Records(end.Question, ans.TTL, ans.Data)...)
	return &n
}

// withShortTTL returns a copy of the negative response m that resolvers cache for maxEmptyTTL at most.
func withShortTTL(m *dns.Msg) *dns.Msg {
	n := *m
	n.Ns = nil
	for _, rr := range m.Ns {
		rr = dns.Copy(rr)
		rr.Header().Ttl = min(rr.Header().Ttl, maxEmptyTTL)
		n.Ns = append(n.Ns, rr)
	}
	return &n
}

// existingWriter does not let the backend deny a name that exists because of a record: NXDOMAIN becomes NODATA, or
// resolvers would take it that nothing exists at and below the name (RFC 8020).
type existingWriter struct{ dns.ResponseWriter }

// WriteMsg implements dns.ResponseWriter.
func (w existingWriter) WriteMsg(m *dns.Msg) error {
	// Behind a CNAME the code is about the target's name.
	if m == nil || m.Rcode != dns.RcodeNameError || len(m.Answer) > 0 {
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

// heldWriter holds a response to an address query back when an alias may take its place.
type heldWriter struct {
	dns.ResponseWriter
	name string
	m    *dns.Msg // the response that was held back, or nil
}

// WriteMsg implements dns.ResponseWriter.
func (w *heldWriter) WriteMsg(m *dns.Msg) error {
	if m != nil && (lookup.IsNodata(m) || lookup.CNAMEOf(m.Answer, w.name) != nil) {
		w.m = m
		return nil
	}
	w.m = nil
	return w.ResponseWriter.WriteMsg(m)
}
