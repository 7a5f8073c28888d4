package alias

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/limit"
	"github.com/coredns/alias/plugin/lookup"

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

	room          *limit.Limiter
	maxBackground int           // background lookups of one zone
	pace          *rate.Limiter // of background lookups

	mu       sync.Mutex
	inFlight map[lookup.Question]*inFlight

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// inFlight is a lookup. Everybody who wants its answer waits for the same one.
type inFlight struct {
	lookup.Question
	zone     string // for the metrics
	attempts int
	room     limit.Lookup // what it needs room for

	began time.Time      // by the system's clock
	done  chan struct{}  // closed when it is finished
	entry *answers.Entry // before and then after it
}

// init makes room for so many lookups at a time, which resolve makes.
func (ls *lookups) init(resolve resolveFunc, most int) {
	ls.resolve = resolve
	ls.room = limit.New(most)
	ls.maxBackground = ls.room.PerZone()
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
// cache is stopped. With admitted, l has room already, which join gives back when l is not to be run.
func (c *cache) join(l inFlight, admitted bool) (other *inFlight, first bool) {
	defer func() {
		if admitted && !first {
			c.room.Leave(l.room)
		}
	}()
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
	if c.ctx.Err() != nil || !admitted && !c.room.Try(l.room) {
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
	defer c.room.Leave(l.room)
	background := l.room.Kind != limit.Client
	if background {
		c.pace.Wait(c.ctx) // a client who joins meanwhile waits too, for as long as maxBackground lookups take
	}
	o, err := c.safely(l.Question, l.attempts)
	l.entry = c.settle(l.Question, l.zone, l.entry, o, err)
	if background {
		refreshesCount.WithLabelValues(outcomeOf(err)).Inc()
	}
}

// running returns the lookup of q that is in flight, or nil.
func (ls *lookups) running(q lookup.Question) *inFlight {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.inFlight[q]
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

// outcomeOf returns what the metrics call the end of what returned err.
func outcomeOf(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}
