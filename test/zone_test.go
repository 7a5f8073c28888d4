package test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// targets is the upstream in the tests of aliases in zones.
var targets = upstream.Zone(
	"hosting.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
	"app.hosting.example. 60 IN A 203.0.113.80",
	"app.hosting.example. 60 IN AAAA 2001:db8:80::80",
	"new.hosting.example. 60 IN A 203.0.113.90",
	"new.hosting.example. 60 IN AAAA 2001:db8:90::90",
	"v4.hosting.example. 60 IN A 203.0.113.4",
)

// fromFile is a backend: the file plugin serves the zone that serveZone is given.
const fromFile = "file db.example.org {\nreload 1s\n}"

// zoneDir returns a directory with zone in the file db.example.org, and a Corefile that serves it at port, with these
// properties of alias and this backend.
func zoneDir(t *testing.T, port, zone, properties, backend string) string {
	t.Helper()
	dir := t.TempDir()
	replaceZone(t, dir, zone)
	write(t, filepath.Join(dir, "Corefile"), fmt.Sprintf(`
		example.org:%s {
			bind 127.0.0.1
			alias {
				%s
			}
			errors
			%s
		}`, port, properties, backend))
	return dir
}

// serveZone starts a server in such a directory.
func serveZone(t *testing.T, zone, properties, backend string) *process {
	t.Helper()
	port := freePort(t)
	return startServer(t, port, zoneDir(t, port, zone, properties, backend), "Corefile")
}

// replaceZone replaces the zone file in dir.
func replaceZone(t *testing.T, dir, zone string) {
	t.Helper()
	replaceFile(t, filepath.Join(dir, "db.example.org"), zone)
}

// replaceFile replaces a file in one step: no reader sees a part of it.
func replaceFile(t *testing.T, path, content string) {
	t.Helper()
	whole := filepath.Join(filepath.Dir(path), "new")
	write(t, whole, content)
	if err := os.Rename(whole, path); err != nil {
		t.Fatal(err)
	}
}

// exchange is a query with the answer that it must get. No records are NODATA, with the SOA record of the zone.
type exchange struct {
	name   string
	qtype  uint16
	answer []string
}

// checkExchanges checks the answers of server, over UDP and TCP.
func checkExchanges(t *testing.T, server *process, exchanges ...exchange) {
	t.Helper()
	for _, e := range exchanges {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(fmt.Sprintf("%s%s/%s", e.name, dns.Type(e.qtype), network), func(t *testing.T) {
				m := query(t, server.addr, network, e.name, e.qtype)
				if m.Rcode != dns.RcodeSuccess || !m.Authoritative {
					t.Errorf("Got %s, AA %t", dns.RcodeToString[m.Rcode], m.Authoritative)
				}
				checkRecords(t, m.Answer, e.answer...)
				if len(e.answer) == 0 && !isSOA(m.Ns) {
					t.Errorf("Got no SOA record of the zone, but %v", m.Ns)
				}
			})
		}
	}
}

// isSOA reports whether rrs is the SOA record of example.org.
func isSOA(rrs []dns.RR) bool {
	return len(rrs) == 1 && rrs[0].Header().Rrtype == dns.TypeSOA && rrs[0].Header().Name == "example.org."
}

// addresses reports whether server answers name with exactly these addresses, one of each family; "" is none.
func (p *process) addresses(t *testing.T, name, v4, v6 string) bool {
	t.Helper()
	return p.address(t, name, dns.TypeA) == v4 && p.address(t, name, dns.TypeAAAA) == v6
}

// address returns the addresses of one family that server answers name with.
func (p *process) address(t *testing.T, name string, qtype uint16) string {
	t.Helper()
	var addrs []string
	for _, rr := range query(t, p.addr, "udp", name, qtype).Answer {
		addrs = append(addrs, dns.Field(rr, 1))
	}
	return strings.Join(addrs, " ")
}

// serial returns the serial number of example.org on the server, or 0 if it does not have the zone.
func (p *process) serial(t *testing.T) uint32 {
	t.Helper()
	for _, rr := range query(t, p.addr, "udp", "example.org.", dns.TypeSOA).Answer {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa.Serial
		}
	}
	return 0
}

// awaitSerial waits until server has this serial number.
func (p *process) awaitSerial(t *testing.T, serial uint32) {
	t.Helper()
	eventually(t, 5*time.Second, fmt.Sprintf("%s has the serial number %d", filepath.Base(p.Path), serial), func() bool {
		return p.serial(t) == serial
	})
}

// visible is how soon a change in a zone must be served: within a second, with half a second more for slow machines.
const visible = time.Second + 500*time.Millisecond

// aliasZone returns a zone with aliases of target in all places where they can be. The first one is on line 5.
func aliasZone(serial int, target string) string {
	return fmt.Sprintf(`$TTL 300
@          IN SOA   ns1 hostmaster %d 7200 3600 1209600 300
           IN NS    ns1
           IN MX    10 mail
           IN ALIAS %[2]s
ns1        IN A     192.0.2.53
mail    30 IN ALIAS %[2]s
           IN MX    10 mail
           IN TXT   "v=spf1 mx -all"
*.shop     IN ALIAS %[2]s
own.shop   IN TXT   "not under the wildcard"
own        IN ALIAS %[2]s
           IN A     192.0.2.80
aname      IN ANAME %[2]s
v4         IN ALIAS v4.hosting.example.
sub        IN NS    ns.sub
           IN ALIAS %[2]s
ns.sub     IN A     192.0.2.54
www.sub    IN ALIAS %[2]s
`, serial, target)
}

// The aliases in a zone file are served, whether file or auto reads it, and so are changes of the file. A broken file changes
// nothing.
func TestZoneFile(t *testing.T) {
	for _, backend := range []string{fromFile, "auto {\ndirectory .\nreload 1s\n}"} {
		plugin, _, _ := strings.Cut(backend, " ")
		t.Run(plugin, func(t *testing.T) {
			t.Parallel()
			properties := "upstream " + upstream.New(t, targets).Addr
			server := serveZone(t, aliasZone(1, "app.hosting.example."), properties, backend)
			checkAliasZone(t, server)

			all := func(v4, v6 string) bool {
				return server.addresses(t, "example.org.", v4, v6) && server.addresses(t, "mail.example.org.", v4, v6) &&
					server.addresses(t, "a.shop.example.org.", v4, v6) &&
					server.addresses(t, "own.example.org.", "192.0.2.80", v6)
			}
			replaceZone(t, server.Dir, aliasZone(2, "new.hosting.example."))
			server.awaitSerial(t, 2)
			eventually(t, visible, "the new target is served", func() bool { return all("203.0.113.90", "2001:db8:90::90") })

			replaceZone(t, server.Dir, aliasZone(3, "app"))
			eventually(t, 5*time.Second, "the log has the mistake", func() bool { return refused(server.log(t)) })
			if n := server.serial(t); n != 2 || !all("203.0.113.90", "2001:db8:90::90") {
				t.Errorf("The broken zone file has changed the answers, the serial number is %d", n)
			}

			replaceZone(t, server.Dir, aliasZone(4, "app.hosting.example."))
			server.awaitSerial(t, 4)
			eventually(t, visible, "the mended zone is served", func() bool { return all("203.0.113.80", "2001:db8:80::80") })
		})
	}
}

// checkAliasZone checks the answers of a server with aliasZone, with the target app.hosting.example.
func checkAliasZone(t *testing.T, server *process) {
	t.Helper()
	checkExchanges(t, server, []exchange{
		{"example.org.", dns.TypeA, []string{"example.org. 60 IN A 203.0.113.80"}},
		{"example.org.", dns.TypeAAAA, []string{"example.org. 60 IN AAAA 2001:db8:80::80"}},
		{"example.org.", dns.TypeMX, []string{"example.org. 300 IN MX 10 mail.example.org."}},
		{"example.org.", dns.TypeTXT, nil},
		{"example.org.", aliasType, []string{rawALIAS("example.org.", 300, "app.hosting.example.")}},
		{"mail.example.org.", dns.TypeA, []string{"mail.example.org. 30 IN A 203.0.113.80"}},
		{"mail.example.org.", dns.TypeAAAA, []string{"mail.example.org. 30 IN AAAA 2001:db8:80::80"}},
		{"mail.example.org.", dns.TypeMX, []string{"mail.example.org. 300 IN MX 10 mail.example.org."}},
		{"mail.example.org.", dns.TypeTXT, []string{`mail.example.org. 300 IN TXT "v=spf1 mx -all"`}},
		{"a.shop.example.org.", dns.TypeA, []string{"a.shop.example.org. 60 IN A 203.0.113.80"}},
		{"c.b.shop.example.org.", dns.TypeAAAA, []string{"c.b.shop.example.org. 60 IN AAAA 2001:db8:80::80"}},
		{"a.shop.example.org.", dns.TypeMX, nil},
		{"a.shop.example.org.", aliasType, []string{rawALIAS("a.shop.example.org.", 300, "app.hosting.example.")}},
		{"own.shop.example.org.", dns.TypeA, nil},
		{"shop.example.org.", dns.TypeA, nil},
		{"own.example.org.", dns.TypeA, []string{"own.example.org. 300 IN A 192.0.2.80"}},
		{"own.example.org.", dns.TypeAAAA, []string{"own.example.org. 60 IN AAAA 2001:db8:80::80"}},
		{"aname.example.org.", dns.TypeA, []string{"aname.example.org. 60 IN A 203.0.113.80"}},
		{"aname.example.org.", dns.TypeAAAA, []string{"aname.example.org. 60 IN AAAA 2001:db8:80::80"}},
		{"v4.example.org.", dns.TypeA, []string{"v4.example.org. 60 IN A 203.0.113.4"}},
		{"v4.example.org.", dns.TypeAAAA, nil},
	}...)
	for _, name := range []string{"sub.example.org.", "www.sub.example.org.", "other.sub.example.org."} {
		for _, network := range []string{"udp", "tcp"} {
			m := query(t, server.addr, network, name, dns.TypeA)
			if m.Rcode != dns.RcodeSuccess || m.Authoritative || len(m.Answer) > 0 {
				t.Errorf("%s is delegated, and got\n%v", name, m)
			}
			checkRecords(t, m.Ns, "sub.example.org. 300 IN NS ns.sub.example.org.")
		}
	}
}

// refused reports whether log has the error that the first alias of aliasZone has the relative target app.
func refused(log string) bool {
	return line(log, "at line: 5") != "" && line(log, "ALIAS target 'app' is relative: write it in full") != ""
}

// With a zone file that is broken at start-up, file does not start, and auto does not have the zone until the file is
// repaired.
func TestBrokenZoneAtStart(t *testing.T) {
	t.Parallel()
	properties := "upstream " + upstream.New(t, targets).Addr
	broken := aliasZone(1, "app")

	t.Run("file", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 15*time.Second)
		defer cancel()
		start := exec.CommandContext(ctx, coredns, "-conf", "Corefile")
		start.Dir = zoneDir(t, freePort(t), broken, properties, fromFile)
		out, err := start.CombinedOutput()
		if _, exited := errors.AsType[*exec.ExitError](err); !exited || ctx.Err() != nil || !refused(string(out)) {
			t.Errorf("%v\n%s", err, out)
		}
	})
	t.Run("auto", func(t *testing.T) {
		server := serveZone(t, broken, properties, "auto {\ndirectory .\nreload 1s\n}")
		if m := query(t, server.addr, "udp", "example.org.", dns.TypeA); m.Rcode != dns.RcodeRefused {
			t.Errorf("Without a zone, got\n%v", m)
		}
		if !refused(server.log(t)) {
			t.Error("The log does not have the mistake")
		}
		replaceZone(t, server.Dir, aliasZone(2, "app.hosting.example."))
		server.awaitSerial(t, 2)
		eventually(t, visible, "the alias is served", func() bool {
			return server.addresses(t, "example.org.", "203.0.113.80", "2001:db8:80::80")
		})
	})
}

// aliasType is the type of ALIAS records. The test does not import rdata: it sees the records as other DNS software does.
const aliasType uint16 = 65401

// rawALIAS returns an ALIAS record in the form for unknown types (RFC 3597, section 5).
func rawALIAS(owner string, ttl int, target string) string {
	return fmt.Sprintf("%s %d IN %s", owner, ttl, rawTarget(target))
}

// rawTarget returns the type and the RDATA of such a record.
func rawTarget(target string) string {
	buf := make([]byte, 255)
	n, err := dns.PackDomainName(target, buf, 0, nil, false)
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf(`TYPE%d \# %d %x`, aliasType, n, buf[:n])
}

// flatten replaces a CNAME record, at the apex or at any name, by addresses.
func TestFlatten(t *testing.T) {
	up := upstream.New(t, authority(internet...)) // with signatures
	const zone = `$TTL 300
@      IN SOA   ns1 hostmaster 1 7200 3600 1209600 300
       IN NS    ns1
       IN CNAME app.hosting.example.
www    IN CNAME app.hosting.example.
v4     IN CNAME v4.hosting.example.
*.shop IN CNAME app.hosting.example.
`
	apex := []exchange{
		{"example.org.", dns.TypeA, []string{"example.org. 45 IN A 203.0.113.80", "example.org. 45 IN A 203.0.113.81"}},
		{"example.org.", dns.TypeAAAA, []string{"example.org. 45 IN AAAA 2001:db8:80::80"}},
		{"example.org.", dns.TypeCNAME, []string{"example.org. 300 IN CNAME app.hosting.example."}},
		{"example.org.", dns.TypeNS, []string{"example.org. 300 IN NS ns1.example.org."}},
		{"www.example.org.", dns.TypeCNAME, []string{"www.example.org. 300 IN CNAME app.hosting.example."}},
	}
	t.Run("apex", func(t *testing.T) {
		t.Parallel()
		server := serveZone(t, zone, "flatten apex\nupstream "+up.Addr, fromFile)
		checkExchanges(t, server, apex...)
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			m := query(t, server.addr, "udp", "www.example.org.", qtype)
			checkRecords(t, m.Answer, "www.example.org. 300 IN CNAME app.hosting.example.")
		}
	})
	t.Run("all", func(t *testing.T) {
		t.Parallel()
		server := serveZone(t, zone, "flatten all\nupstream "+up.Addr, fromFile)
		checkExchanges(t, server, append(apex, []exchange{
			{"www.example.org.", dns.TypeA, []string{
				"www.example.org. 45 IN A 203.0.113.80", "www.example.org. 45 IN A 203.0.113.81",
			}},
			{"www.example.org.", dns.TypeAAAA, []string{"www.example.org. 45 IN AAAA 2001:db8:80::80"}},
			{"v4.example.org.", dns.TypeA, []string{"v4.example.org. 300 IN A 203.0.113.4"}},
			{"v4.example.org.", dns.TypeAAAA, nil},
			{"a.shop.example.org.", dns.TypeAAAA, []string{"a.shop.example.org. 45 IN AAAA 2001:db8:80::80"}},
			{"a.shop.example.org.", dns.TypeCNAME, []string{"a.shop.example.org. 300 IN CNAME app.hosting.example."}},
		}...)...)
	})
	t.Run("template", func(t *testing.T) {
		t.Parallel()
		// In the same server block, template would come before alias.
		made := serveZone(t, "", "upstream "+up.Addr, template("A")+template("AAAA"))
		server := serveZone(t, "", "flatten apex\nupstream "+up.Addr, "forward . "+made.addr)
		checkExchanges(t, server, apex[:2]...)
	})
}

// template returns the directive of template that answers queries of a type for the apex with a CNAME record.
func template(qtype string) string {
	return "template IN " + qtype + ` {
		match ^example[.]org[.]$
		answer "{{ .Name }} 300 IN CNAME app.hosting.example."
	}
	`
}

// With txt, a TXT query for an alias is also answered with a record that names the target.
func TestText(t *testing.T) {
	t.Parallel()
	const zone = `$TTL 300
@           IN SOA   ns1 hostmaster 1 7200 3600 1209600 300
            IN NS    ns1
            IN ALIAS app.hosting.example.
            IN TXT   "v=spf1 -all"
            IN TXT   "site-verification=1"
www         IN ALIAS app.hosting.example.
*.shop      IN ALIAS app.hosting.example.
*.both      IN ALIAS app.hosting.example.
            IN TXT   "v=spf1 -all"
spf         IN TXT   "v=spf1 -all"
ns1         IN A     192.0.2.53
`
	const added = "ALIAS for app.hosting.example"
	properties := `
		record record app.hosting.example
		record spf app.hosting.example
		record *.records app.hosting.example
		upstream ` + upstream.New(t, targets).Addr
	without := serveZone(t, zone, properties, fromFile)
	with := serveZone(t, zone, "txt\n"+properties, fromFile)
	for _, test := range []struct {
		name string
		own  []string // the TXT records of the zone
	}{
		{"example.org.", []string{"site-verification=1", "v=spf1 -all"}},
		{"www.example.org.", nil},
		{"a.shop.example.org.", nil},
		{"a.both.example.org.", []string{"v=spf1 -all"}},
		{"record.example.org.", nil},
		{"spf.example.org.", []string{"v=spf1 -all"}},
		{"a.records.example.org.", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			checkText(t, without, test.name, test.own...)
			checkText(t, with, test.name, append([]string{added}, test.own...)...)
			if !with.addresses(t, test.name, "203.0.113.80", "2001:db8:80::80") {
				t.Error("The name does not have the addresses of the target")
			}
		})
	}
	checkExchanges(t, with, exchange{"ns1.example.org.", dns.TypeTXT, nil}) // not an alias
}

// checkText checks the TXT records of name, which must all have the same TTL.
func checkText(t *testing.T, server *process, name string, want ...string) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		m := query(t, server.addr, network, name, dns.TypeTXT)
		var got []string
		for _, rr := range m.Answer {
			if txt, ok := rr.(*dns.TXT); !ok || txt.Hdr.Name != name || txt.Hdr.Ttl != m.Answer[0].Header().Ttl {
				t.Errorf("Not a record of the RRset: %v", rr)
			}
			got = append(got, strings.Trim(dns.Field(rr, 1), `"`))
		}
		slices.Sort(got)
		if !slices.Equal(got, want) || m.Rcode != dns.RcodeSuccess || !m.Authoritative {
			t.Errorf("Got %q, want %q, in\n%v", got, want, m)
		}
	}
}

// A target inside the zone is resolved with the zone's own data. Where that leads outside, the upstream is queried.
func TestInZoneTargets(t *testing.T) {
	t.Parallel()
	const zone = `$TTL 300
@       IN SOA   ns1 hostmaster 1 7200 3600 1209600 300
        IN NS    ns1
        IN ALIAS www.example.org.
www 120 IN A     192.0.2.80
        IN A     192.0.2.81
www 90  IN AAAA  2001:db8::80
cname 50 IN CNAME www
named   IN ALIAS cname.example.org.
v4      IN A     192.0.2.4
only4   IN ALIAS v4.example.org.
second  IN ALIAS named.example.org.
out     IN ALIAS app.hosting.example.
away    IN CNAME app.hosting.example.
far     IN ALIAS away.example.org.
gone    IN ALIAS nowhere.example.org.
self    IN ALIAS self.example.org.
loop1   IN ALIAS loop2.example.org.
loop2   IN ALIAS loop1.example.org.
loop3   IN ALIAS loop4.example.org.
loop4   IN CNAME loop3
`
	server := serveZone(t, zone, `
		record record out.example.org
		record twice record.example.org
		upstream `+upstream.New(t, targets).Addr, fromFile)
	for _, name := range []string{"self", "loop1", "loop2", "loop3", "loop4"} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			begin := time.Now()
			m := query(t, server.addr, "udp", name+".example.org.", qtype)
			if took := time.Since(begin); took > 200*time.Millisecond {
				t.Errorf("%s took %s", name, took)
			}
			if name == "loop4" { // the answer is its CNAME record
				continue
			}
			if m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || !isSOA(m.Ns) {
				t.Errorf("%s leads to itself, and got\n%v", name, m)
			}
		}
	}
	checkExchanges(t, server, []exchange{
		{"example.org.", dns.TypeA, []string{"example.org. 120 IN A 192.0.2.80", "example.org. 120 IN A 192.0.2.81"}},
		{"example.org.", dns.TypeAAAA, []string{"example.org. 90 IN AAAA 2001:db8::80"}},
		{"named.example.org.", dns.TypeA, []string{
			"named.example.org. 50 IN A 192.0.2.80", "named.example.org. 50 IN A 192.0.2.81",
		}},
		{"named.example.org.", dns.TypeAAAA, []string{"named.example.org. 50 IN AAAA 2001:db8::80"}},
		{"only4.example.org.", dns.TypeA, []string{"only4.example.org. 300 IN A 192.0.2.4"}},
		{"only4.example.org.", dns.TypeAAAA, nil},
		{"second.example.org.", dns.TypeAAAA, []string{"second.example.org. 50 IN AAAA 2001:db8::80"}},
		{"far.example.org.", dns.TypeA, []string{"far.example.org. 60 IN A 203.0.113.80"}},
		{"gone.example.org.", dns.TypeA, nil},
		{"record.example.org.", dns.TypeA, []string{"record.example.org. 60 IN A 203.0.113.80"}},
		{"twice.example.org.", dns.TypeAAAA, []string{"twice.example.org. 60 IN AAAA 2001:db8:80::80"}},
	}...)
}
