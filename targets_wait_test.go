package alias

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// newStates returns an upstream for targets t<i>.example, which says of each what the test has it say.
func newStates(t *testing.T) (*statesUpstream, *fake.Server) {
	u := &statesUpstream{says: make(map[string]string)}
	return u, fake.New(t, u.ServeDNS)
}

// addressesOf returns the addresses of the targets with these numbers, in their order: each has one of its own, and all
// have 192.0.2.1.
func addressesOf(targets ...int) (addrs []string) {
	for n, i := range targets {
		addrs = append(addrs, fmt.Sprintf("192.0.2.1%d", i))
		if n == 0 {
			addrs = append(addrs, "192.0.2.1")
		}
	}
	return addrs
}

// wantAddresses checks that a query for example.org A is answered with these addresses in this order, and returns how long
// it took.
func wantAddresses(t *testing.T, a *Alias, what string, want ...string) time.Duration {
	t.Helper()
	began := time.Now()
	m := query(t, a, "example.org.", dns.TypeA)
	if got := addressesIn(m); !slices.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
	return time.Since(began)
}

// Where no answer is cached, all targets are looked up at the same time, also those of aliases that targets lead to inside ZONES.
func TestTargetsLookedUpAtOnce(t *testing.T) {
	for name, tc := range map[string]struct {
		properties string
		zone       []string
		want       []int
	}{
		"record":   {properties: "record @ t0.example t1.example t2.example t3.example", want: []int{0, 1, 2, 3}},
		"failover": {properties: "failover @ t0.example t1.example t2.example t3.example", want: []int{0}},
		"nested": {properties: "record @ in t2.example t3.example", want: []int{0, 1, 2, 3},
			zone: []string{"in.example.org. 60 IN ALIAS t0.example.", "in.example.org. 60 IN ALIAS t1.example."}},
		"one target to two": {properties: "record @ in.example.org", want: []int{0, 1, 2, 3}, zone: []string{
			"in.example.org. 60 IN ALIAS t0.example.", "in.example.org. 60 IN ALIAS t1.example.",
			"in.example.org. 60 IN ALIAS t2.example.", "in.example.org. 60 IN ALIAS t3.example."}},
	} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32
			all := make(chan struct{})
			u := new(statesUpstream)
			up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
				if asked.Add(1) == 4 {
					close(all)
				}
				<-all // it answers none before it has got all
				u.ServeDNS(w, r)
			})
			properties := strings.Replace(tc.properties, "@ in ", "@ in.example.org ", 1)
			t.Cleanup(func() {
				if asked.Load() < 4 { // or its goroutines would not end
					close(all)
				}
			})
			a, _ := newAlias(t, "example.org", "timeout 2s\nretries 0\nupstream "+up.Addr+"\n"+properties, zoneFile(t, nil, tc.zone...))
			wantAddresses(t, a, "first", addressesOf(tc.want...)...)
		})
	}
}

// A target that does not answer, and of which nothing is cached, delays the first answer by an attempt, and no others:
// neither while its lookup goes on, nor when it fails, nor when it is looked up again.
func TestDeadTargetDelaysOnce(t *testing.T) {
	logged(t)
	const timeout = 400 * time.Millisecond
	const zone = "in.example.org. 60 IN ALIAS t0.example.\nin.example.org. 60 IN ALIAS t1.example."
	for _, tc := range []struct {
		name, properties string
		zone             []string
		want             []int
		late             bool // the first answer waits
	}{
		{"record", "record @ t0.example t1.example t2.example", nil, []int{1, 2}, true},
		{"failover", "failover @ t0.example t1.example t2.example", nil, []int{1}, true},
		{"failover, not the first", "failover @ t1.example t0.example", nil, []int{1}, false},
		{"nested", "record @ in.example.org t2.example", strings.Split(zone, "\n"), []int{1, 2}, true},
		{"nested failover", "record @ in.example.org t2.example\nfailover in t0.example t1.example", nil, []int{1, 2}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			u, up := newStates(t)
			u.say("t0.example.", "silent")
			a, c := newAlias(t, "example.org", fmt.Sprintf("timeout %s\nretries 2\nupstream %s\n%s", timeout, up.Addr, tc.properties),
				zoneFile(t, nil, tc.zone...))
			want := addressesOf(tc.want...)
			if took := wantAddresses(t, a, "first", want...); took > timeout+timeout/2 || took > timeout/2 != tc.late {
				t.Errorf("the first answer took %s", took)
			}
			for range 10 { // the lookup makes further attempts
				if took := wantAddresses(t, a, "next", want...); took > timeout/4 {
					t.Errorf("the next answer took %s", took)
				}
			}
			failing := func() bool { return a.cache.entries.Load(question("t0.example.", dns.TypeA)).Failing() }
			wait(t, 5*timeout, "the lookup does not fail", failing)
			for range 10 { // it backs off, and then it is looked up in the background
				if took := wantAddresses(t, a, "failing", want...); took > timeout/4 {
					t.Errorf("an answer took %s while the target fails", took)
				}
				c.Advance(time.Second)
			}
			asked := up.Asked("t0.example.", dns.TypeA)
			wait(t, 5*timeout, "the target is not looked up again", func() bool {
				wantAddresses(t, a, "failing", want...)
				c.Advance(time.Second)
				return up.Asked("t0.example.", dns.TypeA) > asked
			})
		})
	}
}

// A stale answer of one target is served as soon as the first attempt for another has failed, and at once while that fails.
func TestStaleEndsTheWait(t *testing.T) {
	logged(t)
	const timeout = 300 * time.Millisecond
	for _, kind := range []string{"record", "failover"} {
		u, up := newStates(t)
		a, c := newAlias(t, "example.org", fmt.Sprintf("record w t1.example\n%s @ t0.example t1.example\ntimeout %s\nretries 5\nupstream %s",
			kind, timeout, up.Addr), zoneFile(t, nil))
		query(t, a, "w.example.org.", dns.TypeA)
		c.Advance(61 * time.Second)
		u.say("t1.example.", "fails")
		u.say("t0.example.", "silent")
		query(t, a, "w.example.org.", dns.TypeA)
		if took := wantAddresses(t, a, kind, addressesOf(1)...); took > 2*timeout {
			t.Errorf("%s: the first answer took %s", kind, took)
		}
		if took := wantAddresses(t, a, kind, addressesOf(1)...); took > timeout/3 {
			t.Errorf("%s: the next answer took %s", kind, took)
		}
	}
}

// Queries that do not wait for a lookup do not pile up goroutines while it goes on.
func TestUnneededLookupTakesNoGoroutines(t *testing.T) {
	u, up := newStates(t)
	u.say("t1.example.", "silent")
	a, _ := newAlias(t, "example.org", "failover @ t0.example t1.example\ntimeout 1s\nupstream "+up.Addr, zoneFile(t, nil))
	wantAddresses(t, a, "first", addressesOf(0)...)
	before := runtime.NumGoroutine()
	for range 1000 {
		wantAddresses(t, a, "next", addressesOf(0)...)
	}
	if n := runtime.NumGoroutine() - before; n > 20 {
		t.Errorf("%d more goroutines", n)
	}
}

// Aliases with several targets that lead to others, in circles, and to the same twice.
func TestTargetsInsideZones(t *testing.T) {
	log := logged(t)
	_, up := newStates(t)
	zone := []string{
		"example.org. 600 IN ALIAS own.example.org.", "example.org. 600 IN ALIAS t0.example.",
		"own.example.org. 40 IN A 203.0.113.1",
		"two.example.org. 50 IN ALIAS t1.example.", "two.example.org. 50 IN ALIAS t2.example.",
		"over.example.org. 600 IN ALIAS cname.example.org.", "over.example.org. 600 IN ALIAS t3.example.",
		"cname.example.org. 45 IN CNAME two.example.org.",
		"a.example.org. 600 IN ALIAS b.example.org.", "a.example.org. 600 IN ALIAS t4.example.",
		"b.example.org. 600 IN ALIAS a.example.org.", "b.example.org. 600 IN ALIAS t5.example.",
		"x.example.org. 600 IN ALIAS y.example.org.", "x.example.org. 600 IN ALIAS x.example.org.",
		"y.example.org. 600 IN ALIAS x.example.org.", "y.example.org. 600 IN ALIAS y.example.org.",
		"none.example.org. 600 IN ALIAS own.example.org.", "none.example.org. 600 IN ALIAS missing.example.org.",
		"empty.example.org. 600 IN ALIAS nothing.example.org.", "empty.example.org. 600 IN ALIAS missing.example.org.",
	}
	// Of the targets of diamond, the first is t6 alone, and the second is what the first of them does not use.
	a, c := newAlias(t, "example.org", `
		failover left t6.example two.example.org
		record right two.example.org t7.example
		record diamond left.example.org right.example.org
		failover first two.example.org t8.example
		record one first.example.org 20
		upstream `+up.Addr, zoneFile(t, nil, zone...))
	for _, tc := range []struct {
		name   string
		ttl    int
		want   []string
		failed bool
	}{
		{name: "example.org.", ttl: 40, want: append(addressesOf(0), "203.0.113.1")}, // in canonical order
		{name: "two.example.org.", ttl: 50, want: addressesOf(1, 2)},
		{name: "cname.example.org.", ttl: 50, want: addressesOf(1, 2)},
		{name: "over.example.org.", ttl: 45, want: append(addressesOf(3), "192.0.2.11", "192.0.2.12")},
		{name: "diamond.example.org.", ttl: 50, want: addressesOf(6, 1, 2, 7)},
		{name: "one.example.org.", ttl: 20, want: addressesOf(1, 2)},
		{name: "a.example.org.", ttl: 55, want: addressesOf(5, 4)},
		{name: "b.example.org.", ttl: 55, want: addressesOf(4, 5)},
		{name: "x.example.org.", failed: true},
		{name: "none.example.org.", ttl: 40, want: []string{"203.0.113.1"}},
		{name: "empty.example.org."},
	} {
		for range 2 {
			m := query(t, a, tc.name, dns.TypeA)
			if got := addressesIn(m); !slices.Equal(got, tc.want) {
				t.Errorf("%s: %v, want %v", tc.name, got, tc.want)
			}
			for _, rr := range m.Answer {
				if rr.Header().Rrtype == dns.TypeA && int(rr.Header().Ttl) != tc.ttl {
					t.Errorf("%s: TTL %d, want %d", tc.name, rr.Header().Ttl, tc.ttl)
				}
			}
			if failed := len(ede(m)) > 0; failed != tc.failed {
				t.Errorf("%s: EDE %v", tc.name, ede(m))
			}
		}
	}
	for range 3 {
		c.Advance(2 * time.Second)
		if n := counted(t, answered(failed), func() { query(t, a, "x.example.org.", dns.TypeA) }); n != 1 {
			t.Errorf("%v failures were counted", n)
		}
	}
	if n := strings.Count(log.String(), "Alias to y.example.org. A fails: loop"); n != 1 {
		t.Errorf("the circle was logged %d times:\n%s", n, log)
	}
}

// Aliases with several targets that lead to very many others end soon.
func TestManyNestedTargets(t *testing.T) {
	logged(t)
	_, up := newStates(t)
	var zone []string
	const layers = 10
	for layer := range layers {
		for i := range 10 {
			for j := range 10 {
				target := fmt.Sprintf("l%d-%d.example.org.", layer+1, j)
				if layer == layers-1 {
					target = fmt.Sprintf("t%d.example.", j)
				}
				zone = append(zone, fmt.Sprintf("l%d-%d.example.org. 60 IN ALIAS %s", layer, i, target))
			}
		}
	}
	a, _ := newAlias(t, "example.org", "upstream "+up.Addr, zoneFile(t, nil, zone...))
	began := time.Now()
	m := query(t, a, "l0-0.example.org.", dns.TypeA)
	if took := time.Since(began); took > 2*time.Second || len(m.Answer) == 0 {
		t.Errorf("after %s: %v", took, m)
	}
}

// The metric and the log say when a failover goes over to another target, and back, once for each change and type.
func TestFailoverIsNoted(t *testing.T) {
	log := logged(t)
	u, up := newStates(t)
	a, c := newAlias(t, "example.org", "failover @ t0.example t1.example t2.example\nretries 0\nstale 0\nupstream "+up.Addr, zoneFile(t, nil))
	over, back := failovers.WithLabelValues("example.org.", "over"), failovers.WithLabelValues("example.org.", "back")
	overBefore, backBefore := testutil.ToFloat64(over), testutil.ToFloat64(back)
	for i, step := range []struct {
		fail       []int
		serves     int // the target that answers, or -1
		over, back float64
		logged     string
	}{
		{nil, 0, 0, 0, ""},
		{[]int{0}, 1, 1, 0, "[WARNING] plugin/alias: Failover of t0.example. A: t1.example. answers in its place\n"},
		{[]int{0, 1}, 2, 2, 0, "[WARNING] plugin/alias: Failover of t0.example. A: t2.example. answers in its place\n"},
		{[]int{0, 1, 2}, -1, 2, 0, ""},
		{[]int{0}, 1, 2, 1, "[INFO] plugin/alias: Failover of t0.example. A: back to t1.example.\n"},
		{nil, 0, 2, 2, "[INFO] plugin/alias: Failover of t0.example. A: back to t0.example.\n"},
		{[]int{1, 2}, 0, 2, 2, ""},
	} {
		for n := range 3 {
			what := "well"
			if slices.Contains(step.fail, n) {
				what = "fails"
			}
			u.say(fmt.Sprintf("t%d.example.", n), what)
		}
		c.Advance(2 * time.Minute) // all answers have expired, and no target backs off
		for range 5 {
			var want []string
			if step.serves >= 0 {
				want = addressesOf(step.serves)
			}
			query(t, a, "example.org.", dns.TypeA)
			a.cache.wg.Wait() // for the lookups in the background of targets that failed
			wantAddresses(t, a, fmt.Sprint("step ", i), want...)
		}
		if o, b := testutil.ToFloat64(over)-overBefore, testutil.ToFloat64(back)-backBefore; o != step.over || b != step.back {
			t.Errorf("step %d: %g times over and %g back, want %g and %g", i, o, b, step.over, step.back)
		}
		if step.logged != "" && strings.Count(log.String(), step.logged) != 1 {
			t.Errorf("step %d: not once in the log: %s", i, step.logged)
		}
		log.Reset()
	}
}

// All targets are looked up at start-up, and the plugin is ready when all were.
func TestAllTargetsArePrimed(t *testing.T) {
	u, up := newStates(t)
	u.say("t2.example.", "silent")
	a, _ := newAlias(t, "example.org", `
		record @ t0.example t1.example
		failover f t2.example t3.example
		record r in.example.org
		timeout 300ms
		retries 0
		upstream `+up.Addr, zoneFile(t, nil, "in.example.org. 60 IN ALIAS t4.example.", "in.example.org. 60 IN ALIAS t5.example."))
	running.prime(nil)
	for i := range 6 {
		for _, qtype := range addressTypes {
			wait(t, 200*time.Millisecond, "not all targets are looked up at once", func() bool { return up.Asked(fmt.Sprintf("t%d.example.", i), qtype) > 0 })
		}
	}
	if a.ready() {
		t.Error("ready before all targets were looked up")
	}
	wait(t, 2*time.Second, "not ready", a.ready)
	asked := up.AskedAll()
	wantAddresses(t, a, "after the start", addressesOf(0, 1)...)
	query(t, a, "f.example.org.", dns.TypeA)
	query(t, a, "r.example.org.", dns.TypeA)
	if n := up.AskedAll(); n != asked {
		t.Errorf("%d more lookups", n-asked)
	}
}

// A TXT response names all targets.
func TestTextOfSeveralTargets(t *testing.T) {
	a, _ := newAlias(t, "example.org", "txt\nfailover f b.example a.example\nrecord r b.example a.example\nupstream 127.0.0.1",
		zoneFile(t, nil, "example.org. 60 IN ALIAS b.example.", "example.org. 60 IN ALIAS a.example."))
	for name, want := range map[string]string{
		"f.example.org.": `f.example.org. 3600 IN TXT "ALIAS for b.example a.example"`,
		"r.example.org.": `r.example.org. 3600 IN TXT "ALIAS for b.example a.example"`,
		"example.org.":   `example.org. 60 IN TXT "ALIAS for a.example b.example"`,
	} {
		queryTest{name: name, qtype: dns.TypeTXT, answer: []string{want}}.check(t, a)
	}
}
