package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// startOldBIND starts a BIND that has the zone hosting.example and behaves as name servers without EDNS do: quirk is one of the
// options that BIND has for tests of that.
func startOldBIND(t *testing.T, quirk string) *process {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "db"), `
@   300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60
@   300 IN NS  ns1
ns1 300 IN A   203.0.113.1
app 300 IN A   203.0.113.80
big 300 IN A   203.0.113.0
$GENERATE 1-99 big 300 IN A 203.0.113.$
`)
	return launchBIND(t, freePort(t), dir, `
	recursion no;
	minimal-responses yes;
`, `
zone "hosting.example" { type primary; file "db"; };
`, "-T", quirk)
}

// Upstreams that do not know EDNS answer all the same, whatever they do with a query that has it.
func TestUpstreamWithoutEDNS(t *testing.T) {
	for _, test := range []struct {
		quirk    string
		warnings int // in the log
	}{
		{"ednsformerr", 1},
		{"ednsnotimp", 1},
		{"dropedns", 0},
		{"noedns", 0}, // it ignores the OPT record, which is no fault
	} {
		t.Run(test.quirk, func(t *testing.T) {
			t.Parallel()
			resolver := startOldBIND(t, test.quirk)
			port := freePort(t)
			properties := "upstream " + resolver.addr + "\n"
			for i := range 20 {
				properties += fmt.Sprintf("record w%d app.hosting.example\n", i)
			}
			server := serve(t, port, block("example.org", port, properties+"record @ app.hosting.example\nrecord big big.hosting.example", ""))
			for _, name := range []string{"example.org.", "big.example.org."} {
				want := 1
				if name != "example.org." {
					want = 100
				}
				m := query(t, server.addr, "tcp", name, dns.TypeA)
				if len(m.Answer) != want || extendedError(m) != -1 {
					t.Errorf("%s: %d addresses, EDE %d", name, len(m.Answer), extendedError(m))
				}
			}
			if n := server.logged(t, "to queries with EDNS"); n != test.warnings {
				t.Errorf("%d warnings about EDNS", n)
			}
			if n := server.logged(t, "fails"); n > 0 {
				t.Errorf("The log has %q", line(server.log(t), "fails"))
			}
		})
	}
}

// A resolver that filters a name answers with 0.0.0.0 and ::, which are no addresses of an apex: the last ones are served.
func TestFilteringResolver(t *testing.T) {
	t.Parallel()
	authority := upstream.New(t, authority(internet...)).Addr
	resolver := startUnbound(t, authority)
	filter := startUnboundFor(t, "example.", authority, `module-config: "iterator"
    local-zone: "node.cdn.example" always_null
    local-zone: "app.hosting.example" always_null`)
	for _, test := range []struct {
		properties string
		addr       string
		aaaa       string
		ede        int
	}{
		{"", "", "", int(dns.ExtendedErrorCodeFiltered)},
		{"allow_unspecified", "example.org. 3600 IN A 0.0.0.0", "example.org. 3600 IN AAAA ::", -1},
		{"upstream " + filter.addr + " " + resolver.addr, "example.org. 45 IN A 203.0.113.80", "example.org. 45 IN AAAA 2001:db8:80::80", -1},
	} {
		port := freePort(t)
		properties := "record @ app.hosting.example\ntimeout 2s\n" + test.properties
		if !strings.Contains(properties, "upstream") {
			properties += "\nupstream " + filter.addr
		}
		server := serve(t, port, block("example.org", port, properties, ""))
		for qtype, want := range map[uint16]string{dns.TypeA: test.addr, dns.TypeAAAA: test.aaaa} {
			m := query(t, server.addr, "udp", "example.org.", qtype)
			found := want == "" && len(m.Answer) == 0
			for _, rr := range m.Answer {
				found = found || want != "" && rr.String() == upstream.RRs(want)[0].String()
			}
			if !found || extendedError(m) != test.ede {
				t.Errorf("%q: got %v with EDE %d", test.properties, m.Answer, extendedError(m))
			}
		}
	}
}
