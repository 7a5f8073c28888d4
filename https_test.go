package alias

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/signer"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"

	"github.com/miekg/dns"
)

// svc is an upstream with services of all kinds. The addresses of target.example are v4 and v6.
var svc = fake.Zone(
	"target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6,
	`target.example. 300 IN HTTPS 1 . alpn="h3,h2" port=8443 ipv4hint=192.0.2.1 ech="AAX+DQABAQ==" ipv6hint=2001:db8::1 key65280="abc"`,
	"target.example. 200 IN HTTPS 2 Backup.example. no-default-alpn alpn=h2",
	"hints.example. 300 IN A "+v4, "hints.example. 300 IN AAAA "+v6,
	"hints.example. 300 IN HTTPS 1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=192.0.2.1,192.0.2.99 ipv6hint=2001:db8::1",
	"hints.example. 300 IN HTTPS 2 . mandatory=ipv6hint ipv6hint=2001:db8::99",
	"led.example. 300 IN CNAME mode.example.",
	"mode.example. 90 IN HTTPS 0 service.example.",
	"mode.example. 300 IN HTTPS 1 ignored.example.",
	"service.example. 300 IN HTTPS 1 . alpn=h2",
	"none.example. 300 IN HTTPS 0 .",
	"loop.example. 300 IN HTTPS 0 pool.example.", "pool.example. 300 IN HTTPS 0 loop.example.",
	"bare.example. 300 IN A "+v4,
	"example. 300 IN SOA ns.example. host.example. 1 2 3 4 60",
)

const (
	full   = `HTTPS 1 . alpn="h3,h2" port="8443" ipv4hint="192.0.2.1" ech="AAX+DQABAQ==" ipv6hint="2001:db8::1" key65280="abc"`
	backup = `HTTPS 2 backup.example. alpn="h2" no-default-alpn=""`
	simple = `HTTPS 1 . alpn="h2"`
)

// simpleTarget is an upstream with one record of each type.
var simpleTarget = fake.Zone("target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6, "target.example. 300 IN HTTPS 1 . alpn=h2")

func TestHTTPSCopy(t *testing.T) {
	up := fake.New(t, svc)
	zone := zoneFile(t, nil,
		"zone.example.org. 60 IN ALIAS target.example.",
		"both.example.org. 60 IN ALIAS target.example.", `both.example.org. 60 IN HTTPS 1 . alpn="h2"`,
		`own.example.org. 60 IN HTTPS 1 . alpn="h2"`, "own.example.org. 60 IN TXT x",
		`x.wild.example.org. 60 IN HTTPS 1 . alpn="h2"`,
		"flat.example.org. 60 IN CNAME target.example.",
		"moved.example.org. 60 IN CNAME other.example.org.", `other.example.org. 60 IN HTTPS 1 . alpn="h2"`,
		"other.example.org. 60 IN A 203.0.113.9",
		"mine.example.org. 60 IN A 203.0.113.9", "mine.example.org. 60 IN ALIAS target.example.",
		"mode.example.org. 60 IN HTTPS 0 mode.example.",
		"*.shop.example.org. 60 IN ALIAS service.example.",
	)
	a, _ := newAlias(t, "example.org", `
		record @ target.example 100
		record own target.example
		record moved service.example
		record *.wild service.example
		record hints hints.example
		record led led.example
		record none none.example
		record loop loop.example
		record bare bare.example
		record gone gone.example
		record inside other.example.org
		record dot mode.example.org
		record union service.example bare.example target.example 70
		flatten all
		https copy
		upstream `+up.Addr, zone)
	nodata := func(name string) queryTest {
		return queryTest{name: name, qtype: dns.TypeHTTPS, ns: []string{exampleSOA}}
	}
	positive := func(name string, answer ...string) queryTest {
		return queryTest{name: name, qtype: dns.TypeHTTPS, answer: answer}
	}
	failed := nodata("loop.example.org.")
	failed.ns = []string{"example.org. 5 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300"}
	for _, tc := range []queryTest{
		positive("example.org.", "example.org. 100 IN "+full, "example.org. 100 IN "+backup),
		positive("zone.example.org.", "zone.example.org. 60 IN "+full, "zone.example.org. 60 IN "+backup),
		positive("flat.example.org.", "flat.example.org. 60 IN "+full, "flat.example.org. 60 IN "+backup),
		positive("a.shop.example.org.", `a.shop.example.org. 60 IN HTTPS 1 . alpn="h2"`),
		// HTTPS records of the zone at the owner win, but not those that a CNAME record leads to, as for addresses.
		positive("both.example.org.", `both.example.org. 60 IN HTTPS 1 . alpn="h2"`),
		positive("own.example.org.", `own.example.org. 60 IN HTTPS 1 . alpn="h2"`),
		positive("x.wild.example.org.", `x.wild.example.org. 60 IN HTTPS 1 . alpn="h2"`),
		positive("y.wild.example.org.", `y.wild.example.org. 300 IN HTTPS 1 . alpn="h2"`),
		positive("moved.example.org.", `moved.example.org. 300 IN HTTPS 1 . alpn="h2"`),
		// Hints that contradict the addresses served.
		positive("hints.example.org.", `hints.example.org. 300 IN HTTPS 1 . mandatory="alpn" alpn="h2" ipv6hint="2001:db8::1"`,
			"hints.example.org. 300 IN HTTPS 2 ."),
		positive("mine.example.org.", "mine.example.org. 60 IN "+
			`HTTPS 1 target.example. alpn="h3,h2" port="8443" ech="AAX+DQABAQ==" ipv6hint="2001:db8::1" key65280="abc"`,
			"mine.example.org. 60 IN "+backup),
		// AliasMode, also behind a CNAME record and in own data.
		positive("led.example.org.", `led.example.org. 90 IN HTTPS 1 service.example. alpn="h2"`),
		positive("dot.example.org.", `dot.example.org. 60 IN HTTPS 1 service.example. alpn="h2"`),
		positive("inside.example.org.", `inside.example.org. 60 IN HTTPS 1 . alpn="h2"`),
		positive("union.example.org.", `union.example.org. 70 IN HTTPS 1 service.example. alpn="h2"`,
			"union.example.org. 70 IN "+strings.Replace(full, ".", "target.example.", 1), "union.example.org. 70 IN "+backup),
		nodata("none.example.org."), nodata("bare.example.org."), nodata("gone.example.org."), failed,
		{name: "nowhere.example.org.", qtype: dns.TypeHTTPS, rcode: dns.RcodeNameError, ns: []string{exampleSOA}},
		{name: "own.example.org.", qtype: dns.TypeTXT, answer: []string{`own.example.org. 60 IN TXT "x"`}},
	} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} { // and so the addresses are known
			query(t, a, tc.name, qtype)
		}
		for _, turn := range []string{"first", "again"} {
			t.Run(tc.name+dns.TypeToString[tc.qtype]+"/"+turn, func(t *testing.T) { tc.check(t, a) })
		}
	}
}

func TestHTTPSAlias(t *testing.T) {
	up := fake.New(t, nil)
	a, _ := newAlias(t, "example.org", `
		record @ target.example 100
		record several target.example other.example
		record inside www.example.org
		record own target.example
		record *.wild target.example
		https alias
		flatten all
		upstream `+up.Addr, zoneFile(t, nil,
		"zone.example.org. 60 IN ALIAS target.example.", `own.example.org. 60 IN HTTPS 1 . alpn="h2"`,
		"flat.example.org. 60 IN CNAME target.example."))
	for _, tc := range []queryTest{
		{name: "example.org.", answer: []string{"example.org. 100 IN HTTPS 0 target.example."}},
		{name: "zone.example.org.", answer: []string{"zone.example.org. 60 IN HTTPS 0 target.example."}},
		{name: "flat.example.org.", answer: []string{"flat.example.org. 60 IN HTTPS 0 target.example."}},
		{name: "a.wild.example.org.", answer: []string{"a.wild.example.org. 3600 IN HTTPS 0 target.example."}},
		{name: "inside.example.org.", answer: []string{"inside.example.org. 3600 IN HTTPS 0 www.example.org."}},
		{name: "own.example.org.", answer: []string{`own.example.org. 60 IN HTTPS 1 . alpn="h2"`}},
		{name: "several.example.org.", answer: []string{
			"several.example.org. 3600 IN HTTPS 0 target.example.", "several.example.org. 3600 IN HTTPS 0 other.example.",
		}},
	} {
		tc.qtype = dns.TypeHTTPS
		t.Run(tc.name, func(t *testing.T) { tc.check(t, a) })
	}
	if n := up.AskedAll(); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// Without the property, the backend answers HTTPS queries, and the upstream is not asked.
func TestHTTPSOff(t *testing.T) {
	up := fake.New(t, svc)
	a, _ := newAlias(t, "example.org", "record @ target.example\nrecord own target.example\nflatten all\nupstream "+up.Addr, zoneFile(t, nil,
		`own.example.org. 60 IN HTTPS 1 . alpn="h2"`, "cname.example.org. 60 IN CNAME target.example.", "zone.example.org. 60 IN ALIAS target.example."))
	for _, tc := range []queryTest{
		{name: "example.org.", ns: []string{exampleSOA}},
		{name: "zone.example.org.", ns: []string{exampleSOA}},
		{name: "own.example.org.", answer: []string{`own.example.org. 60 IN HTTPS 1 . alpn="h2"`}},
		{name: "cname.example.org.", rcode: dns.RcodeServerFailure, answer: []string{"cname.example.org. 60 IN CNAME target.example."}},
	} {
		tc.qtype = dns.TypeHTTPS
		t.Run(tc.name, func(t *testing.T) { tc.check(t, a) })
	}
	if n := up.Asked("target.example.", dns.TypeHTTPS); n != 0 {
		t.Errorf("the upstream was asked %d times", n)
	}
}

// HTTPS records of another server, to which the backend forwards, are not the zone's own.
func TestHTTPSOfOthers(t *testing.T) {
	up := fake.New(t, simpleTarget)
	for _, authoritative := range []bool{false, true} {
		a, _ := newAlias(t, "example.org", "record @ target.example\nhttps copy\nupstream "+up.Addr, plugin.HandlerFunc(
			func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
				m := new(dns.Msg).SetReply(r)
				m.Authoritative = authoritative
				m.Answer = fake.RRs("example.org. 60 IN HTTPS 1 other.example.")
				w.WriteMsg(m)
				return dns.RcodeSuccess, nil
			}))
		want := "example.org. 300 IN " + simple
		if authoritative {
			want = "example.org. 60 IN HTTPS 1 other.example."
		}
		wantText(t, "answer", query(t, a, "example.org.", dns.TypeHTTPS).Answer, want)
	}
}

// HTTPS records are cached, prefetched, and served stale as addresses are.
func TestHTTPSInTime(t *testing.T) {
	up := fake.New(t, simpleTarget)
	a, c := newAlias(t, "example.org", "record @ target.example\nhttps copy\nretries 0\nstale_ttl 7\nupstream "+up.Addr, zoneFile(t, nil))
	ask := func(want status, ttl uint32) {
		t.Helper()
		ctx, got := withStatus()
		r := new(dns.Msg).SetQuestion("example.org.", dns.TypeHTTPS)
		r.SetEdns0(1232, false)
		m := exchange(t, ctx, a, r)
		if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != ttl || got() != want.String() {
			t.Errorf("%s, want %s and TTL %d: %v", got(), want, ttl, m)
		}
	}
	ask(miss, 300)
	c.Advance(100 * time.Second)
	ask(hit, 200)
	c.Advance(180 * time.Second)
	ask(hit, 20) // and it is prefetched
	a.cache.wg.Wait()
	if n := up.Asked("target.example.", dns.TypeHTTPS); n != 2 {
		t.Errorf("asked %d times", n)
	}
	ask(hit, 300)
	up.Set(fake.Rcode(dns.RcodeServerFailure))
	c.Advance(301 * time.Second)
	ask(stale, 7)
	c.Advance(time.Hour)
	up.Set(fake.Zone("target.example. 300 IN A " + v4)) // an answer replaces it
	query(t, a, "example.org.", dns.TypeHTTPS)          // stale, and looked up in the background
	a.cache.wg.Wait()
	if m := query(t, a, "example.org.", dns.TypeHTTPS); len(m.Answer) != 0 || len(m.Ns) != 1 || len(ede(m)) != 0 {
		t.Errorf("want NODATA: %v", m)
	}
}

// Without an answer, on_failure says what the client gets.
func TestHTTPSOnFailure(t *testing.T) {
	up := fake.New(t, fake.Rcode(dns.RcodeServerFailure))
	for _, tc := range []struct {
		mode  string
		rcode int
		ns    []string
	}{
		{"empty", dns.RcodeSuccess, []string{"example.org. 5 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300"}},
		{"servfail", dns.RcodeServerFailure, nil},
	} {
		a, _ := newAlias(t, "example.org", "record @ "+tc.mode+".example\nhttps copy\non_failure "+tc.mode+"\nupstream "+up.Addr, zoneFile(t, nil))
		queryTest{name: "example.org.", qtype: dns.TypeHTTPS, rcode: tc.rcode, ns: tc.ns}.check(t, a)
		if codes := ede(query(t, a, "example.org.", dns.TypeHTTPS)); !slices.Equal(codes, []uint16{dns.ExtendedErrorCodeNoReachableAuthority}) {
			t.Errorf("%s: EDE %v", tc.mode, codes)
		}
	}
}

// The HTTPS records of records are looked up at start-up with copy, and not with alias.
func TestHTTPSPrime(t *testing.T) {
	for mode, want := range map[string]int{"copy": 1, "alias": 0} {
		up := fake.New(t, simpleTarget)
		a, _ := newAlias(t, "example.org", "record @ target.example\nhttps "+mode+"\nupstream "+up.Addr, nil)
		a.prime()
		if n := up.Asked("target.example.", dns.TypeHTTPS); n != want {
			t.Errorf("https %s: asked %d times, want %d", mode, n, want)
		}
	}
}

// A label makes an alias for HTTPS queries too, unless the zone has HTTPS records.
func TestHTTPSLabel(t *testing.T) {
	up := fake.New(t, simpleTarget)
	a, _ := newAlias(t, "example.org", "target_from test/target\nhttps copy\nupstream "+up.Addr,
		zoneFile(t, nil, `own.example.org. 60 IN HTTPS 1 . alpn="h2"`))
	for name, want := range map[string]string{
		"any.example.org.": "any.example.org. 300 IN " + simple,
		"own.example.org.": `own.example.org. 60 IN HTTPS 1 . alpn="h2"`,
	} {
		ctx := metadata.ContextWithMetadata(context.Background())
		metadata.SetValueFunc(ctx, "test/target", func() string { return "target.example" })
		wantText(t, name, exchange(t, ctx, a, new(dns.Msg).SetQuestion(name, dns.TypeHTTPS)).Answer, want)
	}
}

// txt names the target, whatever https does.
func TestHTTPSAndText(t *testing.T) {
	up := fake.New(t, simpleTarget)
	a, _ := newAlias(t, "example.org", "record @ target.example\nhttps copy\ntxt\nupstream "+up.Addr, zoneFile(t, nil))
	wantText(t, "TXT", query(t, a, "example.org.", dns.TypeTXT).Answer, `example.org. 3600 IN TXT "ALIAS for target.example"`)
	wantText(t, "HTTPS", query(t, a, "example.org.", dns.TypeHTTPS).Answer, "example.org. 300 IN "+simple)
}

// With failover, HTTPS records are those of the target whose addresses are served, even when it has none.
func TestHTTPSFailover(t *testing.T) {
	first := "first.example. 300 IN A 192.0.2.1"
	second := []string{
		"second.example. 300 IN A 192.0.2.2", "second.example. 300 IN AAAA 2001:db8::2",
		"second.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=192.0.2.2 ipv6hint=2001:db8::2",
	}
	firstHTTPS := "first.example. 300 IN HTTPS 1 . ipv4hint=192.0.2.1 ipv6hint=2001:db8::1"
	of := func(target, more string) string { return "example.org. 300 IN HTTPS 1 " + target + more }
	for _, tc := range []struct {
		name    string
		records []string // beside those of the second target
		copied  []string
		serving string // the target that https alias names
	}{
		{"without HTTPS records", []string{first}, nil, "first"},
		// The AAAA records are those of the second, so "." would be both.
		{"with HTTPS records", []string{first, firstHTTPS}, []string{of("first.example.", ` ipv4hint="192.0.2.1"`)}, "first"},
		{"without addresses", []string{firstHTTPS}, []string{of(".", ` alpn="h2" ipv4hint="192.0.2.2" ipv6hint="2001:db8::2"`)}, "second"},
		{"gone", nil, []string{of(".", ` alpn="h2" ipv4hint="192.0.2.2" ipv6hint="2001:db8::2"`)}, "second"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := fake.New(t, fake.Zone(append(tc.records, second...)...))
			b := new(zoneBackend)
			b.zone.Store(zoneWith(t, 7))
			const failover = "failover @ first.example second.example\nupstream "
			a, _ := newPrimaryAlias(t, failover+up.Addr+"\nhttps copy", b)
			for _, turn := range []string{"cold", "cached"} {
				query(t, a, "example.org.", dns.TypeAAAA)
				wantText(t, turn, query(t, a, "example.org.", dns.TypeHTTPS).Answer, tc.copied...)
			}
			wantText(t, "transferred", httpsIn(t, a), tc.copied...)
			a, _ = newPrimaryAlias(t, failover+up.Addr+"\nhttps alias", b)
			mode := "example.org. 3600 IN HTTPS 0 " + tc.serving + ".example."
			wantText(t, "https alias", query(t, a, "example.org.", dns.TypeHTTPS).Answer, mode)
			wantText(t, "transferred with https alias", httpsIn(t, a), mode)
		})
	}
}

// When failover goes over to the next target, its HTTPS records are cached already.
func TestHTTPSFailoverInTime(t *testing.T) {
	up := fake.New(t, fake.Zone(
		"first.example. 300 IN A 192.0.2.1", "first.example. 300 IN HTTPS 1 .",
		"second.example. 300 IN A 192.0.2.2", "second.example. 300 IN HTTPS 1 .",
	))
	a, c := newAlias(t, "example.org", "failover @ first.example second.example\nhttps copy\nretries 0\nupstream "+up.Addr, zoneFile(t, nil))
	query(t, a, "example.org.", dns.TypeA)
	wantText(t, "first", query(t, a, "example.org.", dns.TypeHTTPS).Answer, "example.org. 300 IN HTTPS 1 .")
	if n := up.Asked("first.example.", dns.TypeHTTPS); n != 1 {
		t.Errorf("asked %d times", n)
	}
	awaitAsked(t, up, "second.example.", 1)
	up.Set(fake.Zone("second.example. 300 IN A 192.0.2.2", "second.example. 300 IN HTTPS 1 ."))
	c.Advance(301 * time.Second)
	query(t, a, "example.org.", dns.TypeA)
	wantText(t, "second", query(t, a, "example.org.", dns.TypeHTTPS).Answer, "example.org. 300 IN HTTPS 1 .")
}

// awaitAsked waits until up was asked for the HTTPS records of name so many times.
func awaitAsked(t *testing.T, up *fake.Server, name string, times int) {
	t.Helper()
	for range 500 {
		if up.Asked(name, dns.TypeHTTPS) == times {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Errorf("%s HTTPS: asked %d times, want %d", name, up.Asked(name, dns.TypeHTTPS), times)
}

// httpsIn returns the HTTPS records of an outgoing transfer.
func httpsIn(t *testing.T, a *Alias) []dns.RR {
	t.Helper()
	records, _ := transferred(t, a)
	var https []dns.RR
	for _, line := range records {
		if rr, err := dns.NewRR(line); err == nil && rr.Header().Rrtype == dns.TypeHTTPS {
			https = append(https, rr)
		}
	}
	return https
}

// Transfers have the HTTPS records that queries get.
func TestHTTPSTransfer(t *testing.T) {
	up := fake.New(t, svc)
	b := new(zoneBackend)
	b.zone.Store(zoneWith(t, 7,
		"example.org. 60 IN ALIAS target.example.",
		"mine.example.org. 60 IN A 203.0.113.9", "mine.example.org. 60 IN ALIAS hints.example.",
		"own.example.org. 60 IN HTTPS 1 .", "both.example.org. 60 IN ALIAS target.example.", "both.example.org. 60 IN HTTPS 1 .",
		"*.shop.example.org. 60 IN ALIAS service.example.", "bare.example.org. 60 IN ALIAS bare.example.",
	))
	properties := "record own target.example\nrecord hints hints.example\nrecord *.w led.example\nupstream " + up.Addr + "\n"
	a, _ := newPrimaryAlias(t, properties+"https copy", b)
	shop := `*.shop.example.org. 60 IN HTTPS 1 . alpn="h2"`
	wantText(t, "copy", httpsIn(t, a), shop, `*.w.example.org. 90 IN HTTPS 1 service.example. alpn="h2"`,
		"both.example.org. 60 IN HTTPS 1 .",
		"example.org. 60 IN "+full, "example.org. 60 IN "+backup,
		`hints.example.org. 300 IN HTTPS 1 . mandatory="alpn" alpn="h2" ipv6hint="2001:db8::1"`,
		"hints.example.org. 300 IN HTTPS 2 .",
		`mine.example.org. 60 IN HTTPS 1 hints.example. mandatory="alpn" alpn="h2" ipv6hint="2001:db8::1"`,
		"mine.example.org. 60 IN HTTPS 2 hints.example.",
		"own.example.org. 60 IN HTTPS 1 .")

	a, _ = newPrimaryAlias(t, properties+"https alias", b)
	wantText(t, "alias", httpsIn(t, a),
		"*.shop.example.org. 60 IN HTTPS 0 service.example.", "*.w.example.org. 3600 IN HTTPS 0 led.example.",
		"bare.example.org. 60 IN HTTPS 0 bare.example.", "both.example.org. 60 IN HTTPS 1 .", "example.org. 60 IN HTTPS 0 target.example.",
		"hints.example.org. 3600 IN HTTPS 0 hints.example.", "mine.example.org. 60 IN HTTPS 0 hints.example.", "own.example.org. 60 IN HTTPS 1 .")

	a, _ = newPrimaryAlias(t, properties, b)
	wantText(t, "off", httpsIn(t, a), "both.example.org. 60 IN HTTPS 1 .", "own.example.org. 60 IN HTTPS 1 .")
}

// When the addresses change, the transferred HTTPS records lose the hints that now contradict them.
func TestHTTPSTransferInTime(t *testing.T) {
	https := "target.example. 3600 IN HTTPS 1 . ipv4hint=192.0.2.1"
	up := fake.New(t, fake.Zone("target.example. 60 IN A 192.0.2.1", https))
	b := new(zoneBackend)
	b.zone.Store(zoneWith(t, 7, "example.org. 3600 IN ALIAS target.example."))
	a, c := newPrimaryAlias(t, "https copy\nupstream "+up.Addr, b)
	wantText(t, "before", httpsIn(t, a), `example.org. 3600 IN HTTPS 1 . ipv4hint="192.0.2.1"`)
	before := published(t, a)
	up.Set(fake.Zone("target.example. 60 IN A 192.0.2.7", https))
	c.Advance(10 * time.Minute)
	refresh(a)
	wantText(t, "after", httpsIn(t, a), "example.org. 3600 IN HTTPS 1 .")
	if published(t, a) == before {
		t.Error("the serial is the same")
	}
}

// The NSEC records of dnssec deny HTTPS records only where HTTPS queries are left to the backend. See package denial.
func TestHTTPSAndNSEC(t *testing.T) {
	up := fake.New(t, svc)
	zone := zoneFile(t, nil,
		"sub.example.org. 300 IN NS ns.sub.example.org.", "ns.sub.example.org. 300 IN A 192.0.2.53",
		"txt.example.org. 300 IN ALIAS service.example.", "txt.example.org. 300 IN TXT x")
	for _, setup := range []struct {
		https  string
		denied bool
	}{{"https copy", false}, {"https alias", false}, {"", true}} {
		a, _ := newAlias(t, "example.org", "record @ service.example\nrecord bare bare.example\nupstream "+up.Addr+"\n"+setup.https, zone)
		h, keys := signer.New(t, a, false, dns.ZONE|dns.SEP)
		a.signer = &h
		for _, tc := range []struct {
			name   string
			qtype  uint16
			denied bool
		}{
			{"example.org.", dns.TypeAAAA, setup.denied},
			{"example.org.", dns.TypeNSEC, setup.denied},
			{"bare.example.org.", dns.TypeTXT, setup.denied},
			{"txt.example.org.", dns.TypeCAA, setup.denied},
			{"nowhere.example.org.", dns.TypeA, setup.denied},
			{"bare.example.org.", dns.TypeDS, true},
			{"sub.example.org.", dns.TypeA, true},
			{"sub.example.org.", dns.TypeDS, true},
		} {
			r := new(dns.Msg).SetQuestion(tc.name, tc.qtype)
			r.SetEdns0(1232, true)
			m := exchange(t, context.Background(), h, r)
			rrs := slices.Concat(m.Answer, m.Ns)
			i := slices.IndexFunc(rrs, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeNSEC })
			if i < 0 || slices.Contains(rrs[i].(*dns.NSEC).TypeBitMap, dns.TypeHTTPS) == tc.denied {
				t.Errorf("%q: %s %s: got %v", setup.https, tc.name, dns.TypeToString[tc.qtype], m)
			}
		}
		if setup.https == "https copy" {
			testSignedHTTPS(t, h, keys)
		}
	}
}

// testSignedHTTPS checks that HTTPS records of an alias are signed, and that where there are none their absence is.
func testSignedHTTPS(t *testing.T, h plugin.Handler, keys []*dns.DNSKEY) {
	t.Helper()
	r := new(dns.Msg).SetQuestion("example.org.", dns.TypeHTTPS)
	r.SetEdns0(1232, true)
	m := exchange(t, context.Background(), h, r)
	signer.Check(t, m.Answer, keys)
	if !slices.ContainsFunc(m.Answer, func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeHTTPS }) {
		t.Errorf("no HTTPS record: %v", m)
	}
	r.SetQuestion("bare.example.org.", dns.TypeHTTPS)
	m = exchange(t, context.Background(), h, r)
	signer.Check(t, m.Ns, keys)
	if len(m.Answer) != 0 || slices.ContainsFunc(m.Ns, func(rr dns.RR) bool {
		nsec, ok := rr.(*dns.NSEC)
		return ok && slices.Contains(nsec.TypeBitMap, dns.TypeHTTPS)
	}) {
		t.Errorf("without HTTPS records: got %v", m)
	}
	plain := query(t, h, "bare.example.org.", dns.TypeAAAA)
	wantText(t, "without DO", plain.Ns, exampleSOA)
}
