package test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

const (
	// A lookup in a ring takes ringAttempts attempts of ringTimeout each.
	ringTimeout  = time.Second
	ringAttempts = 2

	// sendings is how often a resolver may send a query to an authoritative server that does not answer while an attempt of
	// ringTimeout waits. Unbound sends it three times, the Recursor once.
	sendings = 6
)

// ringZone returns the zone of a server of a ring whose next zone is next. Its alias "ring" leads to target. As the aliases are in the
// zone, no server looks up anything before all have started. The DNAME record leads to longer and longer names.
func ringZone(next, target string) string {
	return zoneFile + fmt.Sprintf(`
ring IN ALIAS %[2]s.
good IN ALIAS own.%[1]s.
self IN ALIAS x.%[1]s.
loop IN ALIAS y.%[1]s.
x    IN CNAME self.a.example.
y    IN CNAME z
z    IN CNAME y
d    IN DNAME d.d.%[1]s.
`, next, target)
}

// ring is servers for a.example, b.example and so on. Each has an alias "ring" of the alias "ring" of the next one, and the last
// of that of the first. They look up through one resolver, and it queries them by way of paths, which counts.
type ring struct {
	servers  []*process
	pages    []string // of the metrics, by server
	resolver *process
	paths    *upstream.Server
}

// zoneAt returns the zone of server i of a ring.
func zoneAt(i int) string { return string(rune('a'+i)) + ".example" }

// startRing starts n servers with these further properties, and a resolver for them.
func startRing(t *testing.T, n int, start func(t *testing.T, addr string) *process, properties string) *ring {
	t.Helper()
	r := new(ring)
	to := make(map[string]string)
	var ports []string
	for i := range n {
		ports = append(ports, freePort(t))
		r.pages = append(r.pages, local(freePort(t)))
		to[zoneAt(i)+"."] = local(ports[i])
	}
	r.paths = upstream.New(t, forwarder(to))
	r.resolver = start(t, r.paths.Addr)
	for i := range n {
		dir, next := t.TempDir(), zoneAt((i+1)%n)
		write(t, filepath.Join(dir, "zone"), ringZone(next, "ring."+next))
		write(t, filepath.Join(dir, "Corefile"), block(zoneAt(i), ports[i], fmt.Sprintf(`
			timeout %s
			retries %d
			%s
			upstream %s`, ringTimeout, ringAttempts-1, properties, r.resolver.addr), "prometheus "+r.pages[i]))
		r.servers = append(r.servers, startServer(t, ports[i], dir, "Corefile"))
	}
	return r
}

// forwarder returns a handler that hands each query to the server of its zone, and waits for the response longer than any
// resolver does.
func forwarder(to map[string]string) upstream.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		for zone, addr := range to {
			if dns.IsSubDomain(zone, r.Question[0].Name) {
				client := dns.Client{Timeout: 10 * time.Second}
				if m, _, err := client.Exchange(r, addr); err == nil {
					w.WriteMsg(m)
				}
				return
			}
		}
		w.WriteMsg(new(dns.Msg).SetRcode(r, dns.RcodeRefused))
	}
}

// requests returns how many requests server i has sent to the resolver.
func (r *ring) requests(t *testing.T, i int) int {
	t.Helper()
	n := 0.0
	for name, value := range metrics(t, r.pages[i]) {
		if strings.HasPrefix(name, "coredns_alias_upstream_requests_total{") {
			n += value
		}
	}
	return int(n)
}

// passed returns how many queries the resolver has sent to the servers, about names that lead around by way of an alias.
func (r *ring) passed() int {
	n := 0
	for i := range r.servers {
		for _, name := range []string{"ring.", "self.", "x."} {
			for _, qtype := range families {
				n += r.paths.Asked(name+zoneAt(i)+".", qtype)
			}
		}
	}
	return n
}

// Servers whose aliases lead around through a resolver do not send each other queries without end: each waits for its own
// lookup, which ends, and then backs off. Their other aliases are answered as fast as ever.
func TestRing(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		start      func(t *testing.T, addr string) *process
		n          int
		properties string
		rcode      int
		recovers   bool
	}{
		{"two, Unbound, servfail", startUnbound, 2, "on_failure servfail", dns.RcodeServerFailure, true},
		{"three, Recursor, servfail", startRecursor, 3, "on_failure servfail", dns.RcodeServerFailure, false},
		{"three, Unbound, empty", startUnbound, 3, "", dns.RcodeSuccess, false},
		{"two, Recursor, empty", startRecursor, 2, "", dns.RcodeSuccess, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			r := startRing(t, test.n, test.start, test.properties)
			r.checkBounded(t, test.rcode)
			r.checkNamed(t, test.rcode)
			if test.recovers {
				r.checkRecovers(t)
			}
		})
	}
}

// checkBounded sends the queries of several clients to all servers, and checks the responses, how long they take, and how
// many queries the servers cause. A response to a failure has rcode.
func (r *ring) checkBounded(t *testing.T, rcode int) {
	t.Helper()
	before := make([]int, len(r.servers))
	for i, s := range r.servers {
		query(t, s.addr, "udp", "good."+zoneAt(i)+".", dns.TypeA) // is cached then, for 300 s
		before[i] = r.requests(t, i)
	}
	passed := r.passed()

	const d = 4 * time.Second
	var mu sync.Mutex
	var around, good []shot
	var clients sync.WaitGroup
	began := time.Now()
	send := func(shots *[]shot, i int, alias string, types []uint16) {
		clients.Go(func() {
			got := volley(t, r.servers[i].addr, alias+"."+zoneAt(i)+".", types, d, nil)
			mu.Lock()
			defer mu.Unlock()
			*shots = append(*shots, got...)
		})
	}
	for i := range r.servers {
		send(&around, i, "ring", families)
		send(&around, i, "ring", families)
		send(&good, i, "good", []uint16{dns.TypeA})
	}
	send(&around, 0, "self", families)
	send(&around, 0, "loop", families)
	clients.Wait()
	took := time.Since(began)
	passed = r.passed() - passed

	for _, s := range around {
		checkFailed(t, s, rcode)
	}
	checkGood(t, good)

	// A target that fails is looked up again after 5 seconds at the earliest, and a negative answer is cached for 5 seconds and
	// prefetched in the last one.
	lookups := 1 + int(took/(4*time.Second))
	all := 0
	for i := range r.servers {
		targets := 1
		if i == 0 {
			targets = 3
		}
		n := r.requests(t, i) - before[i]
		if most := targets * len(families) * lookups * ringAttempts; n == 0 || n > most {
			t.Errorf("%s: %d requests to the resolver in %s, want 1 to %d", zoneAt(i), n, took, most)
		}
		all += n
	}
	if most := all * sendings; passed == 0 || passed > most {
		t.Errorf("%d queries of the resolver to the servers in %s, want 1 to %d", passed, took, most)
	}
	t.Logf("%d queries of clients in %s: %d requests to the resolver, %d queries of it to the servers, %.1f a second. Slowest responses: %v, of other aliases %v",
		len(around), took, all, passed, float64(passed)/took.Seconds(), slowest(around, 3), slowest(good, 3))
}

// checkGood checks that each of shots was answered with an address, before any attempt of a lookup can have ended in a time-out.
func checkGood(t *testing.T, shots []shot) {
	t.Helper()
	for _, s := range shots {
		if s.err != nil || len(s.m.Answer) != 1 || s.took > ringTimeout {
			t.Errorf("good.*: after %s: %v\n%v", s.took, s.err, s.m)
		}
	}
}

// checkFailed checks that s got the response to a failure, or NODATA, within the time of a lookup.
func checkFailed(t *testing.T, s shot, rcode int) {
	t.Helper()
	if s.err != nil || s.m.Rcode != rcode || len(s.m.Answer) != 0 {
		t.Fatalf("%s after %s: %v\n%v", dns.Type(s.qtype), s.took, s.err, s.m)
	}
	if s.took > ringAttempts*ringTimeout+busy {
		t.Errorf("A query took %s", s.took)
	}
	ede := extendedError(s.m)
	explained := ede == int(dns.ExtendedErrorCodeNetworkError) || ede == int(dns.ExtendedErrorCodeNoReachableAuthority)
	if rcode == dns.RcodeServerFailure && !explained {
		t.Errorf("EDE %d:\n%v", ede, s.m)
	}
}

// checkNamed checks that the log names the targets. With "on_failure empty", the first server that gives up has no addresses
// for the others, and that is an answer.
func (r *ring) checkNamed(t *testing.T, rcode int) {
	t.Helper()
	targets := make([][]string, len(r.servers))
	for i := range r.servers {
		targets[i] = []string{"ring." + zoneAt((i+1)%len(r.servers))}
	}
	targets[0] = append(targets[0], "x."+zoneAt(1), "y."+zoneAt(1))
	named, all := 0, 0
	for i, s := range r.servers {
		for _, target := range targets[i] {
			for _, qtype := range families {
				all++
				prefix := fmt.Sprintf("Target %s. %s fails: ", target, dns.Type(qtype))
				l := line(s.log(t), prefix)
				_, reason, _ := strings.Cut(l, prefix)
				reason, _, _ = strings.Cut(reason, ";")
				if slices.Contains([]string{"timeout", "servfail"}, reason) || strings.HasPrefix(reason, "loop") {
					named++
				}
			}
		}
	}
	if named == 0 || rcode == dns.RcodeServerFailure && named < all {
		t.Errorf("%d messages about targets that fail, want %d", named, all)
	}
}

// checkRecovers gives the alias of the first server another target, and checks that all servers have its address without
// further help.
func (r *ring) checkRecovers(t *testing.T) {
	t.Helper()
	began := time.Now()
	write(t, filepath.Join(r.servers[0].Dir, "zone"), ringZone(zoneAt(1), "own."+zoneAt(1)))
	r.servers[0].signal(t, syscall.SIGUSR1)
	// Unbound caches SERVFAIL for 5 seconds. No client asks meanwhile, or back-off would become 10 seconds: so no query is passed on.
	passed := r.passed()
	time.Sleep(5 * time.Second)
	if n := r.passed() - passed; n > 0 {
		t.Errorf("%d queries of the resolver to the servers, and no client asks", n)
	}
	for i, s := range r.servers {
		eventually(t, 30*time.Second, zoneAt(i)+" recovers", func() bool {
			m, err := ask(s.addr, "udp", "ring."+zoneAt(i)+".", dns.TypeA)
			return err == nil && len(m.Answer) == 1
		})
		t.Logf("%s recovers after %s", zoneAt(i), time.Since(began))
	}
}

// DNAME records that lead around make a longer name in each server. They are no aliases, also with "flatten all": so the resolver
// sees one chain and ends it, and the servers look up nothing. The Recursor 4.8 ends it after a thousand queries.
func TestRingOfDNAMEs(t *testing.T) {
	t.Parallel()
	r := startRing(t, 2, startUnbound, "flatten all")
	const n = 10
	for i := range n {
		name := fmt.Sprintf("n%d.d.a.example.", i)
		m := query(t, r.servers[0].addr, "udp", name, dns.TypeA)
		checkRecords(t, m.Answer, "d.a.example. 300 IN DNAME d.d.b.example.", fmt.Sprintf("%s 300 IN CNAME n%d.d.d.b.example.", name, i))
		if m = query(t, r.resolver.addr, "udp", name, dns.TypeA); m.Rcode != dns.RcodeServerFailure {
			t.Errorf("From the resolver: %v", m)
		}
	}
	passed := r.paths.AskedAll()
	if lookups := r.requests(t, 0) + r.requests(t, 1); lookups > 0 || passed > 40*n {
		t.Errorf("%d queries: %d requests of the servers, want none; %d queries of the resolver, want at most %d", n, lookups, passed, 40*n)
	}
	t.Logf("%d queries to the resolver, and %d of it to the servers", n, passed)
}
