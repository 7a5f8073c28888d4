package primary_test

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/primary"

	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
)

// memory is a store in memory.
type memory struct {
	mu        sync.Mutex
	registers map[string]map[string]string
	servers   map[string]string
	listeners map[*link]func(zone, number string)
	swaps     int
}

func newMemory() *memory {
	m := &memory{listeners: make(map[*link]func(zone, number string))}
	m.flush()
	return m
}

func (m *memory) flush() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.registers, m.servers = make(map[string]map[string]string), make(map[string]string)
}

// swapped returns how often a register was changed.
func (m *memory) swapped() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.swaps
}

// link is the way of one server to the store. It implements primary.Registers.
type link struct {
	*memory
	mu    sync.Mutex
	down  bool
	delay time.Duration
}

var errDown = errors.New("connection refused")

func (l *link) set(down bool, delay time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down, l.delay = down, delay
}

// reach waits for the store, and calls do there.
func (l *link) reach(ctx context.Context, do func()) error {
	l.mu.Lock()
	down, delay := l.down, l.delay
	l.mu.Unlock()
	if down {
		return errDown
	}
	select {
	case <-time.After(delay + time.Millisecond):
	case <-ctx.Done():
		return ctx.Err()
	}
	l.memory.mu.Lock()
	defer l.memory.mu.Unlock()
	do()
	return nil
}

func (l *link) Numbers(ctx context.Context, zones []string) (numbers []string, err error) {
	err = l.reach(ctx, func() {
		for _, zone := range zones {
			numbers = append(numbers, l.registers[zone]["number"])
		}
	})
	return numbers, err
}

func (l *link) Load(ctx context.Context, zone string) (fields map[string]string, err error) {
	err = l.reach(ctx, func() { fields = maps.Clone(l.registers[zone]) })
	return fields, err
}

func (l *link) Swap(ctx context.Context, zone, from, to string, set map[string]string, remove []string) (swapped bool, err error) {
	err = l.reach(ctx, func() {
		if l.registers[zone]["number"] != from {
			return
		}
		r := maps.Clone(l.registers[zone])
		if r == nil {
			r = make(map[string]string)
		}
		maps.Copy(r, set)
		for _, name := range remove {
			delete(r, name)
		}
		l.registers[zone], swapped = r, true
		l.swaps++
		for other, heard := range l.listeners {
			if other.mu.TryLock() {
				if !other.down {
					go heard(zone, to)
				}
				other.mu.Unlock()
			}
		}
	})
	return swapped, err
}

func (l *link) Listen(ctx context.Context, heard func(zone, number string)) {
	l.memory.mu.Lock()
	l.listeners[l] = heard
	l.memory.mu.Unlock()
	<-ctx.Done()
	l.memory.mu.Lock()
	delete(l.listeners, l)
	l.memory.mu.Unlock()
}

func (l *link) Servers(ctx context.Context) (table map[string]string, err error) {
	err = l.reach(ctx, func() { table = maps.Clone(l.servers) })
	return table, err
}

func (l *link) SetServer(ctx context.Context, id, from, to string) (set bool, err error) {
	err = l.reach(ctx, func() {
		if set = l.servers[id] == from; set {
			l.servers[id] = to
		}
	})
	return set, err
}

// fleetServer is a server with a store.
type fleetServer struct {
	*server
	link *link
}

// started is how long it takes until a server that is started with an empty store has published a zone.
const started = 25 * time.Second

// newFleetServer starts a server.
func newFleetServer(t testing.TB, m *memory, r *resolver, b *backend, configure func(*primary.Config)) *fleetServer {
	t.Helper()
	s := &fleetServer{link: &link{memory: m}}
	s.server = newServer(t, r, b, func(cfg *primary.Config) {
		cfg.Fleet = primary.NewFleet(s.link, time.Now, func(format string, v ...any) { s.log(format, v...) })
		if configure != nil {
			configure(cfg)
		}
	})
	s.Start()
	return s
}

// soa returns the serial that a client gets; false: SERVFAIL.
func (s *fleetServer) soa(t testing.TB) (uint32, bool) {
	t.Helper()
	rec := dnstest.NewRecorder(new(test.ResponseWriter))
	m := &dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}, Answer: []dns.RR{s.backend.zone("example.org.").SOA}}
	if err := s.Writer(rec).WriteMsg(m); err != nil {
		t.Fatal(err)
	}
	if rec.Msg.Rcode != dns.RcodeSuccess {
		return 0, false
	}
	return rec.Msg.Answer[0].(*dns.SOA).Serial, true
}

// fleet is three servers with one store, each with a backend and a resolver of its own.
func newFleet(t testing.TB, targets map[string]target, records ...string) (*memory, []*fleetServer) {
	t.Helper()
	m := newMemory()
	var servers []*fleetServer
	for range 3 {
		b := new(backend)
		b.put(t, 7, records...)
		servers = append(servers, newFleetServer(t, m, newResolver(targets), b, nil))
	}
	time.Sleep(started)
	return m, servers
}

// agreed returns what all servers transfer, which has to be the same, under one serial.
func agreed(t testing.TB, servers []*fleetServer) ([]string, uint32) {
	t.Helper()
	rrs, serial := servers[0].transferred(t)
	for i, s := range servers {
		other, n := s.transferred(t)
		if !slices.Equal(rrs, other) || n != serial {
			t.Errorf("server %d transfers %v under %d, the first one %v under %d", i, other, n, rrs, serial)
		}
		if n, ok := s.soa(t); !ok || n != serial {
			t.Errorf("server %d shows %d %v, the first one transfers under %d", i, n, ok, serial)
		}
	}
	return rrs, serial
}

const aliasAtApex = "example.org. 60 IN ALIAS target.example."

func at(addr string) target { return target{v4: []string{addr}, ttl: 10} }

// All servers transfer the same under the same serial, also after a change that they notice at different times. Secondaries are
// notified of it once. A server that is killed and one that starts change nothing.
func TestFleet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		m, servers := newFleet(t, map[string]target{"target.example.": at(v4)}, aliasAtApex)
		rrs, first := agreed(t, servers)
		if !slices.Equal(rrs, []string{"example.org. 10 IN A 192.0.2.1"}) {
			t.Errorf("transferred %v", rrs)
		}
		for i, s := range servers {
			s.resolver.set("target.example.", at("192.0.2.2"))
			time.Sleep(time.Duration(i) * 7 * time.Second)
		}
		time.Sleep(45 * time.Second)
		rrs, second := agreed(t, servers)
		if !slices.Equal(rrs, []string{"example.org. 10 IN A 192.0.2.2"}) || !before(first, second) {
			t.Errorf("%v under %d after %d", rrs, second, first)
		}
		swaps := m.swapped()
		if swaps != 2 {
			t.Errorf("%d changes of the register for two contents", swaps)
		}
		b := new(backend)
		b.put(t, 7, aliasAtApex)
		servers[2].Stop()
		servers[2] = newFleetServer(t, m, newResolver(map[string]target{"target.example.": at("192.0.2.2")}), b, nil)
		time.Sleep(time.Second)
		if n, ok := servers[2].soa(t); !ok || n != second {
			t.Errorf("a second after the start: %d %v, want %d", n, ok, second)
		}
		time.Sleep(time.Minute)
		if _, third := agreed(t, servers); third != second || m.swapped() != swaps {
			t.Errorf("a restart: %d after %d", third, second)
		}
	})
}

// After a reload, which has another Primary with the same Fleet take over, secondaries notice nothing. A change of aliases is published.
func TestFleetReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		m, servers := newFleet(t, map[string]target{"target.example.": at(v4)}, aliasAtApex)
		_, first := agreed(t, servers)
		s := servers[0]
		reload := func(change func(*primary.Config)) {
			old := s.server
			s.server = newServer(t, s.resolver, s.backend, func(cfg *primary.Config) {
				cfg.Before, cfg.Fleet = old.Primary, old.Fleet
				change(cfg)
			})
			s.Start()
			old.Stop()
		}
		reload(func(*primary.Config) {})
		if n, ok := s.soa(t); !ok || n != first {
			t.Errorf("just after a reload: %d %v, want %d", n, ok, first)
		}
		time.Sleep(time.Minute)
		swaps := m.swapped()
		if _, serial := agreed(t, servers); serial != first || swaps != 1 {
			t.Errorf("after a reload: %d after %d, %d changes of the register", serial, first, swaps)
		}
		reload(func(cfg *primary.Config) { cfg.Options = "other" })
		time.Sleep(20 * time.Second)
		if _, serial := s.transferred(t); !before(first, serial) {
			t.Errorf("after a reload with other properties: %d after %d", serial, first)
		}
		if n, ok := servers[1].soa(t); ok {
			t.Errorf("another server, with the old properties, shows %d", n)
		}
		m.mu.Lock()
		table := len(m.servers)
		m.mu.Unlock()
		if table != 3 {
			t.Errorf("%d servers in the table", table)
		}
		s.Stop()
		m.mu.Lock()
		defer m.mu.Unlock()
		for id, entry := range m.servers {
			if entry == "" {
				delete(m.servers, id)
			}
		}
		if len(m.servers) != 2 {
			t.Errorf("after a stop: servers %v", m.servers)
		}
	})
}

// Without the store the servers go on: each publishes changes under later serials, none twice. When it is back they agree on a
// serial that is later than all.
func TestFleetWithoutStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		_, servers := newFleet(t, map[string]target{"target.example.": at(v4)}, aliasAtApex)
		_, last := agreed(t, servers)
		for _, s := range servers {
			s.link.set(true, 0)
		}
		time.Sleep(3 * time.Second)
		if _, serial := agreed(t, servers); serial != last {
			t.Errorf("without the store: %d after %d", serial, last)
		}
		latest, serials := last, make(map[uint32]int)
		for i, s := range servers {
			s.resolver.set("target.example.", at([]string{"192.0.2.2", "192.0.2.3", "192.0.2.4"}[i]))
			time.Sleep(60 * time.Second)
			began := time.Now()
			_, serial := s.transferred(t)
			if time.Since(began) > 0 {
				t.Errorf("a transfer without the store took %s", time.Since(began))
			}
			if other, ok := serials[serial]; ok || !before(last, serial) {
				t.Errorf("server %d has %d after %d, as server %d", i, serial, last, other)
			}
			serials[serial] = i
			if before(latest, serial) {
				latest = serial
			}
			if !strings.Contains(s.messages(), "common store does not answer") {
				t.Errorf("logged: %s", s.messages())
			}
		}
		for _, s := range servers {
			s.resolver.set("target.example.", at("192.0.2.5"))
			s.link.set(false, 0)
		}
		time.Sleep(time.Minute)
		if rrs, serial := agreed(t, servers); !before(latest, serial) || rrs[0] != "example.org. 10 IN A 192.0.2.5" {
			t.Errorf("%v under %d, and there was %d", rrs, serial, latest)
		}
	})
}

// When the store was flushed, or lost its last writes, the servers write theirs again, and then a later one.
func TestFleetFlushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		m, servers := newFleet(t, map[string]target{"target.example.": at(v4)}, aliasAtApex)
		want, last := agreed(t, servers)
		m.flush()
		if n, ok := servers[1].soa(t); !ok || n != last {
			t.Errorf("just after the flush: %d %v, want %d", n, ok, last)
		}
		time.Sleep(90 * time.Second)
		if rrs, serial := agreed(t, servers); !slices.Equal(rrs, want) || !before(last, serial) {
			t.Errorf("%v under %d after %d", rrs, serial, last)
		}
		m.mu.Lock()
		m.registers["example.org."]["A broken"] = "?"
		m.registers["example.org."]["number"] = "no number"
		m.mu.Unlock()
		time.Sleep(90 * time.Second)
		if rrs, _ := agreed(t, servers); !slices.Equal(rrs, want) {
			t.Errorf("after garbage in the store: %v", rrs)
		}
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, ok := m.registers["example.org."]["A broken"]; ok {
			t.Error("the garbage is still there")
		}
	})
}

// A server whose zone is older than that of the others answers SERVFAIL, and says why. So does one with other aliases that was
// started before them.
func TestFleetBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		m, servers := newFleet(t, map[string]target{"target.example.": at(v4)}, aliasAtApex)
		_, last := agreed(t, servers)
		late := servers[2]
		for _, s := range servers[:2] {
			s.backend.put(t, 8, aliasAtApex, "www.example.org. 60 IN A 192.0.2.9")
		}
		time.Sleep(20 * time.Second)
		rrs, serial := agreed(t, servers[:2])
		if len(rrs) != 2 || !before(last, serial) {
			t.Errorf("%v under %d after %d", rrs, serial, last)
		}
		if n, ok := late.soa(t); ok {
			t.Errorf("a server that is behind shows %d", n)
		}
		if _, err := late.Transfer("example.org.", 0); err == nil || err == transfer.ErrNotAuthoritative {
			t.Errorf("a transfer from a server that is behind: %v", err)
		}
		if !strings.Contains(late.messages(), "serial 7 here, and another server with the same share has 8") {
			t.Errorf("logged: %s", late.messages())
		}
		late.backend.put(t, 8, aliasAtApex, "www.example.org. 60 IN A 192.0.2.9")
		if n, ok := late.soa(t); !ok || n != serial {
			t.Errorf("with the new zone: %d %v, want %d", n, ok, serial)
		}
		b := new(backend)
		b.put(t, 8, aliasAtApex, "www.example.org. 60 IN A 192.0.2.9")
		other := newFleetServer(t, m, newResolver(map[string]target{"target.example.": at(v4)}), b, func(cfg *primary.Config) {
			cfg.Records = corefile("rec.example.org.", "target.example.")
		})
		time.Sleep(started)
		if got, n := other.transferred(t); len(got) != 3 || !before(serial, n) {
			t.Errorf("the server that was started last: %v under %d after %d", got, n, serial)
		}
		if n, ok := servers[0].soa(t); ok {
			t.Errorf("a server with other aliases shows %d", n)
		}
		if !strings.Contains(servers[0].messages(), "use the same Corefile and zone on all servers") {
			t.Errorf("logged: %s", servers[0].messages())
		}
	})
}

// A server that has never reached the store answers SERVFAIL for 30 s, and then publishes alone. Zones without aliases keep their
// own serial.
func TestFleetNeverReached(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		b := new(backend)
		b.put(t, 7, aliasAtApex)
		s := newFleetServer(t, newMemory(), newResolver(map[string]target{"target.example.": at(v4)}), b, nil)
		s.link.set(true, 0)
		b.set("plain.example.org.", zoneOf(t, "plain.example.org.", 3))
		time.Sleep(28 * time.Second)
		if n, ok := s.soa(t); ok {
			t.Errorf("after 28 s: %d", n)
		}
		if n := s.Serial(b.zone("plain.example.org.").SOA); n != 3 {
			t.Errorf("a zone without aliases has %d", n)
		}
		time.Sleep(130 * time.Second) // one in 128 s
		rrs, serial := s.transferred(t)
		if n, ok := s.soa(t); !ok || n != serial || len(rrs) != 1 {
			t.Errorf("after 158 s: %d %v, transferred %v under %d", n, ok, rrs, serial)
		}
		s.link.set(false, 0)
		time.Sleep(30 * time.Second)
		if n, ok := s.soa(t); !ok || n != serial {
			t.Errorf("with the store: %d %v, want %d", n, ok, serial)
		}
	})
}

// A query waits for the store no longer than 100 ms.
func TestFleetSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		_, servers := newFleet(t, map[string]target{"target.example.": at(v4)}, aliasAtApex)
		_, want := agreed(t, servers)
		s := servers[0]
		for _, delay := range []time.Duration{200 * time.Millisecond, time.Hour} {
			s.link.set(false, delay)
			for range 50 {
				began := time.Now()
				if n, ok := s.soa(t); !ok || n != want || time.Since(began) > 100*time.Millisecond {
					t.Errorf("%d %v after %s, want %d", n, ok, time.Since(began), want)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
	})
}
