// Package priority has a priority queue whose elements are moved, or taken out, when what their order depends on has changed.
//
// It must not know what the elements are. A caller makes a Queue with New, calls Update after each change of an element, and finds the
// element that comes first with First.
package priority

import "container/heap"

// Queue is a priority queue, a binary heap. The time of Update grows with the logarithm of the number of elements. It is not safe for
// concurrent use.
type Queue[T any] struct{ elements[T] }

// New returns an empty Queue. before reports whether a comes before b. place returns a pointer to an integer of an element that belongs
// to the Queue: it is 0 as long as the element is not in it.
func New[T any](before func(a, b T) bool, place func(T) *int) *Queue[T] {
	return &Queue[T]{elements[T]{before: before, place: place}}
}

// First returns the element that comes before the others. The queue must not be empty.
func (q *Queue[T]) First() T { return q.all[0] }

// Update keeps q right after a change of e, or of whether e is to be in q.
func (q *Queue[T]) Update(e T, in bool) {
	switch place := *q.place(e); {
	case in && place == 0:
		heap.Push(&q.elements, e)
	case in:
		heap.Fix(&q.elements, place-1)
	case place > 0:
		heap.Remove(&q.elements, place-1)
	}
}

// elements implements heap.Interface. The place of an element is one more than its index.
type elements[T any] struct {
	before func(a, b T) bool
	place  func(T) *int
	all    []T
}

// Len implements sort.Interface.
func (es *elements[T]) Len() int { return len(es.all) }

// Less implements sort.Interface.
func (es *elements[T]) Less(i, j int) bool { return es.before(es.all[i], es.all[j]) }

// Swap implements sort.Interface.
func (es *elements[T]) Swap(i, j int) {
	es.all[i], es.all[j] = es.all[j], es.all[i]
	*es.place(es.all[i]), *es.place(es.all[j]) = i+1, j+1
}

// Push implements heap.Interface.
func (es *elements[T]) Push(e any) {
	es.all = append(es.all, e.(T))
	*es.place(e.(T)) = len(es.all)
}

// Pop implements heap.Interface.
func (es *elements[T]) Pop() any {
	last := len(es.all) - 1
	e := es.all[last]
	clear(es.all[last:])
	es.all = es.all[:last]
	*es.place(e) = 0
	return e
}
