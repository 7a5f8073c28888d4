package primary

import (
	"sync"
	"time"

	"github.com/coredns/alias/plugin/priority"
)

// agenda says which zones Refresh has to look at, and when, so that it need not go over all of them. It is safe for
// concurrent use. Its lock is taken while that of a zone is held, and never the other way round.
type agenda struct {
	mu    sync.Mutex
	zones *priority.Queue[*zone]
}

func newAgenda() *agenda {
	earlier := func(a, b *zone) bool { return a.wakeAt.Before(b.wakeAt) }
	return &agenda{zones: priority.New(earlier, func(z *zone) *int { return &z.place })}
}

// wake has Refresh look at z at that time, or earlier. The zero time is at once.
func (a *agenda) wake(z *zone, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if z.place == 0 || at.Before(z.wakeAt) {
		z.wakeAt = at
		a.zones.Update(z, true)
	}
}

// take returns the zones to look at by now, and takes them off the agenda.
func (a *agenda) take(now time.Time) (zs []*zone) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for a.zones.Len() > 0 && !now.Before(a.zones.First().wakeAt) {
		z := a.zones.First()
		a.zones.Update(z, false)
		zs = append(zs, z)
	}
	return zs
}
