package test

import (
	"fmt"
	"path/filepath"
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
