package alias

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// expanded is what a target has for a transfer.
type expanded struct {
	primary.Found
	stale bool
	err   error // why there is nothing, as far as is known
}

func (t *expanded) isFresh() bool { return len(t.Data) > 0 && !t.stale }
func (t *expanded) isStale() bool { return len(t.Data) > 0 && t.stale }

// lookupForTransfer implements primary.Lookup. Secondaries get what clients do: the rules are those of resolve.
func (a *Alias) lookupForTransfer(ctx context.Context, zone, owner string, al *records.Alias, qtype uint16) (primary.Found, error) {
	t := a.lookUpTransferred(ctx, zone, al, qtype, new(seen))
	if qtype == dns.TypeHTTPS {
		t.Data = a.consistent(t.Data, lookup.Question{Name: owner, Type: qtype}, lookup.Network{}, al)
	}
	return t.Found, t.err
}

// lookUpTransferred returns what all targets of al have for a transfer, or with failover what the first has that has anything.
func (a *Alias) lookUpTransferred(ctx context.Context, zone string, al *records.Alias, qtype uint16, s *seen) expanded {
	all := slices.Collect(al.All())
	parts := make([]expanded, len(all))
	var lookups sync.WaitGroup
	for i, t := range all[1:] {
		lookups.Go(func() { parts[1+i] = a.lookUpPart(ctx, zone, t, qtype, s) })
	}
	parts[0] = a.lookUpPart(ctx, zone, al, qtype, s)
	lookups.Wait()
	if len(parts) == 1 {
		return parts[0]
	}
	return a.together(parts, al.Failover != nil, qtype)
}

// together returns what parts have together: the fresh records of all of them, or of the first that has any; without fresh records the stale
// ones. Without records, it is the failure of one, or else nothing.
func (a *Alias) together(parts []expanded, failover bool, qtype uint16) expanded {
	whole := expanded{Found: primary.Found{TTL: lookup.NoLimit, Next: parts[0].Next, Stored: a.cache.now()}}
	for _, p := range parts { // a target that comes back is noticed as soon as it is looked up again
		whole.Unfinished = whole.Unfinished || p.Unfinished
		if p.Next.Before(whole.Next) {
			whole.Next = p.Next
		}
	}
	for _, has := range []func(*expanded) bool{(*expanded).isFresh, (*expanded).isStale} {
		for i := range parts {
			p := &parts[i]
			if !has(p) || failover && len(whole.Data) > 0 {
				continue
			}
			for rdata := range lookup.Each(p.Data, qtype) {
				whole.Data = lookup.Append(whole.Data, rdata, qtype)
			}
			whole.TTL, whole.Own, whole.stale = min(whole.TTL, p.TTL), whole.Own || p.Own, p.stale
		}
		if len(whole.Data) > 0 {
			return whole
		}
	}
	for _, p := range parts {
		if p.err != nil && whole.err == nil {
			whole.err = p.err
		}
	}
	return whole
}

// lookUpPart returns what the target of al, which may be one of several, has for a transfer.
func (a *Alias) lookUpPart(ctx context.Context, zone string, al *records.Alias, qtype uint16, s *seen) expanded {
	now := a.cache.now()
	if qtype == dns.TypeHTTPS && a.https == httpsAlias {
		return expanded{Found: primary.Found{
			Data: lookup.AliasMode(al.Target), TTL: a.cache.clamp(al.TTL), Own: true, Next: now.Add(time.Hour), Stored: now,
		}}
	}
	d, err := a.locate(al, qtype)
	switch {
	case err != nil:
		return expanded{Found: primary.Found{Next: now, Stored: now}, err: err}
	case d.own:
		return expanded{Found: primary.Found{Data: d.data, TTL: a.cache.clamp(d.limit), Own: true, Next: now.Add(backend.OwnTTL), Stored: now}}
	case d.several != nil && !s.add(d.Name):
		return expanded{Found: primary.Found{Next: now, Stored: now}, err: lookup.Unusable(lookup.Loop, nil)}
	case d.several != nil:
		t := a.lookUpTransferred(ctx, zone, d.several, qtype, s)
		t.TTL = min(t.TTL, a.cache.clamp(d.limit))
		return t
	default:
		return a.awaitForTransfer(ctx, zone, al, &d)
	}
}

// awaitForTransfer returns what the cache has for d, the destination of al, as soon as that is fresh or has failed.
func (a *Alias) awaitForTransfer(ctx context.Context, zone string, al *records.Alias, d *destination) expanded {
	e, ok := a.cache.await(ctx, d.Question, d.limit, al.Zone, zone)
	now := a.cache.now()
	left := a.cache.left(e, d.limit, now)
	usable := a.cache.usable(e, left)
	t := expanded{Found: primary.Found{Unfinished: !ok, Next: now, Stored: now}}
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
		t.TTL, t.stale = a.staleTTL, true
	default:
		t.TTL, t.Next, t.Stored = a.cache.ttl(e, d.limit), now.Add(left), e.Stored
	}
	t.Data = e.Data
	return t
}
