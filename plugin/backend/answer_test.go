package backend_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/test/race"

	"github.com/coredns/coredns/plugin"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// However many callers ask when the backend answer is no longer valid, the backend is queried once about the addresses,
// and once about the alias.
func TestAskedOnce(t *testing.T) {
	b := newBackend(t, zone(t, "example.org. 60 IN ALIAS target.example.", "www.example.org. 60 IN A 203.0.113.80"), nil)
	b.delay = 20 * time.Millisecond
	for name, want := range map[string][]string{
		"example.org.":      {"example.org. A", "example.org. ALIAS"},
		"www.example.org.":  {"www.example.org. A"},
		"none.example.org.": {"none.example.org. A"},
	} {
		for range 3 {
			var callers sync.WaitGroup
			for range 100 {
				callers.Go(func() {
					if got := b.Answer(a(name)); got.Msg == nil || (got.Alias != nil) != (name == "example.org.") {
						t.Errorf("%s: %+v", name, got)
					}
				})
			}
			callers.Wait()
			b.asked(t, name, want...)
			b.advance(time.Second)
		}
	}
}

// The backend is queried once a second at most, and less often when the data is not its own.
func TestAskedRarely(t *testing.T) {
	for _, tc := range []struct {
		name  string
		next  plugin.Handler
		valid time.Duration
	}{
		{"own", respond(func(m *dns.Msg) { m.Authoritative, m.Rcode = true, dns.RcodeNameError }), time.Second},
		{"foreign", respond(func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }), 30 * time.Second},
		{"foreign addresses", respond(func(m *dns.Msg) { m.Answer = rrs("x.example.org. 60 IN A 192.0.2.1") }), 30 * time.Second},
		{"foreign, with an alias", respond(func(m *dns.Msg) { m.Answer = rrs("x.example.org. 60 IN CNAME target.example.") }), time.Second},
		{"foreign addresses, with an NS record", respond(func(m *dns.Msg) {
			m.Answer, m.Ns = rrs("x.example.org. 60 IN A 192.0.2.1"), rrs("example.org. 60 IN NS ns.example.")
		}), 30 * time.Second},
		{"referral", respond(func(m *dns.Msg) { m.Ns = rrs("example.org. 60 IN NS ns.example.") }), time.Second},
		{"refused, with an NS record", respond(func(m *dns.Msg) {
			m.Rcode, m.Ns = dns.RcodeRefused, rrs("example.org. 60 IN NS ns.example.")
		}), 30 * time.Second},
		{"foreign negative answer", respond(func(m *dns.Msg) { m.Ns = rrs("example.org. 60 IN NS ns.example.", soa) }), 30 * time.Second},
		{"no response", plugin.HandlerFunc(func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) {
			return dns.RcodeServerFailure, nil
		}), time.Second},
	} {
		b := newBackend(t, tc.next, func(cfg *backend.Config) { cfg.Flatten = backend.FlattenAll })
		for i, step := range []struct {
			after   time.Duration
			queries []string
		}{{0, []string{"x.example.org. A"}}, {tc.valid - 1, nil}, {1, []string{"x.example.org. A"}}} {
			b.advance(step.after)
			for range 100 {
				b.Answer(a("x.example.org."))
			}
			b.asked(t, fmt.Sprintf("%s, step %d", tc.name, i), step.queries...)
		}
	}
}

// Where the backend is not authoritative it is not queried for aliases: a resolver behind the forward plugin would have to
// look for them.
func TestForeignBackend(t *testing.T) {
	b := newBackend(t, respond(func(m *dns.Msg) { m.Ns = rrs(soa) }), nil)
	for _, q := range []string{"A", "AAAA", "TXT"} {
		question := a("example.org.")
		question.Type = dns.StringToType[q]
		if got := b.Answer(question); got.Own() || got.Alias != nil || len(got.Msg.Ns) != 1 {
			t.Errorf("%s: got %+v", q, got)
		}
		b.asked(t, q, "example.org. "+q)
	}
	// Nor does an ALIAS record that somebody else has make an alias.
	b.become(respond(func(m *dns.Msg) { m.Answer = rrs("example.org. 60 IN ALIAS target.example.") }))
	if got := b.Answer(alias("example.org.")); got.Alias != nil || len(got.Msg.Answer) != 1 {
		t.Errorf("got %+v", got)
	}
	// Nor does one of another name.
	b = newBackend(t, respond(func(m *dns.Msg) {
		m.Authoritative, m.Answer = true, rrs("other.example.org. 60 IN ALIAS target.example.")
	}), nil)
	if got := b.Answer(alias("example.org.")); got.Alias != nil || len(got.Msg.Answer) != 1 {
		t.Errorf("got %+v", got)
	}
}

// A change in the zone is seen within a second.
func TestZoneChanges(t *testing.T) {
	const mx = "app.example.org. 60 IN MX 10 mail.example.org."
	b := newBackend(t, nil, nil)
	for i, step := range []struct {
		records []string
		want    string // the target
	}{
		{[]string{mx, "app.example.org. 60 IN ALIAS one.example."}, "one.example."},
		{[]string{mx, "app.example.org. 60 IN ALIAS two.example."}, "two.example."},
		{[]string{mx, "app.example.org. 60 IN ALIAS two.example.", "app.example.org. 90 IN A 192.0.2.3"}, ""},
		{[]string{mx, "app.example.org. 60 IN ALIAS one.example."}, "one.example."},
		{[]string{mx}, ""},
		{[]string{mx, "app.example.org. 60 IN ALIAS one.example."}, "one.example."},
		{nil, ""}, // NXDOMAIN
		{[]string{"app.example.org. 60 IN ALIAS one.example."}, "one.example."},
	} {
		b.become(zone(t, step.records...))
		if b.advance(time.Second); targetOf(b.Alias(a("app.example.org."), true)) != step.want {
			t.Errorf("step %d: %+v, want %q", i, b.Answer(a("app.example.org.")), step.want)
		}
	}
}

// A response that the caller has got this moment counts for more than an answer from a moment ago.
func TestReceived(t *testing.T) {
	const name = "b.example.org."
	own := zone(t, name+" 60 IN A 203.0.113.1")
	aliased := zone(t, name+" 60 IN ALIAS target.example.")
	gone := zone(t)
	b := newBackend(t, own, nil)
	var last *backend.Answer
	for i, step := range []struct {
		next    plugin.Handler
		target  string
		again   bool // the last answer does not count any more
		queries []string
	}{
		{own, "", true, nil}, // it is what was received
		{own, "", false, nil},
		{aliased, "target.example.", true, []string{name + " ALIAS"}},
		{aliased, "target.example.", false, nil},
		{own, "target.example.", false, nil}, // for a second
	} {
		b.become(step.next)
		received := b.Query(name, dns.TypeA).Msg
		b.asked(t, "the caller", name+" A")
		got := b.Received(a(name), received)
		if targetOf(got.Alias) != step.target || (got != last) != step.again {
			t.Errorf("step %d: %+v", i, got)
		}
		b.asked(t, fmt.Sprintf("step %d", i), step.queries...)
		last = got
	}
	b.advance(time.Second)
	b.become(gone)
	b.Query(name, dns.TypeA)
	if got := b.Received(a(name), b.Query(name, dns.TypeA).Msg); got.Alias != nil || got.Msg.Rcode != dns.RcodeNameError {
		t.Errorf("got %+v", got)
	}
}

// The response goes on to the client through plugins that change it, while other callers read the answer.
func TestReceivedIsChanged(t *testing.T) {
	b := newBackend(t, zone(t, "www.example.org. 60 IN A 203.0.113.1"), nil)
	q := aaaa("www.example.org.")
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range 200 {
				m := b.Query(q.Name, q.Type).Msg
				got := b.Received(q, m)
				// As loadbalance and dnssec do.
				m.Rcode, m.Answer, m.Ns = dns.RcodeServerFailure, slices.Clone(m.Answer), append(m.Ns, new(dns.TXT))
				if again := b.Answer(q); again.Msg.Rcode != dns.RcodeSuccess || len(again.Msg.Ns) != 1 || got.Msg == m {
					t.Errorf("got %v", again.Msg)
				}
				b.advance(100 * time.Millisecond)
			}
		})
	}
	clients.Wait()
}

// Large responses are not kept: the number of answers bounds the memory for them.
func TestLargeAnswer(t *testing.T) {
	for n, kept := range map[int]bool{32: true, 33: false} {
		b := newBackend(t, respond(func(m *dns.Msg) {
			m.Authoritative = true
			for i := range n - 2 {
				m.Answer = append(m.Answer, rrs(fmt.Sprintf("www.example.org. 60 IN A 203.0.113.%d", i))...)
			}
			m.Ns, m.Extra = rrs("example.org. 60 IN NS ns.example.org."), rrs("ns.example.org. 60 IN A 203.0.113.53")
		}), nil)
		first := b.Answer(a("www.example.org."))
		if again := b.Answer(a("www.example.org.")); (again == first) != kept || len(again.Msg.Answer) != n-2 {
			t.Errorf("%d records: kept %v, want %v", n, again == first, kept)
		}
	}
}

// However many names clients think of, the number of answers is bounded.
func TestBound(t *testing.T) {
	const size = 100
	b := newBackend(t, zone(t, "*.example.org. 60 IN ALIAS target.example."), func(cfg *backend.Config) { cfg.Size = size })
	for i := range 100 * size {
		if al := b.Alias(a(fmt.Sprintf("n%d.example.org.", i)), true); targetOf(al) != "target.example." {
			t.Fatalf("got %+v", al)
		}
	}
	if n := b.Len(); n > size || n < size/2 {
		t.Errorf("%d answers are kept, with room for %d", n, size)
	}
}

// Alias spares the query of a backend that had no alias a moment ago: the client's own query tells.
func TestAlias(t *testing.T) {
	const name = "app.example.org."
	plain, aliased := zone(t, name+" 60 IN MX 10 mail.example.org."), zone(t, name+" 60 IN ALIAS target.example.")
	both := []string{name + " A", name + " ALIAS"}
	b := newBackend(t, plain, nil)
	for i, step := range []struct {
		after   time.Duration
		next    plugin.Handler
		query   bool
		target  string
		queries []string
	}{
		{0, plain, false, "", nil}, // it knows nothing
		{0, plain, true, "", both},
		{0, aliased, true, "", nil},
		{time.Second, aliased, false, "", nil},
		{0, aliased, true, "target.example.", both},
		{0, aliased, false, "target.example.", nil},
		{time.Second, aliased, false, "target.example.", both},
		{time.Second, plain, false, "", both},
		{time.Second, plain, false, "", nil},
	} {
		b.advance(step.after)
		b.become(step.next)
		if got := targetOf(b.Alias(a(name), step.query)); got != step.target {
			t.Errorf("step %d: got %q, want %q", i, got, step.target)
		}
		b.asked(t, fmt.Sprintf("step %d", i), step.queries...)
	}
}

// The SOA record of the zone is found where it is hidden too, and what was answered a moment ago is not queried for.
func TestSOA(t *testing.T) {
	z := zone(t,
		"www.example.org. 60 IN A 203.0.113.80",
		"cname.example.org. 60 IN CNAME elsewhere.example.",
		"sub.example.org. 60 IN NS ns.elsewhere.example.",
		"alias.example.org. 60 IN ALIAS target.example.")
	for _, tc := range []struct {
		name    string
		zone    string
		queries []string
	}{
		{"www.example.org.", "example.org.", []string{"www.example.org. SOA"}},
		{"none.example.org.", "example.org.", []string{"none.example.org. SOA"}},
		{"alias.example.org.", "example.org.", []string{"alias.example.org. SOA"}},
		{"example.org.", "example.org.", []string{"example.org. SOA"}},
		{"cname.example.org.", "example.org.", []string{"cname.example.org. SOA", "example.org. SOA"}},
		{"sub.example.org.", "example.org.", []string{"sub.example.org. SOA", "example.org. SOA"}},
		{"x.y.sub.example.org.", "example.org.", []string{"x.y.sub.example.org. SOA", "example.org. SOA"}},
		// In the root zone the apex is not known: the name above is the best guess.
		{"cname.example.org.", ".", []string{"cname.example.org. SOA", "example.org. SOA"}},
	} {
		b := newBackend(t, z, func(cfg *backend.Config) { cfg.Zones = map[string]struct{}{tc.zone: {}} })
		for range 2 {
			got := b.SOA(a(tc.name))
			if got == nil {
				t.Fatalf("%s: none", tc.name)
			}
			if diff := cmp.Diff([]string{soa}, text([]dns.RR{got})); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.name, diff)
			}
			got.Serial, got.Hdr.Ttl = 99, 5 // it is a copy
		}
		b.asked(t, tc.name+" in "+tc.zone, tc.queries...)
	}

	// A negative answer has it already.
	b := newBackend(t, z, nil)
	b.Answer(aaaa("www.example.org."))
	b.asked(t, "answer", "www.example.org. AAAA", "www.example.org. ALIAS")
	if got := b.SOA(aaaa("www.example.org.")); got == nil || got.Serial != 1 {
		t.Errorf("got %v", got)
	}
	b.asked(t, "behind a negative answer")
	b.advance(time.Second)
	b.SOA(aaaa("www.example.org."))
	b.asked(t, "a second later", "www.example.org. SOA")
}

// A backend that has no zone has no SOA record, and is not queried for it where it cannot be.
func TestNoSOA(t *testing.T) {
	manyTXT := slices.Repeat([]string{"example.org. 60 IN TXT x"}, 33) // they are not kept
	for _, tc := range []struct {
		next       plugin.Handler
		name, zone string
		queries    []string
	}{
		{respond(func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }), "www.example.org.", "example.org.",
			[]string{"www.example.org. SOA", "example.org. SOA"}},
		{respond(func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }), "example.org.", "example.org.", []string{"example.org. SOA"}},
		{respond(func(m *dns.Msg) { m.Rcode = dns.RcodeRefused }), ".", ".", []string{". SOA"}},
		{respond(func(m *dns.Msg) { m.Ns = rrs("example.net. 60 IN SOA ns. h. 1 2 3 4 5") }), "example.org.", "example.org.",
			[]string{"example.org. SOA"}},
		{respond(func(m *dns.Msg) { m.Answer = rrs(manyTXT...) }), "example.org.", "example.org.", []string{"example.org. SOA"}},
		{plugin.HandlerFunc(func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) {
			return dns.RcodeServerFailure, nil
		}), "www.example.org.", "example.org.", []string{"www.example.org. SOA"}},
	} {
		b := newBackend(t, tc.next, func(cfg *backend.Config) { cfg.Zones = map[string]struct{}{tc.zone: {}} })
		if got := b.SOA(a(tc.name)); got != nil {
			t.Errorf("%s: got %v", tc.name, got)
		}
		b.asked(t, tc.name, tc.queries...)
	}
}

// What is valid costs no allocation.
func TestValidAllocatesNothing(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	b := newBackend(t, zone(t, "example.org. 60 IN ALIAS target.example."), nil)
	q := a("example.org.")
	b.Answer(q)
	for name, call := range map[string]func(){
		"Answer": func() { b.Answer(q) },
		"Alias":  func() { b.Alias(q, false) },
	} {
		if n := testing.AllocsPerRun(1000, call); n > 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
