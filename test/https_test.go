package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// services are the targets of httpsZone. The signature is not valid, and must not be in the answers.
var services = []string{
	"cdn.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
	"node.cdn.example. 120 IN A 203.0.113.80",
	"node.cdn.example. 120 IN AAAA 2001:db8:80::80",
	`node.cdn.example. 120 IN HTTPS 1 . alpn="h3,h2" ipv4hint=203.0.113.80 ech="AAX+DQABAQ=="`,
	"node.cdn.example. 120 IN HTTPS 2 Backup.cdn.example. alpn=h2 ipv6hint=2001:db8:80::99",
	"node.cdn.example. 120 IN RRSIG HTTPS 8 3 120 20380101000000 20200101000000 1 cdn.example. c2lnbmF0dXJl",
	"v4.cdn.example. 120 IN A 203.0.113.4",
	"v4.cdn.example. 120 IN HTTPS 0 node.cdn.example.",
	"bare.cdn.example. 120 IN A 203.0.113.5",
}

const httpsZone = `$TTL 300
@      IN SOA   ns1 hostmaster 1 7200 3600 1209600 300
       IN NS    ns1
       IN ALIAS node.cdn.example.
ns1    IN A     192.0.2.53
bare   IN ALIAS bare.cdn.example.
v4     IN ALIAS v4.cdn.example.
own    IN ALIAS node.cdn.example.
       IN HTTPS 1 .
*.shop IN ALIAS node.cdn.example.
`

// signedHTTPS are the answers of a server with httpsZone.
func signedHTTPS(mode string) (https, others []exchange) {
	for _, name := range []string{"example.org.", "v4.example.org.", "a.shop.example.org.", "record.example.org."} {
		target := "node.cdn.example."
		if name == "v4.example.org." && mode == "alias" {
			target = "v4.cdn.example."
		}
		itself, hint := ".", ` ipv4hint="203.0.113.80"`
		if name == "v4.example.org." { // AliasMode leads to another name than its addresses do
			itself, hint = "node.cdn.example.", ""
		}
		answer := []string{
			name + ` 120 IN HTTPS 1 ` + itself + ` alpn="h3,h2"` + hint + ` ech="AAX+DQABAQ=="`,
			name + ` 120 IN HTTPS 2 backup.cdn.example. alpn="h2"`,
		}
		if mode == "alias" {
			ttl := map[string]int{"record.example.org.": 3600}[name]
			answer = []string{fmt.Sprintf("%s %d IN HTTPS 0 %s", name, max(ttl, 300), target)}
		}
		https = append(https, exchange{name, dns.TypeHTTPS, answer})
		for _, qtype := range []uint16{dns.TypeTXT, dns.TypeCAA, dns.TypeLOC, dns.TypeSRV} {
			others = append(others, exchange{name, qtype, nil})
		}
	}
	https = append(https, exchange{"own.example.org.", dns.TypeHTTPS, []string{"own.example.org. 300 IN HTTPS 1 ."}})
	others = append(others,
		exchange{"own.example.org.", dns.TypeTXT, nil},
		exchange{"example.org.", dns.TypeMX, nil},
		exchange{"example.org.", dns.TypeA, []string{"example.org. 120 IN A 203.0.113.80"}},
		exchange{"example.org.", dns.TypeAAAA, []string{"example.org. 120 IN AAAA 2001:db8:80::80"}},
		exchange{"v4.example.org.", dns.TypeAAAA, nil},
		exchange{"nowhere.example.org.", dns.TypeA, nil})
	if mode == "copy" {
		others = append(others, exchange{"bare.example.org.", dns.TypeHTTPS, nil})
	}
	return https, others
}

// Validating resolvers take HTTPS records for secure, and the negative answers beside them. After these, aggressive use of NSEC
// (RFC 8198) does not deny the HTTPS records. It makes no difference that minimal is between dnssec and alias.
func TestSignedHTTPS(t *testing.T) {
	t.Parallel()
	need(t, "unbound")
	delv := need(t, "delv")
	for _, setup := range []struct{ mode, others string }{{"copy", ""}, {"alias", ""}, {"copy", "minimal\n"}} {
		t.Run(setup.mode+" "+strings.TrimSpace(setup.others), func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			properties := "record record node.cdn.example\nhttps " + setup.mode + "\nupstream " + upstream.New(t, authority(services...)).Addr
			dir := zoneDir(t, port, httpsZone, properties, "dnssec {\nkey file key\n}\n"+setup.others+fromFile)
			key := newKey(t, "example.org.", filepath.Join(dir, "key"))
			server := startServer(t, port, dir, "Corefile")
			https, others := signedHTTPS(setup.mode)
			if setup.others == "" {
				checkSignatures(t, server, key, append(https, others...))
			}
			for _, aggressive := range []string{"yes", "no"} {
				resolver := startUnboundFor(t, "example.org.", server.addr, fmt.Sprintf(`module-config: "validator iterator"
    aggressive-nsec: %s
    trust-anchor: "%s"`, aggressive, key.ToDS(dns.SHA256).String()))
				for _, e := range append(others, https...) { // the resolver has NSEC records when it gets the queries for HTTPS
					checkSecure(t, resolver, e)
				}
			}
			for _, e := range append(https, others...) {
				checkDelv(t, delv, server, key, e)
			}
		})
	}
}

// checkDelv checks that delv, which validates by itself, takes the answer of server for valid.
func checkDelv(t *testing.T, delv string, server *process, key *dns.DNSKEY, e exchange) {
	t.Helper()
	anchors := filepath.Join(t.TempDir(), "anchors")
	write(t, anchors, fmt.Sprintf("trust-anchors {\n\texample.org. static-key %d %d %d \"%s\";\n};\n",
		key.Flags, key.Protocol, key.Algorithm, key.PublicKey))
	host, port, _ := strings.Cut(server.addr, ":")
	out, err := exec.Command(delv, "@"+host, "-p", port, "-a", anchors, "+root=example.org", "+nomultiline", e.name, dns.Type(e.qtype).String()).CombinedOutput()
	want := "; fully validated"
	if len(e.answer) == 0 {
		want = "; negative response, fully validated"
	}
	if err != nil || !strings.Contains(string(out), want) {
		t.Errorf("delv %s %s: %v\n%s", e.name, dns.Type(e.qtype), err, out)
	}
}
