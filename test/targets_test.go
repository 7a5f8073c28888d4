package test

import (
	"fmt"
	"slices"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// The addresses of two targets, by type.
var (
	firstTarget  = map[uint16]string{dns.TypeA: "203.0.113.80", dns.TypeAAAA: "2001:db8:80::80"}
	secondTarget = map[uint16]string{dns.TypeA: "203.0.113.90", dns.TypeAAAA: "2001:db8:90::90"}
)

// Under a steady load, one of two targets begins to time out, and later answers again. No client gets an empty, a stale or
// a slow answer, and all get the addresses of the other target alone within the TTL. With failover, these are not served as
// long as the first answers.
func TestTargetGoesAndComesBack(t *testing.T) {
	const (
		ttl     = 4 * time.Second
		timeout = 500 * time.Millisecond
		// A prefetch begins a second before the end of the TTL, so by then the failure of the three attempts is known.
		known = ttl - time.Second + 3*timeout
		// The target answers again when its failure is known, and before the end of the first back-off of 5 seconds.
		dead = ttl + time.Second
		back = known + 5*time.Second + time.Second
		// A query that waits for a lookup in flight takes longer.
		bound = 100 * time.Millisecond
	)
	for _, kind := range []string{"record", "failover"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			var isDead atomic.Bool
			zone := upstream.Zone(
				"first.hosting.example. 4 IN A 203.0.113.80", "first.hosting.example. 4 IN AAAA 2001:db8:80::80",
				"second.hosting.example. 4 IN A 203.0.113.90", "second.hosting.example. 4 IN AAAA 2001:db8:90::90")
			up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
				if !isDead.Load() || r.Question[0].Name != "first.hosting.example." {
					zone(w, r)
				}
			})
			port := freePort(t)
			server := serve(t, port, block("example.org", port, fmt.Sprintf(`
				%s @ first.hosting.example second.hosting.example
				min_ttl 1s
				timeout %s
				upstream %s`, kind, timeout, up.Addr), ""))
			both := func(qtype uint16) []string {
				if kind == "failover" {
					return []string{firstTarget[qtype]}
				}
				return []string{firstTarget[qtype], secondTarget[qtype]}
			}
			for _, qtype := range families {
				eventually(t, 5*time.Second, "the names are warm", func() bool {
					return slices.Equal(addressesIn(query(t, server.addr, "udp", "example.org.", qtype)), both(qtype))
				})
			}

			var died time.Time
			shots := volley(t, server.addr, "example.org.", families, 24*time.Second, func() {
				died = time.Now()
				isDead.Store(true)
				time.AfterFunc(dead, func() { isDead.Store(false) })
			})
			counts := make(map[string]int)
			for _, s := range shots {
				if s.err != nil || s.m.Rcode != dns.RcodeSuccess || len(s.m.Answer) == 0 || !s.fresh() {
					t.Fatalf("%s after %s: %v\n%v", dns.TypeToString[s.qtype], s.took, s.err, s.m)
				}
				got, second := addressesIn(s.m), []string{secondTarget[s.qtype]}
				before, after := s.asked.Before(died), s.asked.Sub(died)
				switch whole, alone := slices.Equal(got, both(s.qtype)), slices.Equal(got, second); {
				case !whole && !alone,
					alone && (before || after > back),
					whole && after > ttl+bound && after < dead:
					t.Errorf("%s asked %s after the target died: %v", dns.TypeToString[s.qtype], after.Round(time.Millisecond), got)
				case alone:
					counts["second"]++
				case after > back:
					counts["back"]++
				}
			}
			t.Logf("%d answers, %d without the target, %d after it was back; the slowest took %v", len(shots), counts["second"], counts["back"], slowest(shots, 5))
			if counts["second"] < 50 || counts["back"] < 50 {
				t.Errorf("too few answers of a kind: %v", counts)
			}
			if took := slowest(shots, 1)[0]; took > bound {
				t.Errorf("an answer took %s", took)
			}
			want := 0
			if kind == "failover" {
				want = len(families)
			}
			for _, text := range []string{": second.hosting.example. answers in its place", ": back to first.hosting.example."} {
				if n := server.logged(t, text); n != want {
					t.Errorf("%q was logged %d times, want %d", text, n, want)
				}
			}
		})
	}
}

// addressesIn returns the addresses in the answer section of m, in their order.
func addressesIn(m *dns.Msg) []string {
	var addrs []string
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			addrs = append(addrs, rr.A.String())
		case *dns.AAAA:
			addrs = append(addrs, rr.AAAA.String())
		}
	}
	return addrs
}

// A secondary gets what clients of the server get: the addresses of all targets, or of the first of a failover, and it
// follows them.
func TestSecondaryOfSeveralTargets(t *testing.T) {
	t.Parallel()
	host := func(second string) upstream.Handler {
		return upstream.Zone(
			"first.hosting.example. 5 IN A 203.0.113.80", "first.hosting.example. 5 IN AAAA 2001:db8:80::80",
			"second.hosting.example. 5 IN A "+second, "second.hosting.example. 5 IN AAAA 2001:db8:90::90")
	}
	up := upstream.New(t, host("203.0.113.90"))
	ports := []string{freePort(t), freePort(t)}
	primary := startServer(t, ports[0], zoneDir(t, ports[0], `$TTL 300
@   IN SOA   ns1 hostmaster 1 7200 3600 1209600 300
    IN NS    ns1
    IN ALIAS second.hosting.example.
    IN ALIAS first.hosting.example.
ns1 IN A     192.0.2.53
`, `
		record both first.hosting.example second.hosting.example
		failover over first.hosting.example second.hosting.example
		upstream `+up.Addr, transferTo(local(ports[1]))), "Corefile")
	nsd := startNSD(t, ports[1], primary.addr, "")
	unions, failover := []string{"example.org.", "both.example.org."}, []string{"over.example.org."}
	first, second := []string{"2001:db8:80::80", "203.0.113.80"}, []string{"2001:db8:90::90", "203.0.113.90"}
	awaits := func(patience time.Duration, union, over []string) uint32 {
		t.Helper()
		slices.Sort(union)
		awaitAddresses(t, patience, []*process{nsd}, unions, union)
		awaitAddresses(t, 5*time.Second, []*process{nsd}, failover, over)
		time.Sleep(3 * time.Second) // the aliases of a target are not all looked up in the same moment
		for _, name := range slices.Concat(unions, failover) {
			if here, there := primary.all(t, name), nsd.all(t, name); !slices.Equal(here, there) {
				t.Errorf("%s has %v on the primary and %v on the secondary", name, here, there)
			}
		}
		serial := nsd.serial(t)
		if here := primary.serial(t); here != serial {
			t.Errorf("The serial is %d on the primary and %d on the secondary", here, serial)
		}
		return serial
	}
	before := awaits(15*time.Second, slices.Concat(first, second), first)

	up.Set(host("203.0.113.91"))
	changed := awaits(follows, slices.Concat(first, second[:1], []string{"203.0.113.91"}), first)
	checkGrown(t, before, changed)

	now := host("203.0.113.91")
	up.Set(func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "first.hosting.example." {
			upstream.Rcode(dns.RcodeServerFailure)(w, r)
			return
		}
		now(w, r)
	})
	over := awaits(follows, []string{"2001:db8:90::90", "203.0.113.91"}, []string{"2001:db8:90::90", "203.0.113.91"})
	checkGrown(t, changed, over)

	up.Set(now)
	checkGrown(t, over, awaits(2*follows, slices.Concat(first, second[:1], []string{"203.0.113.91"}), first)) // after a back-off of a minute at most
}
