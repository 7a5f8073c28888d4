package primary

import (
	"math/rand/v2"
	"testing"
	"time"
)

// Whatever the zones are woken for, and however long the pauses are: a zone is taken once, not before its earliest time, and within a slot
// after it.
func TestAgenda(t *testing.T) {
	for seed := range uint64(50) {
		random := rand.New(rand.NewPCG(seed, 1))
		now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
		a := newAgenda(now)
		zones := make([]*zone, 20)
		for i := range zones {
			zones[i] = &zone{agenda: a}
		}
		due := make(map[*zone]time.Time)
		for range 2000 {
			z := zones[random.IntN(len(zones))]
			at := now.Add(time.Duration(random.Int64N(int64(20*time.Second))) - time.Second)
			if random.IntN(4) == 0 {
				at = time.Time{}
			}
			a.wake(z, at)
			if at.Before(now) { // also the zero time
				at = now
			}
			if first, ok := due[z]; !ok || at.Before(first) {
				due[z] = at
			}
			if random.IntN(3) > 0 {
				continue
			}
			now = now.Add(time.Duration(random.Int64N(int64(time.Second))))
			if random.IntN(50) == 0 {
				now = now.Add(time.Hour) // the server was suspended
			}
			for _, z := range a.take(now) {
				at, ok := due[z]
				if !ok || at.After(now) {
					t.Fatalf("seed %d: a zone is taken %s too early", seed, at.Sub(now))
				}
				delete(due, z)
			}
			for _, at := range due {
				if late := now.Sub(at); late >= slotLength {
					t.Fatalf("seed %d: a zone is not taken after %s", seed, late)
				}
			}
		}
		now = now.Add(time.Minute)
		if n := len(a.take(now)); n != len(due) {
			t.Errorf("seed %d: %d zones are taken in the end, want %d", seed, n, len(due))
		}
		if len(a.slots) > 0 {
			t.Errorf("seed %d: %d slots are left", seed, len(a.slots))
		}
	}
}
