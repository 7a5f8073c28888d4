package alias

import (
	"bytes"
	"context"
	"fmt"
	stdlog "log"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/test/race"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/metadata"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// logged collects what is logged during a test.
func logged(t *testing.T) *bytes.Buffer {
	var b bytes.Buffer
	stdlog.SetOutput(&b)
	t.Cleanup(func() { stdlog.SetOutput(os.Stderr) })
	return &b
}

// Aliases that are records of the zone.
func TestZoneData(t *testing.T) {
	up := fake.New(t, fake.Zone(
		"target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6,
		"v4only.example. 300 IN A "+v4,
		"other.example. 300 IN A 192.0.2.9",
		"example. 300 IN SOA ns.example. host.example. 1 2 3 4 60",
	))
	backend := zoneFile(t, nil,
		"example.org. 60 IN ALIAS Target.example.",
		"example.org. 3600 IN MX 10 mail.example.org.",
		"mail.example.org. 3600 IN A 203.0.113.25",
		"v4.example.org. 600 IN ANAME v4only.example.",
		"gone.example.org. 600 IN ALIAS gone.example.",
		"*.shop.example.org. 60 IN ALIAS target.example.",
		"own.shop.example.org. 60 IN MX 10 mail.example.org.",
		"a.example.org. 60 IN A 203.0.113.1",
		"a.example.org. 60 IN ALIAS target.example.",
		"both.example.org. 60 IN A 203.0.113.1",
		"both.example.org. 60 IN AAAA 2001:db8::9",
		"both.example.org. 60 IN ALIAS target.example.",
		"several.example.org. 60 IN ALIAS target.example.",
		"several.example.org. 60 IN ALIAS OTHER.example.", // the first in canonical order: its label is shorter
		"*.several.example.org. 60 IN ALIAS target.example.",
		"*.several.example.org. 60 IN ALIAS v4only.example.",
		"twice.example.org. 60 IN ALIAS target.example.",
		"twice.example.org. 60 IN ALIAS TARGET.example.",
		"cname.example.org. 60 IN CNAME mail.example.org.",
		"cname.example.org. 60 IN ALIAS target.example.",
		"sub.example.org. 60 IN NS ns.sub.example.org.",
		"sub.example.org. 60 IN ALIAS target.example.",
		"ns.sub.example.org. 60 IN A 203.0.113.53",
		"www.sub.example.org. 60 IN ALIAS target.example.",
		"deep.er.example.org. 60 IN ALIAS target.example.",
		"rec.example.org. 60 IN ALIAS target.example.",
		`void.example.org. 60 IN ALIAS \# 0`, // the library's parser lets it through
		"x.wild.example.org. 60 IN ALIAS target.example.",
		`odd\.\032name.example.org. 60 IN ALIAS target.example.`,
	)
	a, _ := newAlias(t, "example.org", `
		record rec other.example
		record *.wild other.example
		upstream `+up.Addr, backend)

	nodata := func(name string, qtype uint16) queryTest {
		return queryTest{name: name, qtype: qtype, ns: []string{exampleSOA}}
	}
	for _, tc := range []queryTest{
		{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 60 IN A " + v4}},
		{name: "Example.ORG.", qtype: dns.TypeAAAA, answer: []string{"example.org. 60 IN AAAA " + v6}},
		{name: "example.org.", qtype: dns.TypeMX, answer: []string{"example.org. 3600 IN MX 10 mail.example.org."}},
		{name: "example.org.", qtype: 65401, answer: []string{"example.org. 60 IN ALIAS Target.example."}},
		nodata("example.org.", dns.TypeTXT),
		{name: "v4.example.org.", qtype: dns.TypeA, answer: []string{"v4.example.org. 300 IN A " + v4}},
		nodata("v4.example.org.", dns.TypeAAAA),
		nodata("gone.example.org.", dns.TypeA),
		nodata("mail.example.org.", dns.TypeAAAA),
		nodata("void.example.org.", dns.TypeA),

		// Wildcards reach as far as they do for other records.
		{name: "any.shop.example.org.", qtype: dns.TypeA, answer: []string{"any.shop.example.org. 60 IN A " + v4}},
		{name: "a.ny.shop.example.org.", qtype: dns.TypeAAAA, answer: []string{"a.ny.shop.example.org. 60 IN AAAA " + v6}},
		nodata("own.shop.example.org.", dns.TypeA),
		nodata("shop.example.org.", dns.TypeA),
		nodata("any.shop.example.org.", dns.TypeMX),

		// The zone's own addresses win, each for its own type.
		{name: "a.example.org.", qtype: dns.TypeA, answer: []string{"a.example.org. 60 IN A 203.0.113.1"}},
		{name: "a.example.org.", qtype: dns.TypeAAAA, answer: []string{"a.example.org. 60 IN AAAA " + v6}},
		{name: "both.example.org.", qtype: dns.TypeAAAA, answer: []string{"both.example.org. 60 IN AAAA 2001:db8::9"}},

		{name: "several.example.org.", qtype: dns.TypeA, answer: []string{"several.example.org. 60 IN A 192.0.2.9", "several.example.org. 60 IN A " + v4}},
		{name: "x.several.example.org.", qtype: dns.TypeA, answer: []string{"x.several.example.org. 60 IN A " + v4}},
		{name: "y.several.example.org.", qtype: dns.TypeAAAA, answer: []string{"y.several.example.org. 60 IN AAAA " + v6}},
		{name: "twice.example.org.", qtype: dns.TypeA, answer: []string{"twice.example.org. 60 IN A " + v4}},
		{name: "cname.example.org.", qtype: dns.TypeA, answer: []string{
			"cname.example.org. 60 IN CNAME mail.example.org.", "mail.example.org. 3600 IN A 203.0.113.25"}},
		{name: "deep.er.example.org.", qtype: dns.TypeA, answer: []string{"deep.er.example.org. 60 IN A " + v4}},
		nodata("er.example.org.", dns.TypeA),
		{name: "none.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError, ns: []string{exampleSOA}},
		{name: `odd\.\ name.example.org.`, qtype: dns.TypeA, answer: []string{`odd\.\ name.example.org. 60 IN A ` + v4}},

		// The Corefile wins, but its wildcards give way to names that the zone has.
		{name: "rec.example.org.", qtype: dns.TypeA, answer: []string{"rec.example.org. 300 IN A 192.0.2.9"}},
		{name: "x.wild.example.org.", qtype: dns.TypeA, answer: []string{"x.wild.example.org. 60 IN A " + v4}},
		{name: "y.wild.example.org.", qtype: dns.TypeA, answer: []string{"y.wild.example.org. 300 IN A 192.0.2.9"}},
	} {
		for _, turn := range []string{"first", "again"} {
			t.Run(tc.name+dns.TypeToString[tc.qtype]+"/"+turn, func(t *testing.T) { tc.check(t, a) })
		}
	}
	for _, name := range []string{"sub.example.org.", "www.sub.example.org."} { // delegated
		m := query(t, a, name, dns.TypeA)
		if m.Authoritative || len(m.Answer) > 0 {
			t.Errorf("%s: no referral: %v", name, m)
		}
		wantText(t, name, m.Ns, "sub.example.org. 60 IN NS ns.sub.example.org.")
	}
}

// Chains over aliases of the Corefile, of the zone, CNAME records, and out.
func TestChainsInZone(t *testing.T) {
	log := logged(t)
	up := fake.New(t, fake.Zone("target.example. 300 IN A "+v4))
	backend := zoneFile(t, nil,
		"example.org. 600 IN ALIAS www.example.org.",
		"www.example.org. 120 IN A 203.0.113.80",
		"one.example.org. 600 IN ALIAS two.example.org.",
		"two.example.org. 90 IN ALIAS three.example.org.",
		"three.example.org. 600 IN CNAME four.example.org.",
		"five.example.org. 600 IN ALIAS target.example.",
		"wild.example.org. 600 IN ALIAS x.w.example.org.",
		"*.w.example.org. 70 IN ALIAS target.example.",
		"cycle.example.org. 600 IN ALIAS elcyc.example.org.",
		"elcyc.example.org. 600 IN ALIAS cycle.example.org.",
		"self.example.org. 600 IN ALIAS self.example.org.",
		"nothing.example.org. 600 IN ALIAS missing.example.org.",
	)
	a, c := newAlias(t, "example.org", "record four five.example.org 200\nrecord rec one.example.org\nupstream "+up.Addr, backend)
	brief := strings.Replace(exampleSOA, "3600", "5", 1)
	for _, tc := range []queryTest{
		{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 120 IN A 203.0.113.80"}},
		{name: "one.example.org.", qtype: dns.TypeA, answer: []string{"one.example.org. 90 IN A " + v4}},
		{name: "rec.example.org.", qtype: dns.TypeA, answer: []string{"rec.example.org. 90 IN A " + v4}},
		{name: "four.example.org.", qtype: dns.TypeA, answer: []string{"four.example.org. 200 IN A " + v4}},
		{name: "wild.example.org.", qtype: dns.TypeA, answer: []string{"wild.example.org. 70 IN A " + v4}},
		{name: "nothing.example.org.", qtype: dns.TypeA, ns: []string{exampleSOA}},
		{name: "cycle.example.org.", qtype: dns.TypeA, ns: []string{brief}},
		{name: "self.example.org.", qtype: dns.TypeA, ns: []string{brief}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.check(t, a) })
	}
	if n := up.AskedAll(); n != 1 { // the one name outside
		t.Errorf("%d lookups", n)
	}
	for range 3 { // a cycle is counted for each query, and logged once
		c.Advance(2 * time.Second)
		if n := counted(t, answered(failed), func() { query(t, a, "cycle.example.org.", dns.TypeA) }); n != 1 {
			t.Errorf("%v failures were counted", n)
		}
	}
	if n := strings.Count(log.String(), "Alias to elcyc.example.org. A fails: loop"); n != 1 {
		t.Errorf("the cycle was logged %d times:\n%s", n, log)
	}
}

// zoneBackend serves the zone that was stored last, counts queries, and can be slow.
type zoneBackend struct {
	zone    atomic.Pointer[file.File]
	queries atomic.Int32
	delay   time.Duration
	gone    atomic.Bool
}

func (*zoneBackend) Name() string { return "backend" }

func (b *zoneBackend) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	b.queries.Add(1)
	time.Sleep(b.delay)
	if b.gone.Load() {
		<-ctx.Done()
		return dns.RcodeServerFailure, nil
	}
	return b.zone.Load().ServeDNS(ctx, w, r)
}

// The plugin sees a change in the zone within a second, and until then queries the zone once, whatever the load.
func TestZoneChanges(t *testing.T) {
	up := fake.New(t, fake.Zone("one.example. 300 IN A 192.0.2.1", "two.example. 300 IN A 192.0.2.2"))
	backend := new(zoneBackend)
	a, c := newAlias(t, "example.org", "upstream "+up.Addr, backend)
	mx := "app.example.org. 60 IN MX 10 mail.example.org."
	for i, step := range []struct {
		records []string
		want    string // the address
	}{
		{[]string{mx, "app.example.org. 60 IN ALIAS one.example."}, "192.0.2.1"},
		{[]string{mx, "app.example.org. 60 IN ALIAS two.example."}, "192.0.2.2"},
		{[]string{mx, "app.example.org. 60 IN ALIAS two.example.", "app.example.org. 90 IN A 192.0.2.3"}, "192.0.2.3"},
		{[]string{mx, "app.example.org. 60 IN ALIAS one.example."}, "192.0.2.1"},
		{[]string{mx}, ""},
		{[]string{mx, "app.example.org. 60 IN ALIAS one.example."}, "192.0.2.1"},
		{nil, ""}, // NXDOMAIN
		{[]string{"app.example.org. 60 IN ALIAS one.example."}, "192.0.2.1"},
	} {
		backend.zone.Store(zoneFile(t, nil, step.records...))
		c.Advance(time.Second)
		got := ""
		if m := query(t, a, "app.example.org.", dns.TypeA); len(m.Answer) == 1 {
			got = dns.Field(m.Answer[0], 1)
		}
		if got != step.want {
			t.Errorf("step %d: got %q, want %q", i, got, step.want)
		}
		if step.want != "192.0.2.1" && step.want != "192.0.2.2" {
			continue // the backend answers
		}
		before := backend.queries.Load()
		c.Advance(time.Second - 1)
		for range 100 {
			query(t, a, "app.example.org.", dns.TypeA)
		}
		if n := backend.queries.Load() - before; n > 0 {
			t.Errorf("step %d: the backend was asked %d times in a second", i, n)
		}
		c.Advance(1)
	}
}

// One mistake is logged once, whatever names clients query.
func TestToldOnce(t *testing.T) {
	log := logged(t)
	many := []string{"*.w.example.org. 60 IN ALIAS loop.w.example.org."}
	for i := range records.MaxTargets + 1 {
		many = append(many, fmt.Sprintf("many.example.org. 60 IN ALIAS t%d.w.example.org.", i))
	}
	a, _ := newAlias(t, "example.org", "target_from x/y\nupstream 127.0.0.1", zoneFile(t, nil,
		many...))
	for i := range 2 * maxWarnings {
		query(t, a, fmt.Sprintf("r%d.w.example.org.", i), dns.TypeA)
		ctx := metadata.ContextWithMetadata(context.Background())
		metadata.SetValueFunc(ctx, "x/y", func() string { return fmt.Sprintf("no host %d", i) })
		exchange(t, ctx, a, new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
	}
	query(t, a, "many.example.org.", dns.TypeA)
	for text, want := range map[string]int{"Alias to loop.w.example.org. A fails": 1, "many.example.org. has 17 ALIAS records": 1, "Label x/y": maxLabelWarnings} {
		if n := strings.Count(log.String(), text); n != want {
			t.Errorf("%q was logged %d times, want %d", text, n, want)
		}
	}
}

// A zone that is signed already gets one warning, unless dnssec signs the answers.
func TestSignedZone(t *testing.T) {
	up := fake.New(t, good)
	sig := "example.org. 60 IN RRSIG TYPE65401 13 2 60 20300101000000 20200101000000 1 example.org. c2ln"
	for _, signs := range []bool{false, true} {
		log := logged(t)
		a, c := newAlias(t, "example.org", "upstream "+up.Addr, zoneFile(t, nil, "example.org. 60 IN ALIAS target.example.", sig))
		a.backend.Signs = signs
		for range 3 {
			queryTest{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 60 IN A " + v4}}.check(t, a)
			c.Advance(30 * time.Millisecond)
		}
		if n := strings.Count(log.String(), "Zone example.org. has aliases and signatures of its own"); (n == 1) == signs {
			t.Errorf("dnssec %v: %d warnings", signs, n)
		}
	}
}

func TestTargetFrom(t *testing.T) {
	log := logged(t)
	up := fake.New(t, fake.Zone("target.example. 300 IN A "+v4, "other.example. 300 IN A 192.0.2.9"))
	a, _ := newAlias(t, "example.org", "target_from tenant/target\ntxt\nrecord rec target.example\nupstream "+up.Addr,
		zoneFile(t, nil, "zone.example.org. 60 IN ALIAS target.example.", "own.example.org. 60 IN A 203.0.113.1"))
	for _, tc := range []struct {
		label string
		queryTest
	}{
		{"other.example", queryTest{name: "new.example.org.", qtype: dns.TypeA, answer: []string{"new.example.org. 300 IN A 192.0.2.9"}}},
		{"Target.Example.", queryTest{name: "new.example.org.", qtype: dns.TypeA, answer: []string{"new.example.org. 300 IN A " + v4}}},
		{"other.example", queryTest{name: "new.example.org.", qtype: dns.TypeAAAA, ns: []string{exampleSOA}}},
		{"other.example", queryTest{name: "new.example.org.", qtype: dns.TypeMX, ns: []string{exampleSOA}}}, // it exists
		{"other.example", queryTest{name: "new.example.org.", qtype: dns.TypeTXT, answer: []string{`new.example.org. 3600 IN TXT "ALIAS for other.example"`}}},
		{"other.example", queryTest{name: "own.example.org.", qtype: dns.TypeA, answer: []string{"own.example.org. 300 IN A 192.0.2.9"}}},
		{"other.example", queryTest{name: "zone.example.org.", qtype: dns.TypeA, answer: []string{"zone.example.org. 300 IN A 192.0.2.9"}}},
		{"other.example", queryTest{name: "rec.example.org.", qtype: dns.TypeA, answer: []string{"rec.example.org. 300 IN A " + v4}}},
		// To a name of the zone, that is an alias itself.
		{"zone.example.org", queryTest{name: "new.example.org.", qtype: dns.TypeA, answer: []string{"new.example.org. 60 IN A " + v4}}},
		{"", queryTest{name: "zone.example.org.", qtype: dns.TypeA, answer: []string{"zone.example.org. 60 IN A " + v4}}},
		{"", queryTest{name: "new.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError, ns: []string{exampleSOA}}},
		{"no host", queryTest{name: "new.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError, ns: []string{exampleSOA}}},
	} {
		h := plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			ctx = metadata.ContextWithMetadata(ctx)
			metadata.SetValueFunc(ctx, "tenant/target", func() string { return tc.label })
			return a.ServeDNS(ctx, w, r)
		})
		for _, turn := range []string{"first", "again"} {
			t.Run(tc.label+" "+tc.name+dns.TypeToString[tc.qtype]+"/"+turn, func(t *testing.T) { tc.check(t, h) })
		}
	}
	queryTest{name: "new.example.org.", qtype: dns.TypeA, rcode: dns.RcodeNameError, ns: []string{exampleSOA}}.check(t, a) // no metadata
	if n := strings.Count(log.String(), "Label tenant/target: \"no host\" is not the name of a target"); n != 1 {
		t.Errorf("the bad label was logged %d times", n)
	}
}

// Clients may influence labels: memory for their targets is bounded by cache_size, however large the answers are. So is
// memory for the targets of records.
func TestLargeTargets(t *testing.T) {
	const (
		size  = 100
		names = 2 * size
		each  = 10 << 10 // bytes for what cache_size counts
	)
	var records strings.Builder
	for i := range names + 1 {
		fmt.Fprintf(&records, "record n%d t%d.example\n", i, i)
	}
	for _, tc := range []struct {
		name       string
		properties string
		addresses  int
	}{
		{"labels", "target_from tenant/target", 1},
		{"labels, 500 addresses", "target_from tenant/target", 500},
		{"labels, most addresses", "target_from tenant/target", lookup.MaxRecords},
		{"records", records.String(), 1},
		{"records, 500 addresses", records.String(), 500},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, _ := newAlias(t, "example.org", fmt.Sprintf("%s\ncache_size %d\nupstream 127.0.0.1", tc.properties, size), zoneFile(t, nil))
			a.cache.resolve = func(context.Context, lookup.Question, int) (lookup.Outcome, error) {
				return lookup.Outcome{Data: make([]byte, tc.addresses*4), TTL: 300}, nil
			}
			ask := func(i int) {
				ctx := metadata.ContextWithMetadata(context.Background())
				metadata.SetValueFunc(ctx, "tenant/target", func() string { return fmt.Sprintf("t%d.example", i) })
				m := exchange(t, ctx, a, new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.org.", i), dns.TypeA))
				if len(m.Answer) != tc.addresses {
					t.Fatalf("got %v", m)
				}
			}
			ask(0)
			runtime.GC()
			before := heapInUse()
			for i := range names {
				ask(1 + i)
			}
			runtime.GC()
			after := heapInUse()
			if n := max(a.backend.Len(), a.cache.entries.Len()); n > size {
				t.Errorf("%d are kept", n)
			}
			grown := int64(after) - int64(before)
			t.Logf("%d bytes for each of cache_size", grown/size)
			if grown > size*each+1<<20 {
				t.Errorf("the heap grew from %d to %d kB", before>>10, after>>10)
			}
			runtime.KeepAlive(a)
		})
	}
}

// The plugin does not change the records that file hands out, whatever it makes of them.
func TestZoneUnchanged(t *testing.T) {
	up := fake.New(t, good)
	records := []string{
		"example.org. 60 IN CNAME www.example.org.",
		"www.example.org. 60 IN ALIAS target.example.",
		`www.example.org. 60 IN TXT "a"`,
		`www.example.org. 60 IN TXT "b"`,
		"www.example.org. 60 IN A 203.0.113.1",
		"*.w.example.org. 60 IN ALIAS target.example.",
		"c.example.org. 60 IN CNAME target.example.",
	}
	backend, twin := zoneFile(t, nil, records...), zoneFile(t, nil, records...)
	a, c := newAlias(t, "example.org", "txt\nflatten all\nmax_ttl 30\nupstream "+up.Addr, backend)
	n := 1_000_000
	if race.Enabled {
		n = 20_000
	}
	names := []string{"example.org.", "www.example.org.", "x.w.example.org.", "c.example.org.", "none.example.org."}
	qtypes := []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, 65401}
	w := new(recorder)
	for i := range n {
		r := new(dns.Msg).SetQuestion(names[i%5], qtypes[i/5%5])
		r.SetEdns0(1232, i%2 == 0)
		a.ServeDNS(context.Background(), w, r)
		for _, section := range []*[]dns.RR{&w.m.Answer, &w.m.Ns, &w.m.Extra} {
			*section = append(*section, new(dns.RRSIG)) // as dnssec does
		}
		if i%100 == 0 {
			c.Advance(time.Second / 4)
		}
	}
	if diff := cmp.Diff(dump(twin), dump(backend)); diff != "" {
		t.Errorf("after %d queries the zone has changed (-before +after):\n%s", n, diff)
	}
}
