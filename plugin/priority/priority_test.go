package priority_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/coredns/alias/plugin/priority"
)

type element struct{ rank, place int }

func newQueue() *priority.Queue[*element] {
	return priority.New(func(a, b *element) bool { return a.rank < b.rank }, func(e *element) *int { return &e.place })
}

func ExampleQueue() {
	q := newQueue()
	late, early := &element{rank: 9}, &element{rank: 1}
	q.Update(late, true)
	q.Update(early, true)
	fmt.Println(q.First().rank)
	early.rank = 20
	q.Update(early, true)
	fmt.Println(q.First().rank, q.Len())
	q.Update(late, false)
	fmt.Println(q.First().rank, q.Len())
	// Output:
	// 1
	// 9 2
	// 20 1
}

// Whatever is changed, put in and taken out: the first comes before all others, and an element is in the queue once.
func TestQueue(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	q := newQueue()
	elements := make([]element, 50)
	in := make(map[*element]bool)
	for range 20_000 {
		e := &elements[random.IntN(len(elements))]
		e.rank = random.IntN(1000)
		if in[e] = random.IntN(3) > 0; !in[e] {
			delete(in, e)
		}
		q.Update(e, in[e])
		var ranks []int
		for e := range in {
			ranks = append(ranks, e.rank)
		}
		if q.Len() != len(in) || len(in) > 0 && (!in[q.First()] || q.First().rank != slices.Min(ranks)) {
			t.Fatalf("%d elements, want %d", q.Len(), len(in))
		}
		for i := range elements {
			if (elements[i].place > 0) != in[&elements[i]] {
				t.Fatalf("element %d has the place %d", i, elements[i].place)
			}
		}
	}
}
