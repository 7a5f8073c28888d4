package primary_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/primary"

	"github.com/miekg/dns"
)

// model does random things to a zone, its aliases and its server, and follows the zone as secondaries do. In the end of each
// round they must have what the zone has.
type model struct {
	t      *testing.T
	random *rand.Rand
	r      *resolver
	b      *backend
	s      *server

	own      uint32
	aliases  []bool // which of the aliases a, b, … the zone has
	record   bool   // rec is an alias of the Corefile
	copies   []replica
	contents map[uint32]string // what was settled under each published serial
}

// replica is a zone as a secondary has it.
type replica struct {
	seen   uint32 // the latest serial that it was shown
	serial uint32
	zone   []string
}

const modelAliases = 3

func newModel(t *testing.T, seed uint64) *model {
	m := &model{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), // #nosec G404 -- to be repeated
		r: newResolver(nil), b: &backend{listed: seed%2 == 0}, own: 2_000_000_000, aliases: []bool{true, false, true},
		copies: make([]replica, 2), contents: make(map[uint32]string),
	}
	for i := range modelAliases {
		m.readdress(i)
	}
	m.r.delay = 100 * time.Millisecond
	m.edit(m.own)
	m.s = m.server(nil)
	m.s.Start()
	return m
}

func (m *model) server(before *primary.Primary) *server {
	return newServer(m.t, m.r, m.b, func(cfg *primary.Config) {
		cfg.Before = before
		if m.record {
			cfg.Records = corefile("rec.example.org.", "a.example.")
		}
	})
}

func name(i int) string { return string(rune('a' + i)) }

// readdress gives target i other addresses, or perhaps those that it has.
func (m *model) readdress(i int) {
	m.r.set(name(i)+".example.", target{v4: []string{fmt.Sprintf("192.0.2.%d", m.random.IntN(4))}, ttl: 10})
}

// edit changes the zone, under the serial own.
func (m *model) edit(own uint32) {
	m.own = own
	zone := []string{fmt.Sprintf("example.org. 60 IN TXT %d", m.random.Uint64())}
	for i, has := range m.aliases {
		if has {
			zone = append(zone, fmt.Sprintf("%s.example.org. 60 IN ALIAS %[1]s.example.", name(i)))
		}
	}
	m.b.put(m.t, own, zone...)
}

// replace has another server take over from that which runs.
func (m *model) replace(s *server) {
	if s == nil {
		m.s.Stop()
		m.pause(2 * time.Second)
		s = m.server(nil)
		s.Start()
	} else {
		s.Start()
		m.s.Stop()
	}
	m.s = s
}

// pause waits for a random time up to most, and not in step with the server.
func (m *model) pause(most time.Duration) {
	time.Sleep(time.Millisecond + time.Duration(m.random.Int64N(int64(most))))
}

// step does one thing. The zone's own serial goes in all directions, and is not lost, or forwards in a server that is
// restarted.
func (m *model) step(restarts bool) {
	switch m.random.IntN(8) {
	case 0, 1:
		m.readdress(m.random.IntN(modelAliases))
	case 2:
		i := m.random.IntN(modelAliases - 1) // after a restart without any alias, the published serial is the zone's own
		m.aliases[i] = !m.aliases[i]
		m.edit(m.own + 1 + m.random.Uint32N(100))
	case 3:
		if !restarts {
			m.edit(m.own + m.random.Uint32())
		} else if m.replace(nil); m.random.IntN(2) == 0 {
			m.edit(m.own + 1)
		}
	case 4:
		m.record = !m.record
		m.replace(m.server(m.s.Primary))
	case 5:
		m.replace(m.server(m.s.Primary))
	case 6:
		z := m.b.zone("example.org.")
		m.b.set("example.org.", nil)
		m.pause(5 * time.Second)
		m.b.set("example.org.", z)
	case 7: // a response that was made before the zone changed
		old := m.b.zone("example.org.").SOA
		m.edit(m.own + 1)
		m.s.published(m.t)
		m.s.Serial(old)
	}
}

// check has each secondary look at the SOA record, and transfer the zone when that has a later serial than it has.
func (m *model) check() {
	for i := range m.copies {
		c := &m.copies[i]
		published := m.s.published(m.t)
		if c.seen != 0 && before(published, c.seen) {
			m.t.Errorf("the published serial goes back from %d to %d", c.seen, published)
		}
		c.seen = published
		if c.serial != 0 && !before(c.serial, published) {
			continue
		}
		out, err := m.s.Transfer("example.org.", c.serial)
		if err != nil {
			m.t.Errorf("transfer: %v", err)
			continue
		}
		rrs := slices.Concat(slices.Collect(values(out))...)
		serial := rrs[0].(*dns.SOA).Serial
		if c.serial != 0 && before(serial, c.serial) {
			m.t.Errorf("transferred under %d after %d", serial, c.serial)
		}
		if len(rrs) > 1 {
			c.serial, c.zone = serial, texts(rrs[1:len(rrs)-1])
		}
	}
}

// settle waits until all has been noticed, and compares what the secondaries have.
func (m *model) settle() {
	time.Sleep(30*time.Second + settled)
	m.check()
	want := texts(slices.DeleteFunc(m.records(), func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeSOA }))
	for i, c := range m.copies {
		if !slices.Equal(c.zone, want) || c.serial != m.s.published(m.t) {
			m.t.Errorf("secondary %d has\n%s\nunder %d, want\n%s\nunder %d", i,
				strings.Join(c.zone, "\n"), c.serial, strings.Join(want, "\n"), m.s.published(m.t))
		}
	}
	content, serial := strings.Join(want, "\n"), m.s.published(m.t)
	if other, ok := m.contents[serial]; ok && other != content {
		m.t.Errorf("two zones under %d:\n%s\n\n%s", serial, other, content)
	}
	m.contents[serial] = content
}

// records returns what the zone should be transferred as.
func (m *model) records() []dns.RR {
	apex, err := m.b.zone("example.org.").Transfer(0)
	if err != nil {
		m.t.Fatal(err)
	}
	var rrs []dns.RR
	for batch := range values(apex) {
		for _, rr := range batch {
			if rr.Header().Rrtype == dns.TypeTXT {
				rrs = append(rrs, rr)
			}
		}
	}
	address := func(owner string, ttl int, i int) {
		m.r.mu.Lock()
		defer m.r.mu.Unlock()
		rrs = append(rrs, mustRR(fmt.Sprintf("%s.example.org. %d IN A %s", owner, ttl, m.r.targets[name(i)+".example."].v4[0])))
	}
	for i, has := range m.aliases {
		if has {
			address(name(i), 10, i)
		}
	}
	if m.record {
		address("rec", 10, 0)
	}
	return rrs
}

// Whatever happens to a zone, the published serial never goes back, secondaries that go by it always get what the zone has,
// and two contents never have one serial: when the zone's own serial goes in all directions, without a restart, and in a
// server that is restarted, when it goes forwards.
func TestSerialModel(t *testing.T) {
	for _, restarts := range []bool{false, true} {
		for seed := range uint64(20) {
			t.Run(fmt.Sprintf("restarts=%v/seed=%d", restarts, seed), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					in2026(t)
					m := newModel(t, seed)
					time.Sleep(settled)
					for range 20 {
						for range 1 + m.random.IntN(6) {
							m.step(restarts)
							m.check()
							m.pause(3 * time.Second)
							m.check()
						}
						m.settle()
						if t.Failed() {
							return
						}
					}
				})
			})
		}
	}
}
