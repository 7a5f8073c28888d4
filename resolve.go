package alias

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
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
	status status
	age    time.Duration   // how long ago the TTL of a stale answer ran out
	cause  *lookup.Failure // why it is not a fresh answer, or nil
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

// resolve sets ans, which is empty, to the answer to q from al: from this server's own data, from what is cached or an
// upstream answers, and without all these from the backend's own addresses. An answer is set and not returned, because
// the goroutine of a query has a small stack, and each copy brings it nearer to the size where the runtime moves it.
func (a *Alias) resolve(ans *answer, q lookup.Question, al *records.Alias) {
	ans.alias = al
	if !al.Inside {
		a.setCached(ans, q, &destination{Question: lookup.Question{Name: al.Target, Type: q.Type}, limit: al.TTL}, al.Cached(q.Type))
		return
	}
	d, err := a.locate(al, q.Type)
	switch {
	case err != nil:
		a.warnings.warnOnce("Alias to %s %s fails: %v", al.Target, dns.TypeToString[q.Type], err)
		a.setFailure(ans, q, lookup.AsFailure(err))
	case d.own:
		a.set(ans, q, d.addrs, hit, a.cache.clamp(d.limit))
	default:
		a.setCached(ans, q, &d, nil) // where the alias leads may change, so it keeps no cached pointer
	}
}

// setCached sets ans from the cache, for the destination of the alias. cached is its cached pointer, or nil.
func (a *Alias) setCached(ans *answer, q lookup.Question, d *destination, cached *answers.Ref) {
	e, left, status := a.cache.get(d.Question, d.limit, ans.alias.Zone, cached)
	switch {
	case status == failed:
		a.setFailure(ans, q, e.LastFailure())
	case d.links+e.Links > lookup.MaxLinks:
		a.setFailure(ans, q, lookup.TooLong())
	case status == stale || left <= 0:
		a.set(ans, q, e.Addrs, stale, a.staleTTL)
		ans.age, ans.cause = -left, e.LastFailure()
	default:
		// Whole seconds of age make the TTL count down.
		a.set(ans, q, e.Addrs, status, uint32((left+time.Second-1)/time.Second))
	}
}

// set sets ans to addrs, or to a negative answer when there are none.
func (a *Alias) set(ans *answer, q lookup.Question, addrs []byte, s status, ttl uint32) {
	if len(addrs) > 0 {
		ans.status, ans.Addrs, ans.TTL = s, addrs, ttl
		return
	}
	if s != stale {
		s, ttl = nodata, lookup.NoLimit
	}
	ans.status, ans.NS = s, a.authority(q, ttl)
}

// setFailure sets ans to what a client gets when the lookup failed and no usable answer is cached.
func (a *Alias) setFailure(ans *answer, q lookup.Question, cause *lookup.Failure) {
	ans.cause = cause
	if addrs, ttl := a.backend.Answer(q).Addresses(q); len(addrs) > 0 {
		ans.status, ans.Addrs, ans.TTL = fallback, addrs, ttl
		return
	}
	ans.status, ans.Rcode = failed, a.onFailure
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
	lookup.Question        // what to look up, unless own is set
	limit           uint32 // the smallest TTL on the way
	links           uint8  // how many links there are to it
	own             bool   // this server's own data has the answer
	addrs           []byte // of that data
}

// locate follows the target of al as long as it is inside ZONES, through aliases and through the backend's CNAMEs.
// The error is a *lookup.Failure: a cycle, a chain that is too long, or a backend that is too slow.
func (a *Alias) locate(al *records.Alias, qtype uint16) (destination, error) {
	d := destination{Question: lookup.Question{Name: al.Target, Type: qtype}, limit: al.TTL}
	if !al.Inside {
		return d, nil
	}
	c := lookup.NewChain(al.Target)
	for began := time.Now(); a.zones.Inside(c.End()); {
		if time.Since(began) > 2*a.cache.timeout || a.cache.ctx.Err() != nil {
			return d, lookup.NetworkFailure(lookup.Timeout, errors.New("the backend is too slow"))
		}
		name := c.End()
		if err := a.advance(&d, c, qtype); err != nil || d.own {
			return d, err
		}
		if c.End() == name {
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
		d.limit = min(d.limit, r.TTL)
		return c.Extend(r.Target)
	}
	has := a.backend.Answer(q)
	if !has.Own() {
		return nil
	}
	addrs, err := c.Follow(has.Msg.Answer, qtype)
	d.limit = min(d.limit, c.TTL())
	switch {
	case err != nil:
		return err
	case len(addrs) > 0:
		d.own, d.addrs = true, addrs
	case c.End() != q.Name:
	case has.Alias != nil:
		d.limit = min(d.limit, has.Alias.TTL)
		return c.Extend(has.Alias.Target)
	case has.Msg.Rcode == dns.RcodeSuccess, has.Msg.Rcode == dns.RcodeNameError:
		d.own = true
	}
	return nil
}

// lookupForTransfer implements primary.Lookup.
func (a *Alias) lookupForTransfer(ctx context.Context, zone string, al *records.Alias, qtype uint16) (primary.Addresses, error) {
	now := a.cache.now()
	d, err := a.locate(al, qtype)
	switch {
	case err != nil:
		return primary.Addresses{Next: now, Stored: now}, err
	case d.own:
		return primary.Addresses{Addrs: d.addrs, TTL: a.cache.clamp(d.limit), Own: true, Next: now.Add(backend.OwnTTL), Stored: now}, nil
	}
	e, ok := a.cache.await(ctx, d.Question, d.limit, al.Zone, zone)
	now = a.cache.now()
	left := a.cache.left(e, d.limit, now)
	usable := a.cache.usable(e, left)
	found := primary.Addresses{Unfinished: !ok, Next: now, Stored: now}
	switch {
	case !usable && e.Failing():
		found.Next, found.Stored = e.Retry, time.Time{}
		return found, e.Cause
	case !usable: // it was not looked up
		return found, lookup.NetworkFailure(lookup.Canceled, nil)
	case d.links+e.Links > lookup.MaxLinks:
		return found, lookup.TooLong()
	case left <= 0:
		found.TTL = a.staleTTL
	default:
		found.TTL, found.Next, found.Stored = a.cache.ttl(e, d.limit), now.Add(left), e.Stored
	}
	found.Addrs = e.Addrs
	return found, nil
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
