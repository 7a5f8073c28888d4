package alias

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

const (
	// A target that fails is left alone for minBackoff, and twice as long after each further failure, up to
	// maxBackoff (RFC 9520, section 3.2).
	minBackoff = 5 * time.Second
	maxBackoff = 60 * time.Second

	// minAhead is the least time before its end that an answer is refreshed.
	minAhead = time.Second

	// When many answers end at once, so many lookups begin in the background in one go, and per second, so that they do not
	// get in the way of clients: on one core they take a quarter of it.
	paceBurst     = 20
	pacePerSecond = 10_000

	// When the resolver fails, all targets do: so many messages about them are logged in one go, and per second.
	maxMessages       = 100
	messagesPerSecond = 5

	// maxAddrsTold is how many addresses a message has.
	maxAddrsTold = 8
)

// entry is what is remembered of a question: the last answer, and whether the target has failed since.
// It is immutable, but for gone.
type entry struct {
	outcome
	answered bool        // outcome is an answer; otherwise there has only been failure
	past     bool        // it is not fresh any more, whatever its TTL
	gone     atomic.Bool // it is not what is remembered any more
	stored   time.Time   // when the answer came
	saved    time.Time   // when the answer came that is in the file

	*trouble // nil unless the target has failed since

	room [16]byte // that of the addresses, when they are few: one piece of memory less for each answer
}

// trouble is what there is to say about a target that fails.
type trouble struct {
	failures int       // since the last answer
	retry    time.Time // when the target is asked again
	cause    *failure  // the last one
}

// clone returns an entry like e that can be changed.
func (e *entry) clone() *entry {
	return (&entry{outcome: e.outcome, answered: e.answered, past: e.past, stored: e.stored, saved: e.saved, trouble: e.trouble}).compact()
}

// compact moves the addresses of e, which nobody else knows yet, into it when they are few.
func (e *entry) compact() *entry {
	if n := len(e.addrs); 0 < n && n <= len(e.room) {
		copy(e.room[:], e.addrs)
		e.addrs = e.room[:n:n]
	}
	return e
}

// lifetime bounds the TTL of answers.
type lifetime struct {
	min, max uint32        // seconds
	stale    time.Duration // how long an answer is of use past its TTL; 0: not at all
}

// of returns for how many seconds e is fresh. limit is the TTL of the record.
func (l lifetime) of(e *entry, limit uint32) uint32 {
	if len(e.addrs) == 0 {
		return e.ttl // a negative answer's TTL has bounds of its own
	}
	return l.clamp(min(limit, e.ttl))
}

func (l lifetime) clamp(ttl uint32) uint32 { return min(max(ttl, l.min), l.max) }

// left returns how much of the TTL of e is left at now; past the end it is negative.
func (l lifetime) left(e *entry, limit uint32, now time.Time) time.Duration {
	left := time.Duration(l.of(e, limit))*time.Second - now.Sub(e.stored)
	if e.past {
		return min(left, 0)
	}
	return left
}

func (e *entry) failing() bool { return e.trouble != nil }

// resting reports whether the target fails and is left alone at now.
func (e *entry) resting(now time.Time) bool { return e.failing() && now.Before(e.retry) }

// why returns the last failure, or nil.
func (e *entry) why() *failure {
	if e.failing() {
		return e.cause
	}
	return nil
}

// nothing stands for no entry.
var nothing = new(entry)

// flight is a lookup under way. Everybody who wants its answer waits for the same one.
type flight struct {
	question
	zone       string // for the metrics
	attempts   int
	background bool // no client waits for it

	began time.Time     // by the system's clock
	done  chan struct{} // closed when it is over
	entry *entry        // what is remembered, before and then after it
}

// landed returns a flight that is over.
func landed(e *entry) *flight {
	f := &flight{done: make(chan struct{}), entry: e}
	close(f.done)
	return f
}

// resolveFunc looks a question up, in at most so many attempts.
type resolveFunc func(ctx context.Context, q question, attempts int) (outcome, error)

// cache remembers answers, decides which are good enough, and who looks up the others. It is safe for
// concurrent use.
type cache struct {
	lifetime
	resolve resolveFunc
	retries int              // further attempts when nothing is remembered
	grace   time.Duration    // how long a query with a stale answer at hand waits for somebody else's lookup
	now     func() time.Time // the clock of all that ages

	memory *memory
	lag    time.Duration // how much older an answer in the file may be when the addresses are the same

	lookups    *semaphore.Weighted // bounds all lookups
	background *semaphore.Weighted // bounds those that no client waits for, to leave room for the others
	spare      int                 // how many of the latter there may be
	pace       *rate.Limiter       // of the latter too

	mu      sync.Mutex
	flights map[question]*flight

	messages *rate.Limiter
	unsaid   atomic.Int64 // the messages that were left out

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// newCache returns a cache for size answers, with at most maxConcurrent lookups under way.
func newCache(size, maxConcurrent int) *cache {
	spare := max(maxConcurrent/4, 1)
	c := &cache{
		now:        time.Now,
		memory:     newMemory(source{}, size),
		lookups:    semaphore.NewWeighted(int64(maxConcurrent)),
		background: semaphore.NewWeighted(int64(spare)),
		spare:      spare,
		pace:       rate.NewLimiter(pacePerSecond, paceBurst),
		flights:    make(map[question]*flight),
		messages:   rate.NewLimiter(messagesPerSecond, maxMessages),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// stop ends the lookups under way and waits for them.
func (c *cache) stop() {
	c.mu.Lock()
	c.cancel()
	c.mu.Unlock()
	c.wg.Wait()
}

// get returns the answer to q, what is left of its TTL, and whether it was remembered (hit), had to be looked up (miss) or
// is stale. With failed the entry says why. limit is the TTL of the record, zone the zone it is in, for the metrics. place is for
// the entry of q, or nil.
func (c *cache) get(q question, limit uint32, zone string, place *atomic.Pointer[entry]) (e *entry, left time.Duration, s status) {
	now := c.now()
	e = c.memory.loadAt(q, place)
	left = c.left(e, limit, now)
	switch {
	case e.answered && left > 0:
		if left <= c.ahead(e, limit) && !e.resting(now) {
			c.refresh(q, zone, e)
		}
		return e, left, hit
	case e.resting(now):
		return c.makeDo(e, left)
	case e.failing() && c.usable(e, left):
		c.refresh(q, zone, e)
		return e, left, stale
	}
	return c.lookup(q, limit, zone, e)
}

// ahead returns how long before its end e is refreshed.
func (c *cache) ahead(e *entry, limit uint32) time.Duration {
	return max(time.Duration(c.of(e, limit))*time.Second/10, minAhead)
}

// usable reports whether e can be served with left of its TTL, stale if need be.
func (c *cache) usable(e *entry, left time.Duration) bool {
	return e.answered && left > -c.stale
}

// makeDo returns e without asking anybody.
func (c *cache) makeDo(e *entry, left time.Duration) (*entry, time.Duration, status) {
	if c.usable(e, left) {
		return e, left, stale
	}
	return e, left, failed
}

// lookup waits for an answer from upstream and makes do with e if there is none. A query that finds somebody
// else's lookup under way and has a stale answer at hand waits a moment only.
func (c *cache) lookup(q question, limit uint32, zone string, e *entry) (*entry, time.Duration, status) {
	left := c.left(e, limit, c.now())
	usable := c.usable(e, left)
	f, first := c.board(flight{question: q, zone: zone, attempts: c.attempts(usable), entry: e})
	if f == nil {
		cause := networkFailure("overload", errors.New("too many lookups under way"))
		if c.ctx.Err() != nil {
			cause = networkFailure(canceled, nil)
		}
		busy := e.clone()
		busy.trouble = &trouble{cause: cause}
		return c.makeDo(busy, left)
	}
	switch {
	case first:
		c.fly(f)
	case usable && !f.within(c.grace):
		return e, left, stale
	}
	<-f.done
	left = c.left(f.entry, limit, c.now())
	if f.entry.failing() {
		return c.makeDo(f.entry, left)
	}
	return f.entry, left, miss
}

// within waits for f until it has taken as long as grace, and reports whether it is done.
func (f *flight) within(grace time.Duration) bool {
	patience := time.NewTimer(grace - time.Since(f.began))
	defer patience.Stop()
	select {
	case <-f.done:
	case <-patience.C:
	}
	select { // both may have been the case
	case <-f.done:
		return true
	default:
		return false
	}
}

// attempts returns how many attempts a lookup may make: one when its failure leaves something to serve.
func (c *cache) attempts(fallback bool) int {
	if fallback {
		return 1
	}
	return 1 + c.retries
}

// refresh looks q up in the background, unless too much is going on there already: the next query tries again. As nobody waits
// there are all attempts, and so all upstreams have a chance to be asked.
func (c *cache) refresh(q question, zone string, e *entry) {
	if c.launch(q, zone, e) == nil {
		refreshesCount.WithLabelValues("skipped").Inc()
	}
}

// launch returns the lookup of q that is under way in the background now, or nil when there is no room for it.
func (c *cache) launch(q question, zone string, e *entry) *flight {
	f, first := c.board(flight{question: q, zone: zone, attempts: c.attempts(false), background: true, entry: e})
	if first {
		go c.fly(f)
	}
	return f
}

// await returns what is remembered of q when that is fresh or known to fail. Otherwise it looks q up in the background, as
// soon as there is room, and returns what that leaves. It gives up when ctx ends or the cache is stopped.
func (c *cache) await(ctx context.Context, q question, limit uint32, zone string) *entry {
	for {
		now, e := c.now(), c.memory.load(q)
		left := c.left(e, limit, now)
		if e.answered && left > 0 || e.resting(now) || ctx.Err() != nil || c.ctx.Err() != nil {
			return e
		}
		if f := c.launch(q, zone, e); f != nil {
			select {
			case <-f.done:
				return f.entry
			case <-ctx.Done():
				return e
			}
		}
		for _, room := range []*semaphore.Weighted{c.background, c.lookups} {
			if room.Acquire(c.ctx, 1) == nil {
				room.Release(1)
			}
		}
	}
}

// board returns the lookup of the question of f that is under way, or f, and reports that f is the first: then the caller is to
// let it fly. The entry of f is what is remembered as far as the caller knows. It returns nil when too much is under way, or the
// cache is stopped.
func (c *cache) board(f flight) (underWay *flight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if underWay, ok := c.flights[f.question]; ok {
		return underWay, false
	}
	if newer := c.memory.load(f.question); newer != f.entry && newer != nothing {
		if newer.failing() || c.left(newer, noLimit, c.now()) > 0 { // a lookup ended since the caller looked
			return landed(newer), false
		}
		f.entry = newer // it has come out of the file
	}
	if c.ctx.Err() != nil || !c.enter(f.background) {
		return nil, false
	}
	f.began, f.done = time.Now(), make(chan struct{})
	c.flights[f.question] = &f
	c.wg.Add(1)
	return &f, true
}

// fly looks up what f is about, and lets go all who wait for it.
func (c *cache) fly(f *flight) {
	defer c.wg.Done()
	defer c.land(f)
	defer c.leave(f.background)
	if f.background {
		c.pace.Wait(c.ctx) // a client who comes meanwhile waits too, for as long as spare takes
	}
	o, err := c.safely(f.question, f.attempts)
	f.entry = c.settle(f.question, f.zone, f.entry, o, err)
	if f.background {
		refreshesCount.WithLabelValues(endedIn(err)).Inc()
	}
}

func (c *cache) land(f *flight) {
	c.mu.Lock()
	delete(c.flights, f.question)
	c.mu.Unlock()
	close(f.done)
}

// safely resolves q; a panic is a failure like any other.
func (c *cache) safely(q question, attempts int) (o outcome, err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Errorf("Recovered from panic in the lookup of %s: %v", q, r)
			err = unusable("error", fmt.Errorf("panic: %v", r))
		}
	}()
	return c.resolve(c.ctx, q, attempts)
}

// enter takes the room for a lookup, if there is any.
func (c *cache) enter(background bool) bool {
	if background && !c.background.TryAcquire(1) {
		return false
	}
	if c.lookups.TryAcquire(1) {
		return true
	}
	if background {
		c.background.Release(1)
	}
	return false
}

// leave gives back what enter took.
func (c *cache) leave(background bool) {
	c.lookups.Release(1)
	if background {
		c.background.Release(1)
	}
}

// settle remembers how the lookup of q ended, and returns it; old is what was remembered when it began. An answer replaces
// what is remembered, whatever it says; a failure keeps it.
func (c *cache) settle(q question, zone string, old *entry, o outcome, err error) *entry {
	if err != nil {
		return c.settleFailure(q, old, asFailure(err))
	}
	before := old
	e := c.memory.update(q, c.lag, func(current *entry) *entry {
		if current != nothing { // it may have had to make room
			before = current
		}
		return (&entry{outcome: o, answered: true, stored: c.now()}).compact()
	})
	c.tellAnswer(q, zone, before, e)
	return e
}

func (c *cache) settleFailure(q question, old *entry, cause *failure) *entry {
	if cause.outcome == canceled {
		return old.after(cause, c.now())
	}
	before := old
	e := c.memory.update(q, c.lag, func(current *entry) *entry {
		if current != nothing {
			before = current
		}
		now := c.now()
		if before != old && (c.left(before, noLimit, now) > 0 || before.resting(now)) {
			return current // another server block has an answer meanwhile, or has failed too
		}
		return before.after(cause, now)
	})
	if e.failing() {
		c.tellFailure(q, before, e)
	}
	return e
}

// after returns what is remembered after a failure.
func (e *entry) after(cause *failure, now time.Time) *entry {
	failures := 1
	if e.failing() {
		failures += e.failures
	}
	failed := e.clone()
	failed.trouble = &trouble{failures, now.Add(backoff(failures)), cause}
	return failed
}

// backoff returns how long a target is left alone after so many failures in a row.
func backoff(failures int) time.Duration {
	return min(minBackoff<<min(failures-1, 10), maxBackoff)
}

// endedIn returns what the metrics call what ended in err.
func endedIn(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}

// tellAnswer logs and counts what e changes.
func (c *cache) tellAnswer(q question, zone string, old, e *entry) {
	if old.failing() {
		c.tell(log.Infof, "Target %s answers again", q)
	}
	if old.answered && !sameAddrs(old.addrs, e.addrs, addrLen(q.qtype)) {
		addressChanges.WithLabelValues(zone).Inc()
		c.tell(log.Infof, "Target %s changed from %s to %s", q, addrString(old.addrs, q.qtype), addrString(e.addrs, q.qtype))
	}
}

// tellFailure logs that a target starts failing.
func (c *cache) tellFailure(q question, old, e *entry) {
	if old.failing() {
		return
	}
	cached := "no answer is cached"
	if old.answered {
		cached = "the last answer is cached"
	}
	c.tell(log.Warningf, "Target %s fails: %s; %s", q, e.cause, cached)
}

// tell logs a message about a target, unless there are too many of them.
func (c *cache) tell(logf func(string, ...any), format string, v ...any) {
	if !c.messages.Allow() {
		c.unsaid.Add(1)
		return
	}
	if n := c.unsaid.Swap(0); n > 0 {
		log.Warningf("%d more messages about targets were suppressed", n)
	}
	logf(format, v...)
}

// sameAddrs compares two lists of addresses without their order (neither has one twice).
func sameAddrs(a, b []byte, size int) bool {
	return len(a) == len(b) && (bytes.Equal(a, b) || bytes.Equal(sorted(a, size), sorted(b, size)))
}

func sorted(addrs []byte, size int) []byte {
	chunks := slices.SortedFunc(slices.Chunk(addrs, size), bytes.Compare)
	return slices.Concat(chunks...)
}

// addrString returns the addresses for a message, or the first of them.
func addrString(addrs []byte, qtype uint16) string {
	if len(addrs) == 0 {
		return "no address"
	}
	var s []string
	for a := range slices.Chunk(addrs, addrLen(qtype)) {
		if len(s) == maxAddrsTold {
			s = append(s, fmt.Sprintf("and %d more", len(addrs)/addrLen(qtype)-len(s)))
			break
		}
		ip, _ := netip.AddrFromSlice(a)
		s = append(s, ip.String())
	}
	return strings.Join(s, " ")
}

// noLimit is the TTL of a record that states none.
const noLimit = math.MaxUint32
