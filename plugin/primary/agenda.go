package primary

import (
	"sync"
	"time"
)

// slotLength is how exact the times of the agenda are.
const slotLength = beatInterval / 4

// agenda says which zones Refresh has to look at, and when, so that it need not go over all of them. It is a calendar: with 100,000
// zones, an ordered queue would keep clients' queries waiting for 50 ms in each second. It is safe for concurrent use. Its lock is
// taken while that of a zone is held, and never the other way round.
type agenda struct {
	began time.Time // the begin of slot 0: times are compared with it, so that a clock that is set does not matter

	mu    sync.Mutex
	slots map[int][]*zone // a zone that was woken for an earlier time is also where it was before
	next  int             // no slot before this one is left
}

func newAgenda(now time.Time) *agenda { return &agenda{began: now, slots: make(map[int][]*zone)} }

// wake has Refresh look at z at that time, or earlier. The zero time is at once.
func (a *agenda) wake(z *zone, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	slot := a.next
	if !at.IsZero() {
		slot = max(slot, int((at.Sub(a.began)+slotLength-1)/slotLength))
	}
	if z.awaited && z.slot <= slot {
		return
	}
	z.awaited, z.slot = true, slot
	a.slots[slot] = append(a.slots[slot], z)
}

// take returns the zones to look at by now, and takes them off the agenda.
func (a *agenda) take(now time.Time) (zs []*zone) {
	a.mu.Lock()
	defer a.mu.Unlock()
	last := int(now.Sub(a.began) / slotLength)
	takeSlot := func(slot int) {
		for _, z := range a.slots[slot] {
			if z.awaited && z.slot == slot {
				z.awaited = false
				zs = append(zs, z)
			}
		}
		delete(a.slots, slot)
	}
	if last-a.next < len(a.slots) {
		for slot := a.next; slot <= last; slot++ {
			takeSlot(slot)
		}
	} else { // the server was suspended
		for slot := range a.slots {
			if slot <= last {
				takeSlot(slot)
			}
		}
	}
	a.next = max(a.next, last)
	return zs
}
