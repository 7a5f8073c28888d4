package alias

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/limit"
	"github.com/coredns/alias/plugin/lookup"
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
	if len(e.Addrs) == 0 {
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
// is stale. With failed the entry says why. limit is the TTL of the alias, zone the zone it is in, for the metrics.
// cached is for the entry of q, or nil.
func (c *cache) get(q lookup.Question, limit uint32, zone string, cached *answers.Ref) (e *answers.Entry, left time.Duration, s status) {
	now := c.now()
	e = c.entries.LoadRef(q, cached)
	left = c.left(e, limit, now)
	switch {
	case e.Answered && left > 0:
		if left <= c.prefetchWindow(e, limit) && !e.BackingOff(now) {
			c.prefetch(q, zone, e)
		}
		return e, left, hit
	case e.BackingOff(now):
		return c.staleOrFailed(e, left)
	case e.Failing() && c.usable(e, left):
		c.prefetch(q, zone, e)
		return e, left, stale
	}
	return c.lookUp(q, limit, zone, e)
}

// staleOrFailed returns e without a lookup.
func (c *cache) staleOrFailed(e *answers.Entry, left time.Duration) (*answers.Entry, time.Duration, status) {
	if c.usable(e, left) {
		return e, left, stale
	}
	return e, left, failed
}

// lookUp waits for a lookup of q. When it fails, e is served stale if it can be. A query that finds a lookup in flight,
// and has a stale answer, waits a moment only.
func (c *cache) lookUp(q lookup.Question, limit uint32, zone string, e *answers.Entry) (*answers.Entry, time.Duration, status) {
	left := c.left(e, limit, c.now())
	usable := c.usable(e, left)
	l, first := c.join(inFlight{Question: q, zone: zone, attempts: c.attempts(usable), entry: e}, false)
	if l == nil {
		cause := lookup.NetworkFailure("overload", errors.New("too many lookups in flight"))
		if c.ctx.Err() != nil {
			cause = lookup.NetworkFailure(lookup.Canceled, nil)
		}
		return c.staleOrFailed(e.Fail(answers.Backoff{Cause: cause}), left)
	}
	switch {
	case first:
		c.run(l)
	case usable && !l.doneWithin(c.timeout/5):
		return e, left, stale
	}
	<-l.done
	if l.isCanceled() && c.ctx.Err() == nil {
		return c.lookUp(q, limit, zone, e)
	}
	left = c.left(l.entry, limit, c.now())
	if l.entry.Failing() {
		return c.staleOrFailed(l.entry, left)
	}
	return l.entry, left, miss
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
func (c *cache) prefetch(q lookup.Question, zone string, e *answers.Entry) {
	if c.lookUpInBackground(q, zone, e, limit.Lookup{Kind: limit.Prefetch, Zone: zone, Failing: e.Failing()}) == nil {
		refreshesCount.WithLabelValues("skipped").Inc()
	}
}

// lookUpInBackground returns the lookup of q that is in flight now, or nil when there is no room for it. A job has the
// room already.
func (c *cache) lookUpInBackground(q lookup.Question, zone string, e *answers.Entry, room limit.Lookup) *inFlight {
	l, first := c.join(inFlight{Question: q, zone: zone, attempts: c.attempts(false), room: room, entry: e}, room.Kind == limit.Job)
	if first {
		go c.run(l)
	}
	return l
}

// await returns the entry of q when that is fresh or backing off. Otherwise it looks q up in the background, when it is the
// turn of the zone share, and returns the entry after that; zone is for the metrics. When ctx ends before that, or the cache
// is stopped, it returns the entry as it is, which is not ok.
func (c *cache) await(ctx context.Context, q lookup.Question, ttl uint32, zone, share string) (e *answers.Entry, ok bool) {
	e = c.entries.Load(q)
	if c.isSettled(e, ttl) {
		return e, true
	}
	l := c.running(q)
	if room := (limit.Lookup{Kind: limit.Job, Zone: share, Failing: e.Failing()}); l == nil && c.room.Await(ctx, room) == nil {
		l = c.lookUpInBackground(q, zone, e, room)
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

// settle caches how the lookup of q ended, and returns the entry; old is the entry from when it began. An answer
// replaces the entry, whatever it says; a failure keeps the answer in it.
func (c *cache) settle(q lookup.Question, zone string, old *answers.Entry, o lookup.Outcome, err error) *answers.Entry {
	if err != nil {
		return c.settleFailure(q, old, lookup.AsFailure(err))
	}
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

func (c *cache) settleFailure(q lookup.Question, old *answers.Entry, cause *lookup.Failure) *answers.Entry {
	if cause.Outcome == lookup.Canceled {
		return afterFailure(old, cause, c.now())
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
		if cause.Outcome == lookup.Denied && len(before.Addrs) > 0 && len(lookup.Allowed(before.Addrs, q.Type, c.deny)) == 0 {
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

// logAnswer logs and counts what e changes.
func (c *cache) logAnswer(q lookup.Question, zone string, old, e *answers.Entry) {
	if old.Failing() {
		c.log.limited(log.Infof, "Target %s answers again", q)
	}
	if old.Answered && !lookup.SameAddrs(old.Addrs, e.Addrs, q.Type) {
		addressChanges.WithLabelValues(zone).Inc()
		c.log.limited(log.Infof, "Target %s changed from %s to %s", q, addrString(old.Addrs, q.Type), addrString(e.Addrs, q.Type))
	}
}

// logFailure logs that a target starts to fail.
func (c *cache) logFailure(q lookup.Question, old, e *answers.Entry) {
	if old.Failing() {
		return
	}
	cached := "no answer is cached"
	if old.Answered {
		cached = "the last answer is cached"
	}
	c.log.limited(log.Warningf, "Target %s fails: %s; %s", q, e.Cause, cached)
}

// addrString returns the addresses for a message, or the first of them.
func addrString(addrs []byte, qtype uint16) string {
	if len(addrs) == 0 {
		return "no address"
	}
	size := lookup.AddrLen(qtype)
	var s []string
	for a := range slices.Chunk(addrs, size) {
		if len(s) == maxAddrsLogged {
			s = append(s, fmt.Sprintf("and %d more", len(addrs)/size-len(s)))
			break
		}
		ip, _ := netip.AddrFromSlice(a)
		s = append(s, ip.String())
	}
	return strings.Join(s, " ")
}
