// Package limit admits lookups: a bounded number in flight in all, and those that no client waits for in turn, with a fair
// share for each zone and each domain of targets, so that no zone waits for the failing targets of another.
//
// It must not know what a lookup is, what it finds, or how long it takes.
//
// A caller makes a Limiter with New. It gets room for a lookup with Try or Await, and gives the room back with Leave. InTurn
// is for a caller with many lookups for each of many zones.
package limit

import (
	"container/list"
	"context"
	"sync"

	"github.com/coredns/alias/plugin/priority"
)

// Kind says who waits for a lookup.
type Kind uint8

const (
	Client   Kind = iota // a client waits for it
	Prefetch             // nobody does: a query has triggered it
	Job                  // a background job does, which can wait for its turn
)

// Lookup is what the bounds depend on.
type Lookup struct {
	Kind    Kind
	Zone    string // whose share it is of; any string that is always the same for a zone
	Domain  string // that the target is in, likewise; "": rule 7 does not count it
	Failing bool   // the last lookup of the same target failed
}

// Limiter admits lookups by these rules, where a background lookup is one that is not a client's:
//
//  1. At most n lookups are in flight.
//  2. At most a quarter of these are background lookups: that is the background's room. Clients find the rest free.
//  3. At most half of the background's room, and at most perZone, is one zone's: that is the zone's room. At most perZone
//     lookups that clients wait for are one zone's too, so that the targets of one zone do not take the room of all.
//  4. At most half of the background's room, and half of a zone's, is for targets that fail. So dead targets, in however
//     many zones, leave room to others, and to others of their zone.
//  5. An eighth of each room is kept for prefetches of targets that do not fail, because a prefetch does not wait.
//  6. A job waits for its turn. The next turn is that of the zone with the fewest background lookups in flight, so that a
//     zone whose lookups take long does not hold up the others; among several, of the one that has had no turn for the
//     longest time. The lookups of a zone are admitted in their order; but those of targets that fail and the others have
//     turns of their own, and do not wait for each other.
//  7. A lookup that a client waits for is admitted if more room is free than such lookups for targets of the same domain are in
//     flight; and a prefetch likewise, in the background's room. So one domain takes at most half of the room, two take two
//     thirds of it, and others find the rest free. This matters where the name servers of a domain are slow, and the aliases
//     that lead there are in very many zones: until the first lookups end, nothing else tells its targets from others.
//
// Each bound is at least 1. A Limiter is safe for concurrent use, and has no goroutine of its own. The time of a call grows
// with the logarithm of the number of zones with a lookup that waits. A zone or a domain without lookups takes no memory.
type Limiter struct {
	size    int // of rule 1
	perZone int // of rule 3

	mu         sync.Mutex
	taken      int // lookups in flight
	background room
	zones      map[string]*zone          // those with lookups that are in flight or wait
	domains    map[domain]int            // lookups in flight that rule 7 counts
	turns      [2]*priority.Queue[*zone] // by Lookup.Failing, see index
	last       int                       // index of those that had the last turn
	clock      uint64                    // counts turns
}

// zone is what is known of a zone.
type zone struct {
	name    string
	clients int // lookups in flight that clients wait for
	room    room
	turn    uint64       // when it had its last turn, or came
	waiting [2]list.List // of waiter, by Lookup.Failing
	place   [2]int       // of turns
}

// domain is a domain of targets, for the lookups of one kind.
type domain struct {
	name string
	kind Kind // Client or Prefetch
}

// waiter is a lookup that waits.
type waiter struct{ admitted chan struct{} }

// newTurns returns a queue of the zones with a lookup that waits, and for which the zone has room. The next turn is that of
// the first. index is what the zones' waiting and place have for it.
func newTurns(index int) *priority.Queue[*zone] {
	return priority.New(func(a, b *zone) bool {
		return a.room.taken < b.room.taken || a.room.taken == b.room.taken && a.turn < b.turn
	}, func(z *zone) *int { return &z.place[index] })
}

// room is a bound for background lookups and how far it is reached.
type room struct {
	size    int
	taken   int
	failing int // of these, lookups of targets that fail
	kept    int // of these, lookups for which rule 5 keeps room
}

// admits reports whether there is room for l.
func (r *room) admits(l Lookup) bool {
	switch {
	case r.taken >= r.size:
		return false
	case l.Failing && r.failing >= max(r.size/2, 1):
		return false
	case l.isKept():
		return true
	default:
		return r.taken-r.kept < r.size-r.size/8
	}
}

// add counts n more lookups like l.
func (r *room) add(l Lookup, n int) {
	r.taken += n
	if l.Failing {
		r.failing += n
	}
	if l.isKept() {
		r.kept += n
	}
}

// isKept reports whether rule 5 keeps room for l.
func (l Lookup) isKept() bool { return l.Kind == Prefetch && !l.Failing }

// New returns a Limiter for n lookups, at least 1, and perZone of one zone, at least 1.
func New(n, perZone int) *Limiter {
	turns := [2]*priority.Queue[*zone]{newTurns(0), newTurns(1)}
	return &Limiter{
		size: n, perZone: perZone, background: room{size: max(n/4, 1)}, zones: make(map[string]*zone), domains: make(map[domain]int),
		turns: turns,
	}
}

// PerZone returns how many background lookups of one zone may be in flight.
func (lr *Limiter) PerZone() int { return min(max(lr.background.size/2, 1), lr.perZone) }

// Try takes room for l, and reports whether there was any.
func (lr *Limiter) Try(l Lookup) bool {
	lr.mu.Lock()
	defer lr.mu.Unlock()
	return lr.try(l)
}

// Await takes room for l, of the kind Job, as soon as it has its turn. When ctx ends before that, it takes none and returns
// the error of ctx.
func (lr *Limiter) Await(ctx context.Context, l Lookup) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	lr.mu.Lock()
	if lr.try(l) { // whatever waits now, waits for other room
		lr.mu.Unlock()
		return nil
	}
	z, w := lr.zone(l.Zone), waiter{make(chan struct{})}
	place := z.waiting[index(l)].PushBack(w)
	lr.update(z)
	lr.mu.Unlock()

	select {
	case <-w.admitted:
		return nil
	case <-ctx.Done():
	}
	lr.mu.Lock()
	defer lr.mu.Unlock()
	select {
	case <-w.admitted: // just now
		lr.leave(l)
	default:
		z.waiting[index(l)].Remove(place)
		lr.update(z)
	}
	return ctx.Err()
}

// Leave gives back the room that Try or Await has taken for l.
func (lr *Limiter) Leave(l Lookup) {
	lr.mu.Lock()
	defer lr.mu.Unlock()
	lr.leave(l)
}

func (lr *Limiter) leave(l Lookup) {
	lr.count(l, -1)
	for lr.admitNext() {
	}
}

// try takes room for l if there is any.
func (lr *Limiter) try(l Lookup) bool {
	if lr.taken >= lr.size || !lr.domainAdmits(l) {
		return false
	}
	z, known := lr.zones[l.Zone]
	switch {
	case l.Kind == Client && known && z.clients >= lr.perZone:
		return false
	case l.Kind != Client && (!lr.background.admits(l) || known && !z.room.admits(l)):
		return false
	}
	lr.count(l, 1)
	return true
}

// countsDomain reports whether rule 7 counts l.
func (l Lookup) countsDomain() bool { return l.Domain != "" && l.Kind != Job }

// domainAdmits reports whether rule 7 admits l.
func (lr *Limiter) domainAdmits(l Lookup) bool {
	free := lr.size - lr.taken
	if l.Kind != Client {
		free = lr.background.size - lr.background.taken
	}
	return !l.countsDomain() || lr.domains[domain{l.Domain, l.Kind}] < free
}

// countDomain counts n more lookups like l for rule 7.
func (lr *Limiter) countDomain(l Lookup, n int) {
	if !l.countsDomain() {
		return
	}
	d := domain{l.Domain, l.Kind}
	if lr.domains[d] += n; lr.domains[d] == 0 {
		delete(lr.domains, d)
	}
}

// count counts n more lookups like l that are in flight.
func (lr *Limiter) count(l Lookup, n int) {
	lr.taken += n
	lr.countDomain(l, n)
	z := lr.zone(l.Zone)
	if l.Kind == Client {
		z.clients += n
	} else {
		lr.background.add(l, n)
		z.room.add(l, n)
	}
	lr.update(z)
}

// zone returns the zone with this name. The caller calls update for it.
func (lr *Limiter) zone(name string) *zone {
	z, ok := lr.zones[name]
	if !ok {
		lr.clock++
		z = &zone{name: name, room: room{size: lr.PerZone()}, turn: lr.clock}
		lr.zones[name] = z
	}
	return z
}

// update keeps the turns and the zones right after a change of z.
func (lr *Limiter) update(z *zone) {
	waiting := 0
	for i := range lr.turns {
		waiting += z.waiting[i].Len()
		lr.turns[i].Update(z, z.waiting[i].Len() > 0 && z.room.admits(job(i)))
	}
	if waiting == 0 && z.room.taken == 0 && z.clients == 0 {
		delete(lr.zones, z.name)
	}
}

// admitNext admits the lookup whose turn it is, if there is room for one that waits.
func (lr *Limiter) admitNext() bool {
	if lr.taken >= lr.size {
		return false
	}
	for range lr.turns {
		lr.last = 1 - lr.last
		l := job(lr.last)
		if lr.turns[lr.last].Len() == 0 || !lr.background.admits(l) {
			continue
		}
		z := lr.turns[lr.last].First()
		l.Zone = z.name
		lr.clock++
		z.turn = lr.clock
		queue := &z.waiting[lr.last]
		close(queue.Remove(queue.Front()).(waiter).admitted)
		lr.count(l, 1)
		return true
	}
	return false
}

// index returns the index of l in turns and waiting.
func index(l Lookup) int {
	if l.Failing {
		return 1
	}
	return 0
}

// job returns a lookup that waits with this index.
func job(index int) Lookup { return Lookup{Kind: Job, Failing: index == 1} }
