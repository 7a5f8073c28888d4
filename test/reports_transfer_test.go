package test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// Zone transfers that have failed, or had other records than the zone. See reports_test.go.
func TestReportedTransfers(t *testing.T) {
	t.Parallel()
	const n = 500 // addresses of large
	var large []string
	for i := range n {
		large = append(large, fmt.Sprintf("large.hosting.example. 60 IN AAAA 2001:db8::%x", i+1))
	}
	up := upstream.New(t, upstream.Zone(append(large,
		"hosting.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
		"app.hosting.example. 60 IN A 203.0.113.80")...))
	dir, port := t.TempDir(), freePort(t)
	zone := func(aliases string) string { return zoneFile + padding(300) + aliases }
	write(t, filepath.Join(dir, "example.org"), zone("@ IN ALIAS app.hosting.example.\n"))
	write(t, filepath.Join(dir, "sub.example.org"), zone("a IN ALIAS gone.hosting.example.\n"))
	write(t, filepath.Join(dir, "z.org"), zone("a IN ALIAS large.hosting.example.\nb IN ALIAS large.hosting.example.\n"))
	write(t, filepath.Join(dir, "Corefile"), fmt.Sprintf(`example.org:%s sub.example.org:%[1]s z.org:%[1]s {
		bind 127.0.0.1
		alias {
			upstream %s
		}
		file example.org example.org
		file sub.example.org sub.example.org
		file z.org z.org
		transfer example.org sub.example.org z.org {
			to *
		}
		transfer sub.example.org {
			to *
		}
		errors
	}`, port, up.Addr))
	server := startServer(t, port, dir, "Corefile")
	const other = 305 // records of each zone, without those of its aliases and the second SOA record
	for name, want := range map[string]int{
		"example.org.":     other + 2,
		"eXaMPle.ORG.":     other + 2, // names are compared without case
		"sub.example.org.": other + 1, // aliases without addresses, also as the only ones of a zone
		"z.org.":           other + 2*n + 1,
	} {
		rrs := transfer(t, server, new(dns.Msg).SetAxfr(name))
		if len(rrs) != want {
			t.Errorf("%s: %d records, want %d", name, len(rrs), want)
		}
		for i, rr := range rrs {
			if !dns.IsSubDomain(name, rr.Header().Name) {
				t.Fatalf("%s: record %d is %v", name, i, rr)
			}
		}
		if soa := rrs[len(rrs)-1]; rrs[0].String() != soa.String() || soa.Header().Rrtype != dns.TypeSOA {
			t.Errorf("%s is between %v and %v", name, rrs[0], soa)
		}
	}
}

// With reload_by_mtime, file reloads a zone whose serial has not grown. Aliases follow.
func TestReportedSameSerial(t *testing.T) {
	t.Parallel()
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n", "upstream "+upstream.New(t, targets).Addr,
		"file db.example.org {\nreload 1s\nreload_by_mtime\n}")
	checkExchanges(t, server, exchange{"example.org.", dns.TypeA, []string{"example.org. 60 IN A 203.0.113.80"}})
	replaceZone(t, server.Dir, zoneFile+"@ IN ALIAS new.hosting.example.\n")
	eventually(t, 5*time.Second, "the new target is served", func() bool {
		return server.addresses(t, "example.org.", "203.0.113.90", "2001:db8:90::90")
	})
	replaceZone(t, server.Dir, zoneFile)
	eventually(t, 5*time.Second, "the alias is gone", func() bool { return server.addresses(t, "example.org.", "", "") })
}

// A secondary that is a primary itself tells its own secondaries the serial that it publishes, and not that of its primary.
// One of them is the secondary plugin.
func TestReportedSecondaryNotifies(t *testing.T) {
	t.Parallel()
	need(t, "nsd")
	port, nsd, plain := freePort(t), freePort(t), freePort(t)
	primary := startPowerDNS(t, powerZone(1, "app.hosting.example."))
	dir := zoneDir(t, port, "", "upstream "+upstream.New(t, targets).Addr,
		fmt.Sprintf("secondary {\ntransfer from %s\n}\ntransfer {\nto %s\n}", primary.addr, local(nsd)+" "+local(plain)))
	server := startServer(t, port, dir, "Corefile")
	eventually(t, 5*time.Second, "the zone is transferred", func() bool { return server.serial(t) > 1 })
	first := server.serial(t)
	further := t.TempDir()
	write(t, filepath.Join(further, "Corefile"), fmt.Sprintf("example.org:%s {\nbind 127.0.0.1\nsecondary {\ntransfer from %s\n}\n}",
		plain, server.addr))
	secondaries := []*process{startNSD(t, nsd, server.addr, ""), startServer(t, plain, further, "Corefile")}
	awaitAddresses(t, 10*time.Second, secondaries, []string{"example.org.", "www.example.org."}, appAddresses)

	replaceZone(t, primary.Dir, powerZone(2, "new.hosting.example."))
	primary.control(t, "pdns_control", "bind-reload-now", "example.org")
	primary.awaitSerial(t, 2)
	if m, err := dns.Exchange(new(dns.Msg).SetNotify("example.org."), server.addr); err != nil || m.Rcode != dns.RcodeSuccess {
		t.Errorf("NOTIFY: %v\n%v", err, m)
	}
	awaitAddresses(t, 10*time.Second, secondaries, []string{"example.org.", "www.example.org."}, otherAddresses)
	// The zone's own serial has grown by one, and the addresses have changed once.
	if got := server.serial(t); got-first > 2 {
		t.Errorf("The serial is %d, and was %d", got, first)
	}
	eventually(t, 5*time.Second, "the secondaries have the serial of the server", func() bool {
		return secondaries[0].serial(t) == server.serial(t) && secondaries[1].serial(t) == server.serial(t)
	})
}

// comparable returns what a client learns from m, in any order: neither TTLs nor the serial, and the authority section only
// of a negative answer.
func comparable(m *dns.Msg) string {
	var answer, ns []string
	for _, rr := range m.Answer {
		rr = dns.Copy(rr)
		rr.Header().Ttl = 0
		if soa, ok := rr.(*dns.SOA); ok {
			soa.Serial = 0
		}
		answer = append(answer, strings.ToLower(rr.String()))
	}
	for _, rr := range m.Ns {
		if len(answer) == 0 {
			ns = append(ns, strings.ToLower(rr.Header().Name)+dns.Type(rr.Header().Rrtype).String())
		}
	}
	slices.Sort(answer)
	slices.Sort(ns)
	return fmt.Sprintf("%s AA %t %q %q", dns.RcodeToString[m.Rcode], m.Authoritative, slices.Compact(answer), slices.Compact(ns))
}

// A secondary, which has the zone with addresses in place of aliases, answers as the server does: wildcards, empty names, chains
// of CNAME and DNAME records, delegations, and records of the Corefile. Left out are names that only an alias without addresses
// makes exist, because a secondary does not have them, and an empty name below a wildcard, which file answers with the wildcard.
func TestReportedSecondaryAnswers(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, upstream.Zone(
		"hosting.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
		"app.hosting.example. 60 IN A 203.0.113.80",
		"app.hosting.example. 60 IN AAAA 2001:db8:80::80",
		"v4.hosting.example. 60 IN A 203.0.113.4",
		"v4.child.example.org. 60 IN A 203.0.113.5",
	))
	port, nsd := freePort(t), freePort(t)
	dir := zoneDir(t, port, zoneFile+`
@             IN ALIAS app.hosting.example.
              IN TXT   "apex"
*.wild        IN ALIAS v4.hosting.example.
real.ent.wild IN A     192.0.2.54
b.*.wild      IN TXT   "b"
f.*.empty     IN ALIAS v4.hosting.example.
www           IN CNAME @
web           IN CNAME www
towild        IN CNAME q.wild
torec         IN CNAME rec
torecw        IN CNAME zz.recs
child         IN NS    ns.child
              IN ALIAS v4.hosting.example.
ns.child      IN A     192.0.2.99
below.child   IN ALIAS v4.hosting.example.
tochild       IN CNAME v4.child
intochild     IN ALIAS v4.child.example.org.
has\046dot    IN ALIAS v4.hosting.example.
MiXed         IN ALIAS V4.HOSTING.example.
dangling      IN CNAME missing
gone          IN ALIAS gone.hosting.example.
              IN TXT   "gone"
v4a           IN ALIAS app.hosting.example.
              IN AAAA  2001:db8::7
v4b           IN ALIAS app.hosting.example.
              IN A     192.0.2.7
inalias       IN ALIAS www.example.org.
inown         IN ALIAS own.example.org.
inwild        IN ALIAS e.wild.example.org.
dn            IN DNAME wild
indn          IN ALIAS r.dn.example.org.
cw            IN TXT   "cw"
*.cw          IN CNAME @
*.cx          IN CNAME x.wild
mx            IN MX    10 mail
`, `
		record rec app.hosting.example
		record own app.hosting.example
		record a.b.c v4.hosting.example
		record *.recs v4.hosting.example
		record *.wild.two app.hosting.example
		record mx app.hosting.example
		record under.rec v4.hosting.example
		upstream `+up.Addr, transferTo(local(nsd)))
	server := startServer(t, port, dir, "Corefile")
	secondary := startNSD(t, nsd, server.addr, "")
	eventually(t, 10*time.Second, "NSD has the zone with the addresses", func() bool {
		return secondary.serial(t) == server.serial(t) && secondary.addresses(t, "example.org.", "203.0.113.80", "2001:db8:80::80")
	})
	for _, name := range strings.Fields(`. x.wild wild x.ent.wild real.ent.wild b.x.wild c.x.wild *.wild empty x.empty f.*.empty f.x.empty
		*.empty www web towild torec torecw child x.child below.child ns.child tochild intochild has\.dot mixed MIXED x.mixed dangling
		missing gone x.gone v4a v4b inalias inown inwild dn x.dn b.y.dn indn cw x.cw x.cx cx mx rec x.rec under.rec own a.b.c b.c c x.c
		x.b.c x.a.b.c recs z.recs y.z.recs *.recs two wild.two q.wild.two ns1 mail nothing x.www x.v4a`) {
		name := strings.TrimPrefix(name+".example.org.", "..")
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT, dns.TypeMX, dns.TypeCNAME, dns.TypeSOA, dns.TypeNS} {
			got, want := comparable(query(t, server.addr, "udp", name, qtype)), comparable(query(t, secondary.addr, "udp", name, qtype))
			if got != want {
				t.Errorf("%s %s: the server answers\n\t%s\nand NSD\n\t%s", name, dns.Type(qtype), got, want)
			}
		}
	}
}
