package primary

import (
	"container/heap"
	"sync"
	"time"
)

// agenda says which zones Refresh has to look at, and when, so that it need not go over all of them. It is safe for
// concurrent use. Its lock is taken while that of a zone is held, and never the other way round.
type agenda struct {
	mu    sync.Mutex
	zones byTime
}

// wake has Refresh look at z at that time, or earlier. The zero time is at once.
func (a *agenda) wake(z *zone, at time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case z.place == 0:
		z.wakeAt = at
		heap.Push(&a.zones, z)
	case at.Before(z.wakeAt):
		z.wakeAt = at
		heap.Fix(&a.zones, z.place-1)
	}
}

// take returns the zones to look at by now, and takes them off the agenda.
func (a *agenda) take(now time.Time) (zs []*zone) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for len(a.zones) > 0 && !now.Before(a.zones[0].wakeAt) {
		zs = append(zs, heap.Pop(&a.zones).(*zone))
	}
	return zs
}

// byTime is a heap of zones. The earliest is the first; place is one more than the index.
type byTime []*zone

// Len, Less, Swap, Push and Pop implement heap.Interface.
func (zs byTime) Len() int           { return len(zs) }
func (zs byTime) Less(i, j int) bool { return zs[i].wakeAt.Before(zs[j].wakeAt) }

func (zs byTime) Swap(i, j int) {
	zs[i], zs[j] = zs[j], zs[i]
	zs[i].place, zs[j].place = i+1, j+1
}

func (zs *byTime) Push(z any) {
	*zs = append(*zs, z.(*zone))
	z.(*zone).place = len(*zs)
}

func (zs *byTime) Pop() any {
	last := len(*zs) - 1
	z := (*zs)[last]
	(*zs)[last], *zs = nil, (*zs)[:last]
	z.place = 0
	return z
}
