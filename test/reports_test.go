package test

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// The tests in this file do what public reports about other servers describe. test/README.md has the list.

// reported are targets. gone does not exist, none has no addresses and no SOA record, and v4 has addresses of one family.
var reported = upstream.Zone(
	"hosting.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
	"app.hosting.example. 60 IN A 203.0.113.80",
	"app.hosting.example. 60 IN AAAA 2001:db8:80::80",
	"v4.hosting.example. 60 IN A 203.0.113.4",
	"none.example. 60 IN TXT none",
)

// The list in README.md names tests that there are.
func TestReportList(t *testing.T) {
	t.Parallel()
	checkNamed(t, strings.ReplaceAll(read(t, "README.md"), "`TestReported`", ""), 50)
}

// checkNamed checks that a page names so many tests at least, and that there are all of them.
func checkNamed(t *testing.T, page string, least int) {
	t.Helper()
	var source strings.Builder
	check(t, filepath.WalkDir("..", func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, "_test.go") {
			source.WriteString(read(t, path))
		}
		return err
	}))
	named := regexp.MustCompile("`(Test\\w+)`").FindAllStringSubmatch(page, -1)
	if len(named) < least {
		t.Errorf("The page names %d tests", len(named))
	}
	for _, name := range named {
		if !strings.Contains(source.String(), "\nfunc "+name[1]+"(") {
			t.Errorf("There is no %s", name[1])
		}
	}
}

// serialZone has names whose responses carry a SOA record.
const serialZone = zoneFile + `
@    IN ALIAS v4.hosting.example.
gone IN ALIAS gone.hosting.example.
none IN ALIAS none.example.
dead IN ALIAS dead.invalid.
www  IN CNAME @
web  IN CNAME www
out  IN CNAME out.hosting.example.
`

// No response, and no query for a name that leads to the apex, makes the published serial grow: after enough of that,
// secondaries would take a later serial for an earlier one (RFC 1982).
func TestReportedSerial(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, reported)
	for _, test := range []struct{ name, properties, plugins, backend string }{
		{"file", "", "", fromFile},
		{"auto", "", "", "auto {\ndirectory .\nreload 1s\n}"},
		{"dynupdate", "", "", fromUpdates},
		{"flatten and txt", "flatten all\ntxt", "", fromFile},
		{"failures are SERVFAIL", "on_failure servfail", "", fromFile},
		{"cache and dnssec", "", "cache\ndnssec {\nkey file key\n}\n", fromFile},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			dir := zoneDir(t, port, serialZone, "retries 0\nrecord rec gone.hosting.example\n"+test.properties+"\nupstream "+up.Addr,
				test.plugins+"transfer {\nto *\n}\n"+test.backend)
			newKey(t, "example.org.", filepath.Join(dir, "key"))
			checkSerialStays(t, startServer(t, port, dir, "Corefile"))
		})
	}
}

func checkSerialStays(t *testing.T, server *process) {
	t.Helper()
	first := server.serial(t)
	for round := range 2 {
		for _, name := range []string{"", "gone.", "none.", "dead.", "www.", "web.", "out.", "rec.", "own.", "nothing."} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSOA, dns.TypeNS, dns.TypeMX, dns.TypeTXT, dns.TypeHTTPS} {
				name := name + "example.org."
				m := query(t, server.addr, "udp", name, qtype)
				for _, serial := range []uint32{serialIn(m.Answer), serialIn(m.Ns), server.serial(t)} {
					if serial != first && serial != 0 {
						t.Fatalf("Round %d, %s %s: the serial is %d and was %d", round, name, dns.Type(qtype), serial, first)
					}
				}
			}
		}
	}
	if got := serialIn(query(t, server.addr, "tcp", "example.org.", dns.TypeSOA).Answer); got != first {
		t.Errorf("The serial is %d, and was %d", got, first)
	}
}

// reply is a response: a code, and the records of the answer as upstream.RRs takes them.
type reply struct {
	rcode  int
	answer []string
}

func addresses(rrs ...string) reply { return reply{dns.RcodeSuccess, rrs} }

var (
	nodata   = reply{rcode: dns.RcodeSuccess}
	nxdomain = reply{rcode: dns.RcodeNameError}
	servfail = reply{rcode: dns.RcodeServerFailure}
)

// checkReplies queries each "name type" over UDP, and compares the responses.
func checkReplies(t *testing.T, server *process, want map[string]reply) {
	t.Helper()
	for q, want := range want {
		t.Run(q, func(t *testing.T) {
			name, qtype, _ := strings.Cut(q, " ")
			m := query(t, server.addr, "udp", name, dns.StringToType[qtype])
			if m.Rcode != want.rcode {
				t.Errorf("Got %s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[want.rcode])
			}
			checkRecords(t, m.Answer, want.answer...)
			if len(m.Question) != 1 || !strings.EqualFold(m.Question[0].Name, name) {
				t.Errorf("The response has the question %v", m.Question)
			}
			if (want.rcode == dns.RcodeSuccess && len(want.answer) == 0 || want.rcode == dns.RcodeNameError) && !isSOA(m.Ns) {
				t.Errorf("Got no SOA record of the zone, but %v", m.Ns)
			}
		})
	}
}

// Zone data that servers have answered wrongly for, with aliases in it.
func TestReportedZones(t *testing.T) {
	t.Parallel()
	server := serveZone(t, zoneFile+`
@                   IN ALIAS app.hosting.example.
*.wild              IN ALIAS v4.hosting.example.
real.ent.wild       IN A     192.0.2.54
f.*.empty           IN ALIAS v4.hosting.example.
www                 IN CNAME @
web                 IN CNAME www
self                IN CNAME self
toself              IN CNAME self
intoself            IN ALIAS self.example.org.
loop                IN DNAME loop
intoloop            IN ALIAS x.loop.example.org.
deeper              IN DNAME x.deeper
intodeeper          IN ALIAS x.deeper.example.org.
child               IN NS    ns.child
ns.child            IN A     192.0.2.99
tochild             IN CNAME v4.child
intochild           IN ALIAS v4.child.example.org.
has\046dot          IN ALIAS v4.hosting.example.
MiXed               IN ALIAS V4.HOSTING.example.
dangling            IN CNAME missing
indangling          IN ALIAS dangling.example.org.
`, "retries 0\nrecord a.b.c app.hosting.example\nupstream "+upstream.New(t, upstream.Zone(
		"app.hosting.example. 60 IN A 203.0.113.80",
		"v4.hosting.example. 60 IN A 203.0.113.4",
		"v4.child.example.org. 60 IN A 203.0.113.5",
	)).Addr, fromFile)
	v4 := func(owner string) reply { return addresses(owner + " 60 IN A 203.0.113.4") }
	checkReplies(t, server, map[string]reply{
		"x.wild.example.org. A":     v4("x.wild.example.org."),
		"x.ent.wild.example.org. A": nxdomain, // ent is the closest encloser (RFC 4592, section 2.2.1)
		"x.empty.example.org. A":    nodata,   // the wildcard exists, and has no records (section 3.3.1)
		"f.*.empty.example.org. A":  v4("f.*.empty.example.org."),
		"www.example.org. A":        addresses("www.example.org. 300 IN CNAME example.org.", "example.org. 60 IN A 203.0.113.80"),
		"web.example.org. MX":       addresses("web.example.org. 300 IN CNAME www.example.org.", "www.example.org. 300 IN CNAME example.org.", "example.org. 300 IN MX 10 mail.example.org."),
		"self.example.org. A":       servfail,
		"toself.example.org. A":     servfail,
		"intoself.example.org. A":   nodata,
		"intoloop.example.org. A":   nodata,
		"intodeeper.example.org. A": nodata,
		"intochild.example.org. A":  addresses("intochild.example.org. 60 IN A 203.0.113.5"),
		"tochild.example.org. A":    addresses("tochild.example.org. 300 IN CNAME v4.child.example.org."),
		"indangling.example.org. A": nodata,
		"has\\.dot.example.org. A":  v4("has\\.dot.example.org."),
		"mixed.example.org. A":      v4("mixed.example.org."),
		"b.c.example.org. A":        nodata,
		"x.b.c.example.org. A":      nxdomain,
		"c.example.org. TXT":        nodata,
		"x.a.b.c.example.org. A":    nxdomain,
		"A.B.C.example.org. A":      addresses("A.B.C.example.org. 60 IN A 203.0.113.80"),
		"intoself.example.org. MX":  nodata,
	})
}

// A response that the server itself looks up where a CNAME record leads does not go to the client.
func TestReportedCNAME(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, reported)
	for name, plugins := range map[string]string{"": "", "prometheus": "prometheus " + local(freePort(t)), "cache": "cache"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := serveZone(t, zoneFile+`
*.wild   IN ALIAS v4.hosting.example.
towild   IN CNAME x.wild
torecord IN CNAME rec
totwo    IN CNAME x.two
d        IN DNAME wild
`, "record rec v4.hosting.example\nrecord *.two v4.hosting.example\nupstream "+up.Addr, plugins+"\n"+fromFile)
			conn, err := dns.Dial("tcp", server.addr)
			check(t, err)
			defer conn.Close()
			for owner, target := range map[string]string{"towild": "x.wild", "torecord": "rec", "totwo": "x.two", "x.d": "x.wild"} {
				want := []string{owner + ".example.org. 60 IN CNAME " + target + ".example.org.", target + ".example.org. 60 IN A 203.0.113.4"}
				if owner == "x.d" {
					want = append(want, "d.example.org. 60 IN DNAME wild.example.org.")
				}
				name := owner + ".example.org."
				for _, exchange := range []func(r *dns.Msg) (*dns.Msg, error){
					func(r *dns.Msg) (*dns.Msg, error) { return dns.Exchange(r, server.addr) },
					func(r *dns.Msg) (*dns.Msg, error) {
						m, _, err := new(dns.Client).ExchangeWithConn(r, conn)
						return m, err
					},
				} {
					for range 2 { // the second answer is cached
						m, err := exchange(new(dns.Msg).SetQuestion(name, dns.TypeA))
						check(t, err)
						if m.Question[0].Name != name {
							t.Errorf("%s: the response is for %s", name, m.Question[0].Name)
						}
						for _, rr := range m.Answer {
							rr.Header().Ttl = 60
						}
						checkRecords(t, m.Answer, want...)
					}
				}
			}
		})
	}
}

// The same where the CNAME record is in another server block, without alias.
func TestReportedCNAMEElsewhere(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	dir := zoneDir(t, port, zoneFile, "record rec v4.hosting.example\nupstream "+upstream.New(t, reported).Addr, fromFile)
	write(t, filepath.Join(dir, "net"), zoneFile+"torecord IN CNAME rec.example.org.\n")
	corefile := read(t, filepath.Join(dir, "Corefile"))
	write(t, filepath.Join(dir, "Corefile"), corefile+"\nexample.net:"+port+" {\nbind 127.0.0.1\nfile net\n}\n")
	server := startServer(t, port, dir, "Corefile")
	for range 2 {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion("torecord.example.net.", dns.TypeA), server.addr)
		check(t, err)
		if m.Question[0].Name != "torecord.example.net." || len(m.Answer) != 2 {
			t.Errorf("Got %v", m)
		}
	}
}
