package limit

import (
	"iter"
	"sync"

	"golang.org/x/sync/errgroup"
)

// InTurn calls do with a pointer to each element of the queues: one of each queue after the other, so that no queue waits
// for the end of another. Calls are made at the same time: at most each for one queue, and at most all for all of them. The
// elements of a queue have their order. InTurn returns when all calls have.
func InTurn[T any](queues iter.Seq[[]T], each, all int, do func(*T)) {
	ts := order[T]{each: each}
	ts.changed.L = &ts.mu
	for rest := range queues {
		if len(rest) > 0 {
			ts.ready = append(ts.ready, &queue[T]{rest: rest})
		}
	}
	ts.unfinished = len(ts.ready)
	var calls errgroup.Group
	calls.SetLimit(all)
	for q, e := ts.next(); e != nil; q, e = ts.next() {
		calls.Go(func() error {
			defer ts.end(q)
			do(e)
			return nil
		})
	}
	calls.Wait()
}

// order is the order of the queues of InTurn.
type order[T any] struct {
	each int

	mu         sync.Mutex
	changed    sync.Cond
	ready      []*queue[T] // with fewer than each calls, in the order of their turns
	unfinished int         // queues with elements left
}

type queue[T any] struct {
	rest  []T
	calls int // that have begun and have not ended
}

// next returns the element whose turn it is, and its queue. It waits until a queue has a turn. The element is nil when
// none is left.
func (ts *order[T]) next() (*queue[T], *T) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	for len(ts.ready) == 0 {
		if ts.unfinished == 0 {
			return nil, nil
		}
		ts.changed.Wait()
	}
	q := ts.ready[0]
	ts.ready[0], ts.ready = nil, ts.ready[1:]
	e := &q.rest[0]
	q.rest = q.rest[1:]
	q.calls++
	switch {
	case len(q.rest) == 0:
		ts.unfinished--
	case q.calls < ts.each:
		ts.ready = append(ts.ready, q)
	}
	return q, e
}

// end notes that a call for an element of q has ended.
func (ts *order[T]) end(q *queue[T]) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	q.calls--
	if len(q.rest) > 0 && q.calls == ts.each-1 { // it has had no turn since it had so many
		ts.ready = append(ts.ready, q)
		ts.changed.Signal()
	}
}
