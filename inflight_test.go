package alias

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// A lookup that a client with a stale answer waits for makes one attempt; any other makes all.
func TestAttempts(t *testing.T) {
	inBubble(t, "retries 3\nstale 1m", func(t *testing.T, a *Alias, r *fakeResolver) {
		ask(t, a)                     // cold
		time.Sleep(275 * time.Second) // refresh
		ask(t, a)
		synctest.Wait()
		r.say(lookup.Outcome{}, errDown)
		time.Sleep(301 * time.Second) // stale
		ask(t, a)
		time.Sleep(time.Hour) // too old
		ask(t, a)
		if diff := cmp.Diff([]int{4, 4, 1, 4}, r.tries); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	})
}

// Without stale answers, a prefetch makes all attempts: one lost packet must not lead to an empty answer.
func TestAttemptsWithoutStale(t *testing.T) {
	inBubble(t, "retries 3\nstale 0", func(t *testing.T, a *Alias, r *fakeResolver) {
		ask(t, a)
		time.Sleep(275 * time.Second)
		ask(t, a)
		synctest.Wait()
		if diff := cmp.Diff([]int{4, 4}, r.tries); diff != "" {
			t.Errorf("attempts (-want +got):\n%s", diff)
		}
	})
}

// However many clients query a name, there is one lookup of a question.
func TestOneLookup(t *testing.T) {
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		r.delay = 400 * time.Millisecond
		var wg sync.WaitGroup
		var got [statuses]atomic.Int32
		for range 10_000 {
			wg.Go(func() {
				_, _, status := a.cache.get(target, lookup.NoLimit, exampleZone, nil)
				got[status].Add(1)
			})
		}
		wg.Wait()
		if n := r.lookups(); n != 1 {
			t.Errorf("%d lookups", n)
		}
		if n := got[miss].Load(); n != 10_000 {
			t.Errorf("%d of 10000 got the answer", n)
		}
	})
}

// A query that saw no entry, and comes just when a lookup finishes, does not start another lookup.
func TestLateToTheLookup(t *testing.T) {
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		a.cache.get(target, lookup.NoLimit, exampleZone, nil)
		e, _, status := a.cache.lookUp(target, lookup.NoLimit, exampleZone, false)
		if status != miss || len(e.Data) == 0 || r.lookups() != 1 {
			t.Errorf("status %s, %d lookups", status, r.lookups())
		}
		for range 100 {
			if !finished(e, target.Net).doneWithin(a.cache.timeout / 5) {
				t.Fatal("a finished lookup was not seen as such")
			}
		}
	})
}

// When an entry is evicted after a query has looked at it, the query starts a lookup.
func TestEvictedMeanwhile(t *testing.T) {
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		a.cache.get(target, lookup.NoLimit, exampleZone, nil)
		a.cache.entries = answers.New(answers.Size{Everybody: 10}, time.Now) // which has not the entry
		if e, _, status := a.cache.lookUp(target, lookup.NoLimit, exampleZone, false); status != miss || len(e.Data) == 0 || r.lookups() != 2 {
			t.Errorf("status %s, %d lookups", status, r.lookups())
		}
	})
}

// While the first query with a stale answer waits for its attempt, the others wait a moment only.
func TestFollowersOfAStaleAnswer(t *testing.T) {
	inBubble(t, "timeout 500ms", func(t *testing.T, a *Alias, r *fakeResolver) {
		ask(t, a)
		time.Sleep(time.Hour)
		r.delay = 500 * time.Millisecond
		r.say(lookup.Outcome{}, errDown)

		var wg sync.WaitGroup
		took := make([]time.Duration, 25)
		for i := range took {
			wg.Go(func() {
				began := time.Now()
				if status, _, _ := ask(t, a); status != "stale" {
					t.Errorf("query %d: %s", i, status)
				}
				took[i] = time.Since(began)
			})
			time.Sleep(20 * time.Millisecond)
		}
		wg.Wait()
		for i, d := range took {
			want := max(100*time.Millisecond-time.Duration(i)*20*time.Millisecond, 0)
			if i == 0 {
				want = 500 * time.Millisecond
			}
			if d != want {
				t.Errorf("query %d took %s, want %s", i, d, want)
			}
		}
		if n := r.lookups(); n != 2 {
			t.Errorf("%d lookups", n)
		}
	})
}

// When the resolver is quick enough, all of them get the fresh answer.
func TestFollowersOfAFreshAnswer(t *testing.T) {
	inBubble(t, "timeout 500ms", func(t *testing.T, a *Alias, r *fakeResolver) {
		ask(t, a)
		time.Sleep(time.Hour)
		r.delay = 80 * time.Millisecond
		r.say(lookup.Outcome{Data: addrs2, TTL: 300}, nil)
		var wg sync.WaitGroup
		for range 10 {
			wg.Go(func() {
				if status, _, addr := ask(t, a); status != "miss" || addr != "192.0.2.2" {
					t.Errorf("%s %s", status, addr)
				}
			})
		}
		wg.Wait()
	})
}

// Past max_concurrent a lookup fails at once, and the target does not count as failing.
func TestMaxConcurrent(t *testing.T) {
	inBubble(t, "max_concurrent 4\nper_zone 4", func(t *testing.T, a *Alias, r *fakeResolver) {
		r.delay = 100 * time.Millisecond
		var wg sync.WaitGroup
		var got [statuses]atomic.Int32
		for i := range 10 {
			wg.Go(func() {
				e, _, status := a.cache.get(question(fmt.Sprintf("t%d.example.", i), dns.TypeA), lookup.NoLimit, exampleZone, nil)
				got[status].Add(1)
				if status == failed && e.Cause.Outcome != "overload" {
					t.Errorf("failed with %v", e.Cause)
				}
			})
		}
		wg.Wait()
		if got[miss].Load() != 4 || got[failed].Load() != 6 {
			t.Errorf("%d answers, %d failures", got[miss].Load(), got[failed].Load())
		}
		r.delay = 0
		for i := range 10 {
			if _, _, status := a.cache.get(question(fmt.Sprintf("t%d.example.", i), dns.TypeA), lookup.NoLimit, exampleZone, nil); status == failed {
				t.Errorf("t%d still fails", i)
			}
		}
	})
}

// Past per_zone a lookup for a zone fails at once, and one for another zone does not.
func TestPerZone(t *testing.T) {
	inBubble(t, "max_concurrent 80", func(t *testing.T, a *Alias, r *fakeResolver) { // and so 10 of a zone
		r.delay = 100 * time.Millisecond
		var wg sync.WaitGroup
		var got [2][statuses]atomic.Int32
		for i := range 60 {
			wg.Go(func() {
				zone := i % 2
				q := question(fmt.Sprintf("t%d.example.", i), dns.TypeA)
				if zone == 1 && i >= 20 {
					return
				}
				_, _, status := a.cache.get(q, lookup.NoLimit, zoneNamed(fmt.Sprint(zone, ".")), nil)
				got[zone][status].Add(1)
			})
		}
		wg.Wait()
		if got[0][miss].Load() != 10 || got[0][failed].Load() != 20 || got[1][miss].Load() != 10 || got[1][failed].Load() != 0 {
			t.Errorf("%d answers and %d failures, and %d and %d in the other zone", got[0][miss].Load(), got[0][failed].Load(), got[1][miss].Load(), got[1][failed].Load())
		}
	})
}

// Background lookups leave three quarters of max_concurrent to the clients. One zone gets half of the rest.
func TestBackgroundLeavesRoom(t *testing.T) {
	inBubble(t, "max_concurrent 8\nper_zone 8", func(t *testing.T, a *Alias, r *fakeResolver) {
		name := func(i int) lookup.Question { return question(fmt.Sprintf("t%d.example.", i), dns.TypeA) }
		for i := range 16 {
			a.cache.get(name(i), lookup.NoLimit, exampleZone, nil)
		}
		time.Sleep(290 * time.Second)
		r.delay = time.Second
		begin := func(from, to int, zone string) (skipped float64) {
			return counted(t, refreshesCount.WithLabelValues("skipped"), func() {
				for i := from; i < to; i++ {
					a.cache.get(name(i), lookup.NoLimit, zoneNamed(zone), nil)
				}
				synctest.Wait()
			})
		}
		if skipped := begin(0, 8, "a."); r.lookups()-16 != 1 || skipped != 7 {
			t.Errorf("%d refreshes of one zone under way, %v skipped", r.lookups()-16, skipped)
		}
		if skipped := begin(8, 16, "b."); r.lookups()-16 != 2 || skipped != 7 {
			t.Errorf("%d refreshes of two zones under way, %v skipped", r.lookups()-16, skipped)
		}
		var wg sync.WaitGroup
		for i := range 6 {
			wg.Go(func() {
				if _, _, status := a.cache.get(name(100+i), lookup.NoLimit, exampleZone, nil); status != miss {
					t.Errorf("client %d: %s", i, status)
				}
			})
		}
		wg.Wait()
	})
}

// A panic in a lookup is a failure, and everybody who waits for the lookup gets it.
func TestPanicInLookup(t *testing.T) {
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		a.cache.resolve = func(context.Context, lookup.Question, int) (lookup.Outcome, error) { panic("lookup") }
		e, _, status := a.cache.get(target, lookup.NoLimit, exampleZone, nil)
		if status != failed || e.Cause.Outcome != "error" {
			t.Errorf("%s: %v", status, e.Cause)
		}
		a.cache.resolve = r.resolve
		time.Sleep(minBackoff)
		if _, _, status := a.cache.get(target, lookup.NoLimit, exampleZone, nil); status != miss {
			t.Errorf("after the panic: %s", status)
		}
	})
}

// While lookups of targets that hang take all of max_concurrent, cached answers are served as ever: fresh, and then stale.
func TestStarvedLookups(t *testing.T) {
	logged(t)
	inBubble(t, "max_concurrent 4\nper_zone 4", func(t *testing.T, a *Alias, r *fakeResolver) {
		ask(t, a)
		r.delay = 500 * time.Millisecond
		r.say(lookup.Outcome{}, lookup.NetworkFailure("timeout", nil))
		var clients sync.WaitGroup
		defer clients.Wait()
		end := time.Now().Add(10 * time.Minute)
		for i := range 8 { // twice as many as there is room for
			clients.Go(func() {
				for n := 0; time.Now().Before(end); n++ {
					a.cache.get(question(fmt.Sprintf("t%d-%d.example.", i, n), dns.TypeA), lookup.NoLimit, exampleZone, nil)
					time.Sleep(20 * time.Millisecond)
				}
			})
		}
		for began := time.Now(); time.Now().Before(end); time.Sleep(time.Second) {
			before := time.Now()
			status, _, addr := ask(t, a)
			if want := time.Since(began) < 300*time.Second; addr == "" || want != (status == "hit") || time.Since(before) > 500*time.Millisecond {
				t.Fatalf("after %s: %s %s, in %s", time.Since(began), status, addr, time.Since(before))
			}
		}
	})
}

// Targets are in one domain when the same owner can make as many of them as they like.
func TestDomainOf(t *testing.T) {
	for target, want := range map[string]string{
		"a.b.example.":              "b.example",
		"b.example.":                "b.example",
		"x.a.b.co.uk.":              "b.co.uk",
		"d1.cloudfront.net.":        "d1.cloudfront.net",
		"a.xn--85x722f.xn--fiqs8s.": "xn--85x722f.xn--fiqs8s",
		`a\..b.example.`:            "b.example",
		"co.uk.":                    "co.uk.",
		"example.":                  "example.",
		".":                         ".",
	} {
		if got := domainOf(target); got != want {
			t.Errorf("%s is in %s, want %s", target, got, want)
		}
	}
}
