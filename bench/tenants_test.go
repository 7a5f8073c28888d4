package main

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Each noisy name is queried for both families, and has an alias in a zone file; so have all names of the probe.
func TestWriteTenants(t *testing.T) {
	for _, n := range noises {
		dir := t.TempDir()
		if err := n.writeTenants(dir); err != nil {
			t.Fatal(err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "zones", "db.*"))
		if err != nil {
			t.Fatal(err)
		}
		aliases := make(map[string]bool)
		for _, path := range files {
			b, err := os.ReadFile(path) // #nosec G304 -- generated
			if err != nil {
				t.Fatal(err)
			}
			zone := strings.TrimPrefix(filepath.Base(path), "db.") + "."
			for line := range strings.Lines(string(b)) {
				if owner, target, ok := strings.Cut(line, " IN ALIAS "); ok {
					if !dns.IsSubDomain(zone, owner) || strings.HasPrefix(owner, "n") && !strings.HasSuffix(target, n.domain+"\n") {
						t.Fatalf("%s: in %s: %s", n.name, zone, line)
					}
					aliases[owner] = true
				}
			}
		}
		queries, err := os.ReadFile(filepath.Join(dir, "queries")) // #nosec G304 -- generated
		if n.domain != "" && err != nil {
			t.Fatal(err)
		}
		asked := make(map[string]bool)
		for line := range strings.Lines(string(queries)) {
			if owner, _, _ := strings.Cut(line, " "); !aliases[owner] || asked[line] {
				t.Fatalf("%s: %s", n.name, line)
			}
			asked[line] = true
		}
		zones, names := otherZones, 0
		if n.domain != "" {
			zones, names = zones+1, 2*noisyAliases
		}
		if n.zones {
			zones = otherZones + noisyAliases
		}
		if len(files) != zones || len(asked) != names {
			t.Errorf("%s: %d zones and %d queries", n.name, len(files), len(asked))
		}
		for _, kind := range tenants {
			for i := range kind.aliases {
				if !aliases[kind.owner(i)] {
					t.Fatalf("%s: no alias %s", n.name, kind.owner(i))
				}
			}
		}
	}
}

func TestTenantAccepts(t *testing.T) {
	fresh, stale := tenants[0], tenants[2]
	for _, tc := range []struct {
		kind tenant
		ttls []uint32
		want bool
	}{
		{fresh, nil, false}, {stale, nil, false}, {fresh, []uint32{5}, true}, {fresh, []uint32{3599}, true},
		{fresh, []uint32{staleTTL}, false}, {stale, []uint32{staleTTL}, true},
	} {
		m := new(dns.Msg)
		for _, ttl := range tc.ttls {
			m.Answer = append(m.Answer, tenantsAddress(dns.Question{Name: "a.", Qtype: dns.TypeA}, ttl))
		}
		if got := tc.kind.accepts(m); got != tc.want {
			t.Errorf("%s, TTL %v: %t", tc.kind.name, tc.ttls, got)
		}
	}
}

// Lost responses and those without an address are no success, and do not count for p99.
func TestTenantFigures(t *testing.T) {
	p := &tenantsProbe{shots: make([]tenantsShot, 4*len(tenants))}
	for i := range p.shots {
		p.shots[i] = tenantsShot{took: time.Duration(i+1) * time.Millisecond, ok: i < len(tenants)*2}
	}
	got := p.figures()
	if got[0] != (tenantFigures{P99: 5, Success: 50}) || got[3] != (tenantFigures{P99: 8, Success: 50}) {
		t.Errorf("got %v", got)
	}
}

func TestTenantTables(t *testing.T) {
	figures := make([][]tenantSeries, len(noises))
	for i := range figures {
		figures[i] = make([]tenantSeries, len(tenants))
		for j := range tenants {
			figures[i][j] = tenantSeries{series{1, 2, float64(3 + i)}, series{90, 100, 100}}
		}
	}
	figures[1][0].p99 = series{3, 3, 3}
	got := tenantTables(figures)
	for _, row := range []string{
		"| p99, milliseconds, beside | cold | expiring | stale | fresh |\n",
		"| nothing | 2.00 (1.00-3.00) |", "| targets that answer, one zone | 1.50 |", "| a domain that drips, 10,000 zones | 100.00 (90.00-100.00) |",
	} {
		if !strings.Contains(got, row) {
			t.Errorf("no %q in\n%s", row, got)
		}
	}
}

// The resolver answers for the targets as the page says.
func TestTenantsResolver(t *testing.T) {
	addr, err := freeAddr()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() { ended <- serveTenants(ctx, addr) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}()
	ask := func(network, name string) (*dns.Msg, time.Duration, error) {
		client := dns.Client{Net: network, Timeout: time.Second}
		return client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), addr)
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if m, _, err := ask("udp", "first"+wellDomain); err == nil && len(m.Answer) == 1 {
			break
		}
		if time.Since(began) > 10*time.Second {
			t.Fatal("the resolver does not answer")
		}
	}
	for i, want := range []int{dns.RcodeSuccess, dns.RcodeServerFailure} {
		m, took, err := ask("udp", "stale1.o1.example.")
		if err != nil || m.Rcode != want || len(m.Answer) != 1-i || took < resolverTime {
			t.Errorf("stale1: %v after %s\n%v", err, took, m)
		}
	}
	if m, took, err := ask("udp", "n1"+dripDomain); err != nil || m.Truncated != (len(m.Answer) == 0) || took < 400*time.Millisecond {
		t.Errorf("a target that drips, over UDP: %v after %s\n%v", err, took, m)
	}
	if m, took, err := ask("tcp", "n1"+dripDomain); err != nil || len(m.Answer) != 1 || took < 40*dripPause {
		t.Errorf("a target that drips, over TCP: %v after %s\n%v", err, took, m)
	}
	if m, _, err := ask("udp", "n1"+deadDomain); err == nil {
		t.Errorf("a dead target: %v", m)
	} else if e, ok := err.(net.Error); !ok || !e.Timeout() {
		t.Errorf("a dead target: %v", err)
	}
}
