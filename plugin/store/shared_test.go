package store_test

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/store"
	fake "github.com/coredns/alias/test/redis"

	"github.com/redis/go-redis/v9"
)

// mind is a cache that shares its records.
type mind struct {
	mu      sync.Mutex
	records map[string]string
	stored  map[string]time.Time
	adopted int
}

func newMind() *mind {
	return &mind{records: make(map[string]string), stored: make(map[string]time.Time)}
}

func (m *mind) Adopt(key, value string, stored time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if stored.After(m.stored[key]) {
		m.records[key], m.stored[key] = value, stored
		m.adopted++
	}
}

func (m *mind) Records(yield func(key, value string, stored time.Time, keep time.Duration) bool) {
	m.mu.Lock()
	records := maps.Clone(m.records)
	m.mu.Unlock()
	for key, value := range records {
		if !yield(key, value, m.since(key), time.Hour) {
			return
		}
	}
}

func (m *mind) since(key string) time.Time {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stored[key]
}

func (m *mind) get(key string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.records[key]
}

func (m *mind) len() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.records)
}

// learn has m have a record that came just now, and its bucket put it.
func (m *mind) learn(b *store.Shared, key, value string) {
	now := time.Now()
	m.mu.Lock()
	m.records[key], m.stored[key] = value, now
	m.mu.Unlock()
	b.Put(key, value, now, time.Hour)
}

// share returns an open bucket at addr for m.
func share(t *testing.T, m *mind, args ...string) *store.Shared {
	t.Helper()
	l, err := store.ParseLocation(args)
	if err != nil {
		t.Fatal(err)
	}
	b := store.NewShared(l, "upstream", m, func(string, error) {})
	t.Cleanup(b.Close)
	b.Open()
	return b
}

func eventually(t *testing.T, what string, condition func() bool) {
	t.Helper()
	for end := time.Now().Add(15 * time.Second); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not: %s", what)
		}
	}
}

// What one server puts, the others adopt; one that starts later loads it.
func TestFleet(t *testing.T) {
	t.Parallel()
	server := fake.Start(t)
	url := "redis://" + server.Addr
	a, b := newMind(), newMind()
	first, _ := share(t, a, url), share(t, b, url)
	a.learn(first, "early", "1")
	eventually(t, "the other server has what was put early", func() bool { return b.get("early") == "1" })
	keys := []string{"a. A", "{odd}% A", "new\nline", "b. A for 192.0.2.0/24", strings.Repeat("k", 300)}
	for _, key := range keys {
		a.learn(first, key, "\x00\x00\nvalue of "+key)
	}
	eventually(t, "the other server has all", func() bool { return b.len() == len(keys)+1 })
	for _, key := range keys {
		if got := b.get(key); got != a.get(key) {
			t.Errorf("%q: %q", key, got)
		}
		if off := b.since(key).Sub(a.since(key)).Abs(); off > time.Second {
			t.Errorf("%q: its time is off by %s", key, off)
		}
	}
	c := newMind()
	share(t, c, url)
	eventually(t, "a server that starts has all", func() bool { return c.len() == len(keys)+1 })

	other := newMind()
	share(t, other, url, "prefix=other")
	time.Sleep(50 * time.Millisecond) // whatever it gets would be there by now
	if other.len() > 0 {
		t.Error("a fleet with another prefix has the records")
	}
}

// A single record is there on demand, with its age.
func TestFleetGet(t *testing.T) {
	t.Parallel()
	server := fake.Start(t)
	a, b := newMind(), newMind()
	first := share(t, a, "redis://"+server.Addr)
	first.Put("old", "value", time.Now().Add(-10*time.Minute), time.Hour)
	first.Put("over", "value", time.Now().Add(-2*time.Hour), time.Hour)
	first.Flush()
	l, _ := store.ParseLocation([]string{"redis://" + server.Addr})
	second := store.NewShared(l, "upstream", b, func(string, error) {}) // is not open, and so does not load
	defer second.Close()
	if !second.Get(t.Context(), "old") || b.get("old") != "value" {
		t.Error("it has no record of old")
	}
	if age := time.Since(b.since("old")); age < 10*time.Minute || age > 10*time.Minute+2*time.Second {
		t.Errorf("its age is %s", age)
	}
	if second.Get(t.Context(), "over") || second.Get(t.Context(), "none") {
		t.Error("it has records that nobody has put")
	}
}

// One server has its turn, until it has put an answer or its time is over.
func TestFleetClaim(t *testing.T) {
	t.Parallel()
	server := fake.Start(t)
	a, b := newMind(), newMind()
	first, second := share(t, a, "redis://"+server.Addr), share(t, b, "redis://"+server.Addr)
	old := time.Now().Add(-time.Minute)
	claim := func(s *store.Shared, stored time.Time, hold time.Duration) string {
		mine, wait := s.Claim(t.Context(), "key", stored, hold)
		if wait > hold {
			t.Errorf("it waits for %s", wait)
		}
		return fmt.Sprint(mine, wait > 0)
	}
	for _, step := range []struct{ got, want string }{
		{claim(first, old, time.Minute), "true false"},
		{claim(second, old, time.Minute), "false true"},
		{claim(first, old, time.Minute), "true false"},
	} {
		if step.got != step.want {
			t.Errorf("got %s, want %s", step.got, step.want)
		}
	}
	a.learn(first, "key", "new")
	eventually(t, "the others have the answer", func() bool { return b.get("key") == "new" })
	if got := claim(second, old, time.Minute); got != "false false" {
		t.Errorf("with an older answer: %s", got)
	}
	if got := claim(second, b.since("key"), 50*time.Millisecond); got != "true false" {
		t.Errorf("with the same answer: %s", got)
	}
	eventually(t, "its time is over", func() bool { return claim(first, a.since("key"), 50*time.Millisecond) == "true false" })
}

// A store that has lost everything gets it again, from whoever has it; records of another version, and other people's keys, stay.
func TestFleetFlushed(t *testing.T) {
	t.Parallel()
	server := fake.Start(t)
	a := newMind()
	first := share(t, a, "redis://"+server.Addr)
	for i := range 1200 {
		a.learn(first, fmt.Sprint("key", i), "value")
	}
	c := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer c.Close()
	count := func() int { return len(c.Keys(context.Background(), "alias:1:*:{key*").Val()) }
	eventually(t, "all is written", func() bool { return count() == 1200 })
	c.FlushAll(context.Background())
	eventually(t, "all is written again", func() bool { return count() == 1200 })
	server.Kill()
	a.learn(first, "meanwhile", "value")
	server.Run(t)
	eventually(t, "all is written to a new server", func() bool { return count() == 1200 })

	name := c.Keys(context.Background(), "alias:1:*:{key7}").Val()[0]
	c.Set(context.Background(), name, "2 1 of a later version", 0)
	a.learn(first, "key7", "other")
	first.Flush()
	if got := c.Get(context.Background(), name).Val(); got != "2 1 of a later version" {
		t.Errorf("a record of another version became %q", got)
	}
	for _, garbage := range []string{"garbage", "1 x y", "", "1 "} {
		c.Set(context.Background(), name, garbage, 0)
		b := newMind()
		second := share(t, b, "redis://"+server.Addr)
		eventually(t, "the rest is loaded", func() bool { return b.len() == 1200 })
		if second.Get(t.Context(), "key7") || b.get("key7") != "" {
			t.Errorf("%q is taken for a record", garbage)
		}
	}
	c.Del(context.Background(), name)
	c.LPush(context.Background(), name, "a list")
	a.learn(first, "key7", "other")
	eventually(t, "garbage is replaced", func() bool { return strings.HasSuffix(c.Get(context.Background(), name).Val(), " other") })
}

// However the store fails, nobody waits for it; what was put meanwhile is written later.
func TestFleetFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(t *testing.T, s *fake.Server, c *redis.Client) (mend func()){
		"killed":  func(t *testing.T, s *fake.Server, c *redis.Client) func() { s.Kill(); return func() { s.Run(t) } },
		"stopped": func(t *testing.T, s *fake.Server, c *redis.Client) func() { s.Stop(); return s.Continue },
		"full": func(t *testing.T, s *fake.Server, c *redis.Client) func() {
			c.ConfigSet(context.Background(), "maxmemory", "1")
			return func() { c.ConfigSet(context.Background(), "maxmemory", "0") }
		},
		"read-only": func(t *testing.T, s *fake.Server, c *redis.Client) func() {
			c.ReplicaOf(context.Background(), "127.0.0.1", "1")
			return func() { c.ReplicaOf(context.Background(), "NO", "ONE") }
		},
		"password": func(t *testing.T, s *fake.Server, c *redis.Client) func() {
			c.ConfigSet(context.Background(), "requirepass", "other")
			c.ClientKillByFilter(context.Background(), "TYPE", "normal", "SKIPME", "yes")
			return func() { c.ConfigSet(context.Background(), "requirepass", "") }
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := fake.Start(t)
			c := redis.NewClient(&redis.Options{Addr: server.Addr})
			defer c.Close()
			a, b := newMind(), newMind()
			first, _ := share(t, a, "redis://"+server.Addr), share(t, b, "redis://"+server.Addr)
			a.learn(first, "before", "1")
			eventually(t, "the other server has what was put before", func() bool { return b.get("before") == "1" })

			mend := fail(t, server, c)
			for range 3 {
				began := time.Now()
				first.Get(t.Context(), "before")
				mine, _ := first.Claim(t.Context(), "before", time.Now(), time.Second)
				first.Put("x", "y", time.Now(), time.Hour)
				if took := time.Since(began); took > time.Second || !mine {
					t.Errorf("it took %s, and is mine: %v", took, mine)
				}
			}
			a.learn(first, "meanwhile", "2")
			began := time.Now()
			first.Flush()
			if took := time.Since(began); took > 3*time.Second {
				t.Errorf("Flush took %s", took)
			}
			mend()
			eventually(t, "the other server has what was put meanwhile", func() bool { return b.get("meanwhile") == "2" })
		})
	}
}

// Bad locations say what is wrong, and never the password.
func TestParseLocation(t *testing.T) {
	t.Parallel()
	for args, want := range map[string]string{
		"redis://localhost":                           "redis://localhost",
		"redis://:secret@localhost:6380/2":            "redis://***@localhost:6380/2",
		"rediss://user:secret@h1 prefix=a-b:c.":       "rediss://***@h1",
		"unix:///run/redis.sock":                      "unix:///run/redis.sock",
		"redis://h1:26379 redis://h2:26379 master=m1": "redis://h1:26379 redis://h2:26379",
		"redis://h1?password=secret master=m1":        "redis://h1",
		"redis://u:secret@h1 redis://u:secret@h2":     "redis://***@h1 redis://***@h2",
	} {
		if l, err := store.ParseLocation(strings.Fields(args)); err != nil || l.String() != want {
			t.Errorf("%s: %s, %v", args, l, err)
		}
	}
	for args, want := range map[string]string{
		"":                                     "there is no address",
		"prefix=a":                             "there is no address",
		"localhost:6379":                       "'localhost:6379' has to begin",
		"http://:secret@localhost":             "'http://***@localhost' has to begin with redis://, rediss:// or unix://",
		"redis://":                             "'redis://' has no host",
		"unix://":                              "'unix://' has no path",
		"redis://:secret@h:port":               "'redis://***' is no address",
		"redis://:sec?ret@h":                   "'redis://***' is no address",
		"redis://h:x?password=secret@i":        "'redis://***' is no address",
		"http://h?password=secret":             "'http://h' has to begin",
		"redis://:sec ret@h":                   "is no address",
		"redis://:secret@h/db":                 "invalid database number",
		"redis://:secret@h?secret=1":           "unexpected option",
		"redis://h master=":                    "'master=' is neither",
		"redis://h prefix=":                    "'prefix=' is no prefix",
		"redis://h prefix={a}":                 "'prefix={a}' is no prefix",
		"redis://h name=x":                     "'name=x' is neither an address nor master=NAME nor prefix=NAME",
		"redis://u:secret@h redis://u:other@i": "all addresses need the same scheme, user and password",
	} {
		_, err := store.ParseLocation(strings.Fields(args))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", args, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") && !strings.Contains(want, "option") || strings.Contains(err.Error(), "sec ")) {
			t.Errorf("%s: the password is in %v", args, err)
		}
	}
}
