package test

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// Zones inside each other, with what zones have: delegations, wildcards, empty names, chains of CNAME records that lead to a
// delegation, out of the zone, and to nothing. Names of files are origins, in upper case too.
var nestedZones = map[string]string{
	"example.org": `
@        IN NS    ns
ns       IN A     192.0.2.53
mx       IN MX    10 mail
www      IN A     192.0.2.1
*.wild   IN TXT   "wild"
a.b.c    IN A     192.0.2.2
cut      IN NS    ns.cut
ns.cut   IN A     192.0.2.54
tocut    IN CNAME x.cut
tonone   IN CNAME none
tosub    IN CNAME www.sub
toother  IN CNAME www.example.net.
toowww   IN CNAME www
d        IN DNAME www
loop1    IN CNAME loop2
loop2    IN CNAME loop1
`,
	"sub.example.org":       "@ IN NS ns\nwww IN A 192.0.2.3\n",
	"Mixed.sub.example.ORG": "@ IN NS ns\nWWW IN A 192.0.2.4\n",
	"example.net":           "@ IN NS ns\nwww IN A 192.0.2.5\n* IN MX 10 mail\n",
	"org":                   "@ IN NS ns\nexample IN NS ns.example\n",
}

// With alias in the server block, file, auto and secondary answer what they answer without it, to whatever they are asked:
// alias has them find their zones in another way.
func TestZonesByName(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var files, primaries, secondaries strings.Builder
	primary := freePort(t)
	for origin, zone := range nestedZones {
		file := filepath.Join(dir, "db."+origin)
		write(t, file, "$TTL 300\n@ IN SOA ns hostmaster 1 7200 3600 1209600 60\n"+zone)
		fmt.Fprintf(&files, "file %s %s {\nreload 0\n}\n", file, origin)
		fmt.Fprintf(&primaries, "%s:%s {\nbind 127.0.0.1\nfile %s\ntransfer {\nto *\n}\n}\n", origin, primary, file)
		fmt.Fprintf(&secondaries, "secondary %s {\ntransfer from %s\n}\n", origin, local(primary))
	}
	fallback := fmt.Sprintf("file %s example.org {\nfallthrough www.example.org none.example.org\n}\n", filepath.Join(dir, "db.example.org"))
	autos := fmt.Sprintf("auto {\ndirectory %s db\\.(.*) {1}\nreload 0\n}\n", dir)
	up := upstream.New(t, upstream.Rcode(dns.RcodeRefused))
	for name, backends := range map[string]string{
		"file":                  files.String(),
		"auto":                  autos,
		"secondary":             secondaries.String(),
		"file, then auto":       fallback + autos,
		"auto, then forward":    autos + "forward . " + up.Addr + "\n",
		"file, auto, secondary": fallback + autos + strings.ReplaceAll(secondaries.String(), "secondary org", "secondary test"),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir, with, without := t.TempDir(), freePort(t), freePort(t)
			corefile := primaries.String()
			if !strings.Contains(backends, "secondary") {
				corefile = ""
			}
			for port, plugins := range map[string]string{with: "alias {\nupstream " + up.Addr + "\n}\n", without: ""} {
				corefile += fmt.Sprintf(".:%s {\nbind 127.0.0.1\n%s\n%s}\n", port, plugins, backends)
			}
			write(t, filepath.Join(dir, "Corefile"), corefile)
			startServer(t, with, dir, "Corefile")
			transferred := func() bool {
				for _, origin := range []string{"example.org", "sub.example.org", "example.net", "org"} {
					for _, port := range []string{with, without} {
						m, err := ask(local(port), "udp", dns.Fqdn(origin), dns.TypeSOA)
						if err != nil || len(m.Answer) == 0 {
							return false
						}
					}
				}
				return true
			}
			if !strings.Contains(backends, "fallthrough") {
				eventually(t, 10*time.Second, "all zones are there", transferred)
			}
			n := 0
			for _, name := range namesAround() {
				for _, qtype := range []uint16{dns.TypeA, dns.TypeMX, dns.TypeTXT, dns.TypeCNAME, dns.TypeNS, dns.TypeSOA, dns.TypeDS, dns.TypeANY, 65401, dns.TypeAXFR} {
					got, want := describe(local(with), name, qtype), describe(local(without), name, qtype)
					if diff := cmp.Diff(want, got); diff != "" {
						t.Errorf("%s %s (-without +with alias):\n%s", name, dns.Type(qtype), diff)
					}
					n++
				}
			}
			if n < 300 {
				t.Errorf("%d questions", n)
			}
		})
	}
}

// namesAround returns the names in nestedZones, and names beside, above and below them.
func namesAround() []string {
	names := []string{".", "org.", "net.", "test.", "anexample.org.", "WWW.Example.Org."}
	for origin, zone := range nestedZones {
		names = append(names, dns.Fqdn(origin), "none."+dns.Fqdn(origin), "www."+strings.ToLower(origin)+".", "x.wild."+dns.Fqdn(origin))
		for line := range strings.Lines(zone) {
			if fields := strings.Fields(line); len(fields) > 0 && fields[0] != "@" && fields[0] != "*.wild" {
				names = append(names, fields[0]+"."+dns.Fqdn(origin))
			}
		}
	}
	return append(names, "c.example.org.", "b.c.example.org.", "x.a.b.c.example.org.", "x.cut.example.org.", "y.x.cut.example.org.",
		"x.d.example.org.", "y.mixed.sub.example.org.")
}

// describe returns the response as text, or the error.
func describe(addr, name string, qtype uint16) string {
	m, err := ask(addr, "udp", name, qtype)
	if err != nil {
		return err.Error()
	}
	m.Id = 0
	return m.String()
}
