package alias

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"

	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

// When many answers expire at once, so many background lookups begin in one go, and per second, so that they do not
// get in the way of clients: on one core they take a quarter of it.
const (
	paceBurst     = 20
	pacePerSecond = 10_000
)

// resolveFunc looks a question up, in at most so many attempts.
type resolveFunc func(ctx context.Context, q lookup.Question, attempts int) (lookup.Outcome, error)

// lookups are the lookups in flight: one for each question, and a bounded number in all.
type lookups struct {
	resolve resolveFunc

	room           *semaphore.Weighted // for all lookups
	backgroundRoom *semaphore.Weighted // for those that no client waits for, so that clients find room
	maxBackground  int                 // what backgroundRoom has room for
	pace           *rate.Limiter       // of background lookups too

	mu       sync.Mutex
	inFlight map[lookup.Question]*inFlight

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// inFlight is a lookup. Everybody who wants its answer waits for the same one.
type inFlight struct {
	lookup.Question
	zone       string // for the metrics
	attempts   int
	background bool // no client waits for it

	began time.Time      // by the system's clock
	done  chan struct{}  // closed when it is finished
	entry *answers.Entry // before and then after it
}

// init makes room for limit lookups at a time, which resolve makes.
func (ls *lookups) init(resolve resolveFunc, limit int) {
	ls.resolve = resolve
	ls.maxBackground = max(limit/4, 1)
	ls.room = semaphore.NewWeighted(int64(limit))
	ls.backgroundRoom = semaphore.NewWeighted(int64(ls.maxBackground))
	ls.pace = rate.NewLimiter(pacePerSecond, paceBurst)
	ls.inFlight = make(map[lookup.Question]*inFlight)
	ls.ctx, ls.cancel = context.WithCancel(context.Background())
}

// stop ends the lookups in flight and waits for them.
func (ls *lookups) stop() {
	ls.mu.Lock()
	ls.cancel()
	ls.mu.Unlock()
	ls.wg.Wait()
}

// join returns the lookup in flight of the question of l, or l, and reports that l is the first: then the caller must run
// it. The entry of l is that which the caller has seen. It returns nil when too many lookups are in flight, or the
// cache is stopped.
func (c *cache) join(l inFlight) (other *inFlight, first bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, ok := c.inFlight[l.Question]; ok {
		return other, false
	}
	if newer := c.entries.Load(l.Question); newer != l.entry && newer != answers.None {
		if newer.Failing() || c.left(newer, lookup.NoLimit, c.now()) > 0 { // a lookup finished since the caller looked
			return finished(newer), false
		}
		l.entry = newer // it has come out of the file
	}
	if c.ctx.Err() != nil || !c.enter(l.background) {
		return nil, false
	}
	l.began, l.done = time.Now(), make(chan struct{})
	c.inFlight[l.Question] = &l
	c.wg.Add(1)
	return &l, true
}

// finished returns a lookup that is finished, with its entry.
func finished(e *answers.Entry) *inFlight {
	l := &inFlight{done: make(chan struct{}), entry: e}
	close(l.done)
	return l
}

// run makes the lookup l, which the caller was the first to join.
func (c *cache) run(l *inFlight) {
	defer c.wg.Done()
	defer c.finish(l)
	defer c.leave(l.background)
	if l.background {
		c.pace.Wait(c.ctx) // a client who joins meanwhile waits too, for as long as maxBackground lookups take
	}
	o, err := c.safely(l.Question, l.attempts)
	l.entry = c.settle(l.Question, l.zone, l.entry, o, err)
	if l.background {
		refreshesCount.WithLabelValues(outcomeOf(err)).Inc()
	}
}

func (ls *lookups) finish(l *inFlight) {
	ls.mu.Lock()
	delete(ls.inFlight, l.Question)
	ls.mu.Unlock()
	close(l.done)
}

// safely resolves q; a panic is a failure like any other.
func (ls *lookups) safely(q lookup.Question, attempts int) (o lookup.Outcome, err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Errorf("Recovered from panic in the lookup of %s: %v", q, r)
			err = lookup.Unusable("error", fmt.Errorf("panic: %v", r))
		}
	}()
	return ls.resolve(ls.ctx, q, attempts)
}

// doneWithin waits for l until patience has passed since it began, and reports whether it is finished.
func (l *inFlight) doneWithin(patience time.Duration) bool {
	timer := time.NewTimer(patience - time.Since(l.began))
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
	}
	select { // both may have been the case
	case <-l.done:
		return true
	default:
		return false
	}
}

// enter takes the room for a lookup, if there is any.
func (ls *lookups) enter(background bool) bool {
	if background && !ls.backgroundRoom.TryAcquire(1) {
		return false
	}
	if ls.room.TryAcquire(1) {
		return true
	}
	if background {
		ls.backgroundRoom.Release(1)
	}
	return false
}

// leave gives back what enter took.
func (ls *lookups) leave(background bool) {
	ls.room.Release(1)
	if background {
		ls.backgroundRoom.Release(1)
	}
}

// awaitRoom waits until there was room for a background lookup, or the cache is stopped.
func (ls *lookups) awaitRoom() {
	for _, room := range []*semaphore.Weighted{ls.backgroundRoom, ls.room} {
		if room.Acquire(ls.ctx, 1) == nil {
			room.Release(1)
		}
	}
}

// outcomeOf returns what the metrics call the end of what returned err.
func outcomeOf(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}
