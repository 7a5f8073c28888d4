package test

import (
	"fmt"
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

// No response, and no query for a name that leads to the apex, makes the published serial grow: after enough of that,
// secondaries would take a later serial for an earlier one (RFC 1982).
func TestReportedSerial(t *testing.T) {
	t.Parallel()
	server := serveZone(t, zoneFile+`
@    IN ALIAS v4.hosting.example.
gone IN ALIAS gone.hosting.example.
none IN ALIAS none.example.
dead IN ALIAS dead.invalid.
www  IN CNAME @
web  IN CNAME www
out  IN CNAME out.hosting.example.
`, "retries 0\nrecord rec gone.hosting.example\nupstream "+upstream.New(t, reported).Addr, transferTo("*"))
	first := server.serial(t)
	for round := range 2 {
		for _, name := range []string{"", "gone.", "none.", "dead.", "www.", "web.", "out.", "rec.", "own.", "nothing."} {
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeSOA, dns.TypeNS, dns.TypeMX, dns.TypeHTTPS} {
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
	if got := fmt.Sprint(transferSerials(t, server)); got != fmt.Sprint([]uint32{first, first}) {
		t.Errorf("A transfer has the serials %s, want %d", got, first)
	}
}
