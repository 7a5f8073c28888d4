package test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/test/redis"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// fleetAliases is how many aliases a server of a fleet has: half in the Corefile, half in its zone.
const fleetAliases = 1000

// startMember starts a server of a fleet whose aliases all have targets of their own.
func startMember(t *testing.T, up, properties string) *process {
	t.Helper()
	var records strings.Builder
	for i := range fleetAliases / 2 {
		fmt.Fprintf(&records, "record r%d r%[1]d.hosting.example\n", i)
	}
	zone := zoneFile + aliasLines("z", "hosting.example.", fleetAliases/2) + "@ IN ALIAS svc.hosting.example.\n"
	return serveZone(t, zone, records.String()+"https copy\nclient_subnet\n"+properties+"\nupstream "+up, fromFile)
}

// fleetTargets answers for the targets of a fleet: with an address of its own for each name, with others by network for svc, and
// with HTTPS records for it.
func fleetTargets(ttl uint32) upstream.Handler {
	byNetwork := &upstream.ByNetwork{TTL: ttl}
	byNetwork.Scope(24)
	return func(w dns.ResponseWriter, r *dns.Msg) {
		q, m := r.Question[0], new(dns.Msg).SetReply(r)
		switch {
		case q.Name == "svc.hosting.example." && q.Qtype == dns.TypeHTTPS:
			m.Answer = upstream.RRs(fmt.Sprintf("svc.hosting.example. %d IN HTTPS 1 . alpn=h2", ttl))
		case q.Name == "svc.hosting.example.":
			byNetwork.ServeDNS(w, r)
			return
		case q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA:
			m.Answer = addressesOf(q, 1, ttl)
		}
		w.WriteMsg(m)
	}
}

// fleetNames returns the names of the aliases of a member.
func fleetNames() (names []string) {
	for i := range fleetAliases / 2 {
		names = append(names, fmt.Sprintf("r%d.example.org.", i), fmt.Sprintf("z%d.example.org.", i))
	}
	return names
}

// A server that starts with nothing, while the resolver is down, has the last good answers of the fleet at its first queries.
func TestShareColdServer(t *testing.T) {
	t.Parallel()
	store := redis.Start(t)
	up := upstream.New(t, fleetTargets(1))
	const properties = "min_ttl 1s\nshare redis://"
	first := startMember(t, up.Addr, properties+store.Addr)
	names := fleetNames()
	want := make(map[string]string)
	for _, name := range names {
		want[name] = addressText(query(t, first.addr, "udp", name, dns.TypeA))
	}
	networks := []string{"192.0.2.0/24", "198.51.100.0/24"}
	for _, n := range networks {
		want[n] = addressText(queryFor(t, first.addr, n))
	}
	https := query(t, first.addr, "udp", "example.org.", dns.TypeHTTPS)
	if len(https.Answer) != 1 || want[networks[0]] == want[networks[1]] {
		t.Fatalf("The first server has %v, %v", want, https)
	}
	time.Sleep(1100 * time.Millisecond) // all have expired
	up.Set(nil)

	second := startMember(t, up.Addr, properties+store.Addr)
	var took []time.Duration
	for _, name := range names {
		conn, err := dns.Dial("udp", second.addr)
		check(t, err)
		s := shoot(conn, name, dns.TypeA)
		conn.Close()
		if s.err != nil || addressText(s.m) != want[name] || !s.stale() {
			t.Errorf("%s: %v\n%v", name, s.err, s.m)
			break
		}
		took = append(took, s.took)
	}
	slices.Sort(took)
	if p99 := took[len(took)*99/100]; p99 > 100*time.Millisecond {
		t.Errorf("p99 is %s", p99)
	} else {
		t.Logf("p99 is %s, the median %s", p99, took[len(took)/2])
	}
	for _, n := range networks {
		if got := addressText(queryFor(t, second.addr, n)); got != want[n] {
			t.Errorf("%s: %s, want %s", n, got, want[n])
		}
	}
	if m := query(t, second.addr, "udp", "example.org.", dns.TypeHTTPS); len(m.Answer) != 1 || extendedError(m) != int(dns.ExtendedErrorCodeStaleAnswer) {
		t.Errorf("HTTPS:\n%v", m)
	}
}

// queryFor asks for the addresses of the apex as a client of that network.
func queryFor(t *testing.T, addr, network string) *dns.Msg {
	t.Helper()
	r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	r.SetEdns0(1232, false)
	m, err := dns.Exchange(upstream.WithSubnet(r, netip.MustParsePrefix(network)), addr)
	check(t, err)
	return m
}

// addressText returns the addresses in the answer of m.
func addressText(m *dns.Msg) string {
	if m == nil {
		return ""
	}
	var s []string
	for _, rr := range m.Answer {
		if a, ok := rr.(*dns.A); ok {
			s = append(s, a.A.String())
		}
	}
	slices.Sort(s)
	return strings.Join(s, " ")
}

// Three servers that are asked a thousand times a second look a target up once in its TTL, and serve its new address all at
// once.
func TestShareTurns(t *testing.T) {
	t.Parallel()
	const ttl, turns = 3, 10
	store := redis.Start(t)
	var address atomic.Int32
	address.Store(1)
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		if r.Question[0].Qtype == dns.TypeA {
			m.Answer = upstream.RRs(fmt.Sprintf("app.hosting.example. %d IN A 192.0.2.%d", ttl, address.Load()))
		}
		w.WriteMsg(m)
	})
	var members []*process
	for range 3 {
		members = append(members, serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n", "min_ttl 1s\nshare redis://"+store.Addr+"\nupstream "+up.Addr, fromFile))
	}
	for _, m := range members {
		query(t, m.addr, "udp", "example.org.", dns.TypeA)
	}
	time.Sleep(200 * time.Millisecond) // the members have what the others know
	before := up.Asked("app.hosting.example.", dns.TypeA)

	var mu sync.Mutex
	changed := make([]time.Time, len(members)) // when the last address was served first
	var clients sync.WaitGroup
	began := time.Now()
	for i, m := range members {
		clients.Go(func() {
			conn, err := dns.Dial("udp", m.addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			tick := time.NewTicker(time.Millisecond)
			defer tick.Stop()
			for time.Since(began) < ttl*turns*time.Second {
				<-tick.C
				s := shoot(conn, "example.org.", dns.TypeA)
				if s.err != nil || len(s.m.Answer) != 1 || !s.fresh() {
					t.Errorf("member %d: %v\n%v", i, s.err, s.m)
					return
				}
				if mu.Lock(); changed[i].IsZero() && addressText(s.m) == "192.0.2.2" {
					changed[i] = time.Now()
				}
				mu.Unlock()
			}
		})
	}
	time.AfterFunc(ttl*turns*time.Second/2, func() { address.Store(2) })
	clients.Wait()
	asked := float64(up.Asked("app.hosting.example.", dns.TypeA)-before) / turns
	// The prefetch window is the last second of the TTL, or its last tenth: answers are replaced before their TTL has run out.
	if most := 1.1 * ttl / (ttl - 1); asked > most || asked < 0.8 {
		t.Errorf("%.2f lookups in a TTL, want at most %.2f", asked, most)
	}
	t.Logf("%.2f lookups in a TTL", asked)
	slices.SortFunc(changed, time.Time.Compare)
	if apart := changed[2].Sub(changed[0]); changed[0].IsZero() || apart > time.Second {
		t.Errorf("the new address was served at %s", changed)
	} else {
		t.Logf("the new address is everywhere within %s", apart)
	}
}

// Whatever is wrong with the store, what is cached is answered, fresh answers and stale ones, and as soon as without it; the log
// says what is wrong, once and without the password.
func TestShareFails(t *testing.T) {
	t.Parallel()
	for name, fail := range map[string]func(t *testing.T, s *redis.Server){
		"killed":    func(t *testing.T, s *redis.Server) { s.Kill() },
		"stopped":   func(t *testing.T, s *redis.Server) { s.Stop() },
		"slow":      func(t *testing.T, s *redis.Server) { command(t, s, "client", "pause", "100000") },
		"full":      func(t *testing.T, s *redis.Server) { command(t, s, "config", "set", "maxmemory", "1") },
		"read-only": func(t *testing.T, s *redis.Server) { command(t, s, "replicaof", "127.0.0.1", "1") },
		"password": func(t *testing.T, s *redis.Server) {
			check(t, s.SetPassword("another"))
		},
		"flushed": func(t *testing.T, s *redis.Server) { command(t, s, "flushall") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store := redis.Start(t, "--requirepass", "secret")
			up := upstream.New(t, fleetTargets(1))
			server := startMember(t, up.Addr, "min_ttl 1s\nshare redis://:secret@"+store.Addr)
			names := fleetNames()[:20]
			for _, n := range names {
				query(t, server.addr, "udp", n, dns.TypeA)
			}
			fail(t, store)
			ask := func(what string, good func(shot) bool) {
				conn, err := dns.Dial("udp", server.addr)
				check(t, err)
				defer conn.Close()
				for _, n := range names {
					s := shoot(conn, n, dns.TypeA)
					if s.err != nil || len(s.m.Answer) != 1 || !good(s) {
						t.Errorf("%s, %s after %s: %v\n%v", what, n, s.took, s.err, s.m)
						return
					}
				}
			}
			time.Sleep(1100 * time.Millisecond) // all have expired
			ask("with upstream", shot.fresh)
			up.Set(nil)
			time.Sleep(1100 * time.Millisecond)
			ask("without upstream", shot.stale)
			up.Set(fleetTargets(1))

			if server.logged(t, "secret") > 0 {
				t.Error("The log has the password")
			}
			eventually(t, 15*time.Second, "the log says what is wrong", func() bool {
				query(t, server.addr, "udp", names[0], dns.TypeA)
				return name == "flushed" || server.logged(t, "Answers are not ") > 0
			})
			reads, writes := server.logged(t, "Answers are not read from"), server.logged(t, "Answers are not written to")
			if reads > 3 || writes > 3 {
				t.Errorf("The log has %d and %d messages about the store", reads, writes)
			}
		})
	}
}

// command sends a command to a store.
func command(t *testing.T, s *redis.Server, args ...string) {
	t.Helper()
	if err := s.Do(args...); err != nil {
		t.Fatal(err)
	}
}
