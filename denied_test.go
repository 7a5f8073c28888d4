package alias

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin/metadata"

	"github.com/miekg/dns"
)

// chains is an upstream with chains of links of all kinds. Names at and below bad.example are denied by the tests, and so is all that
// is not below example.
var chains = fake.Zone(
	"good.example. 300 IN A "+v4, "good.example. 300 IN HTTPS 1 .", "good.example. 300 IN HTTPS 2 svc.bad.example. alpn=h2",
	"bad.example. 300 IN A "+v4, "db.bad.example. 300 IN A "+v4, "away.test. 300 IN A "+v4,
	"one.example. 300 IN CNAME good.example.",
	"to-bad.example. 300 IN CNAME DB.bad.example.",
	"through.example. 300 IN CNAME mid.bad.example.", "mid.bad.example. 300 IN CNAME good.example.",
	"away.example. 300 IN CNAME away.test.",
	"far.example. 300 IN CNAME far2.example.", "far2.example. 300 IN CNAME to-bad.example.",
	`esc.example. 300 IN CNAME \100b.bad.example.`,
	"mode.example. 300 IN HTTPS 0 svc.bad.example.", "svc.bad.example. 300 IN HTTPS 1 . alpn=h2",
	"example. 300 IN SOA ns.example. host.example. 1 2 3 4 60",
)

const filters = "target_allow example example.org\ntarget_deny Bad.example.\n"

// A target is denied wherever an alias is stated, and wherever a chain leads on.
func TestDeniedTargets(t *testing.T) {
	up := fake.New(t, chains)
	log := logged(t)
	a, _ := newAlias(t, "example.org", filters+`
		record one one.example
		record to-bad to-bad.example
		record through through.example
		record away away.example
		record far far.example
		record esc esc.example
		record inside in.example.org
		record good good.example
		record mode mode.example
		https copy
		flatten all
		target_from tenant/target
		upstream `+up.Addr, zoneFile(t, nil,
		"in.example.org. 60 IN CNAME out.bad.example.",
		"zone.example.org. 60 IN ALIAS db.bad.example.", "zone.example.org. 60 IN MX 10 mail.example.org.",
		"both.example.org. 60 IN ALIAS DB.bad.example.", "both.example.org. 60 IN ALIAS good.example.",
		"*.wild.example.org. 60 IN ALIAS bad.example.",
		`odd.example.org. 60 IN ALIAS \100b.bad.example.`,
		"root.example.org. 60 IN ALIAS .",
		"else.example.org. 60 IN ALIAS away.test.",
		"cname.example.org. 60 IN CNAME db.bad.example.",
		"fine.example.org. 60 IN CNAME good.example.",
	))
	nodata := func(name string) queryTest {
		return queryTest{name: name, qtype: dns.TypeA, ns: []string{exampleSOA}}
	}
	failed := func(name string) queryTest {
		return queryTest{name: name, qtype: dns.TypeA, ns: []string{strings.Replace(exampleSOA, " 3600 IN ", " 5 IN ", 1)}}
	}
	for _, tc := range []queryTest{
		{name: "one.example.org.", qtype: dns.TypeA, answer: []string{"one.example.org. 300 IN A " + v4}},
		failed("to-bad.example.org."), failed("through.example.org."), failed("away.example.org."), failed("far.example.org."),
		failed("esc.example.org."), failed("inside.example.org."),
		// What the zone says is no alias.
		nodata("zone.example.org."), nodata("a.wild.example.org."), nodata("odd.example.org."), nodata("root.example.org."), nodata("else.example.org."),
		{name: "zone.example.org.", qtype: dns.TypeMX, answer: []string{"zone.example.org. 60 IN MX 10 mail.example.org."}},
		{name: "both.example.org.", qtype: dns.TypeA, answer: []string{"both.example.org. 60 IN A " + v4}},
		{name: "fine.example.org.", qtype: dns.TypeA, answer: []string{"fine.example.org. 60 IN A " + v4}},
		// A TargetName is where clients connect to, so it is denied like a link.
		{name: "good.example.org.", qtype: dns.TypeHTTPS, answer: []string{"good.example.org. 300 IN HTTPS 1 ."}},
		{name: "mode.example.org.", qtype: dns.TypeHTTPS, ns: failed("").ns},
	} {
		t.Run(tc.name+dns.TypeToString[tc.qtype], func(t *testing.T) { tc.check(t, a) })
	}
	if m := query(t, a, "cname.example.org.", dns.TypeA); len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != dns.TypeCNAME {
		t.Errorf("a CNAME record to a denied name is not passed on: %v", m)
	}
	if codes := ede(query(t, a, "to-bad.example.org.", dns.TypeA)); len(codes) != 1 || codes[0] != dns.ExtendedErrorCodeFiltered {
		t.Errorf("EDE %v", codes)
	}
	for i, target := range []string{"db.bad.example", "good.example"} {
		ctx := metadata.ContextWithMetadata(context.Background())
		metadata.SetValueFunc(ctx, "tenant/target", func() string { return target })
		if m := exchange(t, ctx, a, new(dns.Msg).SetQuestion("label.example.org.", dns.TypeA)); len(m.Answer) != i {
			t.Errorf("label %s: %v", target, m)
		}
	}
	for _, want := range []string{
		"zone.example.org. is no alias of db.bad.example.: the target is denied", "both.example.org. is no alias of db.bad.example.",
		"*.wild.example.org. is no alias of bad.example.", "root.example.org. is no alias of .:", "label.example.org. is no alias of db.bad.example.",
		"cname.example.org. is no alias of db.bad.example.",
	} {
		if n := strings.Count(log.String(), want); n != 1 {
			t.Errorf("%q was logged %d times", want, n)
		}
	}
	if n := up.Asked("db.bad.example.", dns.TypeA) + up.Asked("away.test.", dns.TypeA) + up.Asked("bad.example.", dns.TypeA); n != 0 {
		t.Errorf("denied names were looked up %d times", n)
	}
}

// Addresses that are denied are taken out of answers. When none is left the lookup has failed, so the last good answer stays.
func TestDeniedAddresses(t *testing.T) {
	up := fake.New(t, fake.Zone("t.example. 300 IN A 192.0.2.1", "t.example. 300 IN A 10.0.0.1", "t.example. 300 IN AAAA 64:ff9b::a00:1",
		"t.example. 300 IN HTTPS 1 . alpn=h2 ipv4hint=10.0.0.1,192.0.2.1"))
	a, c := newAlias(t, "example.org", "record @ t.example\nretries 0\nhttps copy\naddress_deny 10.0.0.0/8 203.0.113.7\nupstream "+up.Addr, zoneFile(t, nil))
	answer := func(qtype uint16, want ...string) {
		t.Helper()
		wantText(t, dns.TypeToString[qtype], query(t, a, "example.org.", qtype).Answer, want...)
	}
	answer(dns.TypeA, "example.org. 300 IN A 192.0.2.1")
	answer(dns.TypeHTTPS, `example.org. 300 IN HTTPS 1 . alpn="h2"`)
	answer(dns.TypeAAAA)
	if codes := ede(query(t, a, "example.org.", dns.TypeAAAA)); len(codes) != 1 || codes[0] != dns.ExtendedErrorCodeFiltered {
		t.Errorf("EDE %v", codes)
	}
	up.Set(fake.Zone("t.example. 300 IN A 10.0.0.1", "t.example. 300 IN A 203.0.113.7"))
	c.Advance(301 * time.Second)
	answer(dns.TypeA, "example.org. 30 IN A 192.0.2.1")
}

// Secondaries get no alias and no address that is denied either.
func TestDeniedInTransfers(t *testing.T) {
	up := fake.New(t, fake.Zone("t.example. 300 IN A 192.0.2.1", "t.example. 300 IN A 10.0.0.1", "db.bad.example. 300 IN A 192.0.2.2"))
	b := new(zoneBackend)
	b.zone.Store(zoneWith(t, 7, "a.example.org. 60 IN ALIAS t.example.", "b.example.org. 60 IN ALIAS db.bad.example.",
		"c.example.org. 60 IN ALIAS db.bad.example.", "c.example.org. 60 IN ALIAS t.example."))
	a, _ := newPrimaryAlias(t, "target_deny bad.example\naddress_deny special 10.0.0.0/8\nupstream "+up.Addr, b)
	if _, err := a.Transfer("example.org.", 0); err == nil || !strings.Contains(err.Error(), "denied") { // nothing is left of t.example
		t.Errorf("a transfer without addresses: %v", err)
	}
	a, _ = newPrimaryAlias(t, "target_deny bad.example\naddress_deny 10.0.0.0/8\nupstream "+up.Addr, b)
	got, _ := transferred(t, a)
	if want := "a.example.org. 60 IN A 192.0.2.1 c.example.org. 60 IN A 192.0.2.1"; strings.Join(strings.Fields(strings.Join(got, " ")), " ") != want {
		t.Errorf("got %v, want %s", got, want)
	}
}

// What clients and the owners of targets can vary is logged so often at most that other warnings keep their place.
func TestDeniedIsLoggedSparingly(t *testing.T) {
	up := fake.New(t, fake.Zone("sparing.example. 300 IN A 192.0.2.1"))
	log := logged(t)
	a, c := newAlias(t, "example.org", "target_from tenant/target\ntarget_deny bad.example\naddress_deny 10.0.0.0/8\nrecord @ sparing.example\nretries 0\nupstream "+up.Addr,
		zoneFile(t, nil, "zone.example.org. 60 IN ALIAS db.bad.example."))
	ctx := metadata.ContextWithMetadata(context.Background())
	metadata.SetValueFunc(ctx, "tenant/target", func() string { return "bad.example" })
	for i := range maxWarnings + 1 {
		if m := exchange(t, ctx, a, new(dns.Msg).SetQuestion(fmt.Sprintf("n%d.example.org.", i), dns.TypeA)); m.Rcode != dns.RcodeNameError {
			t.Fatalf("a name whose label is denied exists: %v", m)
		}
	}
	if n := strings.Count(log.String(), " is no alias of bad.example."); n != maxLabelWarnings {
		t.Errorf("labels were logged %d times, want %d", n, maxLabelWarnings)
	}
	query(t, a, "zone.example.org.", dns.TypeA)
	if !strings.Contains(log.String(), "zone.example.org. is no alias of db.bad.example.") {
		t.Error("labels keep the warning about the zone from the log")
	}
	for i := range 5 {
		up.Set(fake.Zone("sparing.example. 300 IN A 192.0.2.1", fmt.Sprintf("sparing.example. 300 IN A 10.0.0.%d", i)))
		query(t, a, "example.org.", dns.TypeA)
		c.Advance(301 * time.Second)
	}
	if n := strings.Count(log.String(), "Target sparing.example. A: the address 10.0.0.0 is denied and left out"); n != 1 || strings.Count(log.String(), "is denied and left out") != 1 {
		t.Errorf("a target that changes its addresses was logged %d times:\n%s", n, log.String())
	}
}
