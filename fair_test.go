package alias

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/limit"
	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// inHangingBubble is inBubble where the lookups of targets in dead.example time out after 1.5 s, and others take 10 ms.
func inHangingBubble(t *testing.T, properties string, f func(t *testing.T, a *Alias, r *fakeResolver)) {
	t.Helper()
	inBubble(t, properties, func(t *testing.T, a *Alias, r *fakeResolver) {
		r.delay = 10 * time.Millisecond
		a.cache.resolve = func(ctx context.Context, q lookup.Question, attempts int) (lookup.Outcome, error) {
			if !strings.HasSuffix(q.Name, ".dead.example.") {
				return r.resolve(ctx, q, attempts)
			}
			select {
			case <-time.After(1500 * time.Millisecond):
			case <-ctx.Done():
			}
			return lookup.Outcome{}, lookup.NetworkFailure(lookup.Timeout, nil)
		}
		f(t, a, r)
	})
}

// awaitDead has jobs wait for this many lookups of dead targets of a zone.
func awaitDead(a *Alias, zone string, n int) {
	for i := range n {
		q := question(fmt.Sprintf("t%d.%s.dead.example.", i, strings.TrimSuffix(zone, ".")), dns.TypeA)
		go a.cache.await(a.cache.ctx, q, lookup.NoLimit, zoneNamed(zone), zone)
	}
	synctest.Wait()
}

// However many lookups of dead targets wait, those of another zone take no longer than without them, and none of its
// prefetches is skipped. Later, when the targets are known to fail, this is so for the same zone too.
func TestDeadTargetsElsewhere(t *testing.T) {
	logged(t)
	inHangingBubble(t, "max_concurrent 64", func(t *testing.T, a *Alias, r *fakeResolver) {
		healthy := func(zone string, round int) {
			t.Helper()
			began := time.Now()
			var jobs sync.WaitGroup
			for i := range 20 {
				jobs.Go(func() {
					q := question(fmt.Sprintf("t%d.%d.%shealthy.example.", i, round, zone), dns.TypeA)
					if e, ok := a.cache.await(t.Context(), q, lookup.NoLimit, zoneNamed(zone), zone); !ok || !e.Answered {
						t.Errorf("%s: %v, %v", q, e, ok)
					}
				})
			}
			jobs.Wait()
			if took := time.Since(began); took > 200*time.Millisecond {
				t.Errorf("20 lookups of %s took %s", zone, took)
			}
		}
		prefetched := func(zone string) {
			t.Helper()
			e := a.cache.entries.Load(target)
			skipped := counted(t, refreshesCount.WithLabelValues("skipped"), func() { a.cache.prefetch(target, target.Net, zoneNamed(zone), e) })
			if skipped != 0 {
				t.Errorf("the prefetch of %s was skipped", zone)
			}
			time.Sleep(20 * time.Millisecond)
		}
		ask(t, a)
		awaitDead(a, "a.", 1000)
		for round := range 20 {
			healthy("b.", round)
			prefetched("b.")
			prefetched("c.")
			time.Sleep(time.Duration(round) * 70 * time.Millisecond)
		}
		time.Sleep(15 * time.Minute) // all of them have failed
		awaitDead(a, "a.", 1000)
		for round := range 20 {
			healthy("a.", round+20)
			prefetched("a.")
			time.Sleep(time.Duration(round) * 70 * time.Millisecond)
		}
	})
}

// While clients wait for the targets of a domain that hangs, to which aliases in very many zones lead, other targets are looked
// up for clients and in the background, and stale answers are served at once.
func TestDomainOfManyZones(t *testing.T) {
	logged(t)
	inHangingBubble(t, "stale 1h", func(t *testing.T, a *Alias, r *fakeResolver) {
		get := func(zone, name string) (*answers.Entry, status) {
			e, _, s := a.cache.get(question(name, dns.TypeA), lookup.NoLimit, zoneNamed(zone), nil)
			return e, s
		}
		get("stale.", "t.stale.example.")
		time.Sleep(25 * time.Second)
		ask(t, a)
		time.Sleep(280 * time.Second) // the one has expired, the other is in its prefetch window
		good := r.out
		r.say(lookup.Outcome{}, errDown)
		get("stale.", "t.stale.example.")
		r.say(good, nil)
		var noise sync.WaitGroup
		for i := range 3000 {
			noise.Go(func() {
				if _, s := get(fmt.Sprintf("n%d.", i), fmt.Sprintf("t%d.dead.example.", i)); s != failed {
					t.Errorf("a target that hangs has the status %s", s)
				}
			})
		}
		synctest.Wait()
		for i := range 400 {
			began := time.Now()
			if e, s := get("other.", fmt.Sprintf("t%d.other.example.", i)); s != miss || !e.Answered || time.Since(began) > 10*time.Millisecond {
				t.Fatalf("target %d of another domain: %s after %s", i, s, time.Since(began))
			}
			if i%100 == 0 {
				began = time.Now()
				if _, s := get("stale.", "t.stale.example."); s != stale || time.Since(began) > 0 {
					t.Errorf("the stale answer: %s after %s", s, time.Since(began))
				}
			}
		}
		if skipped := counted(t, refreshesCount.WithLabelValues("skipped"), func() { ask(t, a) }); skipped != 0 {
			t.Error("the prefetch was skipped")
		}
		noise.Wait()
	})
}

// While the jobs of other zones take all of the background's room, a job of a zone that has no lookup in flight waits until one
// of theirs ends, and gets its room.
func TestJobsAreNotStarved(t *testing.T) {
	logged(t)
	inHangingBubble(t, "max_concurrent 64", func(t *testing.T, a *Alias, r *fakeResolver) {
		for _, zone := range []string{"a.", "b.", "c.", "d."} {
			awaitDead(a, zone, 100) // 16 at a time
		}
		began := time.Now()
		if _, ok := a.cache.await(t.Context(), target, lookup.NoLimit, zoneNamed("e."), "e."); !ok || time.Since(began) > 1600*time.Millisecond {
			t.Errorf("the job of another zone waited for %s, %v", time.Since(began), ok)
		}
	})
}

// A job that gives up waiting changes nothing: there is no entry, and the target does not count as failing. The lookup in
// flight goes on.
func TestJobGivesUp(t *testing.T) {
	logged(t)
	inHangingBubble(t, "max_concurrent 8", func(t *testing.T, a *Alias, r *fakeResolver) {
		awaitDead(a, "a.", 1) // all that the zone has room for
		for _, q := range []lookup.Question{question("t0.a.dead.example.", dns.TypeA), target} {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
			began := time.Now()
			e, ok := a.cache.await(ctx, q, lookup.NoLimit, zoneNamed("a."), "a.")
			cancel()
			if ok || e != answers.None || time.Since(began) != 500*time.Millisecond {
				t.Errorf("%s: %v, %v after %s", q, e, ok, time.Since(began))
			}
		}
		if e := a.cache.entries.Load(target); e != answers.None || r.lookups() != 0 {
			t.Errorf("%v after %d lookups", e, r.lookups())
		}
		time.Sleep(time.Second)
		if e := a.cache.entries.Load(question("t0.a.dead.example.", dns.TypeA)); !e.Failing() {
			t.Error("the lookup in flight did not go on")
		}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		ask(t, a)
		if e, ok := a.cache.await(over, target, lookup.NoLimit, zoneNamed("a."), "a."); !ok || !e.Answered {
			t.Errorf("a fresh entry, and ctx has ended: %v, %v", e, ok)
		}
	})
}

// Jobs that wait for the same question share one lookup, and in the end all room is there again.
func TestJobsShareALookup(t *testing.T) {
	logged(t)
	inHangingBubble(t, "max_concurrent 64\nper_zone 64", func(t *testing.T, a *Alias, r *fakeResolver) {
		awaitDead(a, "a.", 100)
		var jobs sync.WaitGroup
		for i := range 50 {
			jobs.Go(func() {
				if e, ok := a.cache.await(t.Context(), target, lookup.NoLimit, zoneNamed("a."), "a."); !ok || !e.Answered {
					t.Errorf("job %d: %v, %v", i, e, ok)
				}
			})
		}
		ask(t, a) // a client does not wait for the jobs' turn
		jobs.Wait()
		if n := r.lookups(); n != 1 {
			t.Errorf("%d lookups", n)
		}
		time.Sleep(time.Hour)
		for range 64 {
			if !a.cache.room.Try(limit.Lookup{}) {
				t.Fatal("some room was not given back")
			}
		}
		for range 64 {
			a.cache.room.Leave(limit.Lookup{})
		}
	})
}

// At start-up, the records of a zone do not wait for the dead ones of others, however many these have, and wherever they are
// in the Corefile.
func TestPrimeInTurn(t *testing.T) {
	logged(t)
	var corefile strings.Builder
	for i := range 600 {
		fmt.Fprintf(&corefile, "record r%d.%s t%d.dead.example\n", i, []string{"a.", "b.", "example.org."}[i%3], i)
	}
	for i := range 300 {
		fmt.Fprintf(&corefile, "record r%d.c. t%d.healthy.example\n", i, i)
	}
	cfg, err := parseBlock("a b c example.org", corefile.String()+"upstream 127.0.0.1\nmax_concurrent 100")
	if err != nil {
		t.Fatal(err)
	}
	a := cfg.build()
	inHangingBubble(t, "", func(t *testing.T, other *Alias, r *fakeResolver) {
		a.cache = cfg.buildCache(other.cache.resolve)
		a.cache.entries = answers.New(answers.Size{Everybody: cfg.size}, time.Now)
		defer a.cache.stop()
		began, healthy, all := time.Now(), time.Duration(0), time.Duration(0)
		var priming sync.WaitGroup
		priming.Go(func() {
			a.prime()
			all = time.Since(began)
		})
		for r.lookups() < 600 && healthy < time.Minute {
			time.Sleep(10 * time.Millisecond)
			healthy = time.Since(began)
		}
		if healthy > 10*time.Second {
			t.Errorf("the records of c. took %s", healthy)
		}
		priming.Wait()
		if all < 30*time.Second || all > 15*time.Minute {
			t.Errorf("all records took %s", all)
		}
	})
}
