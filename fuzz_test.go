package alias

import (
	"math"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// The parser accepts a block, with values that are in range, or refuses it with file and line.
func FuzzCorefile(f *testing.F) {
	for _, seed := range []string{
		"record @ target.example\nrecord www target.example. 60\nrecord * a.b.c 1h\nupstream 192.0.2.1 tls://192.0.2.2%dns.example",
		"timeout 250ms\nretries 0\nmin_ttl 30\nmax_ttl 1h30m\nstale 0\nstale_ttl 10s\nupstream [::1]:53",
		"on_failure servfail\ncache_size 7\nmax_concurrent 9\ntls_servername resolver.example\nupstream https://192.0.2.5 quic://192.0.2.6",
		"record example.org. \"target.example\"\nrecord *.x.example.net y.example.org 0",
		"record @ \\.\nrecord \"\" a\nrecord . .\nrecord *. *.",
		"upstream 192.0.2.1:99999\nupstream %\nupstream []:53",
		"min_ttl 1h\nmax_ttl 1s",
		"client_subnet 16 48\nrecord @ target.example",
		"persist alias.db\nflatten apex\ntxt\ntarget_from a/b\ntransfer_on_failure omit",
		"https copy\nfailover @ a.example b.example", "https alias",
	} {
		f.Add("example.org example.net", seed)
		f.Add("example.org", seed)
		f.Add(".", seed)
	}
	f.Fuzz(func(t *testing.T, zones, properties string) {
		if strings.Contains(properties, "/") && !strings.Contains(properties, "://") {
			t.Skip("would read files")
		}
		cfg, err := parseBlock(strings.ReplaceAll(zones, "\n", " "), properties)
		if err != nil {
			if !strings.Contains(err.Error(), "Testfile:") {
				t.Errorf("error without file and line: %v", err)
			}
			return
		}
		if cfg == nil {
			t.Skip("no directive")
		}
		for owner, r := range cfg.records.All() {
			if !dns.IsFqdn(owner) || !dns.IsSubDomain(r.Zone.Name, owner) || owner == r.Target {
				t.Errorf("owner %q in zone %q, target %q", owner, r.Zone.Name, r.Target)
			}
			if found, _ := cfg.records.Find(owner); found != r {
				t.Errorf("the record of %q is not found", owner)
			}
			for _, name := range []string{owner, r.Target} {
				if _, err := dns.PackDomainName(name, make([]byte, 255), 0, nil, false); err != nil {
					t.Errorf("%q: %v", name, err)
				}
			}
		}
		if l := cfg.lifetime; l.min < 1 || l.min > l.max || l.max > math.MaxInt32 || len(cfg.upstreams) == 0 {
			t.Errorf("lifetime %+v, %d resolvers", l, len(cfg.upstreams))
		}
	})
}
