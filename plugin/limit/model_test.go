package limit_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/limit"
)

// model does random things with a limiter, and compares it with the rules, which it applies by counting.
type model struct {
	t        *testing.T
	random   *rand.Rand
	lr       *limit.Limiter
	size     int
	perZone  int
	zones    int
	inFlight []limit.Lookup
	waiting  []*waiting // in the order of their arrival
	clock    int
	turns    map[string]int // when each zone that has lookups had its last turn, or came
}

// waiting is a lookup that waits.
type waiting struct {
	limit.Lookup
	cancel   context.CancelFunc
	admitted chan error
	atOnce   bool // there was room for it
}

// count returns how many lookups in flight have the property.
func (m *model) count(property func(limit.Lookup) bool) int {
	n := 0
	for _, l := range m.inFlight {
		if property(l) {
			n++
		}
	}
	return n
}

// allowed reports whether the rules admit l beside those in flight.
func (m *model) allowed(l limit.Lookup) bool {
	if len(m.inFlight) >= m.size || !m.allowedInDomain(l) {
		return false
	}
	if l.Kind == limit.Client {
		return m.count(func(o limit.Lookup) bool { return o.Kind == limit.Client && o.Zone == l.Zone }) < m.perZone
	}
	return m.fits(l, max(m.size/4, 1), func(o limit.Lookup) bool { return o.Kind != limit.Client }) && m.allowedInZone(l)
}

// allowedInDomain reports whether the rule for the domain of l admits it.
func (m *model) allowedInDomain(l limit.Lookup) bool {
	free := m.size - len(m.inFlight)
	if l.Kind == limit.Prefetch {
		free = max(m.size/4, 1) - m.count(func(o limit.Lookup) bool { return o.Kind != limit.Client })
	}
	same := m.count(func(o limit.Lookup) bool { return o.Kind == l.Kind && o.Domain == l.Domain })
	return l.Domain == "" || l.Kind == limit.Job || same < free
}

// allowedInZone reports whether the rules for the zone of l admit it.
func (m *model) allowedInZone(l limit.Lookup) bool {
	return m.fits(l, min(max(max(m.size/4, 1)/2, 1), m.perZone), func(o limit.Lookup) bool { return o.Kind != limit.Client && o.Zone == l.Zone })
}

// fits reports whether there is room for l beside those of the lookups in flight that are in the room.
func (m *model) fits(l limit.Lookup, room int, in func(limit.Lookup) bool) bool {
	kept := func(l limit.Lookup) bool { return l.Kind == limit.Prefetch && !l.Failing }
	if m.count(in) >= room {
		return false
	}
	if l.Failing && m.count(func(o limit.Lookup) bool { return in(o) && o.Failing }) >= max(room/2, 1) {
		return false
	}
	return kept(l) || m.count(func(o limit.Lookup) bool { return in(o) && !kept(o) }) < room-room/8
}

func (m *model) lookup(kind limit.Kind) limit.Lookup {
	domain := []string{"", "a", "b"}[m.random.IntN(3)]
	return limit.Lookup{Kind: kind, Zone: fmt.Sprint(m.random.IntN(m.zones)), Domain: domain, Failing: m.random.IntN(2) == 0}
}

// step does one thing, and checks what follows.
func (m *model) step() {
	switch n := m.random.IntN(10); {
	case n < 3:
		l := m.lookup(limit.Kind(m.random.IntN(2)))
		want := m.allowed(l)
		if got := m.lr.Try(l); got != want {
			m.t.Fatalf("Try(%+v) is %t beside %+v", l, got, m.inFlight)
		} else if got {
			m.come(l)
			m.inFlight = append(m.inFlight, l)
		}
	case n < 6:
		m.await(m.lookup(limit.Job))
	case n < 7 && len(m.waiting) > 0:
		w := m.waiting[m.random.IntN(len(m.waiting))]
		w.cancel()
		if err := <-w.admitted; err == nil {
			m.t.Fatalf("%+v was admitted although it had given up", w.Lookup)
		}
		m.remove(w)
	case len(m.inFlight) > 0:
		m.leave(m.random.IntN(len(m.inFlight)))
	}
	synctest.Wait()
	m.settle()
}

func (m *model) leave(i int) {
	l := m.inFlight[i]
	m.inFlight[i] = m.inFlight[len(m.inFlight)-1]
	m.inFlight = m.inFlight[:len(m.inFlight)-1]
	m.lr.Leave(l)
}

func (m *model) await(l limit.Lookup) {
	ctx, cancel := context.WithCancel(m.t.Context())
	w := &waiting{l, cancel, make(chan error, 1), m.allowed(l)}
	m.come(l)
	m.waiting = append(m.waiting, w)
	go func() { w.admitted <- m.lr.Await(ctx, l) }()
}

// come notes when the zone of l comes, if it has no lookups yet.
func (m *model) come(l limit.Lookup) {
	if m.count(func(o limit.Lookup) bool { return o.Zone == l.Zone }) > 0 || slices.ContainsFunc(m.waiting, func(w *waiting) bool { return w.Zone == l.Zone }) {
		return
	}
	m.clock++
	m.turns[l.Zone] = m.clock
}

// inZone returns how many background lookups of a zone are in flight.
func (m *model) inZone(zone string) int {
	return m.count(func(l limit.Lookup) bool { return l.Kind != limit.Client && l.Zone == zone })
}

func (m *model) remove(w *waiting) {
	for i := range m.waiting {
		if m.waiting[i] == w {
			m.waiting = append(m.waiting[:i], m.waiting[i+1:]...)
			return
		}
	}
}

// settle notes what was admitted, and checks that it was allowed and its turn, and that nothing waits without a reason.
func (m *model) settle() {
	for _, w := range slices.Clone(m.waiting) {
		if len(w.admitted) == 0 {
			continue
		}
		if !m.allowed(w.Lookup) {
			m.t.Fatalf("%+v was admitted beside %+v", w.Lookup, m.inFlight)
		}
		if !w.atOnce {
			m.checkTurn(w)
		}
		m.remove(w)
		m.inFlight = append(m.inFlight, w.Lookup)
	}
	for _, w := range m.waiting {
		if m.allowed(w.Lookup) {
			m.t.Fatalf("%+v waits beside %+v", w.Lookup, m.inFlight)
		}
	}
}

// checkTurn checks that w, which was admitted, is the first of its zone, and that no other zone with a lookup of that kind
// should have had the turn.
func (m *model) checkTurn(w *waiting) {
	for _, o := range m.waiting {
		switch {
		case o.Failing != w.Failing || o == w:
		case o.Zone == w.Zone && slices.Index(m.waiting, o) < slices.Index(m.waiting, w):
			m.t.Fatalf("%+v was admitted before another of its zone", w.Lookup)
		case o.Zone == w.Zone || !m.allowed(o.Lookup):
		case m.inZone(o.Zone) < m.inZone(w.Zone):
			m.t.Fatalf("zone %s had a turn, and zone %s had fewer lookups in flight", w.Zone, o.Zone)
		case m.inZone(o.Zone) == m.inZone(w.Zone) && m.turns[o.Zone] < m.turns[w.Zone]:
			m.t.Fatalf("zone %s had a turn, and zone %s had none for longer", w.Zone, o.Zone)
		}
	}
	m.clock++
	m.turns[w.Zone] = m.clock
}

// Whatever comes, waits, gives up and leaves, the rules hold: no bound is passed, nothing waits without a reason, the zones
// have turns, and in the end all room is there again.
func TestModel(t *testing.T) {
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 0)) // #nosec G404 -- to be repeated
			m := &model{t: t, random: random, size: 1 + random.IntN(120), zones: 1 + random.IntN(12), turns: make(map[string]int)}
			m.perZone = 1 + random.IntN(m.size)
			m.lr = limit.New(m.size, m.perZone)
			for range 600 {
				m.step()
			}
			for len(m.inFlight) > 0 {
				m.leave(0)
				synctest.Wait()
				m.settle()
			}
			if len(m.waiting) > 0 {
				t.Errorf("seed %d: %d lookups wait, and none is in flight", seed, len(m.waiting))
			}
			ofDomain := fill(t, m.lr, limit.Lookup{Domain: "a"}, true)
			if n := len(ofDomain); n != (m.size+1)/2 {
				t.Errorf("seed %d: there is room for %d of a domain in the end, want for %d", seed, n, (m.size+1)/2)
			}
			for _, l := range ofDomain {
				m.lr.Leave(l)
			}
			if n := len(fill(t, m.lr, limit.Lookup{}, true)); n != m.size {
				t.Errorf("seed %d: there is room for %d in the end, want for %d", seed, n, m.size)
			}
		})
	}
}

// With many callers at the same time no bound is passed, and each is admitted, or gives up.
func TestTogether(t *testing.T) {
	const size, background, perZone = 64, 16, 8
	lr := limit.New(size, size)
	var all, inBackground atomic.Int32
	var inZone [4]atomic.Int32
	visit := func(l limit.Lookup, zone int) {
		if n := all.Add(1); n > size {
			t.Errorf("%d lookups", n)
		}
		if l.Kind != limit.Client {
			if n := inBackground.Add(1); n > background {
				t.Errorf("%d background lookups", n)
			}
			if n := inZone[zone].Add(1); n > perZone {
				t.Errorf("%d background lookups of a zone", n)
			}
			time.Sleep(time.Microsecond)
			inZone[zone].Add(-1)
			inBackground.Add(-1)
		}
		all.Add(-1)
		lr.Leave(l)
	}
	var admitted, gaveUp atomic.Int32
	var callers sync.WaitGroup
	for i := range 64 {
		callers.Go(func() {
			for n := range 300 {
				zone := (i + n) % len(inZone)
				l := limit.Lookup{Kind: limit.Kind(n % 3), Zone: fmt.Sprint(zone), Failing: n%5 == 0}
				if l.Kind != limit.Job {
					if lr.Try(l) {
						visit(l, zone)
					}
					continue
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
				if n%7 == 0 {
					time.AfterFunc(time.Duration(n)*time.Microsecond, cancel)
				}
				if err := lr.Await(ctx, l); err == nil {
					admitted.Add(1)
					visit(l, zone)
				} else if gaveUp.Add(1); n%7 != 0 {
					t.Error(err)
				}
				cancel()
			}
		})
	}
	callers.Wait()
	t.Logf("%d lookups that waited were admitted, %d gave up", admitted.Load(), gaveUp.Load())
	if n := len(fill(t, lr, limit.Lookup{}, false)); n != size {
		t.Errorf("there is room for %d in the end", n)
	}
}
