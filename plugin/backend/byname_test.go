package backend_test

import (
	"context"
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/test/race"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/auto"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/secondary"
	"github.com/coredns/coredns/plugin/test"

	"github.com/miekg/dns"
)

// setUp returns the plugin as the Corefile text sets it up, with next behind it.
func setUp(t *testing.T, name, text string, next plugin.Handler) plugin.Handler {
	t.Helper()
	c := caddy.NewTestController("dns", text)
	c.ServerBlockKeys = []string{"."}
	setup, err := caddy.DirectiveAction("dns", name)
	if err != nil {
		t.Fatal(err)
	}
	if err := setup(c); err != nil {
		t.Fatal(err)
	}
	plugins := dnsserver.GetConfig(c).Plugin
	return plugins[len(plugins)-1](next)
}

// answered describes what h answers.
func answered(h plugin.Handler, name string, qtype uint16) string {
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	code, err := h.ServeDNS(context.Background(), w, new(dns.Msg).SetQuestion(name, qtype))
	if w.Msg == nil {
		return fmt.Sprint(dns.RcodeToString[code], err)
	}
	w.Msg.Id = 0
	return fmt.Sprint(w.Msg, code, err)
}

// next answers what nobody before it does.
var next = respond(func(m *dns.Msg) { m.Answer = rrs("next. 60 IN TXT next") })

// What the plugins do when the zone is not there, has not been transferred, or has expired.
func TestByNameWithoutZone(t *testing.T) {
	empty, expired := file.NewZone("empty.example.", "stdin"), parseZone(t, "expired.example.", "www.expired.example. 60 IN A 192.0.2.1")
	expired.Expired = true
	f := serve(map[string]*file.Zone{"nil.example.": nil, "empty.example.": empty, "expired.example.": expired, "example.": parseZone(t, "example.")})
	f.Fall.SetZonesFromArgs([]string{"through.example"})
	withNext := f
	withNext.Next = next
	for kind, h := range map[string]plugin.Handler{
		"file": f, "file, next": withNext, "secondary": &secondary.Secondary{File: f}, "secondary, next": &secondary.Secondary{File: withNext},
		"auto":                     setUp(t, "auto", "auto {\ndirectory "+t.TempDir()+"\n}", nil),
		"auto, next":               setUp(t, "auto", "auto {\ndirectory "+t.TempDir()+"\n}", next),
		"auto, with other origins": setUp(t, "auto", "auto example.net {\ndirectory "+t.TempDir()+"\n}", next),
	} {
		if a, ok := h.(auto.Auto); ok {
			for origin, z := range map[string]*file.Zone{"empty.example.": empty, "example.": parseZone(t, "example.")} {
				a.Add(z, origin, nil)
			}
			a.Add(file.NewZone("nil.example.", "stdin"), "nil.example.", nil)
			a.Z["nil.example."] = nil
		}
		byName := backend.ByName([]plugin.Handler{h})
		if byName.Name() != h.Name() {
			t.Errorf("%s is now %s", h.Name(), byName.Name())
		}
		for _, name := range []string{"www.expired.example.", "x.nil.example.", "nil.example.", "empty.example.", "www.empty.example.", "none.example.", "www.through.example.", "example.", "net.", "."} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeSOA, dns.TypeAXFR, dns.TypeIXFR} {
				if got, want := answered(byName, name, qtype), answered(h, name, qtype); got != want {
					t.Errorf("%s, %s %s: got %s\nwant %s", kind, name, dns.TypeToString[qtype], got, want)
				}
			}
		}
	}
}

// All plugins that can be asked by name are, up to the first that cannot.
func TestByNameOfSeveral(t *testing.T) {
	org, net := serve(map[string]*file.Zone{"example.org.": parseZone(t, "example.org.")}), serve(map[string]*file.Zone{"example.net.": parseZone(t, "example.net.")})
	net.Next = next
	org.Next = net
	other := plugin.HandlerFunc(nil)
	h := backend.ByName([]plugin.Handler{org, net, other})
	if _, ok := h.(file.File).Next.(file.File); !ok || h.(file.File).Next.(file.File).ZoneLookupFunc == nil {
		t.Errorf("behind the first comes %#v", h.(file.File).Next)
	}
	for _, name := range []string{"example.org.", "example.net.", "example.com."} {
		if got, want := answered(h, name, dns.TypeSOA), answered(org, name, dns.TypeSOA); got != want {
			t.Errorf("%s: got %s\nwant %s", name, got, want)
		}
	}
	for _, behind := range [][]plugin.Handler{nil, {other}, {other, org}} {
		if h := backend.ByName(behind); h != nil {
			t.Errorf("%v: %v", behind, h)
		}
	}
}

// The members of catalog zones come and go, and only secondary finds them.
func TestByNameWithCatalog(t *testing.T) {
	for text, want := range map[string]bool{
		"secondary example.org {\ntransfer from 192.0.2.1\n}":          true,
		"secondary example.org {\ntransfer from 192.0.2.1\ncatalog\n}": false,
	} {
		if h := backend.ByName([]plugin.Handler{setUp(t, "secondary", text, nil)}); (h != nil) != want {
			t.Errorf("%s: %v", text, h)
		}
	}
	if _, ok := reflect.TypeFor[secondary.Secondary]().FieldByName("catalogZones"); !ok {
		t.Error("secondary has no field catalogZones: is there another way to see that it has catalog zones?")
	}
}

// auto's zones come and go, and have any spelling.
func TestByNameOfAuto(t *testing.T) {
	a := setUp(t, "auto", "auto {\ndirectory "+t.TempDir()+"\n}", nil).(auto.Auto)
	byName := backend.ByName([]plugin.Handler{a})
	check := func(what string) {
		t.Helper()
		for _, name := range []string{"www.example.org.", "www.sub.example.org.", "www.a.sub.example.org.", "www.example.net.", "www.example.com."} {
			if got, want := answered(byName, name, dns.TypeA), answered(a, name, dns.TypeA); got != want {
				t.Errorf("%s, %s: got %s\nwant %s", what, name, got, want)
			}
		}
	}
	check("nothing")
	for _, origin := range []string{"example.org.", "Example.NET.", "SUB.example.org.", "a.sub.example.org.", "Example.com."} {
		a.Add(parseZone(t, origin, "www."+origin+" 60 IN A 192.0.2.1"), origin, nil)
		check("added " + origin)
	}
	for _, origin := range []string{"SUB.example.org.", "example.org.", "a.sub.example.org.", "Example.NET."} {
		a.Remove(origin)
		check("removed " + origin)
	}
	a.Add(parseZone(t, "sub.example.org."), "sub.example.org.", nil)
	check("added again")
}

// Zones are found while they come and go.
func TestByNameWhileAutoLoads(t *testing.T) {
	a := setUp(t, "auto", "auto {\ndirectory "+t.TempDir()+"\n}", nil).(auto.Auto)
	find := backend.ZonesOf([]plugin.Handler{a})
	z := parseZone(t, "Example.org.")
	a.Add(z, "Example.org.", nil)
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range 1000 {
			origin := fmt.Sprintf("Z%d.example.org.", i%10)
			a.Add(parseZone(t, origin), origin, nil)
			a.Remove(origin)
		}
	})
	for range 2 {
		wg.Go(func() {
			for range 1000 {
				if got := find("www.example.org."); got != z {
					t.Errorf("got %p, want %p", got, z)
				}
			}
		})
	}
	wg.Wait()
	if !race.Enabled {
		if n := testing.AllocsPerRun(100, func() { find("www.example.org.") }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}
