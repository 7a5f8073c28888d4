package alias

import (
	"context"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// testCache returns a cache with those entries and that clock, whose lookups fail.
func testCache(t *testing.T, es *answers.Entries, now func() time.Time) *cache {
	t.Helper()
	cfg := newConfig()
	cfg.now = now
	c := cfg.buildCache(func(context.Context, lookup.Question, int) (lookup.Outcome, error) { return lookup.Outcome{}, errDown })
	c.entries = es
	t.Cleanup(c.stop)
	return c
}

// A lookup that began before that of another server block finished does not undo it.
func TestSharedEntries(t *testing.T) {
	es := answers.New(answers.Size{Everybody: 10}, time.Now)
	one, two := testCache(t, es, time.Now), testCache(t, es, time.Now)
	old := settled(one, target, answers.None, lookup.Outcome{Data: addrs1, TTL: 60}, nil)
	newer := settled(two, target, old, lookup.Outcome{Data: addrs2, TTL: 60}, nil)
	if e := settled(one, target, old, lookup.Outcome{}, errDown); e != newer || es.Load(target) != newer {
		t.Errorf("the entry is %+v", es.Load(target))
	}
	if e := settled(one, target, newer, lookup.Outcome{}, errDown); !e.Failing() || !slices.Equal(e.Data, addrs2) {
		t.Errorf("%+v after a failure", e)
	}
}

// Server blocks that share entries count an outage once.
func TestBackoffShared(t *testing.T) {
	now := time.Now()
	clock := func() time.Time { return now }
	es := answers.New(answers.Size{Everybody: 10}, clock)
	var e *answers.Entry
	for range 5 { // their lookups are in flight at the same time
		e = settled(testCache(t, es, clock), target, answers.None, lookup.Outcome{}, errDown)
	}
	if left := e.Retry.Sub(now); left != minBackoff {
		t.Errorf("the target is not looked up for %s after the first failure", left)
	}
}

// record returns the record of an answer in the file, stored at the given time.
func record(o lookup.Outcome, stored time.Time) (key, value string) {
	es := answers.New(answers.Size{Everybody: 1}, func() time.Time { return stored })
	es.Update(target, 0, func(*answers.Entry) *answers.Entry { return answers.NewEntry(o, stored) })
	for key, value = range es.All() {
	}
	return key, value
}

// An answer out of the file is as old as it was, by whatever clock it came, and looked up if nobody can know.
func TestRestoredAge(t *testing.T) {
	wall := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	const maxAge = answers.MaxStale + answers.MaxTTL
	tests := []struct {
		name   string
		stored time.Duration // before now
		left   time.Duration
		status status
	}{
		{"just now", 0, 300 * time.Second, hit},
		{"a while ago", 100 * time.Second, 200 * time.Second, hit},
		{"a day ago", 24 * time.Hour, 300*time.Second - 24*time.Hour, stale},
		{"in the future", -24 * time.Hour, 0, stale},
		{"long ago", 200 * 365 * 24 * time.Hour, 300*time.Second - maxAge, failed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			clock := func() time.Time { return wall }
			c := testCache(t, answers.New(answers.Size{Everybody: 10}, clock), clock)
			key, value := record(lookup.Outcome{Data: addrs1, TTL: 300}, wall.Add(-test.stored))
			if again := c.entries.Restore(key, value); again != value {
				t.Errorf("the record is replaced with %q", again)
			}
			if left := c.left(c.entries.Load(target), lookup.NoLimit, wall); left != test.left {
				t.Errorf("%s left, want %s", left, test.left)
			}
			if _, _, s := c.get(target, lookup.NoLimit, exampleZone, nil); s != test.status {
				t.Errorf("status %s, want %s", s, test.status)
			}
		})
	}
}

// An answer that comes out of the file during a lookup that fails is no new one.
func TestRestoredDuringLookup(t *testing.T) {
	for _, test := range []struct {
		stale time.Duration
		want  status
	}{{0, failed}, {72 * time.Hour, stale}} {
		now := time.Now()
		clock := func() time.Time { return now }
		c := testCache(t, answers.New(answers.Size{Everybody: 10}, clock), clock)
		c.lifetime.stale = test.stale
		c.resolve = func(context.Context, lookup.Question, int) (lookup.Outcome, error) {
			c.entries.Restore(record(lookup.Outcome{Data: addrs1, TTL: 300}, now.Add(-24*time.Hour)))
			return lookup.Outcome{}, errDown
		}
		if _, _, s := c.get(target, lookup.NoLimit, exampleZone, nil); s != test.want || !c.entries.Load(target).Failing() {
			t.Errorf("stale %s: status %s, failing %v", test.stale, s, c.entries.Load(target).Failing())
		}
	}
}

// Lookups that find the same addresses are written once in a tenth of the stale window, others at once.
func TestWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	a := instance(t, 1, "example.org", "upstream 127.0.0.1:1\ncache_size 100\nstale 5m\npersist "+path)
	for i := range 1000 {
		q := question(fmt.Sprintf("t%d.example.", i), dns.TypeA)
		settled(a.cache, q, answers.None, lookup.Outcome{Data: addrs1, TTL: 5}, nil)
	}
	if a.cache.lag != 30*time.Second {
		t.Errorf("the copy may lag by %s", a.cache.lag)
	}
	a.cache.entries.Len() // evicts what is due
	a.stop()
	b := instance(t, 2, "example.org", "upstream 127.0.0.1:1\npersist "+path)
	if n := b.cache.entries.Len(); n < 50 || n > 100 {
		t.Errorf("%d answers are in the file, for 100 places", n)
	}
}

// An alias uses its cached pointer no longer than the cache has the entry.
func TestCachedPointers(t *testing.T) {
	const size, names, searches = 20, 400, 16
	var records strings.Builder
	for i := range names {
		fmt.Fprintf(&records, "record r%d t%d.example\n", i, i)
	}
	a, c := newAlias(t, "example.org", records.String()+fmt.Sprintf("cache_size %d\nupstream 127.0.0.1", size), nil)
	changed := byte(0)
	a.cache.resolve = func(_ context.Context, q lookup.Question, _ int) (lookup.Outcome, error) {
		return lookup.Outcome{Data: []byte{192, 0, 2, changed}, TTL: 60}, nil
	}
	for range 3 {
		for i := range names {
			for range 2 * searches {
				m := query(t, a, fmt.Sprintf("r%d.example.org.", i), dns.TypeA)
				if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.To4()[3] != changed {
					t.Fatalf("r%d: got %v, want 192.0.2.%d", i, m.Answer, changed)
				}
			}
		}
		a.cache.entries.Len() // evicts what is due
		held := 0
		for aliases := range a.records.ByZone() {
			for i := range aliases {
				if aliases[i].Cached(dns.TypeA).Entry() != nil {
					held++
				}
			}
		}
		if held == 0 || held > size {
			t.Errorf("%d answers are held, want 1 to %d", held, size)
		}
		changed++
		c.Advance(2 * time.Minute)
		for _, q := range []string{"r0", "r399"} { // one that was evicted long ago, and one that has expired
			query(t, a, q+".example.org.", dns.TypeA)
		}
	}
}

// Server blocks with the same upstreams look a question up once, and have the bounds and the goroutines of one.
func TestBlocksShareLookups(t *testing.T) {
	const blocks = 500
	started := make(chan struct{})
	answer := make(chan struct{})
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		started <- struct{}{}
		<-answer
		good(w, r)
	})
	properties := "record @ target.example\ntimeout 5s\nupstream " + up.Addr
	var as []*Alias
	goroutines := 0
	for i := range blocks {
		as = append(as, instance(t, 1, fmt.Sprintf("z%d.example", i), properties))
		if i == 0 {
			goroutines = runtime.NumGoroutine()
		}
	}
	if n := runtime.NumGoroutine() - goroutines; n > 5 {
		t.Errorf("%d more goroutines for %d more blocks", n, blocks-1)
	}
	var clients sync.WaitGroup
	var answered atomic.Int64
	ask := func(i int) {
		clients.Go(func() {
			if m := query(t, as[i], fmt.Sprintf("z%d.example.", i), dns.TypeA); len(m.Answer) == 1 {
				answered.Add(1)
			}
		})
	}
	ask(0)
	<-started
	for i := range blocks {
		ask(i)
	}
	close(answer)
	clients.Wait()
	if n := up.AskedAll(); n != 1 || answered.Load() != blocks+1 {
		t.Errorf("%d lookups, and %d of %d clients have an answer", n, answered.Load(), blocks+1)
	}
	other := instance(t, 1, "other.example", properties+"\nmax_concurrent 7")
	if other.cache.lookups == as[0].cache.lookups {
		t.Error("a block with another bound has the same")
	}
}

// A block that stops ends its lookups. The clients of others, who wait for one of them, get an answer all the same.
func TestBlockStopsDuringSharedLookup(t *testing.T) {
	var asked atomic.Int64
	first := make(chan struct{})
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if asked.Add(1) == 1 {
			close(first)
			return // the first query is lost
		}
		good(w, r)
	})
	properties := "record @ target.example\ntimeout 500ms\nretries 0\nupstream " + up.Addr
	stopped, other := instance(t, 1, "stopped.example", properties), instance(t, 1, "other.example", properties)
	var clients sync.WaitGroup
	clients.Go(func() { query(t, stopped, "stopped.example.", dns.TypeA) })
	<-first
	clients.Go(func() {
		if m := query(t, other, "other.example.", dns.TypeA); len(m.Answer) != 1 {
			t.Errorf("got %v", m)
		}
	})
	stopped.stop()
	clients.Wait()
}

// Nothing of the lookups stays when the last server block is gone.
func TestSharedLookupsAreForgotten(t *testing.T) {
	a := instance(t, 1, "example.org", "upstream 127.0.0.1\nmax_concurrent 7")
	key := a.cache.key
	if sharedLookups.share(key, newLookups(1, 1)) != a.cache.lookups {
		t.Error("the lookups are not shared")
	}
	a.stop()
	a.cache.lookups = newLookups(1, 1)
	wait(t, 10*time.Second, "they are still there", func() bool {
		runtime.GC()
		sharedLookups.mu.Lock()
		defer sharedLookups.mu.Unlock()
		_, ok := sharedLookups.all[key]
		return !ok
	})
}

// settled returns the entry that c has of q after a lookup that began when the entry was old, and ended in o and err.
func settled(c *cache, q lookup.Question, old *answers.Entry, o lookup.Outcome, err error) *answers.Entry {
	l := &inFlight{Question: q, net: q.Net, zone: exampleZone, entry: old}
	c.settle(l, o, err)
	return l.entry
}
