package alias

import (
	"cmp"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/rdata"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"

	"github.com/miekg/dns"
)

// localWriter is the client of the queries that alias itself asks, and takes responses of any size: it seems to be
// on TCP.
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

// reply is what the backend says to a question. What is in it belongs to the backend and must not be changed.
type reply struct {
	m        *dns.Msg // nil when the backend gave no response
	wildcard string   // the name of the wildcard that m was made from, or ""
	late     bool     // the backend was not waited for any longer
	unable   bool     // the backend cannot answer: its zone is expired, or has not come yet
}

// insideKey marks the context of the questions that alias itself asks through the server.
type insideKey struct{}

// ask puts a question to the backend, and waits for it as long as for an upstream. Without the server in the context file
// does not look up by itself where a CNAME leads to.
func (a *Alias) ask(name string, qtype uint16) reply {
	return a.askWithin(context.Background(), name, qtype)
}

// askThrough is ask with a server that the backend can look up in.
func (a *Alias) askThrough(server *dnsserver.Server, q question) reply {
	ctx := context.WithValue(context.Background(), dnsserver.Key{}, server)
	return a.askWithin(context.WithValue(ctx, insideKey{}, true), q.name, q.qtype)
}

func (a *Alias) askWithin(ctx context.Context, name string, qtype uint16) reply {
	if a.Next == nil {
		return reply{}
	}
	if !a.asks.TryAcquire(1) { // the backend is stuck
		return reply{late: true}
	}
	ctx, cancel := context.WithTimeout(ctx, a.upstreams.timeout)
	replies := make(chan reply, 1)
	go func() {
		defer a.asks.Release(1)
		defer cancel()
		replies <- a.exchange(ctx, name, qtype)
	}()
	<-ctx.Done()
	if ctx.Err() == context.DeadlineExceeded {
		return reply{late: true}
	}
	return <-replies
}

// exchange puts a question to the backend.
func (a *Alias) exchange(ctx context.Context, name string, qtype uint16) (r reply) {
	defer func() {
		if panicked := recover(); panicked != nil {
			log.Errorf("Recovered from panic in the backend: %v", panicked)
			r = reply{}
		}
	}()
	m := &dns.Msg{ // without an ID, which costs a system call
		MsgHdr:   dns.MsgHdr{RecursionDesired: true},
		Question: []dns.Question{{Name: name, Qtype: qtype, Qclass: dns.ClassINET}},
	}
	if qtype == rdata.TypeALIAS {
		m.SetEdns0(dns.MaxMsgSize-1, true) // is it signed?
	}
	ctx = metadata.ContextWithMetadata(ctx)
	w := nonwriter.New(localWriter{})
	rcode, err := plugin.NextOrFailure(a.Name(), a.Next, ctx, w, m)
	r.m, r.unable = w.Msg, w.Msg == nil && rcode == dns.RcodeServerFailure && err == nil
	if wildcard := metadata.ValueFunc(ctx, "zone/wildcard"); wildcard != nil {
		r.wildcard = wildcard()
	}
	return r
}

// own reports whether the backend answers with data of its own, and not with a referral or what it got elsewhere.
func (r reply) own() bool { return r.m != nil && r.m.Authoritative }

// exists reports whether the backend's zone has the name, which is in zone, or has delegated it.
func (r reply) exists(zone string) bool {
	switch {
	case r.m == nil, r.wildcard != "":
		return false
	case r.m.Authoritative:
		return r.m.Rcode != dns.RcodeNameError || len(r.m.Answer) > 0
	}
	return r.m.Rcode == dns.RcodeSuccess && len(r.m.Answer) == 0 && slices.ContainsFunc(r.m.Ns, func(rr dns.RR) bool {
		h := rr.Header()
		return h.Rrtype == dns.TypeNS && dns.IsSubDomain(zone, h.Name) && !strings.EqualFold(zone, h.Name)
	})
}

// addresses returns the addresses that the backend itself has for q, and their TTL in seconds.
func (r reply) addresses(q question) ([]byte, uint32) {
	if r.m == nil || r.m.Rcode != dns.RcodeSuccess {
		return nil, 0
	}
	c := newChain(q.name)
	addrs, err := c.follow(r.m.Answer, q.qtype)
	if err != nil {
		return nil, 0
	}
	return addrs, c.ttl
}

// soa returns a copy of the SOA record in r of a zone that name is in, or nil.
func (r reply) soa(name string) *dns.SOA {
	if r.m == nil {
		return nil
	}
	soa := soaFor(r.m.Answer, name)
	if soa == nil {
		soa = soaFor(r.m.Ns, name)
	}
	if soa == nil {
		return nil
	}
	own := *soa
	return &own
}

// soa returns a copy of the SOA record of the backend's zone that the name of q is in, with the serial number that leaves,
// or nil.
func (a *Alias) soa(q question) *dns.SOA {
	soa := a.backendSOA(q)
	if soa != nil && a.primary != nil {
		soa.Serial = a.primary.serial(soa)
	}
	return soa
}

func (a *Alias) backendSOA(q question) *dns.SOA {
	name := q.name
	if h := a.held(q); a.isGood(q, h, nil) {
		if soa := h.soa(name); soa != nil {
			return soa
		}
	}
	h := a.look(question{name, dns.TypeSOA})
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
	return a.look(question{apex, dns.TypeSOA}).soa(name)
}

// holding is what the backend has for a question, and is good for a moment. It is not changed.
type holding struct {
	reply
	alias   *alias // what the zone has in place of addresses, or nil
	until   time.Time
	version *dns.SOA // of the zone, where that is known: then it is good for longer
}

// slot is for what the backend said to a question.
type slot struct {
	holding atomic.Pointer[holding] // the last
	asking  sync.Mutex              // held by the one who asks the backend
}

// slot returns the slot of q.
func (a *Alias) slot(q question) *slot {
	if s, ok := a.slots.GetIfPresent(q); ok {
		return s
	}
	s, _ := a.slots.SetIfAbsent(q, new(slot))
	return s
}

// held returns what the backend said to q last, be it good or not any more, or nil.
func (a *Alias) held(q question) *holding {
	if s, ok := a.slots.GetIfPresent(q); ok {
		return s.holding.Load()
	}
	return nil
}

// look returns what the backend has for q. However many want to know, it is asked once, and then not for ownFor, or for
// foreignFor when it has no data of its own.
func (a *Alias) look(q question) *holding { return a.lookFrom(q, nil) }

// lookFrom is look for the one who has got said from the backend this moment, unless that is nil.
func (a *Alias) lookFrom(q question, said *dns.Msg) *holding {
	s := a.slot(q)
	if h := s.holding.Load(); a.isGood(q, h, said) {
		return h
	}
	s.asking.Lock()
	defer s.asking.Unlock()
	last, now := s.holding.Load(), a.cache.now()
	if a.isGood(q, last, said) {
		return last
	}
	var first reply
	if said == nil {
		first = a.ask(q.name, q.qtype)
	} else {
		kept := *said // which goes on to the client, and through plugins that change it
		first.m = &kept
	}
	h := a.inquire(q, first)
	switch {
	case !h.late:
		h.version = versionOf(h.m, q)
	case last != nil:
		*h = *last
	}
	h.until = now.Add(h.validFor())
	if h.large() {
		s.holding.Store(nil)
	} else {
		s.holding.Store(h)
	}
	return h
}

// large reports whether h has too much to be kept.
func (h *holding) large() bool {
	return h.m != nil && len(h.m.Answer)+len(h.m.Ns)+len(h.m.Extra) > maxKeptMessage
}

// isGood reports whether h, which the backend has said to q and may be nil, is good now, and no older than said.
func (a *Alias) isGood(q question, h *holding, said *dns.Msg) bool {
	if h == nil || !a.cache.now().Before(h.until) && !a.isUnchanged(h, q.name) {
		return false
	}
	return said == nil || h.alias != nil || h.m != nil && isNodata(h.m) == isNodata(said)
}

// validFor returns how long h is good.
func (h *holding) validFor() time.Duration {
	if h.m == nil || h.m.Authoritative || h.alias != nil || isReferral(h.m) {
		return ownFor
	}
	return foreignFor
}

// inquire returns what the backend has for q, to which it said first: where it has no such records, what stands for them.
func (a *Alias) inquire(q question, first reply) *holding {
	h := &holding{reply: first}
	switch {
	case h.m == nil:
	case q.qtype == rdata.TypeALIAS:
		h.alias = a.aliasIn(h.reply, q.name)
	case !isAddress(q.qtype):
	case isNodata(h.m):
		r := a.ask(q.name, rdata.TypeALIAS)
		h.alias, h.late = a.aliasIn(r, q.name), r.late
		if server := a.server.Load(); h.alias == nil && server != nil {
			// etcd leaves a CNAME record out when it cannot look up by itself where that leads to.
			r = a.askThrough(server, q)
			h.alias, h.late = a.flattened(r, q.name), h.late || r.late
		}
	default:
		h.alias = a.flattened(h.reply, q.name)
	}
	return h
}

// isReferral reports whether m says that the name is in a zone of somebody else.
func isReferral(m *dns.Msg) bool {
	return m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 && hasType(m.Ns, dns.TypeNS) && !hasType(m.Ns, dns.TypeSOA)
}

// isNodata reports whether m says with authority that the name exists, and has no such records (RFC 2308, section 2.2).
func isNodata(m *dns.Msg) bool {
	return m.Authoritative && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 && !hasType(m.Ns, dns.TypeNS)
}

// aliasIn returns the alias that the ALIAS records of name in r make, or nil. Of several the first in canonical order
// counts.
func (a *Alias) aliasIn(r reply, name string) *alias {
	if !r.own() {
		return nil
	}
	var first *rdata.ALIAS
	var ttl uint32
	several := false
	for _, rr := range r.m.Answer {
		al := rdata.Of(rr)
		if al == nil || al.Target == "" || !strings.EqualFold(rr.Header().Name, name) {
			continue
		}
		several = several || first != nil && al.Compare(first) != 0
		if first == nil || al.Compare(first) < 0 {
			first, ttl = al, ttlOf(rr)
		}
	}
	if first == nil {
		return nil
	}
	owner := cmp.Or(r.wildcard, name)
	if several {
		a.tellOnce("%s has more than one ALIAS record, and %s is served", owner, first.Target)
	}
	if signer := r.signer(); signer != "" && !a.signs {
		a.tellOnce("Zone %s has aliases and signatures of its own: a validating resolver takes the addresses for bogus; "+
			"let dnssec sign instead", signer)
	}
	return a.zones.newAlias(name, strings.ToLower(first.Target), ttl)
}

// signer returns the name of the zone whose signatures are in r, which is signed already then, or "".
func (r reply) signer() string {
	if r.m == nil {
		return ""
	}
	for _, section := range [][]dns.RR{r.m.Answer, r.m.Ns} {
		for _, rr := range section {
			if sig, ok := rr.(*dns.RRSIG); ok {
				return sig.SignerName
			}
		}
	}
	return ""
}

// flatten says which of the backend's CNAME records are aliases.
type flatten uint8

const (
	flattenNone flatten = iota
	flattenApex         // those at the apex of a zone
	flattenAll
)

// flattened returns the alias that the CNAME record of name in r is, or nil.
func (a *Alias) flattened(r reply, name string) *alias {
	if r.m == nil {
		return nil
	}
	cname := cnameOf(r.m.Answer, name)
	if cname == nil || a.flatten == flattenNone || a.flatten == flattenApex && !a.isApex(name, r.own()) {
		return nil
	}
	return a.zones.newAlias(name, canonical(cname.Target), ttlOf(cname))
}

// isApex reports whether name is one of ZONES, or the apex of a zone that the backend has below them, if it has any there.
func (a *Alias) isApex(name string, own bool) bool {
	if _, ok := a.zones[name]; ok || !own {
		return ok
	}
	soa := a.soa(question{name, dns.TypeSOA})
	return soa != nil && strings.EqualFold(soa.Hdr.Name, name)
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

// heldWriter keeps a response to an address query back when an alias may take its place.
type heldWriter struct {
	dns.ResponseWriter
	q question
	m *dns.Msg // the response that was kept back, or nil
}

// WriteMsg implements dns.ResponseWriter.
func (w *heldWriter) WriteMsg(m *dns.Msg) error {
	if m != nil && (isNodata(m) || cnameOf(m.Answer, w.q.name) != nil) {
		w.m = m
		return nil
	}
	w.m = nil
	return w.ResponseWriter.WriteMsg(m)
}

// serialWriter gives SOA records the serial number that leaves.
type serialWriter struct {
	dns.ResponseWriter
	p *primary
}

// WriteMsg implements dns.ResponseWriter.
func (w serialWriter) WriteMsg(m *dns.Msg) error {
	if m == nil || !m.Authoritative {
		return w.ResponseWriter.WriteMsg(m)
	}
	answer, ns := w.p.renumber(m.Answer), w.p.renumber(m.Ns)
	if answer == nil && ns == nil {
		return w.ResponseWriter.WriteMsg(m)
	}
	n := *m
	if answer != nil {
		n.Answer = answer
	}
	if ns != nil {
		n.Ns = ns
	}
	return w.ResponseWriter.WriteMsg(&n)
}
