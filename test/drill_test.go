//go:build linux

package test

import (
	"flag"
	"slices"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

var update = flag.Bool("update", false, "write the figures of the drills, and of the scrape, into their pages")

const (
	outage = 12 * time.Second // how long it is wrong: two lookups fail, and the third, 15 s after the first, is to find all well

	// growth is by how much p99 may grow, beside what makes queries slow that need no resolver. On two cores with
	// a load of 10 it was 31 ms. Who waits for a lookup waits for 100 ms.
	growth = 40 * time.Millisecond

	// waited is less than a lookup that fails takes, which is the 500 ms of timeout.
	waited = 420 * time.Millisecond

	// patience bounds each single query: one attempt, and what a busy machine adds.
	patience = time.Second
)

// calm is how long clients ask before something goes wrong. The figures in README.md are to be of as many queries before as in
// an outage.
func calm() time.Duration {
	if *update {
		return outage
	}
	return outage / 3
}

// outlook is what the second half of an outage is like, when the TTLs of all answers from before it have run out.
type outlook int

const (
	dark   outlook = iota // no lookup succeeds: all answers are stale
	dim                   // some do: there are fresh answers
	either                // that is up to chance
	denied                // the target exists no more: no addresses
)

// drill is something that goes wrong while clients ask for the addresses of example.org.
type drill struct {
	name    string
	outlook outlook
	stage   func(t *testing.T) *stage
}

var drills = []drill{
	{"Resolver stopped (Unbound, SIGSTOP)", dark, stopped},
	{"Resolver killed (Unbound, SIGKILL)", dark, killed},
	{"Resolver slow: 400 ms, `timeout` is 500 ms", dim, faulty(upstream.Late(400*time.Millisecond, healthy))},
	{"Resolver slow: 600 ms, `timeout` is 500 ms", dark, faulty(upstream.Late(600*time.Millisecond, healthy))},
	{"Resolver loses 30 % of the packets each way", either, faulty(upstream.Lossy(0.3, 1, healthy))},
	{"Resolver answers SERVFAIL", dark, faulty(upstream.Rcode(dns.RcodeServerFailure))},
	{"Resolver answers REFUSED", dark, faulty(upstream.Rcode(dns.RcodeRefused))},
	{"Resolver answers garbage", dark, faulty(upstream.Garbage())},
	{"Resolver silent, wrong addresses from another port", dark, spoofed},
	{"One of two resolvers silent", dim, halved},
	{"No route to the resolver (network namespace)", dark, cutOff},
	{"Server killed and started again, resolver silent, `persist`", dark, restarted},
	{"Server reloaded, resolver silent", dark, reloaded},
	{"Disk full at `persist`, resolver silent", dark, diskFull},
	{"Clock a day forth, then two days back, resolver silent", dark, clockMoved},
	{"Server killed and started again with the clock a day ahead, resolver silent, `persist`", dark, clockWrong(day)},
	{"Server killed and started again with the clock a day behind, resolver silent, `persist`", dark, clockWrong(-day)},
	{"Target NXDOMAIN for 12 s and back, TTL 2 s, of NXDOMAIN 5 s", denied, faulty(upstream.Zone(soa))},
}

const (
	soa      = "hosting.example. 5 IN SOA ns1 hostmaster 1 7200 3600 1209600 5"
	addrA    = "example.org. IN A 203.0.113.80"
	addrAAAA = "example.org. IN AAAA 2001:db8:80::80"
)

var (
	records = []string{soa, "app.hosting.example. 2 IN A 203.0.113.80", "app.hosting.example. 2 IN AAAA 2001:db8:80::80"}
	healthy = upstream.Zone(records...)
)

// Whatever goes wrong, clients get the addresses, and get them as quickly as before.
func TestDrills(t *testing.T) {
	if !*update {
		checkTable(t)
	}
	clockBuild = buildWithClock(t)
	results := make([]result, len(drills))
	t.Cleanup(func() { // when all have ended
		if *update && !t.Failed() {
			writeTable(t, results)
		}
	})
	for i, d := range drills {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			results[i] = d.run(t)
			t.Log(results[i])
		})
	}
}

// result is what became of the queries of a drill.
type result struct {
	asked, answered, stale, empty, lost int
	slowest                             time.Duration
	before, during, control             time.Duration // p99, also of the other queries
	fresh                               time.Duration // from the end of the outage to the first fresh answer of the slower family
}

func (d drill) run(t *testing.T) result {
	s := d.stage(t)
	eventually(t, 5*time.Second, "the target is known", func() bool { return len(bothFresh(t, s.server)) == 2 })
	before, _ := s.ask(t, calm(), nil)
	checkAll(t, "before", before, func(s shot) bool { return s.answered() && !s.old() })

	s.begin()
	during, control := s.ask(t, outage, s.midway)
	d.check(t, during)
	s.end()

	r := count(during)
	others := notFirst(during)
	r.before, r.during, r.control = p99(before), p99(others), p99(control)
	if limit := max(r.before, r.control)*6/5 + growth; r.during > limit {
		t.Errorf("p99 is %s, after %s before. The slowest took %s, and of the other queries %s",
			r.during, r.before, slowest(others, 12), slowest(control, 12))
	}
	stall := slowest(control, 1)[0] // of the machine
	if worst := slowest(others, 1)[0]; worst > waited+stall {
		t.Errorf("Somebody waited %s for a lookup", worst)
	}
	if r.slowest > patience+stall {
		t.Errorf("A query took %s", r.slowest)
	}
	r.fresh = d.recover(t, s.server)
	if s.after != nil {
		s.after()
	}
	return r
}

// ask has clients ask for A and AAAA, 50 times a second. In between there are queries that have nothing to do with
// resolvers: they show what the machine makes queries wait for.
func (s *stage) ask(t *testing.T, d time.Duration, midway func()) (addresses, control []shot) {
	t.Helper()
	for _, s := range volley(t, s.server.addr, "example.org.", []uint16{dns.TypeA, dns.TypeMX, dns.TypeAAAA, dns.TypeMX}, d, midway) {
		if s.qtype == dns.TypeMX {
			control = append(control, s)
		} else {
			addresses = append(addresses, s)
		}
	}
	return addresses, control
}

// bothFresh returns the families that are answered, and not from the past.
func bothFresh(t *testing.T, server *process) map[uint16]bool {
	t.Helper()
	fresh := make(map[uint16]bool)
	for _, s := range volley(t, server.addr, "example.org.", families, 100*time.Millisecond, nil) {
		if s.answered() && !s.old() {
			fresh[s.qtype] = true
		}
	}
	return fresh
}

// check checks what clients got in an outage.
func (d drill) check(t *testing.T, shots []shot) {
	t.Helper()
	half := shots[len(shots)/2:]
	switch d.outlook {
	case denied:
		checkAll(t, "during", shots, func(s shot) bool { return s.answered() || s.denied() })
		checkAll(t, "in the second half", half, shot.denied)
		return
	case dark:
		checkAll(t, "in the second half", half, func(s shot) bool { return s.answered() && s.old() })
	case dim:
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if !slices.ContainsFunc(half, func(s shot) bool { return s.qtype == qtype && s.answered() && !s.old() }) {
				t.Errorf("No fresh answer for %s in the second half", dns.TypeToString[qtype])
			}
		}
	}
	checkAll(t, "during", shots, shot.answered)
}

// checkAll checks that right holds for all shots.
func checkAll(t *testing.T, when string, shots []shot, right func(shot) bool) {
	t.Helper()
	wrong := 0
	for _, s := range shots {
		if right(s) {
			continue
		}
		if wrong++; wrong <= 3 {
			t.Errorf("%s, %s after the first query, %s after %s: %v\n%v", when, s.asked.Sub(shots[0].asked),
				dns.TypeToString[s.qtype], s.took, s.err, s.m)
		}
	}
	if wrong > 0 {
		t.Errorf("%s, %d of %d are wrong", when, wrong, len(shots))
	}
}

// recover waits until both families are fresh, and returns how long that took since the end of the outage.
func (d drill) recover(t *testing.T, server *process) time.Duration {
	t.Helper()
	over := time.Now()
	var took time.Duration
	for back := make(map[uint16]bool); len(back) < 2; {
		if time.Since(over) > 30*time.Second {
			t.Fatalf("No fresh answers %s after the end of the outage", time.Since(over))
		}
		shots := volley(t, server.addr, "example.org.", families, time.Second, nil)
		checkAll(t, "after", shots, func(s shot) bool { return s.answered() || d.outlook == denied && s.denied() })
		for _, s := range shots {
			if s.answered() && !s.old() && !back[s.qtype] {
				back[s.qtype] = true
				took = max(took, s.asked.Sub(over))
			}
		}
	}
	return took
}

// answered reports whether s got the one address that there is, be it stale or fresh, with a TTL that goes with that.
func (s shot) answered() bool {
	if s.err != nil || s.m.Rcode != dns.RcodeSuccess || len(s.m.Answer) != 1 {
		return false
	}
	want := upstream.RRs(map[uint16]string{dns.TypeA: addrA, dns.TypeAAAA: addrAAAA}[s.qtype])[0]
	return dns.IsDuplicate(s.m.Answer[0], want) && (s.stale() || extendedError(s.m) == -1 && s.m.Answer[0].Header().Ttl <= 2)
}

// old reports whether s got an answer that is marked as stale.
func (s shot) old() bool {
	return s.err == nil && extendedError(s.m) == int(dns.ExtendedErrorCodeStaleAnswer)
}

// denied reports whether s got an answer that says that there are no addresses.
func (s shot) denied() bool {
	return s.err == nil && s.m.Rcode == dns.RcodeSuccess && len(s.m.Answer) == 0 && extendedError(s.m) == -1 &&
		len(s.m.Ns) == 1 && s.m.Ns[0].Header().Rrtype == dns.TypeSOA
}

func count(shots []shot) result {
	r := result{asked: len(shots), slowest: slowest(shots, 1)[0]}
	for _, s := range shots {
		switch {
		case s.answered():
			r.answered++
		case s.err == nil && s.m.Rcode == dns.RcodeSuccess && len(s.m.Answer) == 0:
			r.empty++
		default:
			r.lost++
		}
		if s.old() {
			r.stale++
		}
	}
	return r
}

// notFirst returns shots without those queries that find an outage out: for each family the first one that gets a stale
// answer after a fresh one. It is the one that asked first when the TTL had run out, and may have had to wait for the
// lookup that failed. Later lookups, after 5 s, 10 s and so on, are made in the background: nobody may wait for them, and
// nobody is left out.
func notFirst(shots []shot) []shot {
	var others []shot
	stale := make(map[uint16]bool)
	for _, s := range shots {
		first := s.old() && !stale[s.qtype]
		stale[s.qtype] = s.old()
		if !first {
			others = append(others, s)
		}
	}
	return others
}

// p99 returns what 99 of 100 queries do not exceed.
func p99(shots []shot) time.Duration {
	n := len(shots) / 100
	return slowest(shots, n+1)[n]
}
