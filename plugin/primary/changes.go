package primary

import (
	"slices"
	"sync"
)

// group has the zones of which some secondaries have to be notified. It has each zone once, and not once for each secondary: there may
// be 100,000 zones and a hundred secondaries.
type group struct {
	Secondaries
	receivers []*receiver

	mu    sync.Mutex
	zones []string       // in the order of the changes
	first int            // the position of zones[0]: how many there were before
	last  map[string]int // the position of the last change of a zone that is in zones
}

// receiver is a secondary. The lock of its group guards it.
type receiver struct {
	to     string
	next   int             // the position in the group of the next zone of which it has to be notified
	zones  map[string]bool // of which it is being notified: whether they have changed again since
	silent bool            // it did not answer the last NOTIFY
}

func newGroup(s Secondaries) *group {
	g := &group{Secondaries: s, last: make(map[string]int)}
	for _, to := range s.To {
		g.receivers = append(g.receivers, &receiver{to: to, zones: make(map[string]bool)})
	}
	return g
}

// end returns the position of the next change.
func (g *group) end() int { return g.first + len(g.zones) }

// add adds a zone that has changed.
func (g *group) add(zone string) {
	g.last[zone] = g.end()
	g.zones = append(g.zones, zone)
}

// take takes the next zone of which r has to be notified. One that has changed again takes the turn of its last change, and one
// of which r is being notified is sent once more after that.
func (g *group) take(r *receiver) (zone string, ok bool) {
	for ; r.next < g.end(); r.next++ {
		zone := g.zones[r.next-g.first]
		if g.last[zone] != r.next {
			continue
		}
		if _, ok := r.zones[zone]; ok {
			r.zones[zone] = true
			continue
		}
		r.zones[zone] = false
		r.next++
		return zone, true
	}
	return "", false
}

// trim drops the zones that all receivers have taken and, when these are most of them, the changes that were not the last.
func (g *group) trim() {
	next := g.end()
	for _, r := range g.receivers {
		next = min(next, r.next)
	}
	for ; g.first < next; g.first++ {
		if g.last[g.zones[0]] == g.first {
			delete(g.last, g.zones[0])
		}
		g.zones = g.zones[1:]
	}
	if len(g.zones) <= 2*len(g.last)+maxNotifies {
		return
	}
	kept, end := make([]string, 0, len(g.last)), g.end()
	places := make([]int, 0, len(g.last))
	for i, zone := range g.zones {
		if g.last[zone] == g.first+i {
			kept, places = append(kept, zone), append(places, g.first+i)
		}
	}
	g.zones, g.first = kept, end-len(kept)
	for _, r := range g.receivers {
		i, _ := slices.BinarySearch(places, r.next)
		r.next = g.first + i
	}
	for i, zone := range kept {
		g.last[zone] = g.first + i
	}
}

// waits reports whether a receiver has not been notified yet of the last change of zone.
func (g *group) waits(zone string) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	last, ok := g.last[zone]
	return slices.ContainsFunc(g.receivers, func(r *receiver) bool {
		_, sending := r.zones[zone]
		return sending || ok && r.next <= last
	})
}
