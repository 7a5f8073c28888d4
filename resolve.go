package alias

import (
	"errors"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/plugin/wire"

	"github.com/miekg/dns"
)

// maxEmptyTTL is the TTL in seconds of the SOA record beside an empty result that stands for a failure: resolvers are
// to cache it for a moment only.
const maxEmptyTTL = 5

// answer is what the response to a query consists of, and how it came about.
type answer struct {
	wire.Response
	alias  *records.Alias
	target string         // that answered; several of them with commas
	net    lookup.Network // that the client is in, as far as it counts
	scope  uint8          // how many bits of net the answer is for
	status status
	age    time.Duration   // how long ago the TTL of a stale answer ran out
	cause  *lookup.Failure // why it is not a fresh answer, or nil; while it is pending, why it is not worth a wait
}

// extendedError returns the Extended DNS Error (RFC 8914) that says why ans is not fresh, or nil if it is.
func (ans *answer) extendedError() *dns.EDNS0_EDE {
	if ans.status != stale && ans.cause == nil {
		return nil
	}
	ede := new(dns.EDNS0_EDE)
	if ans.cause != nil {
		ede.InfoCode, ede.ExtraText = ans.cause.EDE, "alias target: "+ans.cause.Outcome
	}
	if ans.status == stale {
		ede.InfoCode = dns.ExtendedErrorCodeStaleAnswer
	}
	return ede
}

// resolve sets ans, which is empty but for the client's network, to the answer to q from al: from this server's own data,
// from what is cached or an upstream answers, and without all these from the backend's own addresses. An answer is set and
// not returned, because the goroutine of a query has a small stack, and each copy brings it nearer to the size where the
// runtime moves it.
func (a *Alias) resolve(ans *answer, q lookup.Question, al *records.Alias) {
	ans.alias = al
	if al.Next == nil {
		a.resolveTarget(ans, q, al, nil)
	} else {
		a.resolveTargets(ans, q, q.Name, al)
	}
	if len(ans.Data) == 0 {
		a.setEmpty(ans, q)
	} else if q.Type == dns.TypeHTTPS {
		a.fitHTTPS(ans, q.Name, al)
	}
}

// setEmpty sets what goes with an answer to q without records.
func (a *Alias) setEmpty(ans *answer, q lookup.Question) {
	switch ans.status {
	case failed:
		a.fallBack(ans, q)
	case stale:
		ans.NS = a.authority(q, a.staleTTL)
	default:
		ans.NS = a.authority(q, lookup.NoLimit)
	}
}

// resolveTarget sets ans to what the target of al, which is one of the alias's, has for q. With g, it does not wait for a
// lookup: then the status is pending, and g knows which lookup it is.
func (a *Alias) resolveTarget(ans *answer, q lookup.Question, al *records.Alias, g *gathering) {
	ans.target = al.Target
	switch {
	case q.Type == dns.TypeHTTPS && a.https == httpsAlias:
		ans.set(lookup.AliasMode(al.Target), hit, a.cache.clamp(al.TTL))
	case al.Inside:
		a.resolveInside(ans, q, al, g)
	default:
		a.setCached(ans, lookup.Question{Name: al.Target, Type: q.Type, Net: ans.net}, al.TTL, 0, al.Cached(q.Type), g)
	}
}

// resolveInside is resolveTarget for a target inside ZONES. It is apart because its variables would take room on the stack of all
// queries.
func (a *Alias) resolveInside(ans *answer, q lookup.Question, al *records.Alias, g *gathering) {
	d, err := a.locate(al, q.Type)
	switch {
	case err != nil:
		a.warnings.warnOnce("Alias to %s %s fails: %v", al.Target, dns.TypeToString[q.Type], err)
		ans.status, ans.cause = failed, lookup.AsFailure(err)
	case d.own:
		ans.set(d.data, hit, a.cache.clamp(d.limit))
	case d.several != nil:
		a.resolveNested(ans, q, &d, g)
	default:
		a.setCached(ans, d.For(ans.net), d.limit, d.links, nil, g) // where the alias leads may change, so it keeps no cached pointer
	}
}

// resolveNested sets ans to what an alias with several targets has for q, to which another alias leads inside ZONES.
func (a *Alias) resolveNested(ans *answer, q lookup.Question, d *destination, g *gathering) {
	target := ans.target
	if g == nil {
		a.resolveTargets(ans, q, d.Name, d.several)
	} else {
		a.gatherNested(ans, q, d, g)
	}
	if ans.status < stale {
		ans.TTL = min(ans.TTL, a.cache.clamp(d.limit))
	}
	ans.target = target
}

// setCached sets ans to what the cache has for q, to which so many links lead inside ZONES. limit is the smallest TTL of
// these and of the alias. cached is the alias's cached pointer, or nil. For g, see resolveTarget.
func (a *Alias) setCached(ans *answer, q lookup.Question, limit uint32, links uint8, cached *answers.Ref, g *gathering) {
	var e *answers.Entry
	var left time.Duration
	var status status
	if g != nil {
		e, left, status = g.find(a.cache, q, limit, ans.alias.Zone, cached)
	} else if e, left, status = a.cache.peek(q, limit, ans.alias.Zone, cached); status == pending {
		e, left, status = a.cache.lookUp(q, limit, ans.alias.Zone, false)
	}
	switch {
	case status == failed, status == pending && !a.cache.canServe(q.Type, e, left):
		ans.status, ans.cause = status, e.LastFailure()
	case links+e.Links > lookup.MaxLinks:
		ans.status, ans.cause = failed, lookup.TooLong()
	case status == stale || left <= 0:
		ans.set(e.Data, stale, a.staleTTL)
		ans.age, ans.cause, ans.scope = -left, e.LastFailure(), e.Scope
	default:
		// Whole seconds of age make the TTL count down.
		ans.set(e.Data, status, uint32((left+time.Second-1)/time.Second))
		ans.scope = e.Scope
	}
	if status == pending && ans.status != failed {
		ans.status = pending // and what is stale counts if the wait is over before the lookup
		if a.cache.age(q) >= a.cache.timeout {
			ans.cause = lookup.NetworkFailure(lookup.Timeout, nil)
		}
	}
}

// set sets ans to records, or to a negative answer when there are none.
func (ans *answer) set(data []byte, s status, ttl uint32) {
	if ans.status = s; len(data) > 0 {
		ans.Data, ans.TTL = data, ttl
	} else if s != stale {
		ans.status = nodata
	}
}

// fallBack sets ans to what a client gets when the lookup failed and no usable answer is cached.
func (a *Alias) fallBack(ans *answer, q lookup.Question) {
	if data, ttl := a.backend.Answer(q).Addresses(q); len(data) > 0 {
		ans.status, ans.Data, ans.TTL = fallback, data, ttl
		return
	}
	ans.Rcode = a.onFailure
	if a.onFailure == dns.RcodeSuccess {
		ans.NS = a.authority(q, maxEmptyTTL)
	}
}

// authority returns the SOA record that goes with a negative answer to q, with a TTL of at most limit and the published
// serial. It is empty when the backend has none.
func (a *Alias) authority(q lookup.Question, limit uint32) []dns.RR {
	soa := a.backend.SOA(q)
	if soa == nil {
		return nil
	}
	if a.primary != nil {
		soa.Serial = a.primary.Serial(soa)
	}
	soa.Hdr.Ttl = min(soa.Hdr.Ttl, limit)
	return []dns.RR{soa}
}

// destination is where a target leads inside ZONES: to a name outside, which an upstream knows about, or to data
// of this server.
type destination struct {
	lookup.Question                // what to look up, unless own is set
	limit           uint32         // the smallest TTL on the way
	links           uint8          // how many links there are to it
	own             bool           // this server's own data has the answer
	data            []byte         // of that data
	several         *records.Alias // the name is the owner of it, which has several targets; or nil
}

// locate follows the target of al as long as it is inside ZONES, through aliases and through the backend's CNAMEs.
// The error is a *lookup.Failure: a cycle, a chain that is too long, or a backend that is too slow.
func (a *Alias) locate(al *records.Alias, qtype uint16) (destination, error) {
	d := destination{Question: lookup.Question{Name: al.Target, Type: qtype}, limit: al.TTL}
	if !al.Inside {
		return d, nil
	}
	c := lookup.NewChain(al.Target)
	if !a.targets.IsEmpty() {
		c.Deny = a.targets.Denies
	}
	for began := time.Now(); a.zones.Inside(c.End()); {
		if time.Since(began) > 2*a.cache.timeout || a.cache.ctx.Err() != nil {
			return d, lookup.NetworkFailure(lookup.Timeout, errors.New("the backend is too slow"))
		}
		name := c.End()
		if err := a.advance(&d, c, qtype); err != nil || d.own {
			return d, err
		}
		if c.End() == name || d.several != nil {
			break
		}
	}
	d.Question.Name, d.links = c.End(), c.Links()
	return d, nil
}

// advance takes a step along c, which ends inside ZONES. It takes none when the backend has no data of its own there.
func (a *Alias) advance(d *destination, c *lookup.Chain, qtype uint16) error {
	q := lookup.Question{Name: c.End(), Type: qtype}
	if r, _ := a.records.Find(q.Name); r.Alias != nil && a.applies(r, q) {
		return d.follow(r.Alias, c)
	}
	has := a.backend.Answer(q)
	if !has.Own() {
		return nil
	}
	data, err := c.Follow(has.Msg.Answer, qtype)
	d.limit = min(d.limit, c.TTL())
	switch {
	case err != nil:
		return err
	case len(data) > 0:
		d.own, d.data = true, data
	case c.End() != q.Name:
	case has.Alias != nil:
		return d.follow(has.Alias, c)
	case has.Msg.Rcode == dns.RcodeSuccess, has.Msg.Rcode == dns.RcodeNameError:
		d.own = true
	}
	return nil
}

// follow goes on along c through al, an alias of its end.
func (d *destination) follow(al *records.Alias, c *lookup.Chain) error {
	d.limit = min(d.limit, al.TTL)
	if al.Next != nil {
		d.several = al
		return nil
	}
	return c.Extend(al.Target)
}

// zoneSOA returns the SOA record that the backend has for the apex of zone, for primary.Config.
func (a *Alias) zoneSOA(zone string) (*dns.SOA, error) {
	r := a.backend.Query(zone, dns.TypeSOA)
	if r.Own() {
		if soa := lookup.SOAFor(r.Msg.Answer, zone); soa != nil && strings.EqualFold(soa.Hdr.Name, zone) {
			return soa, nil
		}
	}
	switch {
	case r.TimedOut:
		return nil, lookup.NetworkFailure(lookup.Timeout, nil)
	case r.Unable:
		return nil, lookup.Unusable("servfail", nil)
	}
	return nil, nil
}
