package limit

import (
	"iter"
	"strconv"
	"sync"

	"github.com/coredns/alias/plugin/priority"
)

// Turns makes calls with a pointer to each element of queues, several at the same time. The next turn is that of the queue with the
// fewest calls that have not ended, so that a queue whose calls take long does not hold up the others; among several, of the one that has
// had no turn for the longest time. The elements that wait have no goroutine. It is safe for concurrent use.
type Turns[T any] struct {
	each, all int
	do        func(*T)

	mu      sync.Mutex
	queues  map[string]*queue[T]       // with elements that wait, or with calls
	ready   *priority.Queue[*queue[T]] // with elements that wait, and with fewer than each calls
	clock   uint64                     // counts turns
	workers int                        // goroutines that call do
	calls   sync.WaitGroup
}

type queue[T any] struct {
	name    string
	waiting []T
	calls   int    // that have begun and have not ended
	turn    uint64 // when it had its last turn, or came
	place   int    // of ready
}

// before reports whether the next turn is that of a rather than of b.
func before[T any](a, b *queue[T]) bool {
	return a.calls < b.calls || a.calls == b.calls && a.turn < b.turn
}

// NewTurns returns Turns that call do, at most each times at once for one queue, and all times for all of them. Both are at least 1.
func NewTurns[T any](each, all int, do func(*T)) *Turns[T] {
	ready := priority.New(before[T], func(q *queue[T]) *int { return &q.place })
	return &Turns[T]{each: each, all: all, do: do, queues: make(map[string]*queue[T]), ready: ready}
}

// InTurn calls do for the elements of the queues as Turns does, and returns when all calls have. It copies no element.
func InTurn[T any](queues iter.Seq[[]T], each, all int, do func(*T)) {
	ts := NewTurns(each, all, do)
	ts.mu.Lock()
	n := 0
	for elements := range queues {
		ts.add(strconv.Itoa(n), elements)
		n++
	}
	ts.begin()
	ts.mu.Unlock()
	ts.Wait()
}

// Add adds elements at the end of the queue with that name. It does not wait. The elements belong to the Turns then.
func (ts *Turns[T]) Add(name string, elements []T) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	ts.add(name, elements)
	ts.begin()
}

// Wait returns when no element waits, and all calls have returned. Add must not be called meanwhile.
func (ts *Turns[T]) Wait() { ts.calls.Wait() }

func (ts *Turns[T]) add(name string, elements []T) {
	if len(elements) == 0 {
		return
	}
	q := ts.queues[name]
	if q == nil {
		ts.clock++
		q = &queue[T]{name: name, turn: ts.clock}
		ts.queues[name] = q
	}
	if len(q.waiting) > 0 {
		q.waiting = append(q.waiting, elements...)
		return
	}
	q.waiting = elements
	ts.update(q)
}

// begin begins as many calls as there may be.
func (ts *Turns[T]) begin() {
	for ts.workers < ts.all && ts.ready.Len() > 0 {
		q, e := ts.take()
		ts.workers++
		ts.calls.Go(func() { ts.work(q, e) })
	}
}

// work calls do for e, an element of q, and then for the elements whose turn it is.
func (ts *Turns[T]) work(q *queue[T], e *T) {
	for more := true; more; {
		ts.do(e)
		ts.mu.Lock()
		ts.end(q)
		if more = ts.ready.Len() > 0; more {
			q, e = ts.take()
		} else {
			ts.workers--
		}
		ts.mu.Unlock()
	}
}

// take takes the element whose turn it is out of its queue. There has to be one.
func (ts *Turns[T]) take() (*queue[T], *T) {
	q := ts.ready.First()
	e := &q.waiting[0]
	q.waiting = q.waiting[1:]
	q.calls++
	ts.clock++
	q.turn = ts.clock
	ts.update(q)
	return q, e
}

// end notes that a call for an element of q has ended.
func (ts *Turns[T]) end(q *queue[T]) {
	q.calls--
	ts.update(q)
	if len(q.waiting) == 0 && q.calls == 0 {
		delete(ts.queues, q.name)
	}
}

// update keeps ready right after a change of q.
func (ts *Turns[T]) update(q *queue[T]) {
	ts.ready.Update(q, len(q.waiting) > 0 && q.calls < ts.each)
}
