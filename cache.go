package alias

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/limit"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
)

const (
	// A target that fails is not looked up for minBackoff, and twice as long after each further failure, up to
	// maxBackoff (RFC 9520, section 3.2).
	minBackoff = 5 * time.Second
	maxBackoff = 60 * time.Second

	// minPrefetch is the shortest prefetch window: the time before the end of its TTL in which an answer is prefetched.
	minPrefetch = time.Second

	// maxAddrsLogged is how many addresses a message has.
	maxAddrsLogged = 8
)

// lifetime has the bounds for the TTL of answers.
type lifetime struct {
	min, max uint32        // seconds
	stale    time.Duration // how long an answer can be served after its TTL (RFC 8767); 0: not at all
}

// ttl returns for how many seconds e is fresh. limit is the TTL of the alias.
func (l lifetime) ttl(e *answers.Entry, limit uint32) uint32 {
	if len(e.Data) == 0 {
		return e.TTL // a negative answer's TTL has bounds of its own
	}
	return l.clamp(min(limit, e.TTL))
}

func (l lifetime) clamp(ttl uint32) uint32 { return min(max(ttl, l.min), l.max) }

// left returns how much of the TTL of e is left at now; it is negative when e has expired.
func (l lifetime) left(e *answers.Entry, limit uint32, now time.Time) time.Duration {
	left := time.Duration(l.ttl(e, limit))*time.Second - now.Sub(e.Stored)
	if e.Expired {
		return min(left, 0)
	}
	return left
}

// usable reports whether e can be served with left of its TTL, stale if need be.
func (l lifetime) usable(e *answers.Entry, left time.Duration) bool {
	return e.Answered && left > -l.stale
}

// prefetchWindow returns how long before the end of its TTL e is prefetched.
func (l lifetime) prefetchWindow(e *answers.Entry, limit uint32) time.Duration {
	return max(time.Duration(l.ttl(e, limit))*time.Second/10, minPrefetch)
}

// cache decides which entries are fresh, which are served stale, and when their targets are looked up. It is safe for
// concurrent use.
type cache struct {
	lifetime
	*lookups        // shared with other server blocks, which have the same key
	key      string // what is looked up through, and within which bounds
	entries  *answers.Entries

	resolve resolveFunc
	ctx     context.Context
	cancel  context.CancelFunc
	wg      sync.WaitGroup // the lookups in flight that it runs

	lag     time.Duration         // how much older the copy in the file may be when the addresses are the same
	retries int                   // further attempts when no usable answer is cached
	timeout time.Duration         // of an attempt
	deny    func(netip.Addr) bool // reports an address that is never used
	now     func() time.Time
	log     limitedLog
}

// get returns the answer to q, what is left of its TTL, and whether it was cached (hit), had to be looked up (miss) or
// is stale. With failed the entry says why. limit is the TTL of the alias, zone the zone it is in.
// cached is for the entry of q, or nil. A client for whose network no answer is cached gets that for everybody, if lookups for
// the network fail or there is no room for one.
func (c *cache) get(q lookup.Question, limit uint32, zone *records.Zone, cached *answers.Ref) (*answers.Entry, time.Duration, status) {
	e, left, s := c.peek(q, limit, zone, cached)
	if s == pending {
		return c.lookUp(q, limit, zone, false)
	}
	return e, left, s
}

// canServe reports whether e, an entry of a question of that type, can be served with left of its TTL, stale if need be.
// One that was handed over from other upstreams, or from a server block that denied less, may have addresses that are
// denied now.
func (c *cache) canServe(qtype uint16, e *answers.Entry, left time.Duration) bool {
	return c.usable(e, left) && !(e.Expired && len(lookup.Allowed(e.Data, qtype, c.deny)) != len(e.Data))
}

// peek is get for a caller that does not wait: with pending, a lookup has to find the answer.
func (c *cache) peek(q lookup.Question, limit uint32, zone *records.Zone, cached *answers.Ref) (e *answers.Entry, left time.Duration, s status) {
	now, kept := c.now(), q
	if q.Net.IsEverybody() { // most often; and find would take more of the small stack of a query
		e = c.entries.LoadRef(q, cached)
	} else {
		kept, e = c.find(q)
	}
	left = c.left(e, limit, now)
	switch {
	case e.Answered && left > 0:
		if left <= c.prefetchWindow(e, limit) && !e.BackingOff(now) {
			c.prefetch(kept, q.Net, zone, e)
		}
		return e, left, hit
	case e.BackingOff(now):
		return c.staleOrFailed(q, limit, zone, e)
	case e.Failing() && c.canServe(q.Type, e, left):
		c.prefetch(kept, q.Net, zone, e)
		return e, left, stale
	case !e.Answered && !q.Net.IsEverybody():
		return c.peekUnknown(q, limit, zone, e)
	}
	return e, left, pending
}

// find returns the entry that a client gets who asks q, and the question that it is of.
func (c *cache) find(q lookup.Question) (kept lookup.Question, e *answers.Entry) {
	if q.Net.IsEverybody() {
		return q, c.entries.Load(q)
	}
	return c.entries.Find(q)
}

// staleOrFailed returns e, the entry that a client gets who asks q, without a lookup, or in its place the answer for everybody.
func (c *cache) staleOrFailed(q lookup.Question, limit uint32, zone *records.Zone, e *answers.Entry) (*answers.Entry, time.Duration, status) {
	left := c.left(e, limit, c.now())
	if c.canServe(q.Type, e, left) {
		return e, left, stale
	}
	if q.Net.IsEverybody() {
		return e, left, failed
	}
	everybody := q.For(lookup.Network{})
	other, otherLeft, s := c.peek(everybody, limit, zone, nil)
	if s == pending { // and this client does not wait for it
		c.prefetch(everybody, everybody.Net, zone, other)
		if s = failed; c.canServe(q.Type, other, otherLeft) {
			s = stale
		}
	}
	if s == failed {
		return e, left, failed
	}
	return other, otherLeft, s
}

// lookUp waits for a lookup of q. When it fails, what is cached is served stale if it can be. A query that finds a lookup
// in flight, and has a stale answer, waits a moment only. ttl is the TTL of the alias. With own, the lookup is for the very
// network of q: that for a larger one, whose answer had expired, has brought an answer for another part of it.
func (c *cache) lookUp(q lookup.Question, ttl uint32, zone *records.Zone, own bool) (*answers.Entry, time.Duration, status) {
	kept, e := c.find(q)
	left := c.left(e, ttl, c.now())
	switch { // a lookup may have finished since the caller looked
	case e.Answered && left > 0:
		return e, left, miss
	case e.BackingOff(c.now()):
		return c.staleOrFailed(q, ttl, zone, e)
	case !e.Answered && !q.Net.IsEverybody() && !c.hasRoom(q):
		return c.get(q.For(lookup.Network{}), ttl, zone, nil)
	case own:
		kept = q
	}
	usable := c.canServe(q.Type, e, left)
	l, first := c.join(inFlight{
		Question: kept, net: q.Net, zone: zone, attempts: c.attempts(usable || c.hasOther(q, ttl)), entry: e, room: limit.Lookup{Zone: zone.Apex},
	}, false)
	if l == nil {
		if !usable && !q.Net.IsEverybody() { // too many networks are being looked up, which everybody need not suffer from
			return c.get(q.For(lookup.Network{}), ttl, zone, nil)
		}
		cause := lookup.NetworkFailure("overload", errors.New("too many lookups in flight"))
		if c.ctx.Err() != nil {
			cause = lookup.NetworkFailure(lookup.Canceled, nil)
		}
		return c.staleOrFailed(q, ttl, zone, e.Fail(answers.Backoff{Cause: cause}))
	}
	switch {
	case first && !c.entries.IsShared():
		c.run(l)
	case first:
		go c.run(l)
		if usable && e.Adopted && !l.doneWithin(c.sharedPatience()) {
			return e, left, stale
		}
	case usable && !l.doneWithin(c.timeout/5):
		return e, left, stale
	}
	<-l.done
	switch {
	case l.isCanceled() && c.ctx.Err() == nil:
		return c.lookUp(q, ttl, zone, own)
	case l.entry.Failing():
		return c.staleOrFailed(q, ttl, zone, l.entry)
	case !l.isFor(q.Net):
		return c.lookUp(q, ttl, zone, true)
	case l.adopted && c.left(l.entry, ttl, c.now()) <= 0:
		return c.staleOrFailed(q, ttl, zone, l.entry)
	}
	return l.entry, c.left(l.entry, ttl, c.now()), miss
}

// attempts returns how many attempts a lookup may make: one when there is something to serve after its failure.
func (c *cache) attempts(usable bool) int {
	if usable {
		return 1
	}
	return 1 + c.retries
}

// prefetch looks q up in the background, unless there is no room for it: then the next query tries again. As nobody
// waits, it makes all attempts, so that all upstreams can be asked.
// net is the network of the client who asks.
func (c *cache) prefetch(q lookup.Question, net lookup.Network, zone *records.Zone, e *answers.Entry) {
	if c.entries.IsShared() {
		c.prefetchInTurn(q, net, zone, e)
		return
	}
	c.prefetchNow(q, net, zone, e)
}

func (c *cache) prefetchNow(q lookup.Question, net lookup.Network, zone *records.Zone, e *answers.Entry) {
	if c.lookUpInBackground(q, net, zone, e, limit.Lookup{Kind: limit.Prefetch, Zone: zone.Apex, Failing: e.Failing()}) == nil {
		refreshesCount.WithLabelValues("skipped").Inc()
	}
}

// lookUpInBackground returns the lookup of q that is in flight now, or nil when there is no room for it. A job has the
// room already.
func (c *cache) lookUpInBackground(q lookup.Question, net lookup.Network, zone *records.Zone, e *answers.Entry, room limit.Lookup) *inFlight {
	l, first := c.join(inFlight{Question: q, net: net, zone: zone, attempts: c.attempts(false), room: room, entry: e}, room.Kind == limit.Job)
	if first {
		go c.run(l)
	}
	return l
}

// await returns the entry of q when that is fresh or backing off. Otherwise it looks q up in the background, when it is the
// turn of the zone share, and returns the entry after that; zone is for the metrics. When ctx ends before that, or the cache
// is stopped, it returns the entry as it is, which is not ok.
func (c *cache) await(ctx context.Context, q lookup.Question, ttl uint32, zone *records.Zone, share string) (e *answers.Entry, ok bool) {
	e = c.entries.Load(q)
	if c.isSettled(e, ttl) {
		return e, true
	}
	l := c.running(q)
	if l == nil && c.entries.IsShared() && !c.awaitTurn(ctx, q, ttl) {
		e = c.entries.Load(q)
		return e, c.isSettled(e, ttl)
	}
	if room := (limit.Lookup{Kind: limit.Job, Zone: share, Failing: e.Failing()}); l == nil && c.room.Await(ctx, room) == nil {
		l = c.lookUpInBackground(q, q.Net, zone, e, room)
	}
	if l != nil {
		select {
		case <-l.done:
			if l.isCanceled() && c.ctx.Err() == nil {
				return c.await(ctx, q, ttl, zone, share)
			}
			return l.entry, c.ctx.Err() == nil
		case <-ctx.Done():
		}
	}
	e = c.entries.Load(q)
	return e, c.isSettled(e, ttl)
}

// isSettled reports whether e needs no lookup now: it is fresh or backing off. ttl is the TTL of the alias.
func (c *cache) isSettled(e *answers.Entry, ttl uint32) bool {
	now := c.now()
	return e.Answered && c.left(e, ttl, now) > 0 || e.BackingOff(now)
}

// settle caches how the lookup l ended, and sets its entry, which was that from when it began. An answer replaces the entry,
// whatever it says; a failure keeps the answer in it.
func (c *cache) settle(l *inFlight, o lookup.Outcome, err error) {
	switch {
	case err != nil:
		l.entry = c.settleFailure(l.Question, l.entry, lookup.AsFailure(err))
	case l.net.IsEverybody():
		l.entry = c.store(l.Question, l.zone, l.entry, o)
	default:
		c.settleFor(l, o)
	}
}

// store caches the answer o to q, and returns the entry. old is the entry from before, as far as is known.
func (c *cache) store(q lookup.Question, zone *records.Zone, old *answers.Entry, o lookup.Outcome) *answers.Entry {
	before := old
	e := c.entries.Update(q, c.lag, func(current *answers.Entry) *answers.Entry {
		if current != answers.None { // it may have been evicted
			before = current
		}
		return answers.NewEntry(o, c.now())
	})
	c.logAnswer(q, zone, before, e)
	return e
}

// settleFailure caches a failure, and returns the entry. For networks of which no answer is cached, it is cached once: for
// Global.
func (c *cache) settleFailure(q lookup.Question, old *answers.Entry, cause *lookup.Failure) *answers.Entry {
	if cause.Outcome == lookup.Canceled {
		return afterFailure(old, cause, c.now())
	}
	if !q.Net.IsEverybody() && !old.Answered {
		q.Net = lookup.Global
	}
	before := old
	e := c.entries.Update(q, c.lag, func(current *answers.Entry) *answers.Entry {
		if current != answers.None {
			before = current
		}
		now := c.now()
		if before != old && (c.left(before, lookup.NoLimit, now) > 0 || before.BackingOff(now)) {
			return current // another server block has an answer meanwhile, or has failed too
		}
		if cause.Outcome == lookup.Denied && len(before.Data) > 0 && len(lookup.Allowed(before.Data, q.Type, c.deny)) == 0 {
			before = answers.None // it was cached when these addresses were allowed
		}
		return afterFailure(before, cause, now)
	})
	if e.Failing() {
		c.logFailure(q, before, e)
	}
	return e
}

// afterFailure returns e after a further failure.
func afterFailure(e *answers.Entry, cause *lookup.Failure, now time.Time) *answers.Entry {
	failures := 1
	if e.Failing() {
		failures += e.Failures
	}
	return e.Fail(answers.Backoff{Failures: failures, Retry: now.Add(backoff(failures)), Cause: cause})
}

// backoff returns how long a target is not looked up after so many failures in a row.
func backoff(failures int) time.Duration {
	return min(minBackoff<<min(failures-1, 10), maxBackoff)
}

// logAnswer logs and counts what e changes. There may be very many networks, so what is cached for one of them is neither. For
// Global, only the end of a failure is logged: its addresses are those for everybody.
func (c *cache) logAnswer(q lookup.Question, zone *records.Zone, old, e *answers.Entry) {
	if q.Net.Bits() > 0 {
		return
	}
	switch {
	case !old.Failing():
	case len(e.Data) == 0: // nor do clients get any
		c.log.limited(log.Infof, "Target %s answers again, without records", q)
	default:
		c.log.limited(log.Infof, "Target %s answers again", q)
	}
	// HTTPS records with keys for ECH change as often as they are looked up.
	if q.Net.IsEverybody() && old.Answered && lookup.IsAddress(q.Type) && !lookup.Same(old.Data, e.Data, q.Type) {
		addressChanges.WithLabelValues(zone.Name).Inc()
		c.log.limited(log.Infof, "Target %s changed from %s to %s", q, dataString(old.Data, q.Type), dataString(e.Data, q.Type))
	}
}

// logFailure logs that a target starts to fail.
func (c *cache) logFailure(q lookup.Question, old, e *answers.Entry) {
	if old.Failing() || q.Net.Bits() > 0 {
		return
	}
	cached := "no answer is cached"
	if old.Answered {
		cached = "the last answer is cached"
	}
	c.log.limited(log.Warningf, "Target %s fails: %s; %s", q, e.Cause, cached)
}

// dataString returns the records for a message, or the first of them.
func dataString(data []byte, qtype uint16) string {
	if len(data) == 0 {
		return "no address"
	}
	s := lookup.Strings(data, qtype)
	if more := len(s) - maxAddrsLogged; more > 0 {
		s = append(s[:maxAddrsLogged], fmt.Sprintf("and %d more", more))
	}
	return strings.Join(s, " ")
}
