package answers_test

import (
	"slices"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/test/race"
)

// often is how many loads of a Ref make some of them searches.
const often = 200

// A Ref gives what the cache has, and only as long as the cache has it.
func TestRef(t *testing.T) {
	es := answers.New(answers.Size{Everybody: 10}, time.Now)
	var ref answers.Ref
	load := func() *answers.Entry {
		t.Helper()
		want := es.Load(target)
		for range often {
			if e := es.LoadRef(target, &ref); e != want {
				t.Fatalf("got %+v, want %+v", e, want)
			}
		}
		if e := es.LoadRef(target, nil); e != want {
			t.Fatalf("without a Ref: got %+v, want %+v", e, want)
		}
		return ref.Entry()
	}
	if ref.Entry() != nil || load() != nil {
		t.Error("the Ref has an entry of an empty cache")
	}
	fail(es, target, start)
	if load() != nil {
		t.Error("the Ref has a failure")
	}
	first := answer(addrs1, 0)
	store(es, target, first)
	if load() != first {
		t.Error("the Ref has not the answer")
	}
	fail(es, target, start)
	if ref.Entry() != nil {
		t.Error("the Ref has an entry that was replaced")
	}
	if e := load(); e == nil || !e.Failing() || !slices.Equal(e.Data, addrs1) {
		t.Errorf("the Ref has %+v", e)
	}
}

// A large answer would stay in memory after its eviction, at each alias that has a Ref to it.
func TestRefSize(t *testing.T) {
	es := answers.New(answers.Size{Everybody: 10}, time.Now)
	var ref answers.Ref
	for _, tc := range []struct {
		octets int
		kept   bool
	}{{256, true}, {256 + 4, false}, {4, true}} {
		store(es, target, answer(make([]byte, tc.octets), 0))
		if e := es.LoadRef(target, &ref); len(e.Data) != tc.octets {
			t.Errorf("%d octets, want %d", len(e.Data), tc.octets)
		}
		if got := ref.Entry() != nil; got != tc.kept {
			t.Errorf("%d octets: kept %v, want %v", tc.octets, got, tc.kept)
		}
	}
}

// A Ref whose entry was evicted has none, and its next load finds none.
func TestRefEvicted(t *testing.T) {
	const size, names = 20, 400
	es := answers.New(answers.Size{Everybody: size}, time.Now)
	refs := make([]answers.Ref, names)
	for i := range refs {
		store(es, numbered(i), answer(addrs1, 0))
		es.LoadRef(numbered(i), &refs[i])
	}
	es.Len()
	held := 0
	for i := range refs {
		cached := es.Load(numbered(i))
		if e := refs[i].Entry(); e != nil {
			held++
			if e != cached {
				t.Errorf("%d: the Ref has %+v, the cache has %+v", i, e, cached)
			}
		}
		if e := es.LoadRef(numbered(i), &refs[i]); e != cached {
			t.Errorf("%d: got %+v, want %+v", i, e, cached)
		}
	}
	if held == 0 || held > size {
		t.Errorf("%d answers are held, want 1 to %d", held, size)
	}
}

// The cache takes loads through a Ref for use: what is loaded often is rarely evicted for what is asked for a few times.
func TestRefCountsAsUse(t *testing.T) {
	const size, popular, rounds = 200, 10, 400
	es := answers.New(answers.Size{Everybody: size}, time.Now)
	var refs [popular]answers.Ref
	others, lost := popular, 0
	for range rounds {
		for i := range popular {
			for range often {
				if e := es.LoadRef(numbered(i), &refs[i]); !e.Answered {
					lost++
					store(es, numbered(i), answer(addrs1, 0))
				}
			}
		}
		for range size / 10 {
			others++
			for range 3 {
				store(es, numbered(others), answer(addrs2, 0))
			}
		}
		es.Len()
	}
	// Each is missing once, in the beginning. If loads were no use, about 150 would be missing.
	if lost > 5*popular {
		t.Errorf("popular answers were missing %d times in %d rounds", lost, rounds)
	}
}

// A fresh answer costs no allocation.
func TestLoadAllocatesNothing(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	es := answers.New(answers.Size{Everybody: 10}, time.Now)
	store(es, target, answer(addrs1, 0))
	var ref answers.Ref
	for name, load := range map[string]func(){
		"Load":    func() { es.Load(target) },
		"LoadRef": func() { es.LoadRef(target, &ref) },
	} {
		if n := testing.AllocsPerRun(1000, load); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
