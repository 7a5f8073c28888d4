package test

import (
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// powerZone is a zone for PowerDNS.
func powerZone(serial int, target string) string {
	return fmt.Sprintf(`$TTL 300
@       IN SOA   ns1 hostmaster %d 7200 3600 1209600 300
        IN NS    ns1
        IN MX    10 mail
        IN ALIAS %[2]s
ns1     IN A     192.0.2.53
www  30 IN ALIAS %[2]s
        IN TXT   "v=spf1 -all"
*.shop  IN ALIAS %[2]s
`, serial, target)
}

// A server that is a secondary of PowerDNS gets its aliases, and changes of them, with zone transfers.
func TestPowerDNSPrimary(t *testing.T) {
	t.Parallel()
	primary := startPowerDNS(t, powerZone(1, "app.hosting.example."))
	properties := "upstream " + upstream.New(t, targets).Addr
	server := serveZone(t, "", properties, "secondary {\ntransfer from "+primary.addr+"\n}")
	server.awaitSerial(t, 1)
	checkPowerZone(t, server)

	replaceZone(t, primary.Dir, powerZone(2, "new.hosting.example."))
	primary.control(t, "pdns_control", "bind-reload-now", "example.org")
	primary.awaitSerial(t, 2)
	m, err := dns.Exchange(new(dns.Msg).SetNotify("example.org."), server.addr)
	if err != nil || m.Rcode != dns.RcodeSuccess {
		t.Errorf("NOTIFY: %v\n%v", err, m)
	}
	server.awaitSerial(t, 2)
	eventually(t, visible, "the new target is served", func() bool {
		return server.addresses(t, "example.org.", "203.0.113.90", "2001:db8:90::90") &&
			server.addresses(t, "www.example.org.", "203.0.113.90", "2001:db8:90::90") &&
			server.addresses(t, "a.shop.example.org.", "203.0.113.90", "2001:db8:90::90")
	})
}

// checkPowerZone checks the answers of a server with powerZone, with the target app.hosting.example.
func checkPowerZone(t *testing.T, server *process) {
	t.Helper()
	checkExchanges(t, server, []exchange{
		{"example.org.", dns.TypeA, []string{"example.org. 60 IN A 203.0.113.80"}},
		{"example.org.", dns.TypeAAAA, []string{"example.org. 60 IN AAAA 2001:db8:80::80"}},
		{"example.org.", aliasType, []string{rawALIAS("example.org.", 300, "app.hosting.example.")}},
		{"example.org.", dns.TypeMX, []string{"example.org. 300 IN MX 10 mail.example.org."}},
		{"www.example.org.", dns.TypeA, []string{"www.example.org. 30 IN A 203.0.113.80"}},
		{"www.example.org.", dns.TypeAAAA, []string{"www.example.org. 30 IN AAAA 2001:db8:80::80"}},
		{"www.example.org.", aliasType, []string{rawALIAS("www.example.org.", 30, "app.hosting.example.")}},
		{"www.example.org.", dns.TypeTXT, []string{`www.example.org. 300 IN TXT "v=spf1 -all"`}},
		{"a.shop.example.org.", dns.TypeA, []string{"a.shop.example.org. 60 IN A 203.0.113.80"}},
		{"a.shop.example.org.", dns.TypeAAAA, []string{"a.shop.example.org. 60 IN AAAA 2001:db8:80::80"}},
		{"a.shop.example.org.", aliasType, []string{rawALIAS("a.shop.example.org.", 300, "app.hosting.example.")}},
	}...)
}

// The output of pdnsutil list-zone is a zone file that the server loads.
func TestListZone(t *testing.T) {
	t.Parallel()
	primary := startPowerDNS(t, powerZone(1, "app.hosting.example."))
	zone := primary.control(t, "pdnsutil", "list-zone", "example.org")
	server := serveZone(t, zone, "upstream "+upstream.New(t, targets).Addr, fromFile)
	checkPowerZone(t, server)
}

// Dynamic updates add, change and remove aliases. They are served as soon as the update is confirmed.
func TestDynamicUpdate(t *testing.T) {
	t.Parallel()
	need(t, "nsupdate")
	server := serveZone(t, zoneFile, "upstream "+upstream.New(t, targets).Addr, fromUpdates)
	changes := func(update, ownV4, v4, v6 string) {
		t.Helper()
		nsupdate(t, server, update)
		eventually(t, visible, "the update is served", func() bool {
			return server.addresses(t, "example.org.", v4, v6) && server.addresses(t, "own.example.org.", ownV4, v6)
		})
	}
	add := func(target string) string {
		return fmt.Sprintf("update add example.org. 300 %[1]s\nupdate add own.example.org. 300 %[1]s\n", rawTarget(target))
	}
	const remove = "update delete example.org. TYPE65401\nupdate delete own.example.org. TYPE65401\n"

	checkExchanges(t, server, exchange{"example.org.", dns.TypeA, nil})
	changes(add("app.hosting.example."), "192.0.2.80", "203.0.113.80", "2001:db8:80::80")
	checkExchanges(t, server,
		exchange{"example.org.", dns.TypeA, []string{"example.org. 60 IN A 203.0.113.80"}},
		exchange{"example.org.", aliasType, []string{rawALIAS("example.org.", 300, "app.hosting.example.")}})
	changes(remove+add("new.hosting.example."), "192.0.2.80", "203.0.113.90", "2001:db8:90::90")
	changes("update delete own.example.org. A\n", "203.0.113.90", "203.0.113.90", "2001:db8:90::90")
	changes("update add own.example.org. 300 A 192.0.2.81\n", "192.0.2.81", "203.0.113.90", "2001:db8:90::90")
	changes(remove, "192.0.2.81", "", "")
	checkExchanges(t, server,
		exchange{"example.org.", dns.TypeA, nil},
		exchange{"example.org.", dns.TypeAAAA, nil},
		exchange{"own.example.org.", dns.TypeA, []string{"own.example.org. 300 IN A 192.0.2.81"}},
		exchange{"own.example.org.", dns.TypeAAAA, nil})
}

const updateSecret = "i9M+00yrECfVZG2qCjr4mPpaGim/Bq+IWMiNrLjUO4Y="

// fromUpdates is a backend: dynupdate serves the zone that serveZone is given, and accepts updates with the key of nsupdate.
const fromUpdates = `
	tsig {
		secret update.example.org. ` + updateSecret + `
		require_opcode UPDATE
	}
	dynupdate {
		file db.example.org
		allow update.example.org. * *
	}`

// nsupdate sends an update of example.org to server, and returns when it is confirmed.
func nsupdate(t *testing.T, server *process, update string) {
	t.Helper()
	cmd := exec.Command(need(t, "nsupdate"), "-v", "-y", "hmac-sha256:update.example.org:"+updateSecret)
	cmd.Stdin = strings.NewReader(fmt.Sprintf("server %s\nzone example.org.\n%ssend\n",
		strings.Replace(server.addr, ":", " ", 1), update))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nsupdate: %v\n%s\n%s", err, update, out)
	}
}

// A validating resolver accepts the answers that dnssec signs as secure. After a negative answer, its aggressive use of NSEC
// (RFC 8198) denies no name or type that exists.
func TestSigned(t *testing.T) {
	t.Parallel()
	need(t, "unbound")
	const zone = `$TTL 300
@      IN SOA   ns1 hostmaster 1 7200 3600 1209600 300
       IN NS    ns1
       IN MX    10 mail
       IN ALIAS node.cdn.example.
ns1    IN A     192.0.2.53
mail   IN A     192.0.2.25
v4     IN ALIAS v4.hosting.example.
*.shop IN ALIAS node.cdn.example.
`
	port := freePort(t)
	up := upstream.New(t, authority(internet...)) // with signatures, which must not be in the answers
	properties := "record record node.cdn.example\nupstream " + up.Addr
	dir := zoneDir(t, port, zone, properties, "dnssec {\nkey file key\n}\n"+fromFile)
	key := newKey(t, "example.org.", filepath.Join(dir, "key"))
	server := startServer(t, port, dir, "Corefile")

	secure := []exchange{
		{"example.org.", dns.TypeA, []string{"example.org. 120 IN A 203.0.113.80", "example.org. 120 IN A 203.0.113.81"}},
		{"example.org.", dns.TypeAAAA, []string{"example.org. 120 IN AAAA 2001:db8:80::80"}},
		{"example.org.", dns.TypeMX, []string{"example.org. 300 IN MX 10 mail.example.org."}},
		{"example.org.", dns.TypeCAA, nil},
		{"v4.example.org.", dns.TypeA, []string{"v4.example.org. 300 IN A 203.0.113.4"}},
		{"v4.example.org.", dns.TypeAAAA, nil},
		{"a.shop.example.org.", dns.TypeA, []string{
			"a.shop.example.org. 120 IN A 203.0.113.80", "a.shop.example.org. 120 IN A 203.0.113.81",
		}},
		{"a.shop.example.org.", dns.TypeAAAA, []string{"a.shop.example.org. 120 IN AAAA 2001:db8:80::80"}},
		{"a.shop.example.org.", dns.TypeTXT, nil},
		{"record.example.org.", dns.TypeA, []string{
			"record.example.org. 120 IN A 203.0.113.80", "record.example.org. 120 IN A 203.0.113.81",
		}},
		{"record.example.org.", dns.TypeAAAA, []string{"record.example.org. 120 IN AAAA 2001:db8:80::80"}},
	}
	t.Run("signatures", func(t *testing.T) { checkSignatures(t, server, key, secure) })
	for _, first := range []string{"positive", "negative"} {
		t.Run(first+" answers first", func(t *testing.T) {
			resolver := startUnboundFor(t, "example.org.", server.addr, fmt.Sprintf(`module-config: "validator iterator"
    aggressive-nsec: yes
    trust-anchor: "%s"`, key.ToDS(dns.SHA256).String()))
			if first == "negative" {
				checkDenials(t, resolver)
			}
			for _, e := range secure {
				checkSecure(t, resolver, e)
			}
		})
	}
}

// newKey generates a key for zone, in the files path.key and path.private.
func newKey(t *testing.T, zone, path string) *dns.DNSKEY {
	t.Helper()
	key := &dns.DNSKEY{
		Hdr:       dns.RR_Header{Name: zone, Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 3600},
		Flags:     dns.ZONE | dns.SEP,
		Protocol:  3,
		Algorithm: dns.ECDSAP256SHA256,
	}
	private, err := key.Generate(256)
	if err != nil {
		t.Fatal(err)
	}
	write(t, path+".key", key.String()+"\n")
	write(t, path+".private", key.PrivateKeyString(private))
	return key
}

// checkSignatures checks that server signs all its answers with key, also with many clients at the same time.
func checkSignatures(t *testing.T, server *process, key *dns.DNSKEY, exchanges []exchange) {
	t.Helper()
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for _, e := range exchanges {
				for _, network := range []string{"udp", "tcp"} {
					m, err := ask(server.addr, network, e.name, e.qtype)
					if err == nil && len(e.answer) > 0 {
						err = verify(m.Answer, key)
					} else if err == nil {
						_, err = split(m.Ns, key)
					}
					if err != nil {
						t.Errorf("%s %s over %s: %v\n%v", e.name, dns.Type(e.qtype), network, err, m)
					}
				}
			}
		})
	}
	clients.Wait()
}

// verify checks that rrs is an RRset with one valid signature by key.
func verify(rrs []dns.RR, key *dns.DNSKEY) error {
	sigs, err := split(rrs, key)
	if err != nil {
		return err
	}
	if len(sigs) != 1 {
		return fmt.Errorf("%d signatures", len(sigs))
	}
	return sigs[0].Verify(key, unsigned(rrs))
}

// split returns the signatures in rrs, all of which must be by key.
func split(rrs []dns.RR, key *dns.DNSKEY) ([]*dns.RRSIG, error) {
	var sigs []*dns.RRSIG
	for _, rr := range rrs {
		if sig, ok := rr.(*dns.RRSIG); ok {
			if sig.KeyTag != key.KeyTag() || sig.SignerName != key.Hdr.Name {
				return nil, fmt.Errorf("a foreign signature: %v", sig)
			}
			sigs = append(sigs, sig)
		}
	}
	if len(sigs) == 0 {
		return nil, errors.New("no signature")
	}
	return sigs, nil
}

// unsigned returns rrs without the signatures.
func unsigned(rrs []dns.RR) []dns.RR {
	var others []dns.RR
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeRRSIG {
			others = append(others, rr)
		}
	}
	return others
}

// checkDenials queries resolver for names that do not exist, in canonical order close to those that do, and for types that
// existing names do not have. The NSEC records that prove this must not deny anything that exists.
func checkDenials(t *testing.T, resolver *process) {
	t.Helper()
	for _, name := range []string{
		"!", "-", "a", "re", "recorc", "recordd", "recore", "shoo", "shop", "shoq", "v", "v3", "v40", "v5", "zz",
		"a.record", "zz.record", "a.v4", "zz.v4",
	} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			checkSecure(t, resolver, exchange{name + ".example.org.", qtype, nil})
		}
	}
	for _, name := range []string{"example.org.", "v4.example.org.", "a.shop.example.org.", "record.example.org."} {
		checkSecure(t, resolver, exchange{name, dns.TypeCAA, nil})
		checkSecure(t, resolver, exchange{name, dns.TypeNAPTR, nil})
	}
}

// checkSecure checks that resolver has this answer, and sets AD on it.
func checkSecure(t *testing.T, resolver *process, e exchange) {
	t.Helper()
	for _, network := range []string{"udp", "tcp"} {
		m := query(t, resolver.addr, network, e.name, e.qtype)
		if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError || !m.AuthenticatedData {
			t.Errorf("%s %s got %s, AD %t", e.name, dns.Type(e.qtype), dns.RcodeToString[m.Rcode], m.AuthenticatedData)
		}
		checkRecords(t, unsigned(m.Answer), e.answer...)
	}
}
