// Package alias implements a plugin that gives a name what a CNAME record cannot give a zone apex: it answers A and
// AAAA queries for the name with the addresses of another name, looked up through a resolver and remembered.
package alias

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/metrics"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/request"

	"github.com/maypok86/otter/v2"
	"github.com/miekg/dns"
)

var log = clog.NewWithPlugin("alias")

const (
	// ownFor is how long it is good what the backend says: a change in a zone is seen in this time.
	ownFor = time.Second

	// foreignFor is how long it is good that the backend has no data of its own for a name.
	foreignFor = 30 * time.Second

	// maxWildcards is how many answers for names under wildcards are kept, for ownFor each.
	maxWildcards = 10_000

	// maxEmptyTTL is the TTL in seconds of the SOA record beside an empty result that stands for a failure:
	// resolvers are to forget it quickly.
	maxEmptyTTL = 5
)

// Alias is the plugin of one server block. It is safe for concurrent use once it is started.
type Alias struct {
	// Next is what holds the other data of the zones. It may be nil.
	Next plugin.Handler

	zones   zones
	records *records

	upstreams *upstreams
	cache     *cache

	// wildcards has the answers for names that a wildcard made exist. They are the clients' choice, so there is a
	// bound to them.
	wildcards *otter.Cache[question, *answer]

	staleTTL  uint32 // TTL of stale answers, in seconds
	onFailure int    // the response code when nothing can be answered: NOERROR or SERVFAIL

	started  time.Time
	begun    atomic.Bool    // the servers listen, and the lookups at start-up have begun
	primed   atomic.Bool    // every record was resolved, or has failed one full round
	priming  sync.WaitGroup // the lookups at start-up
	stopping sync.Once
	vantages atomic.Pointer[map[vantage]*counters]
}

var _ plugin.Handler = (*Alias)(nil)

// Name implements plugin.Handler.
func (a *Alias) Name() string { return "alias" }

// ServeDNS implements plugin.Handler.
func (a *Alias) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if r.Opcode != dns.OpcodeQuery || state.QClass() != dns.ClassINET {
		return plugin.NextOrFailure(a.Name(), a.Next, ctx, w, r)
	}
	q := question{state.Name(), state.QType()}
	rec, exists := a.records.find(q.name)
	switch {
	case !exists:
		return plugin.NextOrFailure(a.Name(), a.Next, ctx, w, r)
	case rec == nil, q.qtype != dns.TypeA && q.qtype != dns.TypeAAAA:
		return a.passExisting(ctx, w, r)
	}

	now, kept := a.cache.now(), a.kept(rec, q)
	if kept == nil || !now.Before(kept.until) {
		ans := a.answer(q, rec, kept, now)
		a.keep(rec, q, ans)
		kept = ans
	}
	if kept.pass {
		return a.passExisting(ctx, w, r)
	}
	return a.write(ctx, w, r, rec, kept)
}

// kept returns the answer to q that was made last, or nil.
func (a *Alias) kept(rec *record, q question) *answer {
	if rec.wildcard {
		ans, _ := a.wildcards.GetIfPresent(q)
		return ans
	}
	return rec.answers[family(q.qtype)].Load()
}

// keep keeps ans for the next who ask q.
func (a *Alias) keep(rec *record, q question, ans *answer) {
	if ans.status == miss { // for this time only
		again := *ans
		again.status = hit
		ans = &again
	}
	if rec.wildcard {
		a.wildcards.Set(q, ans)
		return
	}
	rec.answers[family(q.qtype)].Store(ans)
}

// passExisting hands a query for a name that exists because of a record to the backend.
func (a *Alias) passExisting(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	rcode, err := plugin.NextOrFailure(a.Name(), a.Next, ctx, existingWriter{w}, r)
	if rcode == dns.RcodeNameError {
		rcode = dns.RcodeSuccess
	}
	return rcode, err
}

// answer is what the response to a query consists of. It is shared between queries, and so are its records.
type answer struct {
	status     status
	until      time.Time // when it is not current any more
	rcode      int
	answer, ns []dns.RR

	expired time.Time // when the TTL of a stale answer ran out
	cause   *failure  // why it is not a fresh answer, or nil

	pass   bool      // the backend has the name of a wildcard's query itself; there is no more in this answer
	vacant time.Time // until when the backend is known not to have it
}

// answer makes the answer to q, an address query for a name that has rec. last is the answer before it, or nil.
func (a *Alias) answer(q question, rec *record, last *answer, now time.Time) *answer {
	if !rec.wildcard {
		return a.resolve(q, rec, now)
	}
	var vacant time.Time
	if last != nil && now.Before(last.vacant) {
		vacant = last.vacant
	} else {
		h := a.ask(q.name, q.qtype)
		if h.exists(rec.zone) {
			return &answer{pass: true, until: now.Add(ownFor)}
		}
		vacant = now.Add(h.validFor())
	}
	ans := a.resolve(q, rec, now)
	ans.vacant = vacant
	return ans
}

// resolve makes the answer to q from rec: out of this server's own data, of what is remembered or an upstream says,
// and without all these of the backend's own addresses.
func (a *Alias) resolve(q question, rec *record, now time.Time) *answer {
	d, err := a.locate(rec.target, q.qtype, rec.ttl)
	if err != nil {
		return a.fail(q, asFailure(err), now.Add(ownFor))
	}
	if d.own != nil {
		return a.make(q, d.own, miss, a.cache.clamp(d.own.ttl), now.Add(ownFor))
	}
	e, status := a.cache.get(d.question, d.limit, rec.zone)
	now = a.cache.now()
	if status == failed {
		return a.fail(q, e.cause, e.leftAlone(now))
	}
	if d.links+e.links > maxLinks {
		return a.fail(q, tooLong(), now.Add(ownFor))
	}
	left := a.cache.left(e, d.limit, now)
	if status == stale || left <= 0 {
		return a.makeStale(q, e, now, left)
	}
	// Whole seconds of age make the TTL count down, and the answer current until the next of them.
	ttl := uint32((left + time.Second - 1) / time.Second)
	until := now.Add(left - time.Duration(ttl-1)*time.Second)
	return a.make(q, &e.outcome, status, ttl, until)
}

// make returns the answer with the addresses of o, or without any.
func (a *Alias) make(q question, o *outcome, s status, ttl uint32, until time.Time) *answer {
	if len(o.addrs) > 0 {
		return &answer{status: s, until: until, answer: addressRecords(q, ttl, o.addrs)}
	}
	if s != stale {
		s, ttl = nodata, noLimit
	}
	return &answer{status: s, until: until, ns: a.authority(q.name, ttl)}
}

// makeStale returns the answer with what e remembers, past its TTL.
func (a *Alias) makeStale(q question, e *entry, now time.Time, left time.Duration) *answer {
	ans := a.make(q, &e.outcome, stale, a.staleTTL, e.leftAlone(now))
	ans.expired, ans.cause = now.Add(left), e.cause
	return ans
}

// fail returns what a client gets when the lookup failed and nothing is remembered.
func (a *Alias) fail(q question, cause *failure, until time.Time) *answer {
	if h := a.ask(q.name, q.qtype); h.m != nil && h.m.Rcode == dns.RcodeSuccess && hasType(h.m.Answer, q.qtype) {
		return &answer{status: fallback, until: until, answer: slices.Clip(h.m.Answer), cause: cause}
	}
	ans := &answer{status: failed, until: until, rcode: a.onFailure, cause: cause}
	if a.onFailure == dns.RcodeSuccess {
		ans.ns = a.authority(q.name, maxEmptyTTL)
	}
	return ans
}

// authority returns the SOA record that goes with a negative answer for name, with a TTL of at most limit. It is
// empty when the backend has none.
func (a *Alias) authority(name string, limit uint32) []dns.RR {
	soa := a.soa(name)
	if soa == nil {
		return nil
	}
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, limit)
	return []dns.RR{soa}
}

// addressRecords returns the address records of q.name.
func addressRecords(q question, ttl uint32, addrs []byte) []dns.RR {
	size := addrLen(q.qtype)
	rrs := make([]dns.RR, len(addrs)/size)
	hdr := dns.RR_Header{Name: q.name, Rrtype: q.qtype, Class: dns.ClassINET, Ttl: ttl}
	for i := range rrs {
		ip := net.IP(addrs[i*size : (i+1)*size : (i+1)*size])
		if q.qtype == dns.TypeA {
			rrs[i] = &dns.A{Hdr: hdr, A: ip}
		} else {
			rrs[i] = &dns.AAAA{Hdr: hdr, AAAA: ip}
		}
	}
	return rrs
}

// message is a response in one piece of memory.
type message struct {
	dns.Msg
	question [1]dns.Question
}

// write sends ans as the response to r.
func (a *Alias) write(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, rec *record, ans *answer) (int, error) {
	a.count(ctx, rec, ans)
	m := new(message)
	m.question[0] = r.Question[0]
	m.Msg.Question = m.question[:]
	m.Id = r.Id
	m.Response = true
	m.Authoritative = true
	m.RecursionDesired = r.RecursionDesired
	m.CheckingDisabled = r.CheckingDisabled
	m.Rcode = ans.rcode
	m.Answer = ans.answer
	m.Ns = ans.ns
	if ans.status == stale || ans.cause != nil {
		m.Extra = explain(r, ans)
	}
	w.WriteMsg(&m.Msg)
	return dns.RcodeSuccess, nil
}

// explain returns the Extended DNS Error (RFC 8914) that says why ans is not fresh, when the query carries EDNS.
func explain(r *dns.Msg, ans *answer) []dns.RR {
	if r.IsEdns0() == nil {
		return nil
	}
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	ede := new(dns.EDNS0_EDE)
	if ans.cause != nil {
		ede.InfoCode, ede.ExtraText = ans.cause.ede, "alias target: "+ans.cause.outcome
	}
	if ans.status == stale {
		ede.InfoCode = dns.ExtendedErrorCodeStaleAnswer
	}
	opt.Option = []dns.EDNS0{ede}
	return []dns.RR{opt}
}

// count tells the metrics and the metadata about ans.
func (a *Alias) count(ctx context.Context, rec *record, ans *answer) {
	a.counters(vantage{metrics.WithServer(ctx), rec.zone})[ans.status].Inc()
	if ans.status == stale {
		staleAge.Observe(a.cache.now().Sub(ans.expired).Seconds())
	}
	if metadata.ValueFuncs(ctx) != nil {
		status := ans.status
		metadata.SetValueFunc(ctx, "alias/target", func() string { return rec.target })
		metadata.SetValueFunc(ctx, "alias/status", func() string { return status.String() })
	}
}

// counters returns the counters of v. There are as many vantages as servers and zones.
func (a *Alias) counters(v vantage) *counters {
	for {
		known := a.vantages.Load()
		if known != nil && (*known)[v] != nil {
			return (*known)[v]
		}
		more := map[vantage]*counters{v: newCounters(v)}
		if known != nil {
			maps.Copy(more, *known)
		}
		a.vantages.CompareAndSwap(known, &more)
	}
}
