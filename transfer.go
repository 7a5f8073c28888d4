package alias

import (
	"cmp"
	"context"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// expanded is what a target has for a transfer.
type expanded struct {
	primary.Found
	first *records.Alias // of the targets that count, the first; nil when none has records
	err   error          // why there is nothing, as far as is known
}

func (t *expanded) isFresh() bool { return len(t.Data) > 0 && !t.Stale }
func (t *expanded) isStale() bool { return len(t.Data) > 0 && t.Stale }

// lookupForTransfer implements primary.Lookup. Secondaries get what clients do: the rules are those of resolve.
func (a *Alias) lookupForTransfer(ctx context.Context, zone, owner string, al *records.Alias, qtype uint16) (primary.Found, error) {
	t := a.expand(ctx, zone, owner, al, qtype)
	if qtype == dns.TypeHTTPS && t.err == nil { // see fitHTTPS
		if a.hasOwnAddresses(owner, al) {
			t.Data = lookup.WithTargetName(t.Data, cmp.Or(t.first, al).Target)
		}
		t.Data = consistent(t.Data, func(family uint16) ([]byte, bool) {
			if own := a.ownAddresses(lookup.Question{Name: owner, Type: family}, al); len(own) > 0 {
				return own, true
			}
			addrs := a.expand(ctx, zone, owner, al, family)
			t.dependOn(&addrs)
			return addrs.Data, addrs.err == nil
		})
	}
	return t.Found, t.err
}

// expand expands al, the alias of owner, to records of type qtype.
func (a *Alias) expand(ctx context.Context, zone, owner string, al *records.Alias, qtype uint16) expanded {
	if al.Next == nil && !al.Inside && !(qtype == dns.TypeHTTPS && a.https == httpsAlias) { // as most are
		d := destination{Question: lookup.Question{Name: al.Target, Type: qtype}, limit: al.TTL}
		e, ok := a.cache.await(ctx, d.Question, d.limit, al.Zone, zone)
		return a.expandCached(&d, awaited{e, ok})
	}
	expand := (*expanding).expand
	alone, addrs := true, []expanded(nil)
	if qtype == dns.TypeHTTPS && al.Failover != nil { // see resolveServing
		al, alone, addrs = a.servingForTransfer(ctx, zone, owner, al)
		expand = (*expanding).expandTarget
	}
	x := newExpanding(a, owner, qtype)
	t := expand(x, al)
	for len(x.missing) > 0 {
		x.await(ctx, zone)
		t = expand(x, al)
	}
	for _, other := range addrs {
		t.dependOn(&other)
	}
	if t.first = cmp.Or(t.first, al); !alone {
		t.Data = lookup.WithTargetName(t.Data, al.Target)
	}
	return t
}

// servingForTransfer is serving for a transfer, and returns the addresses too.
func (a *Alias) servingForTransfer(ctx context.Context, zone, owner string, al *records.Alias) (serving *records.Alias, alone bool, addrs []expanded) {
	var all []*records.Alias
	for _, family := range addressTypes {
		t := a.expand(ctx, zone, owner, al, family)
		if addrs = append(addrs, t); len(t.Data) > 0 {
			all = append(all, t.first)
		}
	}
	serving, alone = firstOfServing(all, al)
	return serving, alone, addrs
}

// dependOn makes t due for another Lookup when other is.
func (t *expanded) dependOn(other *expanded) {
	t.Unfinished = t.Unfinished || other.Unfinished
	if other.Next.Before(t.Next) {
		t.Next = other.Next
		if other.Stored.After(t.Stored) { // the shortest time between two is counted from it
			t.Stored = other.Stored
		}
	}
}

// expanding expands the alias of owner for a transfer: first it collects what has to be looked up, then it awaits all of
// that, and then it puts the results together. So the result does not depend on which lookup ends first.
type expanding struct {
	a     *Alias
	owner string
	qtype uint16

	nested  map[string]*expanded // by owner, those of aliases with several targets that it leads to; nil: not known yet
	missing map[lookup.Question]missing
	awaited map[lookup.Question]awaited
}

func newExpanding(a *Alias, owner string, qtype uint16) *expanding {
	return &expanding{
		a: a, owner: owner, qtype: qtype, nested: make(map[string]*expanded),
		missing: make(map[lookup.Question]missing), awaited: make(map[lookup.Question]awaited),
	}
}

// missing is a lookup that has to be awaited: with the TTL and the zone of the alias.
type missing struct {
	limit uint32
	zone  *records.Zone
}

// awaited is what cache.await returned.
type awaited struct {
	entry *answers.Entry
	ok    bool
}

// await awaits what is missing. zone is the zone that is transferred.
func (x *expanding) await(ctx context.Context, zone string) {
	var mu sync.Mutex
	var lookups sync.WaitGroup
	for q, m := range x.missing {
		lookups.Go(func() {
			e, ok := x.a.cache.await(ctx, q, m.limit, m.zone, zone)
			mu.Lock()
			defer mu.Unlock()
			x.awaited[q] = awaited{e, ok}
		})
	}
	lookups.Wait()
	clear(x.nested)
	clear(x.missing)
}

// expand returns what all targets of al have, or with failover what the first has that has anything.
func (x *expanding) expand(al *records.Alias) expanded {
	if al.Next == nil {
		return x.expandTarget(al)
	}
	var parts []expanded
	for t := range al.All() {
		part := x.expandTarget(t)
		if part.first = t; x.qtype == dns.TypeHTTPS {
			part.Data = lookup.WithTargetName(part.Data, t.Target)
		}
		parts = append(parts, part)
	}
	return together(parts, al.Failover != nil, x.qtype)
}

// together returns what parts have together: the fresh records of all of them, or of the first that has any; without fresh
// records the stale ones. Without records, it is the failure of one, or else nothing.
func together(parts []expanded, failover bool, qtype uint16) expanded {
	whole := expanded{Found: primary.Found{TTL: lookup.NoLimit, Next: parts[0].Next, Stored: parts[0].Stored}}
	for _, p := range parts { // what is looked up next, and changes or comes back, is noticed then
		whole.Unfinished = whole.Unfinished || p.Unfinished
		if p.Next.Before(whole.Next) {
			whole.Next, whole.Stored = p.Next, p.Stored
		}
		if whole.err == nil {
			whole.err = p.err
		}
	}
	for n, i := range counting(parts, failover) {
		p := &parts[i]
		if n == 0 {
			whole.first, whole.err = p.first, nil
		}
		for rdata := range lookup.Each(p.Data, qtype) {
			whole.Data = lookup.Append(whole.Data, rdata, qtype)
		}
		whole.TTL, whole.Own, whole.Stale = min(whole.TTL, p.TTL), whole.Own || p.Own, p.Stale
	}
	return whole
}

// expandTarget returns what the target of al, which may be one of several, has.
func (x *expanding) expandTarget(al *records.Alias) expanded {
	now := x.a.cache.now()
	if x.qtype == dns.TypeHTTPS && x.a.https == httpsAlias {
		return expanded{Found: primary.Found{
			Data: lookup.AliasMode(al.Target), TTL: x.a.cache.clamp(al.TTL), Own: true, Next: now.Add(time.Hour), Stored: now,
		}}
	}
	d, err := x.a.locate(al, x.qtype)
	switch {
	case err != nil:
		return expanded{Found: primary.Found{Next: now, Stored: now}, err: err}
	case d.own:
		return expanded{Found: primary.Found{
			Data: d.data, TTL: x.a.cache.clamp(d.limit), Own: true, Next: now.Add(backend.OwnTTL), Stored: now,
		}}
	case d.several != nil:
		t := x.expandNested(&d)
		if !t.Stale {
			t.TTL = min(t.TTL, x.a.cache.clamp(d.limit))
		}
		return t
	}
	if got, ok := x.awaited[d.Question]; ok {
		return x.a.expandCached(&d, got)
	}
	limit := d.limit
	if m, ok := x.missing[d.Question]; ok {
		limit = min(limit, m.limit)
	}
	x.missing[d.Question] = missing{limit, al.Zone}
	return expanded{}
}

// expandNested is expand for an alias with several targets that another one leads to inside ZONES.
func (x *expanding) expandNested(d *destination) expanded {
	known, ok := x.nested[d.Name]
	if d.Name == x.owner || ok && known == nil || !ok && len(x.nested) == maxNested {
		now := x.a.cache.now()
		return expanded{Found: primary.Found{Next: now, Stored: now}, err: lookup.Unusable(lookup.Loop, nil)}
	}
	if !ok {
		x.nested[d.Name] = nil
		t := x.expand(d.several)
		known, x.nested[d.Name] = &t, &t
	}
	return *known
}

// expandCached returns what is cached for d after its lookup was awaited: a fresh answer, or a stale one, or the failure.
func (a *Alias) expandCached(d *destination, got awaited) expanded {
	c, e := a.cache, got.entry
	now := c.now()
	left := c.left(e, d.limit, now)
	usable := c.canServe(d.Type, e, left)
	t := expanded{Found: primary.Found{Unfinished: !got.ok, Next: now, Stored: now}}
	switch {
	case !usable && e.Failing():
		t.Next, t.Stored, t.err = e.Retry, time.Time{}, e.Cause
		return t
	case !usable: // it was not looked up
		t.err = lookup.NetworkFailure(lookup.Canceled, nil)
		return t
	case d.links+e.Links > lookup.MaxLinks:
		t.err = lookup.TooLong()
		return t
	case left <= 0:
		t.TTL, t.Stale = a.staleTTL, true
	default:
		t.TTL, t.Next, t.Stored = c.ttl(e, d.limit), now.Add(left), e.Stored
	}
	t.Data = e.Data
	return t
}
