package limit_test

import (
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/limit"
)

// Each element gets one call, the queues have turns, and the elements of a queue have their order.
func TestInTurn(t *testing.T) {
	queues := [][]string{{"a1", "a2", "a3", "a4"}, {}, {"b1"}, {"c1", "c2"}}
	var got []string
	limit.InTurn(slices.Values(queues), 9, 1, func(s *string) { got = append(got, *s) })
	if want := []string{"a1", "b1", "c1", "a2", "c2", "a3", "a4"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	limit.InTurn(slices.Values(queues[:0]), 9, 1, func(s *string) { t.Error(*s) })
}

// Calls for a queue that take long do not keep others waiting, and no more are made than there may be.
func TestInTurnSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, all = 4, 9
		slow, quick := make([]time.Duration, 50), make([]time.Duration, 1000)
		for i := range slow {
			slow[i] = time.Minute
		}
		for i := range quick {
			quick[i] = time.Millisecond
		}
		began := time.Now()
		var mu sync.Mutex
		calls, most, calledSlow, mostSlow := 0, 0, 0, 0
		var ended atomic.Int32
		limit.InTurn(slices.Values([][]time.Duration{slow, quick, slow}), each, all, func(d *time.Duration) {
			mu.Lock()
			calls++
			most = max(most, calls)
			if *d == time.Minute {
				calledSlow++
				mostSlow = max(mostSlow, calledSlow)
			}
			mu.Unlock()
			time.Sleep(*d)
			mu.Lock()
			defer mu.Unlock()
			calls--
			if *d == time.Minute {
				calledSlow--
			} else if ended.Add(1) == int32(len(quick)) && time.Since(began) > time.Duration(len(quick))*time.Millisecond {
				t.Errorf("the quick calls took %s", time.Since(began))
			}
		})
		if most != all || mostSlow != 2*each {
			t.Errorf("%d calls at a time, want %d; %d slow ones, want %d", most, all, mostSlow, 2*each)
		}
		if took, want := time.Since(began), 13*time.Minute; took != want {
			t.Errorf("the slow calls took %s, want %s", took, want)
		}
		if n := ended.Load(); n != int32(len(quick)) {
			t.Errorf("%d quick calls", n)
		}
	})
}

// A queue whose calls are quick gets the next call that ends, and again, also while all calls are those of queues whose calls take long.
func TestTurnsQuick(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, all = 3, 9
		var quick atomic.Int32
		ts := limit.NewTurns(each, all, func(d *time.Duration) {
			time.Sleep(*d)
			if *d == time.Millisecond {
				quick.Add(1)
			}
		})
		for _, name := range []string{"a", "b", "c", "d"} {
			slow := make([]time.Duration, 30)
			for i := range slow {
				slow[i] = time.Minute
			}
			ts.Add(name, slow)
		}
		ts.Add("quick", slices.Repeat([]time.Duration{time.Millisecond}, 100))
		time.Sleep(time.Minute + 200*time.Millisecond)
		if n := quick.Load(); n != 100 {
			t.Errorf("%d quick calls, want 100", n)
		}
		ts.Wait()
	})
}

// Elements that are added later take their turn too, and those that wait have no goroutine. A queue to which elements are added
// all the time has no more calls than it may have, and does not keep another waiting.
func TestTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const each, all = 3, 5
		var mu sync.Mutex
		calls, most := map[string]int{}, map[string]int{}
		ended := map[string]int{}
		ts := limit.NewTurns(each, all, func(name *string) {
			mu.Lock()
			for _, n := range []string{*name, "all"} {
				calls[n]++
				most[n] = max(most[n], calls[n])
			}
			mu.Unlock()
			time.Sleep(time.Second)
			mu.Lock()
			defer mu.Unlock()
			calls[*name]--
			calls["all"]--
			ended[*name]++
		})
		before := runtime.NumGoroutine()
		for range 1000 {
			ts.Add("busy", []string{"busy", "busy"})
		}
		if n := runtime.NumGoroutine() - before; n != each {
			t.Errorf("%d goroutines, want %d", n, each)
		}
		time.Sleep(10*time.Second + 500*time.Millisecond)
		ts.Add("other", []string{"other", "other", "other"})
		ts.Add("none", nil)
		if n := runtime.NumGoroutine() - before; n != all {
			t.Errorf("%d goroutines, want %d", n, all)
		}
		time.Sleep(2 * time.Second)
		mu.Lock()
		if ended["other"] != 3 {
			t.Errorf("%d of the other queue have ended after 2 s, want 3", ended["other"])
		}
		mu.Unlock()
		ts.Wait()
		if ended["busy"] != 2000 || most["busy"] != each || most["all"] != all {
			t.Errorf("%d ended, %v at a time", ended["busy"], most)
		}
		ts.Add("busy", []string{"busy"}) // after all have ended
		ts.Wait()
		if ended["busy"] != 2001 {
			t.Errorf("%d ended", ended["busy"])
		}
	})
}
