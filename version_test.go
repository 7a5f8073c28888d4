package alias

import (
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/backend"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/secondary"

	"github.com/miekg/dns"
)

// parseZone returns a zone at origin with these records.
func parseZone(t *testing.T, origin string, records ...string) *file.Zone {
	t.Helper()
	records = append(records, origin+" 300 IN SOA ns.example.org. hostmaster.example.org. 1 3600 600 86400 300")
	z, err := file.Parse(strings.NewReader(strings.Join(records, "\n")), origin, "stdin", -1)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// become makes z what other is, as file, auto and secondary do.
func become(z, other *file.Zone) {
	z.Lock()
	defer z.Unlock()
	z.Apex, z.Tree = other.Apex, other.Tree
}

// blockOf returns a server block with these plugins, of which a is one.
func blockOf(t *testing.T, a *Alias, handlers ...plugin.Handler) *dnsserver.Config {
	t.Helper()
	block := &dnsserver.Config{Zone: ".", Transport: "dns", ListenHosts: []string{""}}
	for _, h := range handlers {
		block.AddPlugin(func(next plugin.Handler) plugin.Handler {
			switch h := h.(type) {
			case *Alias:
				h.backend.Next = next
			case file.File:
				h.Next = next
				return h
			}
			return h
		})
	}
	if _, err := dnsserver.NewServer("dns://127.0.0.1:0", []*dnsserver.Config{block}); err != nil {
		t.Fatal(err)
	}
	if _, behind, ok := neighbours(block); ok {
		a.backend.ZoneOf = backend.ZonesOf(behind)
	}
	return block
}

// A backend answer is valid until the zone changes, and no longer.
func TestUnchangedZone(t *testing.T) {
	up := fake.New(t, fake.Zone("one.example. 3600 IN A 192.0.2.1", "two.example. 3600 IN A 192.0.2.2"))
	first := func() *file.Zone {
		return parseZone(t, "example.org.", "www.example.org. 60 IN ALIAS one.example.", "*.w.example.org. 60 IN ALIAS one.example.")
	}
	for name, backend := range map[string]func(z *file.Zone) plugin.Handler{
		"file": func(z *file.Zone) plugin.Handler {
			return file.File{Zones: file.Zones{Z: map[string]*file.Zone{"example.org.": z}, Names: []string{"example.org."}}}
		},
		"secondary": func(z *file.Zone) plugin.Handler {
			return &secondary.Secondary{File: file.File{Zones: file.Zones{Z: map[string]*file.Zone{"example.org.": z}, Names: []string{"example.org."}}}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			a, c := newAlias(t, "example.org", "upstream "+up.Addr, nil)
			z := first()
			blockOf(t, a, a, backend(z))
			for _, owner := range []string{"www.example.org.", "x.w.example.org."} {
				become(z, first())
				z.Expired = false
				want := func(addr string) {
					t.Helper()
					if m := query(t, a, owner, dns.TypeA); len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.String() != addr {
						t.Errorf("%s: got %v, want %s", owner, m.Answer, addr)
					}
				}
				want("192.0.2.1")
				held := a.backend.Answer(question(owner, dns.TypeA))
				for range 5 {
					c.Advance(2 * time.Second)
					want("192.0.2.1")
				}
				if a.backend.Answer(question(owner, dns.TypeA)) != held {
					t.Errorf("%s: the backend was queried again", owner)
				}
				become(z, parseZone(t, "example.org.", owner+" 60 IN ALIAS two.example.")) // with the serial number that it had
				want("192.0.2.2")
				become(z, parseZone(t, "example.org.", owner+" 60 IN ALIAS two.example.", owner+" 60 IN A 203.0.113.1"))
				c.Advance(2 * time.Second)
				want("203.0.113.1")
				become(z, parseZone(t, "example.org.", owner+" 60 IN ALIAS one.example."))
				c.Advance(2 * time.Second)
				want("192.0.2.1")
				become(z, parseZone(t, "example.org."))
				c.Advance(2 * time.Second)
				if m := query(t, a, owner, dns.TypeA); m.Rcode != dns.RcodeNameError {
					t.Errorf("%s is gone, but got %v", owner, m)
				}
				become(z, first())
				c.Advance(2 * time.Second)
				want("192.0.2.1")
				z.Lock()
				z.Expired = true
				z.Unlock()
				c.Advance(2 * time.Second)
				if m := query(t, a, owner, dns.TypeA); m.Rcode != dns.RcodeServerFailure {
					t.Errorf("%s has expired, but got %v", owner, m)
				}
			}
		})
	}
}

// Only the zones of the plugins right behind alias count: another plugin may answer first.
func TestZonesBehind(t *testing.T) {
	z := parseZone(t, "example.org.")
	f := file.File{Zones: file.Zones{Z: map[string]*file.Zone{"example.org.": z}, Names: []string{"example.org."}}}
	for _, tc := range []struct {
		name     string
		handlers func(a *Alias) []plugin.Handler
		want     bool
	}{
		{"file", func(a *Alias) []plugin.Handler { return []plugin.Handler{a, f} }, true},
		{"errors, file, forward", func(a *Alias) []plugin.Handler {
			return []plugin.Handler{named{name: "errors"}, a, f, named{name: "forward"}}
		}, true},
		{"hosts first", func(a *Alias) []plugin.Handler { return []plugin.Handler{a, named{name: "hosts"}, f} }, false},
		{"one that is not listed", func(a *Alias) []plugin.Handler { return []plugin.Handler{a, named{name: "unheard-of"}, f} }, false},
		{"nothing", func(a *Alias) []plugin.Handler { return []plugin.Handler{a} }, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			a, _ := newAlias(t, "example.org", "", nil)
			blockOf(t, a, tc.handlers(a)...)
			if got := a.backend.ZoneOf != nil && a.backend.ZoneOf("www.example.org.") == z; got != tc.want {
				t.Errorf("got %v", got)
			}
			if a.backend.ZoneOf != nil && a.backend.ZoneOf("www.example.net.") != nil {
				t.Error("a zone for another name")
			}
		})
	}
}
