// Package alias implements a plugin that gives a name what a CNAME record cannot give a zone apex: it answers A and
// AAAA queries for the name with the addresses of another name, looked up through a resolver and remembered.
package alias

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/metrics"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/request"

	"github.com/maypok86/otter/v2"
	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
)

var log = clog.NewWithPlugin("alias")

const (
	// ownFor is how long it is good what the backend says: a change in a zone is seen in this time.
	ownFor = time.Second

	// foreignFor is how long it is good that the backend has no data of its own for a name.
	foreignFor = 30 * time.Second

	// maxKeptMessage is how many records a response of the backend may have that is kept for the next who ask.
	maxKeptMessage = 32

	// maxEmptyTTL is the TTL in seconds of the SOA record beside an empty result that stands for a failure:
	// resolvers are to forget it quickly.
	maxEmptyTTL = 5
)

// Alias is the plugin of one server block. It is safe for concurrent use once it is started.
type Alias struct {
	// Next is what holds the other data of the zones, and aliases too. It may be nil.
	Next plugin.Handler

	zones   zones
	records *records

	upstreams *upstreams
	source    source // of what cache remembers
	share     *share
	cache     *cache
	slots     *otter.Cache[question, *slot]
	asks      *semaphore.Weighted // bounds the questions to the backend: it may be stuck

	staleTTL   uint32 // TTL of stale answers, in seconds
	onFailure  int    // the response code when nothing can be answered: NOERROR or SERVFAIL
	targetFrom string // the metadata label that has the target for a query, or ""
	flatten    flatten
	server     atomic.Pointer[dnsserver.Server] // the one that asked last, when there is something to flatten
	text       bool                             // TXT records say where aliases lead
	signs      bool                             // dnssec is in the server block
	zoneOf     zoneFinder                       // nil when nothing is known of the backend's zones
	packs      bool                             // responses may leave in wire form, see packable
	primary    *primary                         // nil without transfer in the server block

	instance any             // of the server, that the plugin is started with
	bypass   func() []string // see CacheBypassZones
	started  time.Time
	begun    atomic.Bool    // the servers listen, and the lookups at start-up have begun
	primed   atomic.Bool    // every record was resolved, or has failed one full round
	priming  sync.WaitGroup // the lookups at start-up
	stopping sync.Once
	vantages atomic.Pointer[vantages]
	warnings told // about what stays wrong until somebody changes it
	labels   told // about labels, which clients may have a part in
}

var _ plugin.Handler = (*Alias)(nil)

// Name implements plugin.Handler.
func (a *Alias) Name() string { return "alias" }

// CacheBypassZones returns the zones whose answers the cache plugin is to let through: secondaries that ask for the serial
// number of a zone would get an old one. These are the zones that may leave.
func (a *Alias) CacheBypassZones() []string {
	if a.bypass == nil {
		return nil
	}
	return a.bypass()
}

// incoming is a client's question, with what its answer depends on.
type incoming struct {
	question
	target string // what target_from says, or ""
	record record // the record that the name has
	exists bool   // the name exists because of a record or of a label
}

// ServeDNS implements plugin.Handler.
func (a *Alias) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	if r.Opcode != dns.OpcodeQuery || state.QClass() != dns.ClassINET {
		return plugin.NextOrFailure(a.Name(), a.Next, ctx, w, r)
	}
	q := incoming{question: question{state.Name(), state.QType()}}
	q.record, q.exists = a.records.find(q.name)
	if a.targetFrom != "" {
		q.target = a.labelled(ctx, q.name)
		q.exists = q.exists || q.target != ""
	}
	switch {
	case a.text && q.qtype == dns.TypeTXT && a.zones.match(q.name) != "":
		text := q // which may not stay on the stack, as q does
		return a.pass(ctx, textWriter{w, a, &text}, r, &q)
	case !isAddress(q.qtype):
		return a.pass(ctx, w, r, &q)
	}

	if ans, ok := a.answerTo(&q, false); ok {
		return a.write(ctx, w, r, &ans)
	}
	return a.passAddress(ctx, w, r, &q)
}

// answerTo returns the answer to q, unless there is no alias. look says to ask the backend for one even if it had none a
// moment ago.
func (a *Alias) answerTo(q *incoming, look bool) (ans answer, ok bool) {
	al := a.find(q, look)
	if al == nil {
		return ans, false
	}
	return a.resolve(q.question, al), true
}

// find returns the alias that q is answered with, or nil when there is none. Unless look is set, it is nil too when the
// backend is to be asked with the client's own query, because it had no alias a moment ago.
func (a *Alias) find(q *incoming, look bool) *alias {
	if q.record.alias != nil && a.inForce(q.record, q.question) {
		return q.record.alias
	}
	if q.target != "" {
		return a.zones.newAlias(q.name, q.target, noLimit)
	}
	h := a.held(q.question)
	switch {
	case !look && (h == nil || h.alias == nil):
		return nil
	case a.isGood(q.question, h, nil):
		return h.alias
	}
	return a.look(q.question).alias
}

// inForce reports whether q is answered with r, which its name has: a wildcard stands back where the backend has the name
// itself.
func (a *Alias) inForce(r record, q question) bool {
	if !r.wildcard {
		return true
	}
	h := a.look(q)
	return !h.late && !h.unable && !h.exists(r.zone)
}

// labelled returns the target that the label of target_from gives for name, or "".
func (a *Alias) labelled(ctx context.Context, name string) string {
	value := metadata.ValueFunc(ctx, a.targetFrom)
	if value == nil || a.zones.match(name) == "" {
		return ""
	}
	text := value()
	if text == "" {
		return ""
	}
	target, err := targetName(text)
	if err != nil {
		a.labels.once(maxLabelsTold, fmt.Sprintf("Label %s: %.100q is not the name of a target", a.targetFrom, text))
		return ""
	}
	return target
}

// pass hands a query to the backend.
func (a *Alias) pass(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, q *incoming) (int, error) {
	if a.primary != nil {
		w = serialWriter{w, a.primary}
	}
	if !q.exists {
		return plugin.NextOrFailure(a.Name(), a.Next, ctx, w, r)
	}
	rcode, err := plugin.NextOrFailure(a.Name(), a.Next, ctx, existingWriter{w}, r)
	if rcode == dns.RcodeNameError {
		rcode = dns.RcodeSuccess
	}
	return rcode, err
}

// passAddress hands an address query to the backend, and answers it when the zone there has an alias for it.
func (a *Alias) passAddress(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, q *incoming) (int, error) {
	if a.zones.match(q.name) == "" || ctx.Value(insideKey{}) != nil {
		return a.pass(ctx, w, r, q)
	}
	if server, ok := ctx.Value(dnsserver.Key{}).(*dnsserver.Server); ok && a.flatten != flattenNone {
		a.server.Store(server)
	}
	held := &heldWriter{ResponseWriter: w, q: q.question}
	rcode, err := a.pass(ctx, held, r, q)
	if held.m == nil {
		return rcode, err
	}
	if isNodata(held.m) || a.flatten != flattenNone {
		h := a.lookFrom(q.question, held.m)
		switch {
		case h.alias != nil:
			ans := a.resolve(q.question, h.alias)
			return a.write(ctx, w, r, &ans)
		case h.late && a.onFailure != dns.RcodeSuccess: // there may be an alias
			return a.onFailure, nil
		case h.late: // and nobody is to remember that there is nothing
			w.WriteMsg(briefly(held.m))
			return rcode, err
		}
	}
	w.WriteMsg(a.completed(ctx, held.m, q))
	return rcode, err
}

// completed returns m, the backend's response to q. When it leads by CNAME records to a name inside ZONES that has an
// alias, the addresses are those of the alias.
func (a *Alias) completed(ctx context.Context, m *dns.Msg, q *incoming) *dns.Msg {
	c := newChain(q.name)
	for cname := cnameOf(m.Answer, c.end()); cname != nil; cname = cnameOf(m.Answer, c.end()) {
		if c.extend(canonical(cname.Target)) != nil {
			return m
		}
	}
	if c.links() == 0 || !a.zones.inside(c.end()) {
		return m
	}
	end := incoming{question: question{c.end(), q.qtype}}
	end.record, end.exists = a.records.find(end.name)
	ans, ok := a.answerTo(&end, true)
	if !ok {
		return m
	}
	a.count(ctx, &ans)
	n := *m
	n.Rcode, n.Ns = ans.rcode, ans.ns
	n.Answer = slices.DeleteFunc(slices.Clone(m.Answer), func(rr dns.RR) bool { return strings.EqualFold(rr.Header().Name, end.name) })
	n.Answer = append(n.Answer, addressRecords(end.question, ans.ttl, ans.addrs)...)
	return &n
}

// briefly returns a copy of the negative response m that resolvers forget quickly.
func briefly(m *dns.Msg) *dns.Msg {
	n := *m
	n.Ns = nil
	for _, rr := range m.Ns {
		rr = dns.Copy(rr)
		rr.Header().Ttl = min(rr.Header().Ttl, maxEmptyTTL)
		n.Ns = append(n.Ns, rr)
	}
	return &n
}

// answer is what the response to a query consists of. Its addresses are shared, and not changed.
type answer struct {
	alias  *alias
	status status
	rcode  int
	addrs  []byte        // the addresses one after the other, or none
	ttl    uint32        // theirs, in seconds
	ns     []dns.RR      // what goes with none
	past   time.Duration // how long ago the TTL of a stale answer ran out
	cause  *failure      // why it is not a fresh answer, or nil
}

// resolve makes the answer to q from al: out of this server's own data, of what is remembered or an upstream says,
// and without all these of the backend's own addresses.
func (a *Alias) resolve(q question, al *alias) answer {
	d, err := a.locate(al, q.qtype)
	ans := a.arrive(q, al, d, err)
	ans.alias = al
	return ans
}

// arrive makes the answer to q from where al leads to, unless err says why it leads nowhere.
func (a *Alias) arrive(q question, al *alias, d destination, err error) answer {
	if err != nil {
		a.tellOnce("Alias to %s %s fails: %v", al.target, dns.TypeToString[q.qtype], err)
		return a.fail(q, asFailure(err))
	}
	if d.own {
		return a.make(q, d.addrs, hit, a.cache.clamp(d.limit))
	}
	var place *atomic.Pointer[entry]
	if !al.inside { // otherwise where it leads may change
		place = &al.answers[family(q.qtype)]
	}
	e, left, status := a.cache.get(d.question, d.limit, al.zone, place)
	switch {
	case status == failed:
		return a.fail(q, e.why())
	case d.links+e.links > maxLinks:
		return a.fail(q, tooLong())
	case status == stale || left <= 0:
		ans := a.make(q, e.addrs, stale, a.staleTTL)
		ans.past, ans.cause = -left, e.why()
		return ans
	}
	// Whole seconds of age make the TTL count down.
	return a.make(q, e.addrs, status, uint32((left+time.Second-1)/time.Second))
}

// make returns the answer with addrs, or without any.
func (a *Alias) make(q question, addrs []byte, s status, ttl uint32) answer {
	if len(addrs) > 0 {
		return answer{status: s, addrs: addrs, ttl: ttl}
	}
	if s != stale {
		s, ttl = nodata, noLimit
	}
	return answer{status: s, ns: a.authority(q, ttl)}
}

// fail returns what a client gets when the lookup failed and nothing is remembered.
func (a *Alias) fail(q question, cause *failure) answer {
	if addrs, ttl := a.look(q).addresses(q); len(addrs) > 0 {
		return answer{status: fallback, addrs: addrs, ttl: ttl, cause: cause}
	}
	ans := answer{status: failed, rcode: a.onFailure, cause: cause}
	if a.onFailure == dns.RcodeSuccess {
		ans.ns = a.authority(q, maxEmptyTTL)
	}
	return ans
}

// authority returns the SOA record that goes with a negative answer to q, with a TTL of at most limit. It is empty when
// the backend has none.
func (a *Alias) authority(q question, limit uint32) []dns.RR {
	soa := a.soa(q)
	if soa == nil {
		return nil
	}
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, limit)
	return []dns.RR{soa}
}

// addressRecords returns the address records of q.name, which take one piece of memory.
func addressRecords(q question, ttl uint32, addrs []byte) []dns.RR {
	if len(addrs) == 0 {
		return nil
	}
	size := addrLen(q.qtype)
	rrs := make([]dns.RR, 0, len(addrs)/size)
	hdr := dns.RR_Header{Name: q.name, Rrtype: q.qtype, Class: dns.ClassINET, Ttl: ttl}
	if q.qtype == dns.TypeA {
		as := make([]dns.A, cap(rrs))
		for ip := range slices.Chunk(addrs, size) {
			a := &as[len(rrs)]
			a.Hdr, a.A = hdr, ip
			rrs = append(rrs, a)
		}
		return rrs
	}
	as := make([]dns.AAAA, cap(rrs))
	for ip := range slices.Chunk(addrs, size) {
		a := &as[len(rrs)]
		a.Hdr, a.AAAA = hdr, ip
		rrs = append(rrs, a)
	}
	return rrs
}

// write sends ans as the response to r.
func (a *Alias) write(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, ans *answer) (int, error) {
	server := a.count(ctx, ans)
	if a.packs && isPlain(server) && writePacked(w, r, ans) {
		return dns.RcodeSuccess, nil
	}
	w.WriteMsg(response(r, ans))
	return dns.RcodeSuccess, nil
}

// message is a response in one piece of memory.
type message struct {
	dns.Msg
	question [1]dns.Question
}

// response returns ans as the response to r.
func response(r *dns.Msg, ans *answer) *dns.Msg {
	m := new(message)
	m.question[0] = r.Question[0]
	m.Msg.Question = m.question[:]
	m.Id = r.Id
	m.Response = true
	m.Authoritative = true
	m.RecursionDesired = r.RecursionDesired
	m.CheckingDisabled = r.CheckingDisabled
	m.Rcode = ans.rcode
	state := request.Request{Req: r}
	m.Answer = addressRecords(question{state.Name(), state.QType()}, ans.ttl, ans.addrs)
	m.Ns = ans.ns
	if ede := ans.error(); ede != nil && r.IsEdns0() != nil {
		m.Extra = []dns.RR{&dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: []dns.EDNS0{ede}}}
	}
	return &m.Msg
}

// error returns the Extended DNS Error (RFC 8914) that says why ans is not fresh, or nil if it is.
func (ans *answer) error() *dns.EDNS0_EDE {
	if ans.status != stale && ans.cause == nil {
		return nil
	}
	ede := new(dns.EDNS0_EDE)
	if ans.cause != nil {
		ede.InfoCode, ede.ExtraText = ans.cause.ede, "alias target: "+ans.cause.outcome
	}
	if ans.status == stale {
		ede.InfoCode = dns.ExtendedErrorCodeStaleAnswer
	}
	return ede
}

// count tells the metrics and the metadata about ans, and returns the address of the server that it is counted for.
func (a *Alias) count(ctx context.Context, ans *answer) (server string) {
	server = metrics.WithServer(ctx)
	a.counters(server, ans.alias.zone)[ans.status].Inc()
	if ans.status == stale {
		staleAge.Observe(ans.past.Seconds())
	}
	if metadata.ValueFuncs(ctx) != nil {
		target, status := ans.alias.target, ans.status
		metadata.SetValueFunc(ctx, "alias/target", func() string { return target })
		metadata.SetValueFunc(ctx, "alias/status", func() string { return status.String() })
	}
	return server
}

// counters returns the counters of a zone at a server.
func (a *Alias) counters(server, zone string) *counters {
	for {
		known := a.vantages.Load()
		if known != nil {
			if cs := (*known)[server][zone]; cs != nil {
				return cs
			}
		}
		more := make(vantages)
		if known != nil {
			maps.Copy(more, *known)
		}
		more[server] = maps.Clone(more[server])
		if more[server] == nil {
			more[server] = make(map[string]*counters)
		}
		more[server][zone] = newCounters(server, zone)
		a.vantages.CompareAndSwap(known, &more)
	}
}
