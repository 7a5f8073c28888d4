package backend_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"

	"github.com/miekg/dns"
)

const (
	signed = "Zone example.org. has aliases and signatures of its own: a validating resolver takes the addresses for bogus; " +
		"let dnssec sign instead"
)

// Which ALIAS records of a zone are aliases, of what, and for which types.
func TestZoneData(t *testing.T) {
	b := newBackend(t, zone(t,
		"example.org. 60 IN ALIAS Target.example.",
		"example.org. 3600 IN MX 10 mail.example.org.",
		"mail.example.org. 3600 IN A 203.0.113.25",
		"v4.example.org. 600 IN ANAME v4only.example.",
		"*.shop.example.org. 60 IN ALIAS target.example.",
		"own.shop.example.org. 60 IN MX 10 mail.example.org.",
		"a.example.org. 60 IN A 203.0.113.1",
		"a.example.org. 60 IN ALIAS target.example.",
		"both.example.org. 60 IN A 203.0.113.1",
		"both.example.org. 60 IN AAAA 2001:db8::9",
		"both.example.org. 60 IN ALIAS target.example.",
		"several.example.org. 60 IN ALIAS target.example.",
		"several.example.org. 70 IN ALIAS OTHER.example.", // the first in canonical order: its label is shorter
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
		"inside.example.org. 60 IN ALIAS mail.example.org.",
		`void.example.org. 60 IN ALIAS \# 0`, // the library's parser lets it through
		`odd\.\032name.example.org. 60 IN ALIAS target.example.`,
		"old.example.org. 4294967295 IN ALIAS target.example.",
	), nil)
	for _, tc := range []struct {
		name     string
		v4, v6   string // the targets, for either type
		ttl      uint32
		inside   bool
		warnings []string
	}{
		{name: "example.org.", v4: "target.example.", v6: "target.example.", ttl: 60},
		{name: "v4.example.org.", v4: "v4only.example.", v6: "v4only.example.", ttl: 600},
		{name: "mail.example.org."},
		{name: "none.example.org."},
		{name: "void.example.org."},
		{name: "inside.example.org.", v4: "mail.example.org.", v6: "mail.example.org.", ttl: 60, inside: true},
		{name: "old.example.org.", v4: "target.example.", v6: "target.example."}, // RFC 2181, section 8
		{name: `odd\.\ name.example.org.`, v4: "target.example.", v6: "target.example.", ttl: 60},

		// A wildcard does not reach below a name that exists (RFC 4592, section 3.3.1).
		{name: "any.shop.example.org.", v4: "target.example.", v6: "target.example.", ttl: 60},
		{name: "a.ny.shop.example.org.", v4: "target.example.", v6: "target.example.", ttl: 60},
		{name: "own.shop.example.org."},
		{name: "shop.example.org."},

		// The zone's own addresses win, each for its own type.
		{name: "a.example.org.", v6: "target.example.", ttl: 60},
		{name: "both.example.org."},

		// Several targets are in canonical order, each once, with the smallest TTL.
		{name: "several.example.org.", v4: "other.example. target.example.", v6: "other.example. target.example.", ttl: 60},
		{name: "x.several.example.org.", v4: "target.example. v4only.example.", v6: "target.example. v4only.example.", ttl: 60},
		{name: "twice.example.org.", v4: "target.example.", v6: "target.example.", ttl: 60},
		{name: "cname.example.org."},
		{name: "sub.example.org."}, // delegated
		{name: "www.sub.example.org."},
		{name: "deep.er.example.org.", v4: "target.example.", v6: "target.example.", ttl: 60},
		{name: "er.example.org."},
	} {
		for range 2 { // the second time it is cached
			v4, v6 := b.Answer(a(tc.name)).Alias, b.Answer(aaaa(tc.name)).Alias
			if targetOf(v4) != tc.v4 || targetOf(v6) != tc.v6 {
				t.Errorf("%s: targets %q and %q", tc.name, targetOf(v4), targetOf(v6))
			}
			for _, al := range []*records.Alias{v4, v6} {
				if al != nil && (al.TTL != tc.ttl || *al.Zone != (records.Zone{Name: "example.org.", Apex: "example.org."}) || al.Inside != tc.inside) {
					t.Errorf("%s: %+v", tc.name, al)
				}
			}
		}
		b.warned(t, tc.name, tc.warnings...)
	}
	if al := b.Answer(alias("v4.example.org.")).Alias; targetOf(al) != "v4only.example." {
		t.Errorf("by its own type: %+v", al)
	}
	if b.MayHaveAlias(b.Query("a.example.org.", dns.TypeA).Msg) || !b.MayHaveAlias(b.Query("a.example.org.", dns.TypeAAAA).Msg) {
		t.Error("an alias takes the place of addresses, or not of none")
	}
}

// An owner with too many targets has the first of them. The warning comes each time that the fault is found, which is once a
// second at most: the caller logs it once.
func TestTooManyTargets(t *testing.T) {
	var rrs, want []string
	for i := range records.MaxTargets + 1 {
		target := fmt.Sprintf("t%02d.example.", records.MaxTargets-i)
		rrs, want = append(rrs, "many.example.org. 60 IN ALIAS "+target), append([]string{target}, want...)
	}
	b := newBackend(t, zone(t, rrs...), nil)
	for i := range 3 {
		for range 100 {
			if got := targetOf(b.Answer(a("many.example.org.")).Alias); got != strings.Join(want[:records.MaxTargets], " ") {
				t.Fatalf("targets %s", got)
			}
		}
		b.warned(t, time.Duration(i).String(), "many.example.org. has 17 ALIAS records, of which 16 are used")
		b.advance(time.Second)
	}
}

// An alias in a zone that is signed already is a warning, unless the dnssec plugin makes good signatures.
func TestSignedZone(t *testing.T) {
	next := zone(t, "example.org. 60 IN ALIAS target.example.",
		"example.org. 60 IN RRSIG TYPE65401 13 2 60 20300101000000 20200101000000 1 example.org. c2ln")
	for signs, want := range map[bool][]string{false: {signed}, true: nil} {
		b := newBackend(t, next, nil)
		b.Signs = signs
		if al := b.Alias(a("example.org."), true); targetOf(al) != "target.example." {
			t.Errorf("dnssec %v: %+v", signs, al)
		}
		b.warned(t, "signed", want...)
	}
}

// The zone of an alias is that of the backend, however large that of the plugin is.
func TestZoneOfAlias(t *testing.T) {
	next := zone(t,
		"example.org. 60 IN NS ns.example.",
		"example.org. 60 IN ALIAS target.example.",
		"a.example.org. 60 IN A 203.0.113.1",
		"a.example.org. 60 IN ALIAS target.example.",
		"www.example.org. 60 IN CNAME target.example.",
		"*.w.example.org. 60 IN ALIAS target.example.")
	b := newBackend(t, next, func(cfg *backend.Config) { cfg.Zones, cfg.Flatten = records.Zones{".": {}}, backend.FlattenAll })
	for _, q := range []lookup.Question{
		a("example.org."), aaaa("a.example.org."), alias("a.example.org."), a("www.example.org."), a("x.w.example.org."), alias("x.w.example.org."),
	} {
		if al := b.Answer(q).Alias; al == nil || *al.Zone != (records.Zone{Name: ".", Apex: "example.org."}) {
			t.Errorf("%v: %+v", q, al)
		}
	}
}

// Which CNAME records are aliases.
func TestFlatten(t *testing.T) {
	next := zone(t,
		"example.org. 60 IN CNAME Target.example.",
		"www.example.org. 50 IN CNAME target.example.",
		"in.example.org. 60 IN CNAME host.example.org.",
		"host.example.org. 30 IN A 203.0.113.1",
		"*.w.example.org. 60 IN CNAME target.example.",
		"d.example.org. 60 IN DNAME example.",
		`esc.example.org. 60 IN CNAME q\046\100.example.`)
	for _, tc := range []struct {
		zone    string
		flatten backend.Flatten
		targets map[string]string
	}{
		{"example.org.", backend.FlattenNone, map[string]string{"example.org.": "", "www.example.org.": "", "x.w.example.org.": ""}},
		{"example.org.", backend.FlattenApex, map[string]string{"example.org.": "target.example.", "www.example.org.": "", "x.w.example.org.": ""}},
		{"org.", backend.FlattenApex, map[string]string{"example.org.": "target.example.", "www.example.org.": ""}}, // the zone is below
		{"example.org.", backend.FlattenAll, map[string]string{
			"example.org.": "target.example.", "www.example.org.": "target.example.", "x.w.example.org.": "target.example.",
			"in.example.org.": "host.example.org.", "host.example.org.": "", "target.d.example.org.": "",
			"none.example.org.": "", "esc.example.org.": `q\.d.example.`,
		}},
	} {
		b := newBackend(t, next, func(cfg *backend.Config) {
			cfg.Flatten, cfg.Zones = tc.flatten, records.Zones{tc.zone: {}}
		})
		for name, target := range tc.targets {
			for _, round := range []string{"first", "again"} {
				if got := targetOf(b.Answer(a(name)).Alias); got != target {
					t.Errorf("%s, flatten %d, %s, %s: got %q, want %q", tc.zone, tc.flatten, name, round, got, target)
				}
			}
		}
		if tc.flatten == backend.FlattenAll {
			if al := b.Answer(a("www.example.org.")).Alias; al.TTL != 50 || *al.Zone != (records.Zone{Name: "example.org.", Apex: "example.org."}) || al.Inside {
				t.Errorf("got %+v", al)
			}
			if al := b.Answer(a("in.example.org.")).Alias; !al.Inside {
				t.Errorf("got %+v", al)
			}
		}
		if got := b.MayHaveAlias(b.Query("host.example.org.", dns.TypeA).Msg); got != (tc.flatten != backend.FlattenNone) {
			t.Errorf("flatten %d: may have an alias: %v", tc.flatten, got)
		}
		if got := b.Answer(alias("example.org.")); got.Alias != nil {
			t.Errorf("flatten %d: a CNAME record is no ALIAS record: %+v", tc.flatten, got.Alias)
		}
	}
}

// Where the backend has no data of its own, only the names of the zones are known to be an apex.
func TestFlattenForeign(t *testing.T) {
	next := respond(func(m *dns.Msg) { m.Answer = rrs(m.Question[0].Name + " 60 IN CNAME target.example.") })
	b := newBackend(t, next, func(cfg *backend.Config) { cfg.Flatten = backend.FlattenApex })
	for name, target := range map[string]string{"example.org.": "target.example.", "sub.example.org.": ""} {
		if got := targetOf(b.Answer(a(name)).Alias); got != target {
			t.Errorf("%s: got %q, want %q", name, got, target)
		}
		b.asked(t, name, name+" A")
	}
}

// etcd and its like look up in the server where a CNAME record leads, and leave the record out when they cannot.
func TestFlattenThroughServer(t *testing.T) {
	inside := 0
	next := plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg).SetReply(r)
		if m.Authoritative = true; ctx.Value(dnsserver.Key{}) != nil && r.Question[0].Qtype == dns.TypeA {
			m.Answer = rrs("example.org. 60 IN CNAME target.example.")
			if backend.IsInside(ctx) {
				inside++
			}
		} else {
			m.Ns = rrs(soa)
		}
		return 0, w.WriteMsg(m)
	})
	if backend.IsInside(context.Background()) {
		t.Error("the query of a client counts as one that the Backend asked")
	}
	server := context.WithValue(context.Background(), dnsserver.Key{}, new(dnsserver.Server))
	for _, tc := range []struct {
		name    string
		flatten backend.Flatten
		ctx     context.Context
		target  string
	}{
		{"no server", backend.FlattenApex, context.Background(), ""},
		{"nothing to flatten", backend.FlattenNone, server, ""},
		{"apex", backend.FlattenApex, server, "target.example."},
		{"all", backend.FlattenAll, server, "target.example."},
	} {
		b := newBackend(t, next, func(cfg *backend.Config) { cfg.Flatten = tc.flatten })
		b.UseServer(tc.ctx)
		for second := range 3 {
			inside = 0
			for range 10 {
				if got := targetOf(b.Answer(a("example.org.")).Alias); got != tc.target {
					t.Errorf("%s: got %q, want %q", tc.name, got, tc.target)
				}
			}
			want := []string{"example.org. A", "example.org. ALIAS"}
			if tc.target != "" {
				want = append(want, "example.org. A")
			}
			b.asked(t, tc.name, want...)
			if marked := inside == 1; marked != (tc.target != "") {
				t.Errorf("%s, second %d: %d queries are marked", tc.name, second, inside)
			}
			b.advance(time.Second)
		}
	}
}

// An ALIAS record counts for more than a CNAME record that the backend has through the server; nobody asks for that then.
func TestFlattenAfterALIAS(t *testing.T) {
	b := newBackend(t, zone(t, "example.org. 60 IN ALIAS target.example."), func(cfg *backend.Config) { cfg.Flatten = backend.FlattenAll })
	b.UseServer(context.WithValue(context.Background(), dnsserver.Key{}, new(dnsserver.Server)))
	if got := targetOf(b.Answer(a("example.org.")).Alias); got != "target.example." {
		t.Errorf("got %q", got)
	}
	b.asked(t, "ALIAS", "example.org. A", "example.org. ALIAS")
}

// A backend that gives no response through the server has no alias, and the answer says whether one of the queries was not
// in time.
func TestFlattenNoResponse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, tc := range []struct {
			late         uint16 // queries of this type are not answered in time
			inside, want bool
		}{{dns.TypeNone, false, false}, {dns.TypeA, true, true}, {rdata.TypeALIAS, false, true}} {
			b := newBackend(t, plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
				if r.Question[0].Qtype == tc.late && backend.IsInside(ctx) == tc.inside {
					<-ctx.Done()
				}
				if backend.IsInside(ctx) {
					return dns.RcodeServerFailure, nil
				}
				m := new(dns.Msg).SetReply(r)
				m.Authoritative, m.Ns = true, rrs(soa)
				return 0, w.WriteMsg(m)
			}), func(cfg *backend.Config) { cfg.Flatten, cfg.Timeout = backend.FlattenApex, 50*time.Millisecond })
			b.UseServer(context.WithValue(context.Background(), dnsserver.Key{}, new(dnsserver.Server)))
			if got := b.Answer(a("example.org.")); got.Alias != nil || got.TimedOut != tc.want || got.Msg == nil {
				t.Errorf("late %d: %+v", tc.late, got)
			}
		}
	})
}
