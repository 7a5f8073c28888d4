package alias

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"

	"github.com/miekg/dns"
)

func TestParseDefaults(t *testing.T) {
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(resolv, []byte("nameserver 192.0.2.1\nnameserver 2001:db8::1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := parseBlock("example.org", "upstream "+resolv)
	if err != nil {
		t.Fatal(err)
	}
	want := lifetime{min: 5, max: 3600, stale: 72 * time.Hour}
	if cfg.lifetime != want || cfg.timeout != 500*time.Millisecond || cfg.retries != 2 || cfg.staleTTL != 30 ||
		cfg.onFailure != dns.RcodeSuccess || cfg.size != 100_000 || cfg.concurrent != 1000 {
		t.Errorf("defaults: %+v", cfg)
	}
	if got := fmt.Sprint(cfg.upstreams); got != "[{dns 192.0.2.1:53 } {dns [2001:db8::1]:53 }]" {
		t.Errorf("upstreams: %s", got)
	}
}

// Without the property upstream, /etc/resolv.conf has the upstreams.
func TestParseResolvConf(t *testing.T) {
	c := caddy.NewTestController("dns", "alias example.org")
	cfg, err := parseConfig(c)
	if _, missing := os.Stat("/etc/resolv.conf"); missing != nil {
		t.Skip("no /etc/resolv.conf here")
	}
	if err != nil {
		if !strings.Contains(err.Error(), "Testfile:1") || !strings.Contains(err.Error(), "/etc/resolv.conf") {
			t.Errorf("error %v", err)
		}
		return
	}
	if len(cfg.to) != 1 || cfg.to[0] != "/etc/resolv.conf" {
		t.Errorf("upstream %v", cfg.to)
	}
}

func TestParseProperties(t *testing.T) {
	cfg, err := parseBlock("example.org example.net", `
		record example.org. target.example
		record www.EXAMPLE.net Target.Example. 1m
		record *.example.net target.example 300
		upstream 192.0.2.1 192.0.2.1:53 192.0.2.2:5353 [2001:db8::1]:53 2001:db8::2 tls://192.0.2.3 tls://192.0.2.4%dns.example https://192.0.2.5 quic://192.0.2.6 fe80::1%eth0
		tls_servername resolver.example
		timeout 250ms
		retries 0
		min_ttl 30
		max_ttl 1h30m
		stale 0
		stale_ttl 10s
		on_failure servfail
		cache_size 7
		max_concurrent 9
		allow_unspecified`)
	if err != nil {
		t.Fatal(err)
	}
	if cfg.lifetime != (lifetime{min: 30, max: 5400}) || cfg.timeout != 250*time.Millisecond || cfg.retries != 0 || cfg.staleTTL != 10 ||
		cfg.onFailure != dns.RcodeServerFailure || cfg.size != 7 || cfg.concurrent != 9 || cfg.tlsConfig.ServerName != "resolver.example" {
		t.Errorf("got %+v", cfg)
	}
	want := "[{dns 192.0.2.1:53 } {dns 192.0.2.2:5353 } {dns [2001:db8::1]:53 } {dns [2001:db8::2]:53 } {tls 192.0.2.3:853 } " +
		"{tls 192.0.2.4:853 dns.example} {https 192.0.2.5:443 } {quic 192.0.2.6:853 } {dns [fe80::1%eth0]:53 }]"
	if got := fmt.Sprint(cfg.upstreams); got != want {
		t.Errorf("upstreams:\n%s, want\n%s", got, want)
	}
	var got []string
	for owner, r := range cfg.records.All() {
		got = append(got, fmt.Sprint(owner, " ", r.Target, " ", r.Zone.Name, " ", r.TTL, " ", r.Wildcard))
	}
	slices.Sort(got)
	if s := strings.Join(got, "\n"); s != `*.example.net. target.example. example.net. 300 true
example.org. target.example. example.org. 4294967295 false
www.example.net. target.example. example.net. 60 false` {
		t.Errorf("records:\n%s", s)
	}
}

func TestOwnerNames(t *testing.T) {
	for _, tc := range []struct{ zones, name, want string }{
		{"example.org", "@", "example.org."},
		{"example.org", "www", "www.example.org."},
		{"example.org", "a.b", "a.b.example.org."},
		{"example.org", "*", "*.example.org."},
		{"example.org", "*.a", "*.a.example.org."},
		{"example.org", "*.a.example.org.", "*.a.example.org."},
		{"example.org", "www.example.org", "www.example.org."},
		{"example.org", "example.org", "example.org."},
		{"example.org", "www.example.net", "www.example.net.example.org."},
		{"example.org", "_dmarc", "_dmarc.example.org."},
		{"example.org sub.example.org", "www.sub.example.org", "www.sub.example.org."},
		{".", "@", "."},
		{".", "www", "www."},
		{".", "example.org", "example.org."},
		{".", "*", "*."},
		{"2.0.192.in-addr.arpa", "1", "1.2.0.192.in-addr.arpa."},
		{"192.0.2.0/24", "1", "1.2.0.192.in-addr.arpa."},
		{"example.org EXAMPLE.org.", "@", "example.org."},
	} {
		cfg, err := parseBlock(tc.zones, "upstream 192.0.2.1\nrecord "+tc.name+" target.example")
		if err != nil {
			t.Errorf("%s in %s: %v", tc.name, tc.zones, err)
			continue
		}
		if got := firstOwner(cfg); got != tc.want {
			t.Errorf("%s in %s: %s, want %s", tc.name, tc.zones, got, tc.want)
		}
	}
}

// firstOwner returns the owner of the only record.
func firstOwner(cfg *config) string {
	for owner := range cfg.records.All() {
		return owner
	}
	return ""
}

// The zones of the server block are the default.
func TestParseServerBlock(t *testing.T) {
	c := caddy.NewTestController("dns", "alias {\nrecord @ target.example\nupstream 192.0.2.1\n}")
	c.ServerBlockKeys = []string{"dns://example.org.:1053"}
	cfg, err := parseConfig(c)
	if err != nil {
		t.Fatal(err)
	}
	if got := firstOwner(cfg); got != "example.org." {
		t.Errorf("owner %s", got)
	}
}

// Every error says where it is, and names the property and the value.
func TestParseErrors(t *testing.T) {
	long := strings.Repeat("a", 64)
	tooLong := strings.Repeat("abcdefghi.", 26)
	for _, tc := range []struct {
		zones, properties string
		want              []string // the line, and what else the message has
	}{
		{"example.org", "frobnicate 1", []string{":2 ", "unknown property", "'frobnicate'"}},
		{"example.org", "flatten_all", []string{":2 ", "unknown property", "'flatten_all'"}},
		{"a..b", "", []string{":1 ", "'a..b' is not a zone"}},

		{"example.org", "timeout", []string{":2 ", "timeout: missing argument", "timeout DURATION"}},
		{"example.org", "record @", []string{":2 ", "record: missing argument", "record NAME TARGET... [TTL]"}},
		{"example.org", "upstream", []string{":2 ", "upstream: missing argument"}},
		{"example.org", "timeout 1s 2s", []string{":2 ", "timeout: unexpected argument '2s'"}},
		{"example.org", "record @ a.example 60 b.example", []string{":2 ", "record: '60' stands before a target: give the TTL last"}},
		{"example.org", "retries 1\nretries 1", []string{":3 ", "retries: '1' is one too many", "line 2"}},
		{"example.org", "upstream 192.0.2.1\nupstream 192.0.2.2", []string{":3 ", "upstream: '192.0.2.2' is one too many", "line 2"}},

		{"example.org", "record www.example.net. a.example", []string{":2 ", "record:", "'www.example.net.' is outside of example.org."}},
		{"example.org", "record anexample.org. a.example", []string{":2 ", "record:", "'anexample.org.' is outside of"}},
		{"example.org example.net", "record www a.example", []string{":2 ", "record:", "'www' is relative"}},
		{"example.org example.net", "record @ a.example", []string{":2 ", "record:", "'@' is relative", "2 zones"}},
		{"example.org", "record @ a.example\nrecord example.ORG. b.example", []string{":3 ", "record:", "'example.ORG.' has a record already"}},
		{"example.org", "record * a.example\nrecord * b.example", []string{":3 ", "record:", "'*' has a record already"}},
		{"example.org", "record @ Example.Org", []string{":2 ", "record:", "'@' is an alias of itself"}},
		{"example.org", "record @ a..example", []string{":2 ", "record:", "'a..example.' is not a host name"}},
		{"example.org", "record @ .", []string{":2 ", "record:", "'.' is not a host name"}},
		{"example.org", "record @ *.example", []string{":2 ", "record:", "'*.example.' is not a host name"}},
		{"example.org", "record @ -a.example", []string{":2 ", "record:", "'-a.example.' is not a host name"}},
		{"example.org", `record @ a\.b.example`, []string{":2 ", "record:", "is not a host name"}},
		{"example.org", "record @ " + long + ".example", []string{":2 ", "record:", long, "63 characters"}},
		{"example.org", "record @ " + tooLong, []string{":2 ", "record:", tooLong, "too long"}},
		{"example.org", "record @ 192.0.2.1", []string{":2 ", "record:", "'192.0.2.1' is an address"}},
		{"example.org", "record @ 192.0.2.1.", []string{":2 ", "record:", "'192.0.2.1.' is an address"}},
		{"example.org", `record @ ""`, []string{":2 ", "record:", "'' is not a host name"}},
		{".", `record "" a.example`, []string{":2 ", "record:", "'' is not a host name"}},
		{".", "record *." + tooLong[:252] + ". a.example", []string{":2 ", "record:", "'*.abc", "too long"}},
		{"example.org", "record @ 2001:db8::1", []string{":2 ", "record:", "'2001:db8::1' is an address"}},
		{"example.org", "record a.*.b a.example", []string{":2 ", "record:", "'a.*.b.example.org.' is not a host name"}},
		{"example.org", "record w%w a.example", []string{":2 ", "record:", "'w%w.example.org.' is not a host name"}},
		{"example.org", "record " + tooLong + "example.org. a.example", []string{":2 ", "record:", tooLong, "too long"}},
		{"example.org", "record @ a.example soon", []string{":2 ", "record:", "'soon' is neither a duration nor a target"}},
		{"example.org", "record @ a.example -1", []string{":2 ", "record:", "'-1' is out of range"}},
		{"example.org", "record @ a.example 2147483648", []string{":2 ", "record:", "'2147483648' is out of range"}},
		{"example.org", "record @ a.example 1500ms", []string{":2 ", "record:", "'1500ms' is not a whole number of seconds"}},

		{"example.org", "record @ a.example b.example a.example", []string{":2 ", "record: 'a.example' is given twice: give each target once"}},
		{"example.org", "record @ a.example A.Example. 60", []string{":2 ", "record: 'A.Example.' is given twice"}},
		{"example.org", "record www a.example WWW.example.org", []string{":2 ", "record: 'www' is an alias of itself: give it another target"}},
		{"example.org", "record @ " + manyTargets(17), []string{":2 ", "record: 't17.example' is one target too many: at most 16 are allowed"}},
		{"example.org", "record @ a.example 1m b.example 60", []string{":2 ", "record: '1m' stands before a target: give the TTL last"}},
		{"example.org", "record @ a.example b.example 9000000h", []string{":2 ", "record: '9000000h' is"}},
		{"example.org", "record @ a.example b.example 1500ms", []string{":2 ", "record: '1500ms' is not a whole number of seconds"}},
		{"example.org", "record @ a.example localhost", []string{":2 ", "record: 'localhost' is neither a duration nor a target", "ends in a dot"}},
		{"example.org", "record @ a.example localhost b.example", []string{":2 ", "record: 'localhost' is neither a duration nor a target", "ends in a dot"}},
		{"example.org", "record @ a.example 192.0.2.1", []string{":2 ", "record: '192.0.2.1' is an address and no host name", "A or AAAA record"}},
		{"example.org", "record @ a.example b..example", []string{":2 ", "record:", "'b..example.' is not a host name"}},
		{"example.org", "record @ a.example\nrecord @ b.example", []string{":3 ", "record: '@' has a record already: give it all targets in one line"}},
		{"example.org", "record @ a.example\nfailover @ b.example c.example", []string{":3 ", "failover: '@' has a record already"}},
		{"example.org", "failover @ b.example c.example\nrecord @ a.example", []string{":3 ", "record: '@' has a record already"}},
		{"example.org", "failover @ b.example c.example\nfailover @ b.example d.example", []string{":3 ", "failover: '@' has a record already"}},
		{"example.org", "failover @", []string{":2 ", "failover: missing argument, expected: failover NAME TARGET TARGET... [TTL]"}},
		{"example.org", "failover @ a.example", []string{":2 ", "failover: missing argument, expected: failover NAME TARGET TARGET... [TTL]"}},
		{"example.org", "failover @ a.example 60", []string{":2 ", "failover: '@' has one target: give it another, or use record"}},
		{"example.org", "failover @ a.example a.example", []string{":2 ", "failover: 'a.example' is given twice"}},
		{"example.org", "failover @ a.example example.org 60", []string{":2 ", "failover: '@' is an alias of itself"}},
		{"example.org", "failover @ a.example 60 b.example", []string{":2 ", "failover: '60' stands before a target: give the TTL last"}},
		{"example.org", "failover @ " + manyTargets(17) + " 60", []string{":2 ", "failover: 't17.example' is one target too many"}},
		{"example.org", "failover www.example.net. a.example b.example", []string{":2 ", "failover:", "'www.example.net.' is outside of example.org."}},

		{"example.org", "timeout 0", []string{":2 ", "timeout: '0' is out of range, 1ms to 10s"}},
		{"example.org", "timeout 500", []string{":2 ", "timeout: '500' is out of range"}},
		{"example.org", "timeout -1s", []string{":2 ", "timeout: '-1s' is out of range"}},
		{"example.org", "timeout fast", []string{":2 ", "timeout: 'fast' is not a duration"}},
		{"example.org", "retries -1", []string{":2 ", "retries: '-1' is out of range, 0 to 10"}},
		{"example.org", "retries 11", []string{":2 ", "retries: '11' is out of range"}},
		{"example.org", "retries many", []string{":2 ", "retries: 'many' is not a number"}},
		{"example.org", "retries 99999999999999999999", []string{":2 ", "retries: '99999999999999999999' is out of range"}},
		{"example.org", "min_ttl 0", []string{":2 ", "min_ttl: '0' is out of range"}},
		{"example.org", "max_ttl 0", []string{":2 ", "max_ttl: '0' is out of range"}},
		{"example.org", "max_ttl 99999999999999h", []string{":2 ", "max_ttl: '99999999999999h' is not a duration"}},
		{"example.org", "min_ttl 1h\nmax_ttl 1m\nretries 1", []string{":3 ", "min_ttl: '1h' is more than max_ttl '1m'"}},
		{"example.org", "retries 1\nmin_ttl 2h", []string{":3 ", "min_ttl: '2h' is more than max_ttl '1h'"}},
		{"example.org", "stale -1s", []string{":2 ", "stale: '-1s' is out of range"}},
		{"example.org", "stale 9000h", []string{":2 ", "stale: '9000h' is out of range"}},
		{"example.org", "stale_ttl 0", []string{":2 ", "stale_ttl: '0' is out of range"}},
		{"example.org", "target_from label", []string{":2 ", "target_from: 'label' is not a metadata label, plugin/name"}},
		{"example.org", "flatten some", []string{":2 ", "flatten: 'some' is neither apex nor all"}},
		{"example.org", "https", []string{":2 ", "https: missing argument", "https alias|copy"}},
		{"example.org", "https on", []string{":2 ", "https: 'on' is neither alias nor copy"}},
		{"example.org", "https copy alias", []string{":2 ", "https: unexpected argument 'alias'"}},
		{"example.org", "https copy\nhttps alias", []string{":3 ", "https: 'alias' is one too many", "line 2"}},
		{"example.org", "transfer_on_failure wait", []string{":2 ", "transfer_on_failure: 'wait' is neither abort nor omit"}},
		{"example.org", `persist ""`, []string{":2 ", "persist: '' is not a path"}},
		{"example.org", "on_failure panic", []string{":2 ", "on_failure: 'panic' is neither empty nor servfail"}},
		{"example.org", "client_subnet 33", []string{":2 ", "client_subnet: '33' is out of range"}},
		{"example.org", "client_subnet 24 129", []string{":2 ", "client_subnet: '129' is out of range"}},
		{"example.org", "client_subnet -1", []string{":2 ", "client_subnet:", "'-1'"}},
		{"example.org", "client_subnet /24", []string{":2 ", "client_subnet:", "'/24'"}},
		{"example.org", "client_subnet 24 x", []string{":2 ", "client_subnet:", "'x'"}},
		{"example.org", "client_subnet 24 56 1", []string{":2 ", "client_subnet: unexpected argument '1', expected: client_subnet [V4 [V6]]"}},
		{"example.org", "client_subnet\nclient_subnet 16", []string{":3 ", "client_subnet: '16' is one too many, it is given in line 2 already"}},
		{"example.org", "cache_size 0", []string{":2 ", "cache_size: '0' is out of range"}},
		{"example.org", "target_allow", []string{":2 ", "target_allow: missing argument", "target_allow NAME..."}},
		{"example.org", "target_deny a_.-", []string{":2 ", "target_deny: 'a_.-.' is not a host name", "xn--"}},
		{"example.org", "target_deny müller.example", []string{":2 ", "target_deny: 'müller.example.' is not a host name", "in ASCII, with xn--"}},
		{"example.org", "target_deny a.example A.example.", []string{":2 ", "target_deny: 'A.example.' is given twice"}},
		{"example.org", "target_deny a.example\ntarget_deny b.example", []string{":3 ", "target_deny: 'b.example' is one too many", "line 2"}},
		{"example.org", "target_deny b.example\nrecord www a.b.example", []string{":2 ", "target_deny: 'b.example' does not allow 'a.b.example.', the target of the record 'www.example.org.'"}},
		{"example.org", "record www a.b.example c.example\ntarget_allow b.example", []string{":3 ", "target_allow: 'b.example' does not allow 'c.example.', the target of the record 'www.example.org.'"}},
		{"example.org", "record *.x c.example\ntarget_allow b.example a.example", []string{":3 ", "'b.example a.example' does not allow 'c.example.', the target of the record '*.x.example.org.'"}},
		{"example.org", "per_zone 0", []string{":2 ", "per_zone: '0' is out of range, 1 to 1000000"}},
		{"example.org", "per_zone some", []string{":2 ", "per_zone: 'some' is not a number"}},
		{"example.org", "per_zone 1001", []string{":2 ", "per_zone: '1001' is more than max_concurrent '1000'"}},
		{"example.org", "per_zone 9\nmax_concurrent 8", []string{":3 ", "per_zone: '9' is more than max_concurrent '8'"}},
		{"example.org", "address_deny", []string{":2 ", "address_deny: missing argument", "address_deny CIDR|special..."}},
		{"example.org", "address_deny private", []string{":2 ", "address_deny: 'private' is neither an address, nor", "nor special"}},
		{"example.org", "address_deny 10.0.0.1/8", []string{":2 ", "address_deny: '10.0.0.1/8' has bits beyond the prefix: write 10.0.0.0/8"}},
		{"example.org", "address_deny 10.0.0.0/33", []string{":2 ", "address_deny: '10.0.0.0/33' is neither"}},
		{"example.org", "address_deny fe80::1%eth0", []string{":2 ", "address_deny: 'fe80::1%eth0' is neither"}},
		{"example.org", "allow_unspecified yes", []string{":2 ", "allow_unspecified: unexpected argument 'yes'"}},
		{"example.org", "max_concurrent 0", []string{":2 ", "max_concurrent: '0' is out of range"}},

		{"example.org", "upstream nowhere", []string{":2 ", "upstream:", `"nowhere"`}},
		{"example.org", "upstream 192.0.2.1:x", []string{":2 ", "upstream:", "'192.0.2.1:x' has no valid port"}},
		{"example.org", "upstream 192.0.2.1:0", []string{":2 ", "upstream:", "'192.0.2.1:0' has no valid port"}},
		{"example.org", "upstream 192.0.2.1:65536", []string{":2 ", "upstream:", "'192.0.2.1:65536' has no valid port"}},
		{"example.org", "upstream grpc://192.0.2.1", []string{":2 ", "upstream:", "'grpc://192.0.2.1:443' has a protocol that is not supported"}},
		{"example.org", "upstream unix:///tmp/socket", []string{":2 ", "upstream:", "unix:///tmp/socket"}},
		{"example.org", "upstream https://192.0.2.1/dns-query", []string{":2 ", "upstream:", "192.0.2.1/dns-query"}},
		{"example.org", "upstream tls://", []string{":2 ", "upstream:", "tls://"}},
		{"example.org", "upstream " + manyAddresses(16), []string{":2 ", "upstream:", "16 upstreams, at most 15"}},
		{"example.org", "tls_servername a..b", []string{":2 ", "tls_servername:", "'a..b' is not a host name"}},
	} {
		name := tc.zones + "/" + tc.properties
		t.Run(name[:min(len(name), 60)], func(t *testing.T) {
			_, err := parseBlock(tc.zones, tc.properties)
			if err == nil {
				t.Fatal("no error")
			}
			for _, want := range append(tc.want, "Testfile:") {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%q does not say %q", err, want)
				}
			}
		})
	}
}

func manyAddresses(n int) string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf("192.0.2.%d", i+1))
	}
	return strings.Join(s, " ")
}

func manyTargets(n int) string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf("t%d.example", i+1))
	}
	return strings.Join(s, " ")
}

// Several targets are in the order of the Corefile, and all have the TTL.
func TestParseSeveralTargets(t *testing.T) {
	for _, tc := range []struct {
		properties string
		failover   bool
		ttl        uint32
		want       string
	}{
		{"record @ b.example A.example. localhost. 1m", false, 60, "b.example. a.example. localhost."},
		{"record @ localhost b.example", false, lookup.NoLimit, "localhost. b.example."},
		{"failover @ b.example a.example 0", true, 0, "b.example. a.example."},
		{"record @ " + manyTargets(16) + " 300", false, 300, strings.ReplaceAll(manyTargets(16), ".example", ".example.")},
	} {
		cfg, err := parseBlock("example.org", "upstream 192.0.2.1\n"+tc.properties)
		if err != nil {
			t.Errorf("%s: %v", tc.properties, err)
			continue
		}
		r, _ := cfg.records.Find("example.org.")
		if got := strings.Join(r.Targets(), " "); got != tc.want || r.Failover != nil != tc.failover {
			t.Errorf("%s: %s, failover %v", tc.properties, got, r.Failover != nil)
		}
		for al := range r.All() {
			if al.TTL != tc.ttl || al.Zone.Name != "example.org." {
				t.Errorf("%s: TTL %d, zone %s", al.Target, al.TTL, al.Zone.Name)
			}
		}
	}
}

// How much of an address is sent, and how the room is divided.
func TestClientSubnetSizes(t *testing.T) {
	for properties, want := range map[string]string{
		"":                    "{false {0 0}} {7 0}",
		"client_subnet":       "{true {24 56}} {4 3}",
		"client_subnet 16":    "{true {16 56}} {4 3}",
		"client_subnet 0 128": "{true {0 128}} {4 3}",
		"client_subnet 32 0":  "{true {32 0}} {4 3}",
		"client_subnet 0 0":   "{true {0 0}} {7 0}", // no answer is for a network
	} {
		cfg, err := parseBlock("example.org", "cache_size 7\nupstream 192.0.2.1\n"+properties)
		if err != nil {
			t.Fatal(err)
		}
		if got := fmt.Sprint(cfg.subnets, " ", cfg.sizes()); got != want {
			t.Errorf("%q: %s, want %s", properties, got, want)
		}
	}
}

func TestOncePerBlock(t *testing.T) {
	c := caddy.NewTestController("dns", "alias example.org {\nupstream 192.0.2.1\n}\nalias example.net {\n}")
	if _, err := parseConfig(c); err == nil || !strings.Contains(err.Error(), ":4 ") || !strings.Contains(err.Error(), "once per Server Block") {
		t.Errorf("error %v", err)
	}
}

func TestSetup(t *testing.T) {
	c := caddy.NewTestController("dns", "alias example.org {\nrecord @ target.example\nupstream 192.0.2.1\n}")
	if err := setup(c); err != nil {
		t.Fatal(err)
	}
	plugins := dnsserver.GetConfig(c).Plugin
	if len(plugins) != 1 {
		t.Fatalf("%d plugins", len(plugins))
	}
	next := zoneFile(t, nil)
	if a, ok := plugins[0](next).(*Alias); !ok || a.backend.Next != next || a.Name() != "alias" {
		t.Errorf("got %v", a)
	}
	if err := setup(caddy.NewTestController("dns", "alias {\nnonsense\n}")); err == nil || !strings.HasPrefix(err.Error(), "plugin/alias: Testfile:2 ") {
		t.Errorf("error %v", err)
	}
}
