package primary

import (
	"maps"
	"os"
	"slices"
	"strconv"
	"testing"
	"time"
)

// fault has something break, or be mended.
func (m *fleetModel) fault(s *modelServer) {
	kinds := 13
	if m.faithful {
		kinds = 8
	}
	switch m.random.IntN(kinds) {
	case 0, 1:
		if s.up {
			m.stop(s, m.chance(40))
		}
	case 2, 3, 4:
		for _, s := range m.servers {
			if !s.up {
				m.start(s)
			}
		}
	case 5:
		s.cut = !s.cut
		m.note("server %d is cut: %v", s.name, s.cut)
	case 6:
		s.cut, m.down = false, false
		if m.chance(10) {
			m.aliases++
		}
	case 7:
		m.down = m.chance(30)
		m.note("store down: %v", m.down)
	case 8, 9:
		if past := m.stores[0].past; len(past) > 0 {
			m.note("the store loses writes")
			i := m.random.IntN(len(past))
			last := m.stores[0].register
			m.stores[0] = past[i]
			m.stores[0].table = maps.Clone(past[i].table)
			m.loses(last)
		}
	case 10:
		if m.chance(40) {
			m.note("the store is flushed")
			last := m.stores[0].register
			m.stores[0] = modelStore{}
			m.loses(last)
		}
	case 11, 12:
		if m.split {
			m.heal()
			return
		} else if m.chance(30) {
			m.stores[1] = m.stores[0]
			m.stores[1].table, m.stores[1].past = maps.Clone(m.stores[0].table), nil
			for _, s := range m.servers {
				s.store = m.random.IntN(2)
			}
		} else {
			return
		}
		m.split = !m.split
		m.note("split: %v", m.split)
		m.loses(nil)
	}
}

// heal ends a split: one of the stores is dropped.
func (m *fleetModel) heal() {
	m.split = false
	m.note("split: false")
	if m.chance(50) {
		m.stores[0], m.stores[1] = m.stores[1], m.stores[0]
	}
	m.loses(m.stores[1].register)
}

// settle mends all, and checks that all servers and the secondary have the last content in the end.
func (m *fleetModel) settle() {
	m.note("all is mended")
	m.mended = true
	defer func() {
		m.mended, m.orphaned = false, false
		clear(m.mourn)
	}()
	m.down = false
	if m.split {
		m.heal()
	}
	for _, s := range m.servers {
		s.cut = false
		if s.up && s.local.aliases != strconv.Itoa(m.aliases) {
			m.stop(s, true)
		}
		if !s.up {
			m.start(s)
		}
		m.read(s)
	}
	if !m.isSettled() && m.orphaned {
		m.note("a number is known to nobody")
		m.own++
		for _, s := range m.servers {
			m.read(s)
		}
	}
	if !m.isSettled() {
		for _, s := range m.servers {
			r := s.serve(s.local, true)
			m.note("server %d: id %d, latest %d, serves %v, stored %+v, session %+v", s.name, s.member.id, s.latest, r, s.stored.is, s.session)
		}
		m.fail("not settled: address %d, own %d, secondary %+v", m.address, m.own, m.secondary)
	}
}

// isSettled waits until all servers and the secondary have the last content, for at most 90 seconds.
func (m *fleetModel) isSettled() bool {
	for i := range 90 {
		m.now = m.now.Add(time.Second)
		for _, s := range m.servers {
			if i%20 == 0 {
				m.look(s)
			}
			m.work(s)
			for s.session != nil {
				m.proceed(s)
			}
			m.begin(s, true)
			for s.session != nil {
				m.proceed(s)
			}
		}
		for len(m.news) > 0 {
			m.deliver()
		}
		if !slices.ContainsFunc(m.servers, func(s *modelServer) bool { return !m.hasLast(s) }) {
			return true
		}
	}
	return false
}

// hasLast reports whether s and the secondary have the last content, under one number.
func (m *fleetModel) hasLast(s *modelServer) bool {
	r := s.serve(s.local, true)
	return r != nil && r.number == m.secondary.number && r.own == m.own && r.data[modelKey].rdata == strconv.Itoa(m.address) &&
		contentOf(r) == m.secondary.has
}

// look has s find the address.
func (m *fleetModel) look(s *modelServer) {
	l := *s.local
	l.data = map[string]datum{modelKey: {rdata: strconv.Itoa(m.address), ttl: m.random.Uint32N(99), stored: millis(m.clock(s))}}
	s.local = &l
}

// Whatever servers, store and network do, no number has two contents, no server goes back, connected servers do not go back
// from one to another, and in the end all have the last content.
func TestFleetModel(t *testing.T) {
	seeds := uint64(5000)
	if text := os.Getenv("FLEET_SEEDS"); text != "" {
		seeds, _ = strconv.ParseUint(text, 10, 64)
	}
	for seed := range seeds {
		m := newFleetModel(t, seed)
		for range 4 {
			for range 150 {
				if m.step(); t.Failed() {
					break
				}
			}
			if !t.Failed() {
				m.settle()
			}
			if t.Failed() {
				t.Fatalf("seed %d", seed)
			}
		}
	}
}
