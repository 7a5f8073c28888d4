package answers_test

import (
	"fmt"
	"runtime"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// numbered returns a question of its own for each number.
func numbered(i int) lookup.Question {
	return lookup.Question{Name: fmt.Sprintf("t%d.example.", i), Type: dns.TypeA}
}

// An entry is what the last lookups ended in: an answer, failures, or an answer and then failures.
func TestUpdate(t *testing.T) {
	es := answers.New(answers.Size{Everybody: 10}, time.Now)
	if e := es.Load(target); e != answers.None || e.Answered || e.Failing() {
		t.Errorf("there is an entry in an empty cache: %+v", e)
	}
	var seen []*answers.Entry
	update := func(e *answers.Entry) {
		t.Helper()
		got := es.Update(target, 0, func(current *answers.Entry) *answers.Entry {
			seen = append(seen, current)
			return e
		})
		if got != e || es.Load(target) != e || es.Len() != 1 {
			t.Errorf("got %+v, cached %+v, of %d entries; want %+v", got, es.Load(target), es.Len(), e)
		}
	}
	failed := answers.None.Fail(answers.Backoff{Failures: 1, Retry: start, Cause: errDown})
	first, second := answer(addrs1, 0), answer(addrs2, 0)
	stale := first.Fail(answers.Backoff{Failures: 1, Retry: start, Cause: errDown})
	for _, e := range []*answers.Entry{failed, first, stale, second, second} {
		update(e)
	}
	if want := []*answers.Entry{answers.None, failed, first, stale, second}; !slices.Equal(seen, want) {
		t.Errorf("change got %v, want %v", seen, want)
	}
	other := lookup.Question{Name: target.Name, Type: dns.TypeAAAA}
	if e := es.Load(other); e != answers.None {
		t.Errorf("the other type has an entry: %+v", e)
	}
}

// However many change an entry at the same time, no change is lost.
func TestUpdateAtomic(t *testing.T) {
	es := answers.New(answers.Size{Everybody: 10}, time.Now)
	const n, each = 8, 200
	var changes sync.WaitGroup
	for range n {
		changes.Go(func() {
			var ref answers.Ref
			for range each {
				es.Update(target, 0, func(current *answers.Entry) *answers.Entry {
					return answers.NewEntry(lookup.Outcome{Data: addrs1, TTL: current.TTL + 1}, start)
				})
				es.Load(target)
				es.LoadRef(target, &ref)
			}
		})
	}
	changes.Wait()
	if got := es.Load(target).TTL; got != n*each {
		t.Errorf("%d changes of %d", got, n*each)
	}
}

func TestEntry(t *testing.T) {
	for _, size := range []int{0, 4, 16, 20} { // some fit into the entry
		addrs := make([]byte, size, size+4)
		e := answers.NewEntry(lookup.Outcome{Data: addrs, TTL: 300, Links: 2}, start)
		if !e.Answered || e.Expired || e.Failing() || e.LastFailure() != nil || !e.Stored.Equal(start) || len(e.Data) != size || e.TTL != 300 {
			t.Errorf("%d octets: %+v", size, e)
		}
		failed := expired(e.Fail(answers.Backoff{Failures: 2, Retry: start.Add(time.Minute), Cause: errDown}))
		if !failed.Failing() || failed.LastFailure() != errDown || failed.Failures != 2 || !slices.Equal(failed.Data, e.Data) ||
			failed.TTL != 300 || failed.Links != 2 || !failed.Answered || !failed.Stored.Equal(start) {
			t.Errorf("%d octets, after a failure: %+v", size, failed)
		}
		if e.Failing() || e.Expired {
			t.Errorf("%d octets: the failure changed the entry from before", size)
		}
		if again := failed.Fail(answers.Backoff{Failures: 3, Cause: errDown}); !again.Expired || again.Failures != 3 {
			t.Errorf("%d octets, after another failure: %+v", size, again)
		}
	}
}

// A target is not looked up before Retry, and can be from then on.
func TestBackingOff(t *testing.T) {
	failed := answers.None.Fail(answers.Backoff{Failures: 1, Retry: start, Cause: errDown})
	for now, want := range map[time.Time]bool{start.Add(-1): true, start: false, start.Add(time.Hour): false} {
		if got := failed.BackingOff(now); got != want {
			t.Errorf("%s after Retry: backing off %v", now.Sub(start), got)
		}
	}
	if answer(addrs1, 0).BackingOff(start) {
		t.Error("backing off without a failure")
	}
}

// No more answers are cached than there is room for, and as many failures.
func TestBound(t *testing.T) {
	const size = 100
	es := answers.New(answers.Size{Everybody: size}, time.Now)
	if es.Size() != size {
		t.Errorf("size %d, want %d", es.Size(), size)
	}
	for i := range 10_000 {
		store(es, numbered(i), answer(addrs1, 0))
	}
	if n := es.Len(); n > size || n < size/2 {
		t.Errorf("%d answers are cached, with room for %d", n, size)
	}
	for i := range 10_000 {
		fail(es, numbered(-1-i), start)
	}
	if n := es.Len(); n > 2*size {
		t.Errorf("%d entries are cached, with room for %d answers", n, size)
	}
}

// When the resolver is dead, no failure pushes an answer out, however many targets clients have looked up.
func TestFailuresKeepAnswers(t *testing.T) {
	const size = 200
	es := answers.New(answers.Size{Everybody: size}, time.Now)
	for i := range size {
		store(es, numbered(i), answer(addrs1, 0))
	}
	for i := range 50 * size {
		fail(es, numbered(size+i), start)
	}
	es.Len() // evicts what is to be evicted
	for i := range size {
		if e := es.Load(numbered(i)); !e.Answered {
			t.Fatalf("answer %d of %d is gone", i, size)
		}
	}
	// The failures of targets that have an answer are with the answers.
	for i := range size {
		fail(es, numbered(i), start)
	}
	es.Len()
	for i := range size {
		if e := es.Load(numbered(i)); !e.Answered || !e.Failing() {
			t.Fatalf("answer %d of %d: %+v", i, size, e)
		}
	}
}

// An answer counts for one, and for one more with each 256 octets of addresses.
func TestWeight(t *testing.T) {
	const size = 4
	for _, tc := range []struct {
		octets   int
		failures int
		full     bool
	}{
		{0, 0, false}, {16 * 47, 0, false}, {16 * 48, 0, true},
		{16 * 31, 1, false}, {16 * 31, 2, true}, {0, 4, true},
	} {
		es := answers.New(answers.Size{Everybody: size}, time.Now)
		store(es, target, answer(make([]byte, tc.octets), 0))
		for i := range tc.failures {
			fail(es, numbered(i), start)
		}
		if es.Len(); es.Full() != tc.full {
			t.Errorf("%d octets and %d failures: full %v", tc.octets, tc.failures, es.Full())
		}
	}
	es := answers.New(answers.Size{Everybody: size}, time.Now)
	if e := es.Update(target, 0, func(*answers.Entry) *answers.Entry { return answer(make([]byte, 16*64), 0) }); len(e.Data) != 16*64 {
		t.Errorf("an answer that is too large to be cached is not returned: %+v", e)
	}
	if es.Len() != 0 || es.Load(target) != answers.None {
		t.Error("an answer is cached that is larger than the cache")
	}
}

// However many addresses a target has, the memory for its answer is bounded by the size.
func TestLargeAnswersWeighMore(t *testing.T) {
	es := answers.New(answers.Size{Everybody: 1000}, time.Now)
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	for i := range 10_000 {
		store(es, numbered(i), answer(make([]byte, 16*500), 0))
	}
	es.Len()
	// 1000 times 256 octets, what is beside them, and what the heap takes.
	if grown := int64(heap()) - int64(before); grown > 2<<20 {
		t.Errorf("10,000 answers of 8000 octets take %d octets", grown)
	}
	runtime.KeepAlive(es)
}
