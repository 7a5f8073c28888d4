package alias

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/test/race"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/bind" // for Corefiles in tests
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/test"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestServeDNS(t *testing.T) {
	up := fake.New(t, fake.Zone(
		"target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6,
		"v4only.example. 300 IN A "+v4,
		"example. 300 IN SOA ns.example. host.example. 1 2 3 4 60",
	))
	backend := zoneFile(t, nil,
		"example.org. 3600 IN MX 10 mail.example.org.",
		"example.org. 3600 IN A 203.0.113.9", // the record wins
		"mail.example.org. 3600 IN A 203.0.113.25",
		"www.wild.example.org. 3600 IN A 203.0.113.80",
		"mx.wild.example.org. 3600 IN MX 10 mail.example.org.",
		"*.both.example.org. 3600 IN A 203.0.113.81",
		"cname.example.org. 3600 IN CNAME elsewhere.example.",
		"sub.wild.example.org. 3600 IN NS ns.sub.wild.example.org.",
		"ns.sub.wild.example.org. 3600 IN A 203.0.113.53",
		"sub.example.org. 3600 IN NS ns.elsewhere.example.",
	)
	a, _ := newAlias(t, "example.org", `
		record @ target.example
		record v4only v4only.example 60
		record gone gone.example
		record deep.er.app target.example
		record *.wild target.example
		record *.both target.example
		record below.wild v4only.example
		record cname v4only.example
		record sub v4only.example
		record x.sub v4only.example
		upstream `+up.Addr, backend)

	soa := "example.org. 3600 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300"
	nodata := func(name string, qtype uint16) queryTest {
		return queryTest{name: name, qtype: qtype, ns: []string{soa}}
	}
	for _, tc := range []queryTest{
		{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 300 IN A " + v4}},
		{name: "eXample.ORG.", qtype: dns.TypeAAAA, answer: []string{"example.org. 300 IN AAAA " + v6}},
		{name: "example.org.", qtype: dns.TypeMX, answer: []string{"example.org. 3600 IN MX 10 mail.example.org."}},
		{name: "example.org.", qtype: dns.TypeSOA, answer: []string{soa}},
		{name: "mail.example.org.", qtype: dns.TypeA, answer: []string{"mail.example.org. 3600 IN A 203.0.113.25"}},
		{name: "nowhere.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError, ns: []string{soa}},

		// A target with one family, and one that does not exist: never NXDOMAIN.
		{name: "v4only.example.org.", qtype: dns.TypeA, answer: []string{"v4only.example.org. 60 IN A " + v4}},
		nodata("v4only.example.org.", dns.TypeAAAA),
		nodata("gone.example.org.", dns.TypeA),

		// Names that exist only because of a record, and the empty ones above them.
		{name: "deep.er.app.example.org.", qtype: dns.TypeA, answer: []string{"deep.er.app.example.org. 300 IN A " + v4}},
		nodata("deep.er.app.example.org.", dns.TypeMX),
		nodata("er.app.example.org.", dns.TypeA),
		nodata("app.example.org.", dns.TypeTXT),
		{name: "x.deep.er.app.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError, ns: []string{soa}},

		// Wildcards: not below a name of a record, nor instead of a name that the zone has.
		{name: "any.wild.example.org.", qtype: dns.TypeA, answer: []string{"any.wild.example.org. 300 IN A " + v4}},
		{name: "a.b.wild.example.org.", qtype: dns.TypeA, answer: []string{"a.b.wild.example.org. 300 IN A " + v4}},
		nodata("any.wild.example.org.", dns.TypeMX),
		nodata("wild.example.org.", dns.TypeA),
		{name: "below.wild.example.org.", qtype: dns.TypeA, answer: []string{"below.wild.example.org. 300 IN A " + v4}},
		{name: "x.below.wild.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError, ns: []string{soa}},
		{name: "www.wild.example.org.", qtype: dns.TypeA, answer: []string{"www.wild.example.org. 3600 IN A 203.0.113.80"}},
		nodata("www.wild.example.org.", dns.TypeAAAA),
		nodata("mx.wild.example.org.", dns.TypeA),
		// The zone's SOA record is found where it is hidden.
		nodata("cname.example.org.", dns.TypeAAAA),
		nodata("sub.example.org.", dns.TypeAAAA),
		nodata("x.sub.example.org.", dns.TypeAAAA),

		{name: "x.both.example.org.", qtype: dns.TypeA, answer: []string{"x.both.example.org. 300 IN A " + v4}},
	} {
		for _, turn := range []string{"first", "again"} { // looked up, and then cached
			t.Run(tc.name+dns.TypeToString[tc.qtype]+"/"+turn, func(t *testing.T) { tc.check(t, a) })
		}
	}
}

// A wildcard does not reach to what the zone has delegated.
func TestWildcardAndDelegation(t *testing.T) {
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", "record * target.example\nupstream "+up.Addr, zoneFile(t, nil,
		"sub.example.org. 3600 IN NS ns.sub.example.org.", "ns.sub.example.org. 3600 IN A 203.0.113.53"))
	for _, name := range []string{"sub.example.org.", "host.sub.example.org.", "ns.sub.example.org."} {
		m := query(t, a, name, dns.TypeA)
		if m.Authoritative || len(m.Answer) > 0 {
			t.Errorf("%s: no referral: %v", name, m)
		}
		wantText(t, name, m.Ns, "sub.example.org. 3600 IN NS ns.sub.example.org.")
	}
}

// countingBackend counts the queries that come to it, and answers NXDOMAIN.
type countingBackend struct {
	authoritative bool
	queries       atomic.Int32
}

func (*countingBackend) Name() string { return "counting" }

func (b *countingBackend) ServeDNS(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	b.queries.Add(1)
	m := new(dns.Msg).SetRcode(r, dns.RcodeNameError)
	m.Authoritative = b.authoritative
	w.WriteMsg(m)
	return dns.RcodeSuccess, nil
}

// The plugin asks the backend at most once a second whether it has a name under a wildcard, and less often when the
// backend is not authoritative.
func TestWildcardAsksRarely(t *testing.T) {
	for _, tc := range []struct {
		authoritative bool
		valid         time.Duration
	}{{true, time.Second}, {false, 30 * time.Second}} {
		up, backend := fake.New(t, good), &countingBackend{authoritative: tc.authoritative}
		a, c := newAlias(t, "example.org", "record * target.example\nupstream "+up.Addr, backend)
		for i, step := range []struct {
			after time.Duration
			want  int32
		}{{0, 1}, {tc.valid - 1, 1}, {1, 2}} {
			c.Advance(step.after)
			for range 100 {
				if m := query(t, a, "x.example.org.", dns.TypeA); len(m.Answer) != 1 {
					t.Fatalf("got %v", m)
				}
			}
			if n := backend.queries.Load(); n != step.want {
				t.Errorf("authoritative %v, step %d: the backend was asked %d times, want %d", tc.authoritative, i, n, step.want)
			}
		}
	}
}

// Memory and lookups are bounded however many names clients query below a wildcard, of the Corefile or of the zone.
func TestRandomNames(t *testing.T) {
	const size = 1000
	names := 1_000_000
	if race.Enabled { // CI runs it both ways
		names = 20_000
	}
	for _, tc := range []struct {
		name   string
		record string
		zone   []string
	}{
		{"record", "record * target.example", nil},
		{"zone", "", []string{"*.example.org. 60 IN ALIAS target.example."}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := fake.New(t, good)
			a, _ := newAlias(t, "example.org", fmt.Sprintf("%s\ncache_size %d\nupstream %s", tc.record, size, up.Addr), zoneFile(t, nil, tc.zone...))
			w := &recorder{}
			ask := func(n int) uint64 {
				for i := range n {
					a.ServeDNS(context.Background(), w, new(dns.Msg).SetQuestion(fmt.Sprintf("n%d-%d.example.org.", n, i), dns.TypeA))
					if len(w.m.Answer) != 1 || w.m.Answer[0].Header().Rrtype != dns.TypeA {
						t.Fatalf("got %v", w.m)
					}
				}

				if n := a.backend.Len(); n > size {
					t.Errorf("%d names are kept", n)
				}
				runtime.GC()
				var m runtime.MemStats
				runtime.ReadMemStats(&m)
				return m.HeapAlloc
			}
			few, all := ask(10*size), ask(names)
			t.Logf("heap after %d names %d KiB, after %d more %d KiB", 10*size, few/1024, names, all/1024)
			if all > few+few/4+1<<20 {
				t.Errorf("the heap grew from %d to %d", few, all)
			}
			if n := up.AskedAll(); n != 1 {
				t.Errorf("%d lookups", n)
			}
		})
	}
}

// The plugin asks the backend for the answer to a failure once a second, too.
func TestFailureAsksRarely(t *testing.T) {
	up, backend := fake.New(t, fake.Rcode(dns.RcodeRefused)), &countingBackend{authoritative: true}
	a, c := newAlias(t, "example.org", "record @ target.example\nupstream "+up.Addr, backend)
	for want := range int32(2) {
		for range 100 {
			query(t, a, "example.org.", dns.TypeA)
		}
		// For the address, and for the SOA record.
		if n := backend.queries.Load(); n != 2*(want+1) {
			t.Errorf("the backend was asked %d times, want %d", n, 2*(want+1))
		}
		c.Advance(time.Second)
	}
}

// recorder keeps the last response.
type recorder struct {
	test.ResponseWriter
	m *dns.Msg
}

func (r *recorder) WriteMsg(m *dns.Msg) error {
	r.m = m
	return nil
}

// The plugin passes on queries of other classes, operations and types.
func TestPassedOn(t *testing.T) {
	up := fake.New(t, good)
	next := plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg).SetRcode(r, dns.RcodeYXDomain)
		w.WriteMsg(m)
		return m.Rcode, nil
	})
	a, _ := newAlias(t, "example.org", "record @ target.example\nupstream "+up.Addr, next)
	for name, change := range map[string]func(*dns.Msg){
		"chaos":  func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS },
		"any":    func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassANY },
		"notify": func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify },
		"update": func(m *dns.Msg) { m.Opcode = dns.OpcodeUpdate },
		"ANY":    func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeANY },
		"AXFR":   func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeAXFR },
		"HTTPS":  func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeHTTPS },
		"other":  func(m *dns.Msg) { m.Question[0].Name = "example.net." },
	} {
		t.Run(name, func(t *testing.T) {
			r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
			change(r)
			if m := exchange(t, context.Background(), a, r); m.Rcode != dns.RcodeYXDomain {
				t.Errorf("got %s, not what the next plugin says", dns.RcodeToString[m.Rcode])
			}
		})
	}
	if n := up.AskedAll(); n != 0 {
		t.Errorf("%d lookups", n)
	}
}

// dump returns all that f has of example.org, but for the NS records of the apex.
func dump(f *file.File) (s []string) {
	z := f.Z["example.org."]
	for _, elem := range z.All() {
		s = append(s, text(elem.All())...)
	}
	slices.Sort(s)
	return append(s, z.SOA.String())
}

// The plugin does not change the records that file hands out.
func TestBackendUnchanged(t *testing.T) {
	up := fake.New(t, fake.Rcode(dns.RcodeServerFailure))
	backend := zoneFile(t, nil, "b.example.org. 3600 IN A 203.0.113.2", "_x.b.example.org. 3600 IN TXT x")
	a, c := newAlias(t, "example.org", `
		record a a.example
		record b b.example
		record c b.example.org
		retries 0
		upstream `+up.Addr, backend)
	before := dump(backend)
	for range 50 {
		for _, name := range []string{"a", "b", "c", "_x.b", "none"} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeMX} {
				m := query(t, a, name+".example.org.", qtype)
				_ = append(m.Answer, new(dns.RRSIG)) // as dnssec does
				_ = append(m.Ns, new(dns.RRSIG))
			}
		}
		c.Advance(2 * time.Second)
	}
	if diff := cmp.Diff(before, dump(backend)); diff != "" {
		t.Errorf("the zone changed (-before +after):\n%s", diff)
	}
}

// Other plugins change the answers that they get; the answer of the next client must not show it.
func TestAnswersAreClientsOwn(t *testing.T) {
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", "record @ target.example\nrecord x none.example\nupstream "+up.Addr, zoneFile(t, nil))
	for _, name := range []string{"example.org.", "x.example.org."} {
		query(t, a, name, dns.TypeA)
		m := query(t, a, name, dns.TypeA)
		want := m.Copy()
		for _, section := range [][]dns.RR{m.Answer, m.Ns} {
			_ = append(section, new(dns.RRSIG)) // dnssec
			for _, rr := range section {
				rr.Header().Name, rr.Header().Ttl = "else.example.", 7 // rewrite
				if a, ok := rr.(*dns.A); ok {
					_ = append(a.A, 1)
				}
			}
		}
		again := query(t, a, name, dns.TypeA)
		again.Id = want.Id
		if diff := cmp.Diff(want.String(), again.String()); diff != "" {
			t.Errorf("%s (-before +after):\n%s", name, diff)
		}
	}
}

// A target inside ZONES is this server's own data: an alias, or what the backend has.
func TestTargetInside(t *testing.T) {
	up := fake.New(t, fake.Zone(
		"out.example. 300 IN A "+v4,
		"cdn.example. 200 IN CNAME edge.example.", "edge.example. 400 IN A 192.0.2.2",
		"sub.child.example.org. 70 IN A 192.0.2.7", // this server only refers
	))
	backend := zoneFile(t, nil,
		"www.example.org. 120 IN A 203.0.113.80",
		"www.example.org. 120 IN A 203.0.113.81",
		"here.example.org. 90 IN CNAME www.example.org.",
		"there.example.org. 90 IN CNAME cdn.example.",
		"back.example.org. 90 IN CNAME cycle.example.org.",
		"text.example.org. 90 IN TXT x",
		"child.example.org. 90 IN NS ns.child.example.org.",
		"ns.child.example.org. 90 IN A 203.0.113.53",
	)
	a, c := newAlias(t, "example.org", `
		record @ www.example.org
		record chained here.example.org 60
		record outward there.example.org
		record twice out2.example.org
		record out2 out.example 50
		record *.wild out.example
		record viawild x.wild.example.org
		record nodata text.example.org
		record nothing missing.example.org
		record referred sub.child.example.org
		record cycle back.example.org
		record one two.example.org
		record two three.example.org
		record three one.example.org
		upstream `+up.Addr, backend)
	soa := "example.org. 3600 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300"
	brief := strings.Replace(soa, "3600", "5", 1)
	for _, tc := range []queryTest{
		{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 120 IN A 203.0.113.80", "example.org. 120 IN A 203.0.113.81"}},
		{name: "example.org.", qtype: dns.TypeAAAA, ns: []string{soa}},
		{name: "chained.example.org.", qtype: dns.TypeA, answer: []string{"chained.example.org. 60 IN A 203.0.113.80", "chained.example.org. 60 IN A 203.0.113.81"}},
		{name: "outward.example.org.", qtype: dns.TypeA, answer: []string{"outward.example.org. 90 IN A 192.0.2.2"}},
		{name: "twice.example.org.", qtype: dns.TypeA, answer: []string{"twice.example.org. 50 IN A " + v4}},
		{name: "viawild.example.org.", qtype: dns.TypeA, answer: []string{"viawild.example.org. 300 IN A " + v4}},
		{name: "nodata.example.org.", qtype: dns.TypeA, ns: []string{soa}},
		{name: "nothing.example.org.", qtype: dns.TypeA, ns: []string{soa}},
		{name: "referred.example.org.", qtype: dns.TypeA, answer: []string{"referred.example.org. 70 IN A 192.0.2.7"}},
		{name: "cycle.example.org.", qtype: dns.TypeA, ns: []string{brief}},
		{name: "one.example.org.", qtype: dns.TypeA, ns: []string{brief}},
		{name: "two.example.org.", qtype: dns.TypeAAAA, ns: []string{brief}},
	} {
		t.Run(tc.name+dns.TypeToString[tc.qtype], func(t *testing.T) { tc.check(t, a) })
	}
	if n := up.Asked("www.example.org.", dns.TypeA); n != 0 {
		t.Errorf("the upstream was asked %d times for this server's own data", n)
	}

	// The plugin sees a change in the zone within a second.
	if err := backend.Z["example.org."].Insert(fake.RRs("www.example.org. 120 IN A 203.0.113.82")[0]); err != nil {
		t.Fatal(err)
	}
	c.Advance(time.Second)
	if m := query(t, a, "example.org.", dns.TypeA); len(m.Answer) != 3 {
		t.Errorf("a second after the change: %v", text(m.Answer))
	}
}

// The links inside ZONES and those outside are of one chain.
func TestLinksOnBothSides(t *testing.T) {
	up := fake.New(t, fake.Zone(links(10)...))
	var records strings.Builder
	for i := range 7 {
		fmt.Fprintf(&records, "record a%d a%d.example.org\n", i, i+1)
	}
	a, _ := newAlias(t, "example.org", records.String()+"record a7 target.example\nupstream "+up.Addr, nil)
	for name, want := range map[string]int{"a2": 1, "a1": 1, "a0": 0} { // from a1 to the target there are 6 links
		if m := query(t, a, name+".example.org.", dns.TypeA); len(m.Answer) != want {
			t.Errorf("%s: %d addresses, want %d", name, len(m.Answer), want)
		}
	}
}

// Without a backend the plugin asks the upstream alone, and there is no SOA record.
func TestNoBackend(t *testing.T) {
	up := fake.New(t, fake.Zone("app.example.org. 300 IN A "+v4))
	a, _ := newAlias(t, "example.org", "record @ app.example.org\nupstream "+up.Addr, nil)
	queryTest{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 300 IN A " + v4}}.check(t, a)
	queryTest{name: "example.org.", qtype: dns.TypeAAAA}.check(t, a)
}

// In the root zone every target is inside, and still goes to the upstream.
func TestRootZone(t *testing.T) {
	up := fake.New(t, good)
	a, _ := newAlias(t, ".", "record example.org target.example\nupstream "+up.Addr, nil)
	queryTest{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 300 IN A " + v4}}.check(t, a)
}

// When a record makes a name exist, the denials of its existence are removed.
func TestExistingWriter(t *testing.T) {
	denial := fake.RRs(exampleSOA,
		"example.org. 3600 IN RRSIG SOA 13 2 3600 20300101000000 20200101000000 1 example.org. c2ln",
		"example.org. 3600 IN NSEC mail.example.org. A NS SOA RRSIG NSEC",
		"example.org. 3600 IN RRSIG NSEC 13 2 3600 20300101000000 20200101000000 1 example.org. c2ln")
	for _, tc := range []struct {
		name   string
		rcode  int
		answer []dns.RR
		want   int
		ns     []string
	}{
		{"denied", dns.RcodeNameError, nil, dns.RcodeSuccess, text(denial[:2])},
		{"behind a CNAME", dns.RcodeNameError, fake.RRs("app.example.org. 60 IN CNAME none.example.org."), dns.RcodeNameError, text(denial)},
		{"NODATA", dns.RcodeSuccess, nil, dns.RcodeSuccess, text(denial)},
		{"refused", dns.RcodeRefused, nil, dns.RcodeRefused, text(denial)},
	} {
		t.Run(tc.name, func(t *testing.T) {
			next := plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
				m := new(dns.Msg).SetRcode(r, tc.rcode)
				m.Answer, m.Ns = tc.answer, denial
				w.WriteMsg(m)
				return dns.RcodeSuccess, nil
			})
			a, _ := newAlias(t, "example.org", "record app target.example\nupstream 127.0.0.1", next)
			m := query(t, a, "app.example.org.", dns.TypeMX)
			if m.Rcode != tc.want {
				t.Errorf("rcode %s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[tc.want])
			}
			wantText(t, "authority", m.Ns, tc.ns...)
			if len(denial) != 4 {
				t.Error("the backend's message was changed")
			}
		})
	}
}

// A backend that is stuck or broken delays no query for longer than an upstream can.
func TestBadBackend(t *testing.T) {
	up := fake.New(t, good)
	stuck := make(chan struct{})
	defer close(stuck)
	for name, next := range map[string]plugin.HandlerFunc{
		"stuck":  func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { <-stuck; return 0, nil },
		"panics": func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { panic("backend") },
		"silent": func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { return dns.RcodeServerFailure, nil },
		"nil":    func(_ context.Context, w dns.ResponseWriter, _ *dns.Msg) (int, error) { return 0, w.WriteMsg(nil) },
		"empty": func(_ context.Context, w dns.ResponseWriter, _ *dns.Msg) (int, error) {
			return 0, w.WriteMsg(new(dns.Msg))
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := newAlias(t, "example.org", "record @ target.example\nrecord x none.example\ntxt\ntimeout 50ms\nupstream "+up.Addr, next)
			queryTest{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 300 IN A " + v4}}.check(t, a)
			queryTest{name: "x.example.org.", qtype: dns.TypeA}.check(t, a)
			if name == "nil" {
				w := new(recorder)
				for _, qtype := range []uint16{dns.TypeA, dns.TypeTXT, dns.TypeSOA} {
					a.ServeDNS(context.Background(), w, new(dns.Msg).SetQuestion("y.example.org.", qtype))
				}
			}
		})
	}
}

func TestMetadata(t *testing.T) {
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", "record @ target.example\nupstream "+up.Addr, zoneFile(t, nil))
	for _, want := range []string{"miss", "hit"} {
		ctx := metadata.ContextWithMetadata(context.Background())
		exchange(t, ctx, a, new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
		if got := metadata.ValueFunc(ctx, "alias/target")(); got != "target.example." {
			t.Errorf("alias/target is %q", got)
		}
		if got := metadata.ValueFunc(ctx, "alias/status")(); got != want {
			t.Errorf("alias/status is %q, want %q", got, want)
		}
	}
	ctx := metadata.ContextWithMetadata(context.Background())
	exchange(t, ctx, a, new(dns.Msg).SetQuestion("example.org.", dns.TypeMX))
	if metadata.ValueFunc(ctx, "alias/status") != nil {
		t.Error("a query that was passed on has a status")
	}
}

// The response has all addresses of a large answer, in their order; the server truncates it for UDP.
func TestManyAddresses(t *testing.T) {
	var records, want []string
	for i := range 200 {
		ip := net.IPv4(198, 51, 100, byte(i))
		records = append(records, "target.example. 300 IN A "+ip.String())
		want = append(want, "example.org. 300 IN A "+ip.String())
	}
	up := fake.New(t, fake.Zone(records...))
	a, _ := newAlias(t, "example.org", "record @ target.example\nupstream "+up.Addr, nil)
	got := text(query(t, a, "example.org.", dns.TypeA).Answer)
	if !slices.Equal(want, got) {
		t.Errorf("got %d records: %v", len(got), got)
	}
}
