package answers_test

import (
	"bytes"
	"fmt"
	stdlog "log"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
)

// zones returns the zones of a server block.
func zones(names ...string) map[string]struct{} {
	zs := make(map[string]struct{})
	for _, name := range names {
		zs[name] = struct{}{}
	}
	return zs
}

var exampleOrg = zones("example.org.")

// Server blocks with the same source share entries, which have the size of all of them; those with another have their own.
func TestShared(t *testing.T) {
	d := newDisk()
	r := d.registry(time.Now)
	join := func(s answers.Source, size int) (*answers.Share, *answers.Entries) {
		share := r.NewShare(s, answers.Size{Everybody: size}, exampleOrg)
		t.Cleanup(func() { share.Leave(true) })
		es := share.Join(1)
		share.Serve()
		return share, es
	}
	source := answers.Source{Upstreams: "a", Path: "db"}
	_, es := join(source, 100)
	store(es, target, answer(addrs1, 0))
	fail(es, numbered(1), start)
	for _, s := range []answers.Source{{Upstreams: "b", Path: "db"}, {Upstreams: "a"}, {Upstreams: "a", Path: "other"}} {
		if _, other := join(s, 100); other == es || other.Load(target) != answers.None || other.Size() != 100 {
			t.Errorf("%v has the entries of %v", s, source)
		}
	}
	if n := r.Len(); n != 2 {
		t.Errorf("%d entries, want 2", n)
	}
	third, same := join(source, 7)
	if same != es || es.Size() != 107 || es.Load(target) == answers.None {
		t.Errorf("a share of the same source: the same %v, size %d", same == es, es.Size())
	}
	for range 2 { // Leave may be called again
		if third.Leave(false); es.Size() != 100 {
			t.Errorf("size %d after one has left", es.Size())
		}
	}
	want := []string{"open db", "open db", "open other", "flush db"}
	if calls := d.called(); !slices.Equal(calls, want) {
		t.Errorf("the copies were called %v, want %v", calls, want)
	}
}

// What no share has any more is gone, and the copy is closed.
func TestLastLeaves(t *testing.T) {
	d := newDisk()
	r := d.registry(at(start))
	s := answers.Source{Path: "db"}
	for round := range 3 {
		share := r.NewShare(s, answers.Size{Everybody: 10}, exampleOrg)
		es := share.Join(round)
		share.Serve()
		if e := es.Load(target); e.Answered != (round > 0) { // it comes out of the copy
			t.Errorf("round %d: cached %+v", round, e)
		}
		store(es, target, answer(addrs1, 0))
		share.Leave(false)
		if n := r.Len(); n != 0 {
			t.Errorf("round %d: %d entries are left", round, n)
		}
		if calls := d.called(); !slices.Equal(calls, []string{"open db", "close db"}) {
			t.Errorf("round %d: the copy was called %v", round, calls)
		}
	}
}

// A restart brings all answers back, in whatever order the server blocks that share them, with different sizes, start and
// stop.
func TestRestart(t *testing.T) {
	d := newDisk()
	s := answers.Source{Path: "db"}
	for round, sizes := range [][]int{{10, 1000}, {1000, 10}, {10, 1000}, {10, 1000}} {
		r := d.registry(at(start))
		var shares []*answers.Share
		for i, size := range sizes {
			shares = append(shares, r.NewShare(s, answers.Size{Everybody: size}, zones(fmt.Sprintf("z%d.", i))))
		}
		var es *answers.Entries
		for _, share := range shares {
			es = share.Join(1)
			if es.Size() != 1010 {
				t.Errorf("round %d: size %d while not all have joined", round, es.Size())
			}
		}
		if round == 0 {
			for i := range 900 {
				store(es, numbered(i), answer(addrs1, 0))
			}
		}
		if n := es.Len(); n != 900 {
			t.Errorf("round %d: %d answers of 900", round, n)
		}
		for _, share := range shares {
			share.Leave(true)
		}
		if n := len(d.of(s)); n != 900 {
			t.Errorf("round %d: %d answers of 900 are in the copy", round, n)
		}
	}
}

// Only at the end of the process nothing is evicted for a share that is given back.
func TestLeaveEvicts(t *testing.T) {
	d := newDisk()
	s := answers.Source{Path: "db"}
	for final, want := range map[bool]int{false: 10, true: 100} {
		r := d.registry(at(start))
		small, large := r.NewShare(s, answers.Size{Everybody: 10}, exampleOrg), r.NewShare(s, answers.Size{Everybody: 90}, exampleOrg)
		es := small.Join(1)
		large.Join(1)
		for i := range 100 {
			store(es, numbered(i), answer(addrs1, 0))
		}
		large.Leave(final)
		if n := es.Len(); n > want || n < want/2 || len(d.of(s)) != n {
			t.Errorf("final %v: %d answers, and %d in the copy, want %d", final, n, len(d.of(s)), want)
		}
		small.Leave(final)
	}
}

// There are as many failures as there may be answers, however many server blocks share the entries.
func TestFailuresShared(t *testing.T) {
	r := newDisk().registry(time.Now)
	small, large := r.NewShare(answers.Source{}, answers.Size{Everybody: 10}, exampleOrg), r.NewShare(answers.Source{}, answers.Size{Everybody: 90}, exampleOrg)
	es := small.Join(1)
	large.Join(1)
	defer small.Leave(false)
	for i := range 1000 {
		fail(es, numbered(i), start)
	}
	if n := es.Len(); n > 100 || n < 50 {
		t.Errorf("%d failures, want 100", n)
	}
	if large.Leave(false); es.Len() > 10 {
		t.Errorf("%d failures are left, want 10", es.Len())
	}
	more := r.NewShare(answers.Source{}, answers.Size{Everybody: 90}, exampleOrg)
	more.Join(2)
	defer more.Leave(false)
	for i := range 1000 {
		fail(es, numbered(i), start)
	}
	if n := es.Len(); n > 100 || n < 50 {
		t.Errorf("%d failures, want 100 again", n)
	}
}

// A share that is given back without a part in any entries is not expected to join any more.
func TestLeaveWithoutJoin(t *testing.T) {
	r := newDisk().registry(time.Now)
	never := r.NewShare(answers.Source{}, answers.Size{Everybody: 1000}, exampleOrg)
	never.Leave(false)
	share := r.NewShare(answers.Source{}, answers.Size{Everybody: 10}, exampleOrg)
	defer share.Leave(false)
	if n := share.Join(1).Size(); n != 10 {
		t.Errorf("size %d, want 10", n)
	}
}

// An operator sees in the log how much came out of the copy.
func TestOpenIsLogged(t *testing.T) {
	d := newDisk()
	s := answers.Source{Upstreams: "a", Path: "/var/lib/db"}
	key, value := recordOf(t, target, answer(addrs1, 0), start)
	d.records[s] = map[string]string{key: value}
	var out bytes.Buffer
	stdlog.SetOutput(&out)
	defer stdlog.SetOutput(os.Stderr)
	share := d.registry(at(start)).NewShare(s, answers.Size{Everybody: 10}, exampleOrg)
	defer share.Leave(false)
	share.Join(1)
	if want := "plugin/alias: Cached answers 1, from /var/lib/db\n"; !strings.HasSuffix(out.String(), want) {
		t.Errorf("the log is %q, want %q", out.String(), want)
	}
}

// Server blocks come and go at the same time, as with several servers in a process.
func TestConcurrentShares(t *testing.T) {
	r := newDisk().registry(time.Now)
	var blocks sync.WaitGroup
	for i := range 8 {
		blocks.Go(func() {
			for round := range 50 {
				share := r.NewShare(answers.Source{Upstreams: fmt.Sprint(i % 3), Path: "db"}, answers.Size{Everybody: 10}, exampleOrg)
				es := share.Join(round)
				share.Serve()
				store(es, numbered(i), answer(addrs1, 0))
				es.Load(numbered(i))
				r.Len()
				share.Leave(round%2 == 0)
			}
		})
	}
	blocks.Wait()
	if n := r.Len(); n != 0 {
		t.Errorf("%d entries are left", n)
	}
}

// The start and the reload of very many server blocks take a time that grows with their number alone.
func TestManyShares(t *testing.T) {
	const blocks, most = 20_000, 5 * time.Second // each to each would be minutes
	r := answers.NewRegistry(nil, nil, time.Now)
	began := time.Now()
	var last []*answers.Share
	for generation := range 3 {
		var shares []*answers.Share
		for i := range blocks {
			shares = append(shares, r.NewShare(answers.Source{Upstreams: "192.0.2.53"}, answers.Size{Everybody: 10}, zones(fmt.Sprintf("z%d.", i))))
		}
		var es *answers.Entries
		for _, share := range shares {
			es = share.Join(generation)
			share.Serve()
		}
		for _, share := range last {
			share.Leave(false)
		}
		if n := es.Size(); n != 10*blocks {
			t.Errorf("generation %d: size %d", generation, n)
		}
		last = shares
	}
	if took := time.Since(began); took > most {
		t.Errorf("%d server blocks took %s, want at most %s", blocks, took, most)
	}
	for _, share := range last {
		share.Leave(true)
	}
}
