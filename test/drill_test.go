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

var update = flag.Bool("update", false, "write the figures of the drills and of the dashboard's queries into their pages")

const (
	// outage is how long a fault lasts. Two lookups fail in it; the third, 15 s after the first, succeeds.
	outage = 12 * time.Second

	// growth is by how much p99 may grow, beyond what slows down queries that need no resolver. On two cores with a
	// load of 10 it grew by 31 ms. A client that waits for a lookup waits for 100 ms or more.
	growth = 40 * time.Millisecond

	// waited is less than the duration of a lookup that fails, which is the 500 ms of timeout.
	waited = 420 * time.Millisecond

	// patience bounds each query: one attempt, and what a busy machine adds.
	patience = time.Second
)

// calm is how long clients ask before the fault. For the figures in README.md there are as many queries before the fault as
// during it.
func calm() time.Duration {
	if *update {
		return outage
	}
	return outage / 3
}

// expectation is what the answers in the second half of an outage must be. By then all answers from before it are expired.
type expectation int

const (
	allStale   expectation = iota // no lookup succeeds
	someFresh                     // some lookups succeed
	anyAddress                    // fresh or stale, by chance
	noAddress                     // the target does not exist any more
)

// drill is a fault while clients ask for the addresses of example.org.
type drill struct {
	name   string
	expect expectation
	stage  func(t *testing.T) *stage
}

var drills = []drill{
	{"Resolver stopped (Unbound, SIGSTOP)", allStale, stopped},
	{"Resolver killed (Unbound, SIGKILL)", allStale, killed},
	{"Resolver slow: 400 ms, `timeout` is 500 ms", someFresh, faulty(upstream.Late(400*time.Millisecond, healthy))},
	{"Resolver slow: 600 ms, `timeout` is 500 ms", allStale, faulty(upstream.Late(600*time.Millisecond, healthy))},
	{"Resolver loses 30 % of the packets each way", anyAddress, faulty(upstream.Lossy(0.3, 1, healthy))},
	{"Resolver answers SERVFAIL", allStale, faulty(upstream.Rcode(dns.RcodeServerFailure))},
	{"Resolver answers REFUSED", allStale, faulty(upstream.Rcode(dns.RcodeRefused))},
	{"Resolver answers garbage", allStale, faulty(upstream.Garbage())},
	{"Resolver silent, wrong addresses from another port", allStale, spoofed},
	{"One of two resolvers silent", someFresh, halved},
	{"No route to the resolver (network namespace)", allStale, cutOff},
	{"Server killed and started again, resolver silent, `persist`", allStale, restarted},
	{"Server reloaded, resolver silent", allStale, reloaded},
	{"Disk full at `persist`, resolver silent", allStale, diskFull},
	{"Clock a day forward, then two days back, resolver silent", allStale, clockMoved},
	{"Server killed and started again with the clock a day ahead, resolver silent, `persist`", allStale, clockWrong(day)},
	{"Server killed and started again with the clock a day behind, resolver silent, `persist`", allStale, clockWrong(-day)},
	{"Server killed and started again, resolver silent, `share`", allStale, restartedWith()},
	{"Server killed and started again, resolver silent, `persist` and `share`", allStale, restartedWith("persist answers")},
	{"Store of `share` killed (Redis, SIGKILL), resolver silent", allStale, without(storeKilled)},
	{"Store stopped (SIGSTOP), resolver silent", allStale, without(storeStopped)},
	{"Store stopped (SIGSTOP), resolver silent, `persist` and `share`", allStale, without(storeStopped, "persist answers")},
	{"Store slow: 200 ms, resolver silent", allStale, storeSlow},
	{"Store full, resolver silent", allStale, without(storeFull)},
	{"Store read-only, resolver silent", allStale, without(storeReadOnly)},
	{"Store has another password, resolver silent", allStale, without(storeLocked)},
	{"Store flushed, resolver silent", allStale, without(storeFlushed)},
	{"Target NXDOMAIN for 12 s and back, TTL 2 s, negative TTL 5 s", noAddress, faulty(upstream.Zone(soa))},
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

// In each fault, clients get the addresses, and get them as quickly as before.
func TestDrills(t *testing.T) {
	if !*update {
		checkTable(t)
	}
	clockBuild = buildWithClock(t)
	results := make([]result, len(drills))
	t.Cleanup(func() { // after the last drill
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

// result has the figures of a drill. Counts are of the queries during the outage.
type result struct {
	asked, answered, stale, empty, lost int
	slowest                             time.Duration
	before, during, control             time.Duration // p99; control is that of the control queries during the outage
	fresh                               time.Duration // from the end of the outage until both families have had a fresh answer
}

func (d drill) run(t *testing.T) result {
	s := d.stage(t)
	eventually(t, 5*time.Second, "both families have a fresh answer", func() bool { return len(freshFamilies(t, s.server)) == 2 })
	before, _ := s.ask(t, calm(), nil)
	checkAll(t, "before", before, func(s shot) bool { return s.answered() && !s.marked() })

	s.begin()
	during, control := s.ask(t, outage, s.midway)
	d.check(t, during)
	s.end()

	r := count(during)
	others := notFirst(during)
	r.before, r.during, r.control = p99(before), p99(others), p99(control)
	if limit := max(r.before, r.control)*6/5 + growth; r.during > limit {
		t.Errorf("p99 is %s, and was %s before. The slowest queries took %s, the slowest control queries %s",
			r.during, r.before, slowest(others, 12), slowest(control, 12))
	}
	stall := slowest(control, 1)[0] // how long the machine delayed a query
	if worst := slowest(others, 1)[0]; worst > waited+stall {
		t.Errorf("A client waited %s for a lookup", worst)
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

// ask sends queries for A and AAAA, 50 a second. In between it sends control queries, which need no resolver: they show how
// long the machine delays a query.
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

// freshFamilies returns the families that have a fresh answer.
func freshFamilies(t *testing.T, server *process) map[uint16]bool {
	t.Helper()
	fresh := make(map[uint16]bool)
	for _, s := range volley(t, server.addr, "example.org.", families, 100*time.Millisecond, nil) {
		if s.answered() && !s.marked() {
			fresh[s.qtype] = true
		}
	}
	return fresh
}

// check checks the responses during an outage.
func (d drill) check(t *testing.T, shots []shot) {
	t.Helper()
	half := shots[len(shots)/2:]
	switch d.expect {
	case noAddress:
		checkAll(t, "during", shots, func(s shot) bool { return s.answered() || s.denied() })
		checkAll(t, "in the second half", half, shot.denied)
		return
	case allStale:
		checkAll(t, "in the second half", half, func(s shot) bool { return s.answered() && s.marked() })
	case someFresh:
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if !slices.ContainsFunc(half, func(s shot) bool { return s.qtype == qtype && s.answered() && !s.marked() }) {
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

// recover waits until both families have had a fresh answer, and returns how long that took from the end of the outage.
func (d drill) recover(t *testing.T, server *process) time.Duration {
	t.Helper()
	over := time.Now()
	var took time.Duration
	for back := make(map[uint16]bool); len(back) < 2; {
		if time.Since(over) > 30*time.Second {
			t.Fatalf("No fresh answers %s after the end of the outage", time.Since(over))
		}
		shots := volley(t, server.addr, "example.org.", families, time.Second, nil)
		checkAll(t, "after", shots, func(s shot) bool { return s.answered() || d.expect == noAddress && s.denied() })
		for _, s := range shots {
			if s.answered() && !s.marked() && !back[s.qtype] {
				back[s.qtype] = true
				took = max(took, s.asked.Sub(over))
			}
		}
	}
	return took
}

// answered reports whether s got the address of example.org, with the TTL of a fresh answer or that of a stale one.
func (s shot) answered() bool {
	if s.err != nil || s.m.Rcode != dns.RcodeSuccess || len(s.m.Answer) != 1 {
		return false
	}
	want := upstream.RRs(map[uint16]string{dns.TypeA: addrA, dns.TypeAAAA: addrAAAA}[s.qtype])[0]
	return dns.IsDuplicate(s.m.Answer[0], want) && (s.stale() || extendedError(s.m) == -1 && s.m.Answer[0].Header().Ttl <= 2)
}

// marked reports whether s got a response with the Extended DNS Error of a stale answer.
func (s shot) marked() bool {
	return s.err == nil && extendedError(s.m) == int(dns.ExtendedErrorCodeStaleAnswer)
}

// denied reports whether s got NODATA.
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
		if s.marked() {
			r.stale++
		}
	}
	return r
}

// notFirst returns shots without the first stale answer of each family after a fresh one: that query was the first after the
// TTL had run out, and may have waited for the lookup that failed. Later lookups, after 5 s, 10 s and so on, run in the
// background, and no client may wait for them.
func notFirst(shots []shot) []shot {
	var others []shot
	stale := make(map[uint16]bool)
	for _, s := range shots {
		first := s.marked() && !stale[s.qtype]
		stale[s.qtype] = s.marked()
		if !first {
			others = append(others, s)
		}
	}
	return others
}

// p99 returns the duration that 99 of 100 queries do not exceed.
func p99(shots []shot) time.Duration {
	n := len(shots) / 100
	return slowest(shots, n+1)[n]
}
