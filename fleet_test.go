package alias

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// common is the store of a fleet, and how long each call of it takes. Records never run out.
type common struct {
	mu      sync.Mutex
	delay   time.Duration
	members []*member
	records map[string]kept
	claims  map[string]claim
}

type kept struct {
	value  string
	stored time.Time
}

type claim struct {
	by    *member
	until time.Time
}

// member is a server of a fleet. It implements answers.Fleet.
type member struct {
	*common
	*Alias
	resolver *fakeResolver
}

func (m *member) Open()                      {}
func (m *member) Loaded(ctx context.Context) {}
func (m *member) Flush()                     {}
func (m *member) Close()                     {}

func (m *member) Put(key, value string, stored time.Time, _ time.Duration) {
	go func() {
		time.Sleep(m.delay)
		m.mu.Lock()
		m.common.records[key] = kept{value, stored}
		delete(m.claims, key)
		m.mu.Unlock()
		for _, other := range m.members {
			if other != m {
				other.cache.entries.Adopt(key, value, stored)
			}
		}
	}()
}

func (m *member) Get(_ context.Context, key string) bool {
	time.Sleep(m.delay)
	m.mu.Lock()
	r, ok := m.common.records[key]
	m.mu.Unlock()
	if ok {
		m.cache.entries.Adopt(key, r.value, r.stored)
	}
	return ok
}

func (m *member) Claim(_ context.Context, key string, stored time.Time, hold time.Duration) (bool, time.Duration) {
	time.Sleep(m.delay)
	m.mu.Lock()
	defer m.mu.Unlock()
	if r := m.common.records[key]; r.stored.After(stored) {
		m.cache.entries.Adopt(key, r.value, r.stored)
		return false, 0
	}
	if c := m.claims[key]; c.by != nil && c.by != m && time.Now().Before(c.until) {
		return false, time.Until(c.until)
	}
	m.claims[key] = claim{m, time.Now().Add(hold)}
	return true, 0
}

// inFleet runs f with n servers of a fleet, whose clock, timers, upstreams and store are the test's own.
func inFleet(t *testing.T, n int, f func(t *testing.T, c *common)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := &common{records: make(map[string]kept), claims: make(map[string]claim)}
		for range n {
			cfg, err := parseBlock("example.org", "record @ target.example\nupstream 127.0.0.1")
			if err != nil {
				t.Fatal(err)
			}
			m := &member{common: c, Alias: cfg.build(), resolver: &fakeResolver{out: lookup.Outcome{Data: addrs1, TTL: 300}}}
			m.backend.Next = zoneFile(t, nil)
			m.cache = cfg.buildCache(m.resolver.resolve)
			r := answers.NewRegistry(nil, func(answers.Source, *answers.Entries) answers.Fleet { return m }, time.Now)
			m.cache.entries = r.NewShare(answers.Source{Fleet: "store"}, answers.Size{Everybody: 10}, nil).Join(1)
			defer m.cache.stop()
			c.members = append(c.members, m)
		}
		f(t, c)
		synctest.Wait()
	})
}

// The servers of a fleet look a target up in turn, once for all of them, and all answer with what is fresh.
func TestFleetTurns(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond, 90 * time.Millisecond} {
		inFleet(t, 3, func(t *testing.T, c *common) {
			c.delay = delay
			ask(t, c.members[0].Alias)
			time.Sleep(time.Second)
			for _, m := range c.members {
				m.resolver.delay = 20 * time.Millisecond
			}
			began := time.Now()
			for time.Since(began) < 3*time.Hour {
				for i, m := range c.members {
					if status, _, addr := ask(t, m.Alias); status != "hit" || addr != "192.0.2.1" {
						t.Fatalf("server %d after %s: %s %s", i, time.Since(began), status, addr)
					}
				}
				time.Sleep(900 * time.Millisecond)
			}
			n := 0
			for _, m := range c.members {
				n += m.resolver.lookups()
			}
			if want := 3 * 3600 / 271; n < want || n > want+2 { // in the last tenth of the TTL
				t.Errorf("with %s for each call of the store: %d lookups", delay, n)
			}
		})
	}
}

// A server that does not come back with an answer has its turn for as long as a lookup may take, and then it is another's.
func TestFleetLost(t *testing.T) {
	inFleet(t, 2, func(t *testing.T, c *common) {
		lost, other := c.members[0], c.members[1]
		ask(t, other.Alias)
		synctest.Wait()
		time.Sleep(275 * time.Second)
		lost.Claim(t.Context(), "target.example. A", time.Now(), 1500*time.Millisecond)
		before := other.resolver.lookups()
		for began := time.Now(); time.Since(began) < 1400*time.Millisecond; time.Sleep(50 * time.Millisecond) {
			ask(t, other.Alias)
		}
		if n := other.resolver.lookups() - before; n != 0 {
			t.Errorf("%d lookups in another's turn", n)
		}
		time.Sleep(200 * time.Millisecond)
		ask(t, other.Alias)
		synctest.Wait()
		if n := other.resolver.lookups() - before; n != 1 {
			t.Errorf("%d lookups after that", n)
		}
		if n := len(other.cache.turns.until); n != 0 {
			t.Errorf("%d turns are remembered", n)
		}
	})
}

// A client gets what comes first: the upstream's answer or that of another server, and one that has expired a moment later.
func TestFleetSideBySide(t *testing.T) {
	const hang = time.Minute // the upstream
	for _, tc := range []struct {
		name            string
		age             time.Duration // of the store's record; negative: it has none
		store, upstream time.Duration // how long they take
		before          bool          // another target was looked up before
		status, addr    string
		took            time.Duration
	}{
		{"fresh", time.Minute, time.Millisecond, hang, false, "miss", "192.0.2.2", time.Millisecond},
		{"fresh, store slow", time.Minute, 200 * time.Millisecond, 20 * time.Millisecond, false, "miss", "192.0.2.1", 20 * time.Millisecond},
		{"stale", time.Hour, time.Millisecond, hang, false, "stale", "192.0.2.2", 50 * time.Millisecond},
		{"stale, upstream in time", time.Hour, time.Millisecond, 40 * time.Millisecond, false, "miss", "192.0.2.1", 40 * time.Millisecond},
		{"nothing", -1, time.Millisecond, 40 * time.Millisecond, false, "miss", "192.0.2.1", 40 * time.Millisecond},
		{"too old", 100 * 24 * time.Hour, time.Millisecond, 40 * time.Millisecond, false, "miss", "192.0.2.1", 40 * time.Millisecond},
		{"stale, lookups succeed", time.Hour, time.Millisecond, 400 * time.Millisecond, true, "miss", "192.0.2.1", 400 * time.Millisecond},
		{"stale, lookups succeeded before", time.Hour, time.Millisecond, hang, true, "stale", "192.0.2.2", 500 * time.Millisecond},
	} {
		inFleet(t, 1, func(t *testing.T, c *common) {
			m := c.members[0]
			if tc.before {
				m.cache.get(question("before.example.", dns.TypeA), lookup.NoLimit, exampleZone, nil)
				synctest.Wait()
			}
			c.delay, m.resolver.delay = tc.store, tc.upstream
			if tc.age >= 0 {
				c.records["target.example. A"] = kept{valueOf(t, addrs2), time.Now().Add(-tc.age)}
			}
			began := time.Now()
			status, _, addr := ask(t, m.Alias)
			if took := time.Since(began); status != tc.status || addr != tc.addr || took != tc.took {
				t.Errorf("%s: %s %s after %s, want %s %s after %s", tc.name, status, addr, took, tc.status, tc.addr, tc.took)
			}
			time.Sleep(2 * hang)
			synctest.Wait()
			if n := m.resolver.lookups(); n != 1 && !tc.before || n > 2 {
				t.Errorf("%s: %d lookups", tc.name, n)
			}
			if e := m.cache.entries.Load(target); string(e.Data) != string(addrs1) || e.Adopted {
				t.Errorf("%s: in the end %+v is cached", tc.name, e)
			}
			if n := len(m.cache.inFlight); n != 0 {
				t.Errorf("%s: %d lookups in flight", tc.name, n)
			}
		})
	}
}

// valueOf returns the value that the store has for an answer with these addresses.
func valueOf(t *testing.T, addrs []byte) string {
	t.Helper()
	c := &common{records: make(map[string]kept), claims: make(map[string]claim)}
	m := &member{common: c}
	r := answers.NewRegistry(nil, func(answers.Source, *answers.Entries) answers.Fleet { return m }, time.Now)
	es := r.NewShare(answers.Source{Fleet: "store"}, answers.Size{Everybody: 10}, nil).Join(1)
	es.Update(question("target.example.", dns.TypeA), 0, func(*answers.Entry) *answers.Entry {
		return answers.NewEntry(lookup.Outcome{Data: addrs, TTL: 300}, time.Now())
	})
	synctest.Wait()
	if len(c.records) != 1 {
		t.Fatal("the store has no record")
	}
	return c.records["target.example. A"].value
}

// While the upstreams are down, clients of a server that has adopted all its answers do not wait for them.
func TestFleetOutage(t *testing.T) {
	inFleet(t, 2, func(t *testing.T, c *common) {
		ask(t, c.members[0].Alias)
		synctest.Wait()
		time.Sleep(time.Hour)
		cold := c.members[1]
		cold.resolver.delay = 500 * time.Millisecond
		cold.resolver.say(lookup.Outcome{}, errDown)
		for i, most := range []time.Duration{50 * time.Millisecond, 50 * time.Millisecond, 0} {
			began := time.Now()
			status, _, addr := ask(t, cold.Alias)
			if took := time.Since(began); status != "stale" || addr != "192.0.2.1" || took > most {
				t.Errorf("query %d: %s %s after %s", i, status, addr, took)
			}
			time.Sleep(time.Duration(i) * 500 * time.Millisecond)
		}
	})
}
