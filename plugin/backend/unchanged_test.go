package backend_test

import (
	"testing"
	"time"

	"github.com/coredns/alias/plugin/backend"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/auto"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/secondary"

	"github.com/miekg/dns"
)

// replace makes z what other is, as file, auto and secondary do.
func replace(z, other *file.Zone) {
	z.Lock()
	defer z.Unlock()
	z.Apex, z.Tree = other.Apex, other.Tree
}

// What the zone has answered is valid until the zone changes, and no longer.
func TestUnchangedZone(t *testing.T) {
	first := func() *file.Zone {
		return parseZone(t, "example.org.", "www.example.org. 60 IN ALIAS one.example.", "*.w.example.org. 60 IN ALIAS one.example.")
	}
	for name, plug := range map[string]func(f file.File) plugin.Handler{
		"file":      func(f file.File) plugin.Handler { return f },
		"secondary": func(f file.File) plugin.Handler { return &secondary.Secondary{File: f} },
	} {
		for _, owner := range []string{"www.example.org.", "x.w.example.org."} {
			t.Run(name+" "+owner, func(t *testing.T) {
				z := first()
				h := plug(serve(map[string]*file.Zone{"example.org.": z}))
				b := newBackend(t, h, nil)
				b.ZoneOf = backend.ZonesOf([]plugin.Handler{h})
				both := []string{owner + " A", owner + " ALIAS"}
				check := func(what, target string, queries ...string) {
					t.Helper()
					if got := targetOf(b.Answer(a(owner)).Alias); got != target {
						t.Errorf("%s: got %q, want %q", what, got, target)
					}
					b.asked(t, what, queries...)
				}
				check("first", "one.example.", both...)
				for range 5 {
					b.advance(2 * time.Second)
					check("unchanged", "one.example.")
					if got := targetOf(b.Alias(a(owner), false)); got != "one.example." {
						t.Errorf("unchanged: got %q", got)
					}
				}
				replace(z, parseZone(t, "example.org.", owner+" 60 IN ALIAS two.example.")) // with the same serial
				check("changed", "two.example.", both...)
				replace(z, parseZone(t, "example.org.", owner+" 60 IN ALIAS two.example.", owner+" 60 IN A 203.0.113.1"))
				check("changed, but not for a second", "two.example.")
				b.advance(time.Second)
				check("an address beside the alias", "", owner+" A")
				for range 2 { // addresses are queried for, as a chain may lead out of the zone
					b.advance(time.Second)
					check("addresses of the zone", "", owner+" A")
				}
				replace(z, parseZone(t, "example.org."))
				b.advance(time.Second)
				check("gone", "", owner+" A")
				replace(z, first())
				b.advance(time.Second)
				check("back", "one.example.", both...)
				b.advance(time.Second)
				z.Lock()
				z.Expired = true
				z.Unlock()
				if got := b.Answer(a(owner)); got.Alias != nil || got.Own() {
					t.Errorf("the zone has expired: %+v", got)
				}
			})
		}
	}
}

// An SOA record is valid for as long as the zone is unchanged, and so is a negative answer; nothing else is.
func TestUnchangedAnswers(t *testing.T) {
	z := parseZone(t, "example.org.", "www.example.org. 60 IN A 192.0.2.1", "cname.example.org. 60 IN CNAME www.example.org.")
	h := serve(map[string]*file.Zone{"example.org.": z})
	for _, tc := range []struct {
		name  string
		qtype uint16
		kept  bool
	}{
		{"example.org.", dns.TypeSOA, true},
		{"www.example.org.", dns.TypeSOA, true},
		{"www.example.org.", dns.TypeAAAA, true},
		{"www.example.org.", dns.TypeA, false},
		{"cname.example.org.", dns.TypeA, false},
		{"cname.example.org.", dns.TypeSOA, false},
		{"none.example.org.", dns.TypeA, false},
	} {
		b := newBackend(t, h, nil)
		b.ZoneOf = backend.ZonesOf([]plugin.Handler{h})
		q := a(tc.name)
		q.Type = tc.qtype
		first := b.Answer(q)
		b.advance(time.Hour)
		if kept := b.Answer(q) == first; kept != tc.kept {
			t.Errorf("%s: valid after an hour: %v", q, kept)
		}
		// Without a zone that can be looked at, it is valid for a second.
		b.ZoneOf = nil
		first = b.Answer(q)
		if b.advance(time.Hour); b.Answer(q) == first {
			t.Errorf("%s: valid after an hour without the zone", q)
		}
		b.ZoneOf = func(string) *file.Zone { return nil }
		first = b.Answer(q)
		if b.advance(time.Hour); b.Answer(q) == first {
			t.Errorf("%s: valid after an hour in no zone", q)
		}
	}
}

// The SOA record of a zone says nothing about a response that did not come straight from it.
func TestUnchangedElsewhere(t *testing.T) {
	z := parseZone(t, "example.org.")
	for qtype, authoritative := range map[uint16]bool{dns.TypeSOA: false, dns.TypeTXT: true} {
		b := newBackend(t, respond(func(m *dns.Msg) { m.Authoritative, m.Answer = authoritative, []dns.RR{z.SOA} }), nil)
		b.ZoneOf = func(string) *file.Zone { return z }
		q := a("example.org.")
		q.Type = qtype
		first := b.Answer(q)
		if b.advance(time.Hour); b.Answer(q) == first {
			t.Errorf("%s: valid after an hour", q)
		}
	}
}

// A zone of auto that is closer than the one before takes its place.
func TestCloserZone(t *testing.T) {
	const name = "www.sub.example.org."
	wide := parseZone(t, "example.org.", name+" 60 IN ALIAS one.example.")
	closer := parseZone(t, "sub.example.org.", name+" 60 IN ALIAS two.example.")
	zones := &auto.Zones{Z: map[string]*file.Zone{"example.org.": wide}}
	b := newBackend(t, serve(map[string]*file.Zone{"example.org.": wide}), nil)
	b.ZoneOf = backend.ZonesOf([]plugin.Handler{auto.Auto{Zones: zones}})
	for range 2 {
		if got := targetOf(b.Answer(a(name)).Alias); got != "one.example." {
			t.Fatalf("got %q", got)
		}
		b.advance(2 * time.Second)
	}
	b.asked(t, "before", name+" A", name+" ALIAS")
	zones.Lock()
	zones.Z["sub.example.org."] = closer
	zones.Unlock()
	b.become(serve(map[string]*file.Zone{"example.org.": wide, "sub.example.org.": closer}))
	if got := targetOf(b.Answer(a(name)).Alias); got != "two.example." {
		t.Errorf("got %q", got)
	}
}

// Only the zones of what comes right behind alias count: another plugin may answer first.
func TestZonesOf(t *testing.T) {
	z, other := parseZone(t, "example.org."), parseZone(t, "example.org.")
	f, second := serve(map[string]*file.Zone{"example.org.": z}), serve(map[string]*file.Zone{"example.org.": other})
	net := parseZone(t, "example.net.")
	third := serve(map[string]*file.Zone{"example.net.": net})
	root := parseZone(t, ".")
	another := plugin.HandlerFunc(nil)
	for _, tc := range []struct {
		name   string
		behind []plugin.Handler
		org    *file.Zone // that answers for www.example.org.
		net    *file.Zone
	}{
		{"file", []plugin.Handler{f}, z, nil},
		{"file, another", []plugin.Handler{f, another}, z, nil},
		{"the first of two", []plugin.Handler{f, second}, z, nil},
		{"the second of two", []plugin.Handler{f, third}, z, net},
		{"secondary", []plugin.Handler{&secondary.Secondary{File: third}, f}, z, net},
		{"auto", []plugin.Handler{auto.Auto{Zones: &auto.Zones{Z: map[string]*file.Zone{".": root}}}}, root, root},
		{"another first", []plugin.Handler{another, f}, nil, nil},
		{"another between", []plugin.Handler{third, another, f}, nil, net},
		{"none", nil, nil, nil},
	} {
		find := backend.ZonesOf(tc.behind)
		if org, got := find("www.example.org."), find("www.example.net."); org != tc.org || got != tc.net {
			t.Errorf("%s: got %p and %p, want %p and %p", tc.name, org, got, tc.org, tc.net)
		}
	}
}
