package alias

import (
	"context"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/limit"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
)

// With share, several servers have one store. They take turns: one of them makes each background lookup, and the others adopt
// its answer. A lookup that a client waits for asks the store and the upstream side by side, and claims nothing. So a store
// that is slow, or down, keeps no client waiting.

const (
	// maxTurns is for how many questions it is known that another server has its turn.
	maxTurns = 100_000

	// turnPoll is how often a job asks again whether another server has an answer by now.
	turnPoll = 50 * time.Millisecond
)

// turns are the questions that another server looks up, or of which it is being found out. It is safe for concurrent use.
type turns struct {
	mu    sync.Mutex
	until map[lookup.Question]time.Time // when to ask again; the zero time: it is being asked
}

// begin reports whether to ask whose turn q is. If so, the caller has to call end.
func (t *turns) begin(q lookup.Question) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if until, ok := t.until[q]; ok && (until.IsZero() || time.Now().Before(until)) || len(t.until) >= maxTurns {
		return false
	}
	if t.until == nil {
		t.until = make(map[lookup.Question]time.Time)
	}
	t.until[q] = time.Time{}
	return true
}

// end notes that it is another server's turn for as long as wait.
func (t *turns) end(q lookup.Question, wait time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if wait > 0 {
		t.until[q] = time.Now().Add(wait)
		time.AfterFunc(wait, func() { t.forget(q) })
		return
	}
	delete(t.until, q)
}

// forget drops q, unless it is being asked about again.
func (t *turns) forget(q lookup.Question) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.until[q].IsZero() {
		delete(t.until, q)
	}
}

// prefetchInTurn is prefetch for a server of a fleet: when it is its turn.
func (c *cache) prefetchInTurn(q lookup.Question, net lookup.Network, zone *records.Zone, e *answers.Entry) {
	if c.running(q) != nil || !c.turns.begin(q) {
		return
	}
	begun := c.spawn(func() {
		mine, wait := c.claim(c.ctx, q, lookup.NoLimit)
		c.turns.end(q, wait)
		if mine {
			c.prefetchNow(q, net, zone, e)
		}
	})
	if !begun {
		c.turns.end(q, 0)
	}
}

// claim reports whether it is this server's turn to look q up, and otherwise for how long it is another's: not at all when the
// fleet had a fresh answer. ttl is the TTL of the alias.
func (c *cache) claim(ctx context.Context, q lookup.Question, ttl uint32) (mine bool, wait time.Duration) {
	for range 2 { // the first time, the fleet may have had an answer that has expired too
		mine, wait = c.entries.Claim(ctx, q, time.Duration(1+c.retries)*c.timeout)
		if mine || wait > 0 || c.isSettled(c.entries.Load(q), ttl) {
			return mine, wait
		}
	}
	return true, 0
}

// awaitTurn waits for the turn of this server to look q up for a job. It returns false when it need not do so any more: another
// server has, or ctx has ended.
func (c *cache) awaitTurn(ctx context.Context, q lookup.Question, ttl uint32) bool {
	for {
		mine, wait := c.claim(ctx, q, ttl)
		if mine || c.isSettled(c.entries.Load(q), ttl) {
			return mine
		}
		select {
		case <-time.After(min(wait, turnPoll)):
		case <-ctx.Done():
			return false
		}
	}
}

// spawn runs do in a goroutine that stop waits for. It returns false when c is stopped.
func (c *cache) spawn(do func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return false
	}
	c.wg.Go(do)
	return true
}

// sharedPatience is how long a client waits for a lookup when there is an answer of another server that has expired: as long as an
// attempt may take while lookups succeed. It is short for a server that starts, and may have such answers for all its names and
// no upstream that works.
func (c *cache) sharedPatience() time.Duration {
	if c.succeeds.Load() {
		return c.timeout
	}
	return c.timeout / 10
}

// fetch gives those who wait for l what the fleet has, when that is there before the upstream's answer. A stale answer leaves the
// upstream a moment more. before is the entry from before l.
func (c *cache) fetch(l *inFlight, before *answers.Entry) {
	e := c.entries.Fetch(c.ctx, l.Question)
	left := c.left(e, lookup.NoLimit, c.now())
	switch {
	case !e.Answered || !e.Stored.After(before.Stored) || !c.canServe(l.Type, e, left):
	case left <= 0 && l.doneWithin(c.sharedPatience()):
	default:
		c.adopt(l, e)
	}
}

// isClient reports whether a client waits for l.
func (l *inFlight) isClient() bool { return l.room.Kind == limit.Client }
