package answers_test

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
)

// block is a server block: its share, and the entries that it has joined.
type block struct {
	*answers.Share
	*answers.Entries
}

// blocks makes the server blocks of a test, which leave when it ends.
type blocks struct {
	t *testing.T
	*answers.Registry
}

// start returns a server block of that generation for example.org, which serves.
func (bs blocks) start(generation int, s answers.Source) block {
	b := bs.reload(generation, s, exampleOrg)
	b.Serve()
	return b
}

// reload returns a server block of that generation, which does not serve yet.
func (bs blocks) reload(generation int, s answers.Source, zs map[string]struct{}) block {
	share := bs.NewShare(s, answers.Size{Everybody: 100}, zs)
	bs.t.Cleanup(func() { share.Leave(false) })
	return block{share, share.Join(generation)}
}

// has checks the entry of target. No addresses: it has none.
func (b block) has(t *testing.T, addrs []byte, expired bool) *answers.Entry {
	t.Helper()
	e := b.Load(target)
	if e.Answered != (addrs != nil) || !slices.Equal(e.Data, addrs) || e.Expired != expired {
		t.Errorf("cached: answered %v, addresses %v, expired %v; want %v, %v", e.Answered, e.Data, e.Expired, addrs, expired)
	}
	return e
}

// What a reload hands over from one server block to the one that replaces it.
func TestReload(t *testing.T) {
	const none, fresh, stale = "none", "fresh", "expired"
	a, b := answers.Source{Upstreams: "a"}, answers.Source{Upstreams: "b"}
	withPath := func(s answers.Source, path string) answers.Source {
		s.Path = path
		return s
	}
	two := zones("example.org.", "example.net.")
	for _, tc := range []struct {
		name          string
		before, after answers.Source
		zones         map[string]struct{} // after
		want          string
	}{
		{"the same", a, a, exampleOrg, fresh},
		{"other zones", a, a, two, fresh},
		{"the same copy", withPath(a, "db"), withPath(a, "db"), exampleOrg, fresh},
		{"a copy, and there was none", a, withPath(a, "db"), exampleOrg, fresh},
		{"no copy any more", withPath(a, "db"), a, exampleOrg, fresh},
		{"another copy", withPath(a, "db"), withPath(a, "other"), exampleOrg, fresh},
		{"another copy, other zones", withPath(a, "db"), withPath(a, "other"), two, fresh},
		{"other upstreams", a, b, exampleOrg, stale},
		{"other upstreams, the same file", withPath(a, "db"), withPath(b, "db"), exampleOrg, stale},
		{"other upstreams, other zones", a, b, two, none},
		{"other upstreams, no zones", a, b, nil, none},
	} {
		t.Run(tc.name, func(t *testing.T) {
			d := newDisk()
			bs := blocks{t, d.registry(at(start))}
			before := bs.start(1, tc.before)
			stored := answer(addrs1, time.Minute)
			stored.TTL, stored.Links = 77, 3
			store(before.Entries, target, stored)
			after := bs.reload(2, tc.after, tc.zones)
			before.Leave(false)
			if tc.want == none {
				after.has(t, nil, false)
				return
			}
			e := after.has(t, addrs1, tc.want == stale)
			if !e.Stored.Equal(stored.Stored) || e.TTL != 77 || e.Links != 3 {
				t.Errorf("handed over as %+v", e)
			}
			if tc.after.Path == "" {
				return
			}
			key, value := recordOf(t, target, e, start)
			if got := d.of(tc.after)[key]; got != value {
				t.Errorf("the copy has %q, want %q", got, value)
			}
		})
	}
}

// Who has no part in a reload.
func TestReloadFromNobody(t *testing.T) {
	a, other := answers.Source{Upstreams: "a"}, answers.Source{Upstreams: "a", Path: "db"}
	for name, prepare := range map[string]func(blocks){
		"one of the same generation, as with the view plugin": func(bs blocks) {
			store(bs.start(2, a).Entries, target, answer(addrs1, 0))
		},
		"one that never served": func(bs blocks) { store(bs.reload(1, a, exampleOrg).Entries, target, answer(addrs1, 0)) },
		"one that has left": func(bs blocks) {
			b := bs.start(1, a)
			store(b.Entries, target, answer(addrs1, 0))
			b.Leave(false)
		},
		"one with failures only": func(bs blocks) { fail(bs.start(1, a).Entries, target, start) },
		"several with other upstreams: which one is not known": func(bs blocks) {
			for _, upstreams := range []string{"b", "c"} {
				store(bs.start(1, answers.Source{Upstreams: upstreams}).Entries, target, answer(addrs1, 0))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			bs := blocks{t, newDisk().registry(at(start))}
			prepare(bs)
			after := bs.reload(2, other, exampleOrg)
			after.has(t, nil, false)
			if after.Len() != 0 {
				t.Error("a failure is handed over")
			}
		})
	}
}

// Several server blocks that share entries are no reason not to know whose answers they are.
func TestReloadFromSharing(t *testing.T) {
	bs := blocks{t, newDisk().registry(at(start))}
	b := answers.Source{Upstreams: "b"}
	store(bs.start(1, b).Entries, target, answer(addrs1, 0))
	bs.start(1, b)
	bs.start(0, b)
	bs.reload(2, answers.Source{Upstreams: "a"}, exampleOrg).has(t, addrs1, true)
}

// Answers of the same upstreams count for more than newer ones of others.
func TestReloadOwnFirst(t *testing.T) {
	bs := blocks{t, newDisk().registry(at(start))}
	same, others := bs.start(1, answers.Source{Upstreams: "a"}), bs.start(1, answers.Source{Upstreams: "b"})
	store(same.Entries, target, answer(addrs1, time.Hour))
	store(others.Entries, target, answer(addrs2, time.Minute))
	store(others.Entries, numbered(1), answer(addrs2, time.Minute))
	after := bs.reload(2, answers.Source{Upstreams: "a", Path: "db"}, exampleOrg)
	after.has(t, addrs1, false)
	if e := after.Load(numbered(1)); !e.Expired || !slices.Equal(e.Data, addrs2) {
		t.Errorf("what only the others have: %+v", e)
	}
}

// The back-off goes on with the same upstreams. Others may well have an answer.
func TestReloadBackoff(t *testing.T) {
	for upstreams, failing := range map[string]bool{"a": true, "b": false} {
		bs := blocks{t, newDisk().registry(at(start))}
		before := bs.start(1, answers.Source{Upstreams: "a"})
		store(before.Entries, target, answer(addrs1, 0))
		fail(before.Entries, target, start.Add(time.Minute))
		e := bs.reload(2, answers.Source{Upstreams: upstreams, Path: "db"}, exampleOrg).Load(target)
		if !e.Answered || e.Failing() != failing {
			t.Errorf("upstreams %s: %+v", upstreams, e)
		}
	}
}

// Upstreams that turn out to be the wrong ones, and the way back.
func TestReloadThereAndBack(t *testing.T) {
	bs := blocks{t, newDisk().registry(at(start))}
	before := bs.start(0, answers.Source{Upstreams: "a"})
	store(before.Entries, target, answer(addrs1, 0))
	for i, upstreams := range []string{"b", "a"} {
		after := bs.start(1+i, answers.Source{Upstreams: upstreams})
		before.Leave(false)
		after.has(t, addrs1, true)
		before = after
	}
	// They are down, and the next reload says no more about the age of their answer.
	bs.start(3, answers.Source{Upstreams: "a", Path: "db"}).has(t, addrs1, true)
}

// Reloads that fail leave server blocks behind, which have no part in the next; what was learned meanwhile is handed over
// to the next that tries.
func TestReloadAfterFailure(t *testing.T) {
	bs := blocks{t, newDisk().registry(at(start))}
	a, silent := answers.Source{Upstreams: "a"}, answers.Source{Upstreams: "silent"}
	before := bs.start(1, a)
	store(before.Entries, target, answer(addrs1, time.Minute))
	var left []block
	for i, s := range []answers.Source{{Upstreams: "wrong"}, silent} {
		b := bs.reload(2+i, s, exampleOrg)
		b.has(t, addrs1, true)
		left = append(left, b)
	}
	store(before.Entries, target, answer(addrs2, 0))
	after := bs.start(4, silent) // with the entries of the one that is left behind
	before.Leave(false)
	after.has(t, addrs2, true)
	runtime.KeepAlive(left)
}

// What wrong upstreams answered does not replace the answers of the right ones, when these come back and are down.
func TestReloadFromWrong(t *testing.T) {
	d := newDisk()
	a, wrong := answers.Source{Upstreams: "a", Path: "db"}, answers.Source{Upstreams: "wrong", Path: "db"}
	bs := blocks{t, d.registry(at(start))}
	first := bs.start(1, a)
	store(first.Entries, target, answer(addrs1, time.Minute))
	second := bs.start(2, wrong)
	first.Leave(false)
	second.has(t, addrs1, true)
	store(second.Entries, target, answer(nil, 0)) // NODATA
	third := bs.start(3, a)
	second.Leave(false)
	third.has(t, addrs1, false) // out of the copy
	third.Leave(true)
	blocks{t, d.registry(at(start))}.start(1, a).has(t, addrs1, false) // after a restart
}

// A reload that fails late leaves a server block behind that nobody ends: its share is given back when it is garbage.
func TestGarbageShare(t *testing.T) {
	d := newDisk()
	r := d.registry(time.Now)
	s := answers.Source{Path: "db"}
	kept := r.NewShare(s, answers.Size{Everybody: 10}, exampleOrg)
	defer kept.Leave(false)
	es := kept.Join(1)
	func() {
		r.NewShare(s, answers.Size{Everybody: 100}, exampleOrg) // never joins
		r.NewShare(s, answers.Size{Everybody: 1000}, exampleOrg).Join(2)
		store(r.NewShare(answers.Source{Path: "other"}, answers.Size{Everybody: 10}, exampleOrg).Join(2), target, answer(addrs1, 0))
	}()
	if n := es.Size(); n < 1010 {
		t.Errorf("size %d before anything is garbage", n)
	}
	var calls []string
	withAnother := func() int { // 11, unless a share that never joined is still expected
		joined := r.NewShare(s, answers.Size{Everybody: 1}, exampleOrg)
		defer joined.Leave(false)
		return joined.Join(3).Size()
	}
	// The copy is closed at the end of the clean-up, which holds the registry.
	for deadline := time.Now().Add(10 * time.Second); es.Size() != 10 || r.Len() > 0 || withAnother() != 11; time.Sleep(time.Millisecond) {
		runtime.GC()
		if time.Now().After(deadline) {
			t.Fatalf("size %d, %d with another one, %d entries", es.Size(), withAnother(), r.Len())
		}
	}
	if calls = d.called(); !slices.Contains(calls, "close other") || slices.Contains(calls, "close db") {
		t.Errorf("the copies were called %v", calls)
	}
	runtime.KeepAlive(kept)
}
