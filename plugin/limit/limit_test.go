package limit_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/limit"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fill takes room for lookups like l until there is none, and returns for how many there was. Those of a background job
// wait in vain then. With several zones, each lookup is of another one.
func fill(t *testing.T, lr *limit.Limiter, l limit.Lookup, several bool) (taken []limit.Lookup) {
	t.Helper()
	for i := 0; ; i++ {
		if several {
			l.Zone = fmt.Sprint("zone", i)
		}
		if l.Kind == limit.Job {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			err := lr.Await(ctx, l)
			cancel()
			if err != nil {
				return taken
			}
		} else if !lr.Try(l) {
			return taken
		}
		taken = append(taken, l)
	}
}

// The bounds, each where no other is reached.
func TestBounds(t *testing.T) {
	client, prefetch, job := limit.Lookup{}, limit.Lookup{Kind: limit.Prefetch}, limit.Lookup{Kind: limit.Job}
	failing := func(l limit.Lookup) limit.Lookup {
		l.Failing = true
		return l
	}
	of := func(l limit.Lookup, domain string) limit.Lookup {
		l.Domain = domain
		return l
	}
	for _, test := range []struct {
		what    string
		l       limit.Lookup
		several bool
		want    map[int]int // by the size of the limiter
	}{
		{"clients", client, false, map[int]int{1: 1, 2: 2, 8: 8, 1000: 1000}},
		{"clients, failing", failing(client), false, map[int]int{1: 1, 8: 8, 1000: 1000}},
		{"prefetches", prefetch, true, map[int]int{1: 1, 2: 1, 8: 2, 15: 3, 1000: 250}},
		{"prefetches of a zone", prefetch, false, map[int]int{1: 1, 8: 1, 16: 2, 1000: 125}},
		{"jobs", job, true, map[int]int{1: 1, 8: 2, 32: 7, 1000: 219}},
		{"jobs of a zone", job, false, map[int]int{1: 1, 8: 1, 64: 7, 1000: 110}},
		{"clients, one domain", of(client, "d"), true, map[int]int{1: 1, 2: 1, 9: 5, 1000: 500}},
		{"prefetches, one domain", of(prefetch, "d"), true, map[int]int{1: 1, 8: 1, 16: 2, 1000: 125}},
		{"jobs, one domain", of(job, "d"), true, map[int]int{1: 1, 8: 2, 32: 7, 1000: 219}},
		{"failing prefetches", failing(prefetch), true, map[int]int{1: 1, 8: 1, 16: 2, 1000: 125}},
		{"failing prefetches of a zone", failing(prefetch), false, map[int]int{1: 1, 16: 1, 1000: 62}},
		{"failing jobs", failing(job), true, map[int]int{1: 1, 8: 1, 16: 2, 1000: 125}},
		{"failing jobs of a zone", failing(job), false, map[int]int{1: 1, 16: 1, 1000: 62}},
	} {
		for size, want := range test.want {
			synctest.Test(t, func(t *testing.T) {
				lr := limit.New(size, size)
				for range 2 { // what is given back is there again
					taken := fill(t, lr, test.l, test.several)
					if len(taken) != want {
						t.Errorf("%s: %d of %d, want %d", test.what, len(taken), size, want)
					}
					for _, l := range taken {
						lr.Leave(l)
					}
				}
			})
		}
	}
}

// The bound for the lookups of one zone holds for those that clients wait for, and for the background ones.
func TestPerZone(t *testing.T) {
	const size = 1000
	for perZone, background := range map[int]int{1: 1, 10: 10, 125: 125, 300: 125} {
		lr := limit.New(size, perZone)
		if lr.PerZone() != background {
			t.Errorf("%d background lookups of a zone, want %d", lr.PerZone(), background)
		}
		for _, zone := range []string{"a", "b"} { // one does not take the room of the other
			clients := len(fill(t, lr, limit.Lookup{Zone: zone}, false))
			prefetches := len(fill(t, lr, limit.Lookup{Kind: limit.Prefetch, Zone: zone}, false))
			if clients != perZone || prefetches != background {
				t.Errorf("zone %s: %d lookups of clients and %d in the background, of %d", zone, clients, prefetches, perZone)
			}
		}
	}
}

// What each kind leaves to the others.
func TestLeavesRoom(t *testing.T) {
	const size = 1000
	prefetch := limit.Lookup{Kind: limit.Prefetch, Zone: "a"}
	job := limit.Lookup{Kind: limit.Job, Zone: "a"}
	dead := limit.Lookup{Kind: limit.Job, Zone: "a", Failing: true}
	slow := limit.Lookup{Kind: limit.Prefetch, Domain: "slow"}
	of := func(l limit.Lookup, zone string) limit.Lookup {
		l.Zone = zone
		return l
	}
	for _, test := range []struct {
		what           string
		first          limit.Lookup
		firstInSeveral bool
		then           limit.Lookup
		want           int
	}{
		{"clients beside all background lookups", prefetch, true, limit.Lookup{}, 750},
		{"another zone beside one", job, false, of(job, "b"), 109},
		{"prefetches of another zone beside jobs", job, false, of(prefetch, "b"), 125},
		{"prefetches of a zone beside jobs of it", job, false, prefetch, 15},
		{"prefetches beside jobs of all zones", job, true, of(prefetch, "b"), 31},
		{"jobs beside dead targets of all zones", dead, true, of(job, "b"), 94},
		{"prefetches beside dead targets of all zones", dead, true, of(prefetch, "b"), 125},
		{"jobs of a zone beside dead targets of it", dead, false, job, 48},
		{"background lookups beside clients", limit.Lookup{}, false, job, 0},
		{"clients beside clients of one domain", limit.Lookup{Domain: "slow"}, true, limit.Lookup{Domain: "other"}, 250},
		{"clients beside clients of one domain, of targets in none", limit.Lookup{Domain: "slow"}, true, limit.Lookup{}, 500},
		{"clients beside prefetches of one domain", slow, true, limit.Lookup{Domain: "slow"}, 438},
		{"prefetches beside prefetches of one domain", slow, true, of(prefetch, "b"), 125},
		{"prefetches beside clients of one domain", limit.Lookup{Domain: "slow"}, true, of(prefetch, "b"), 125},
	} {
		synctest.Test(t, func(t *testing.T) {
			lr := limit.New(size, size)
			fill(t, lr, test.first, test.firstInSeveral)
			if got := len(fill(t, lr, test.then, false)); got != test.want {
				t.Errorf("%s: room for %d, want for %d", test.what, got, test.want)
			}
		})
	}
}

// However many domains are slow, there is room for another.
func TestManyDomains(t *testing.T) {
	const size = 1000
	for _, kind := range []limit.Kind{limit.Client, limit.Prefetch} {
		room := size
		if kind == limit.Prefetch {
			room = size / 4
		}
		lr := limit.New(size, size)
		domain := func(i int) limit.Lookup { return limit.Lookup{Kind: kind, Domain: fmt.Sprint("domain", i)} }
		const slow = 9
		for range 1000 { // all of them want as much as they can get, in turn
			for i := range slow {
				l := domain(i)
				l.Zone = fmt.Sprint("zone", i)
				lr.Try(l)
			}
		}
		l := domain(slow)
		l.Zone = "other"
		if n, least := len(fill(t, lr, l, false)), room/(slow+1)/2; n < least {
			t.Errorf("room for %d lookups of another domain, want for %d at least", n, least)
		}
	}
}

// queue has a number of jobs of a zone wait, and returns where each is noted when it has been admitted. They must be in a
// bubble of synctest.
func queue(t *testing.T, lr *limit.Limiter, n int, l limit.Lookup, admitted chan limit.Lookup) {
	t.Helper()
	for range n {
		go func() {
			if lr.Await(t.Context(), l) == nil {
				admitted <- l
			}
		}()
		synctest.Wait()
	}
}

// Zones have turns, however many lookups of one wait, and since when.
func TestZonesInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lr := limit.New(16, 16) // one zone has room for 2, all have for 4
		first := limit.Lookup{Kind: limit.Job, Zone: "first"}
		fill(t, lr, first, true)
		admitted := make(chan limit.Lookup, 100)
		queue(t, lr, 50, limit.Lookup{Kind: limit.Job, Zone: "a"}, admitted)
		queue(t, lr, 3, limit.Lookup{Kind: limit.Job, Zone: "b"}, admitted)
		queue(t, lr, 1, limit.Lookup{Kind: limit.Job, Zone: "c"}, admitted)
		var order []string
		leaving := limit.Lookup{Kind: limit.Job, Zone: "zone0"}
		for range 8 {
			lr.Leave(leaving)
			synctest.Wait()
			leaving = <-admitted
			order = append(order, leaving.Zone)
		}
		if want := []string{"a", "b", "c", "a", "b", "a", "b", "a"}; !slices.Equal(order, want) {
			t.Errorf("admitted %v, want %v", order, want)
		}
	})
}

// Lookups of targets that fail do not hold up others, neither in their zone nor in another, and get their turns too.
func TestFailingInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lr := limit.New(32, 32) // 8 in the background, 4 of a zone, of which 2 fail
		dead := limit.Lookup{Kind: limit.Job, Zone: "a", Failing: true}
		admitted := make(chan limit.Lookup, 100)
		queue(t, lr, 20, dead, admitted)
		if len(admitted) != 2 {
			t.Errorf("%d lookups of targets that fail were admitted, want 2", len(admitted))
		}
		well := limit.Lookup{Kind: limit.Job, Zone: "a"}
		queue(t, lr, 20, well, admitted)
		if len(admitted) != 4 {
			t.Errorf("%d lookups were admitted, want 4", len(admitted))
		}
		var wells, deads int
		for range 20 {
			l := <-admitted
			lr.Leave(l)
			synctest.Wait()
			if l == dead {
				deads++
			} else {
				wells++
			}
		}
		if wells != deads {
			t.Errorf("%d lookups of targets that fail were admitted, and %d others", deads, wells)
		}
		for range 20 {
			lr.Leave(<-admitted)
			synctest.Wait()
		}
	})
}

// A caller that gives up takes no room, not even when it is admitted at the same time, and does not hold up others.
func TestGiveUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lr := limit.New(4, 4)
		l := limit.Lookup{Kind: limit.Job, Zone: "a"}
		over, cancel := context.WithCancel(t.Context())
		cancel()
		if err := lr.Await(over, l); !errors.Is(err, context.Canceled) {
			t.Errorf("there was room, but ctx had ended: %v", err)
		}
		if !lr.Try(l) {
			t.Fatal("no room for the first")
		}
		for i := range 1000 {
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan error, 1)
			go func() { done <- lr.Await(ctx, l) }()
			admitted := make(chan limit.Lookup, 1)
			queue(t, lr, 1, limit.Lookup{Kind: limit.Job, Zone: "b"}, admitted)
			if i%2 == 0 {
				cancel()
				lr.Leave(l)
			} else {
				lr.Leave(l)
				cancel()
			}
			if err := <-done; err == nil {
				lr.Leave(l)
			} else if !errors.Is(err, context.Canceled) {
				t.Fatal(err)
			}
			lr.Leave(<-admitted)
			if !lr.Try(l) {
				t.Fatalf("round %d: no room", i)
			}
		}
	})
}

// A zone without lookups takes no memory, and other zones no time.
func TestManyZones(t *testing.T) {
	lr := limit.New(1000, 1000)
	visit := func(from, to int) {
		for i := from; i < to; i++ {
			l := limit.Lookup{Kind: limit.Prefetch, Zone: fmt.Sprintf("zone%d.example.", i)}
			if !lr.Try(l) {
				t.Fatalf("%s: no room", l.Zone)
			}
			lr.Leave(l)
		}
	}
	heap := func() int {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc)
	}
	visit(0, 1000)
	before := heap()
	visit(1000, 101_000)
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("100,000 zones that were visited take %d bytes", grown)
	}
	runtime.KeepAlive(lr)
}

// With lookups of 100,000 zones that wait, one that leaves takes no time.
func BenchmarkLeave(b *testing.B) {
	lr := limit.New(1000, 1000)
	ctx, cancel := context.WithCancel(b.Context())
	admitted := make(chan limit.Lookup, 1000)
	ended := make(chan struct{})
	const zones = 100_000
	for i := range zones {
		l := limit.Lookup{Kind: limit.Job, Zone: fmt.Sprint("zone", i), Failing: i%2 == 0}
		go func() {
			for lr.Await(ctx, l) == nil {
				admitted <- l
			}
			ended <- struct{}{}
		}()
	}
	for b.Loop() {
		lr.Leave(<-admitted)
	}
	cancel()
	for n := 0; n < zones; {
		select {
		case l := <-admitted:
			lr.Leave(l)
		case <-ended:
			n++
		}
	}
}
