package upstream_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/coredns/alias/plugin/upstream"

	"github.com/google/go-cmp/cmp"
)

// file returns the path of a file with those contents.
func file(t *testing.T, contents string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte(contents), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestParseAddresses(t *testing.T) {
	resolv := file(t, "search example\nnameserver 192.0.2.1\nnameserver 2001:db8::1\nnameserver 192.0.2.1\n")
	for _, tc := range []struct {
		args string
		want []upstream.Address
	}{
		{"192.0.2.1", []upstream.Address{{"dns", "192.0.2.1:53", ""}}},
		{"192.0.2.1:5353", []upstream.Address{{"dns", "192.0.2.1:5353", ""}}},
		{"dns://192.0.2.1", []upstream.Address{{"dns", "192.0.2.1:53", ""}}},
		{"2001:db8::2", []upstream.Address{{"dns", "[2001:db8::2]:53", ""}}},
		{"[2001:db8::1]:5353", []upstream.Address{{"dns", "[2001:db8::1]:5353", ""}}},
		{"fe80::1%eth0", []upstream.Address{{"dns", "[fe80::1%eth0]:53", ""}}},
		{"[fe80::1%eth0]:5353", []upstream.Address{{"dns", "[fe80::1%eth0]:5353", ""}}},
		{"tls://192.0.2.3", []upstream.Address{{"tls", "192.0.2.3:853", ""}}},
		{"tls://192.0.2.4%dns.example", []upstream.Address{{"tls", "192.0.2.4:853", "dns.example"}}},
		{"tls://192.0.2.4%dns.example:8853", []upstream.Address{{"tls", "192.0.2.4:8853", "dns.example"}}},
		{"tls://[2001:db8::1%dns.example]:853", []upstream.Address{{"tls", "[2001:db8::1]:853", "dns.example"}}},
		{"https://192.0.2.5", []upstream.Address{{"https", "192.0.2.5:443", ""}}},
		{"https://192.0.2.5%dns.example", []upstream.Address{{"https", "192.0.2.5:443", "dns.example"}}},
		{"quic://192.0.2.6", []upstream.Address{{"quic", "192.0.2.6:853", ""}}},
		{"quic://192.0.2.6%dns.example", []upstream.Address{{"quic", "192.0.2.6:853", "dns.example"}}},
		{resolv, []upstream.Address{{"dns", "192.0.2.1:53", ""}, {"dns", "[2001:db8::1]:53", ""}}},

		{"192.0.2.2 192.0.2.1 192.0.2.2:53 dns://192.0.2.1", []upstream.Address{{"dns", "192.0.2.2:53", ""}, {"dns", "192.0.2.1:53", ""}}},
		{"192.0.2.1 " + resolv, []upstream.Address{{"dns", "192.0.2.1:53", ""}, {"dns", "[2001:db8::1]:53", ""}}},
		{"tls://192.0.2.1 tls://192.0.2.1%a.example tls://192.0.2.1%a.example", []upstream.Address{{"tls", "192.0.2.1:853", ""}, {"tls", "192.0.2.1:853", "a.example"}}},
	} {
		got, err := upstream.ParseAddresses(strings.Fields(tc.args))
		if err != nil {
			t.Errorf("%s: %v", tc.args, err)
			continue
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.args, diff)
		}
	}
}

func TestParseAddressesErrors(t *testing.T) {
	empty, missing := file(t, "search example\n"), filepath.Join(t.TempDir(), "resolv.conf")
	for args, want := range map[string]string{
		"":                                 "no name server in ''",
		"nowhere":                          `"nowhere"`,
		"upstream.example:53":              `"upstream.example:53"`,
		missing:                            missing,
		empty:                              "no name server in '" + empty + "'",
		"192.0.2.1 " + empty:               "no name server in '" + empty + "'",
		"192.0.2.1 192.0.2.1:x":            "'192.0.2.1:x' has no valid port",
		"192.0.2.1:0":                      "'192.0.2.1:0' has no valid port",
		"192.0.2.1:65536":                  "'192.0.2.1:65536' has no valid port",
		"192.0.2.1:-1":                     "'192.0.2.1:-1' has no valid port",
		"192.0.2.1:":                       "'192.0.2.1:' has no valid port",
		"tls://192.0.2.1:0":                "'tls://192.0.2.1:0' has no valid port",
		"grpc://192.0.2.1":                 "'grpc://192.0.2.1:443' has a protocol that is not supported here",
		"https3://192.0.2.1:443":           "'https3://192.0.2.1:443' has a protocol that is not supported here",
		"unix:///tmp/socket":               "'unix:///tmp/socket' is not an address",
		"https://192.0.2.1/dns-query":      `"192.0.2.1/dns-query"`,
		"tls://":                           `"tls://"`,
		numbers(upstream.MaxUpstreams + 1): "'" + numbers(upstream.MaxUpstreams+1) + "' are 16 upstreams, at most 15 are allowed",
	} {
		if got, err := upstream.ParseAddresses(strings.Fields(args)); err == nil || !strings.Contains(err.Error(), want) || got != nil {
			t.Errorf("%s: %v, %v; want %s", args, got, err, want)
		}
	}
}

// As many as there may be; what is there twice counts once.
func TestMaxUpstreams(t *testing.T) {
	args := numbers(upstream.MaxUpstreams)
	if got, err := upstream.ParseAddresses(strings.Fields(args + " " + args)); err != nil || len(got) != upstream.MaxUpstreams {
		t.Errorf("%d upstreams, %v", len(got), err)
	}
}

// numbers returns n addresses.
func numbers(n int) string {
	var s []string
	for i := range n {
		s = append(s, fmt.Sprintf("192.0.2.%d", i+1))
	}
	return strings.Join(s, " ")
}

func TestIdentity(t *testing.T) {
	identity := func(args, serverName string) string {
		t.Helper()
		addrs, err := upstream.ParseAddresses(strings.Fields(args))
		if err != nil {
			t.Fatal(err)
		}
		return upstream.Identity(addrs, serverName)
	}
	for _, same := range [][4]string{ // two lists of upstreams, each with the name in the certificates
		{"192.0.2.1 192.0.2.2", "", "192.0.2.2:53 192.0.2.1", ""},
		{"192.0.2.1", "a.example", "192.0.2.1", "b.example"}, // without a certificate
		{"tls://192.0.2.1", "a.example", "tls://192.0.2.1%a.example", "b.example"},
		{"https://192.0.2.1 tls://192.0.2.1", "", "tls://192.0.2.1:853 https://192.0.2.1", ""},
	} {
		if a, b := identity(same[0], same[1]), identity(same[2], same[3]); a != b {
			t.Errorf("%q: %q and %q are not the same", same, a, b)
		}
	}
	for _, other := range [][4]string{
		{"192.0.2.1", "", "192.0.2.2", ""},
		{"192.0.2.1", "", "192.0.2.1:5353", ""},
		{"192.0.2.1", "", "192.0.2.1 192.0.2.2", ""},
		{"192.0.2.1:853", "", "tls://192.0.2.1", ""},
		{"tls://192.0.2.1", "", "quic://192.0.2.1", ""},
		{"tls://192.0.2.1", "a.example", "tls://192.0.2.1", "b.example"},
		{"tls://192.0.2.1%a.example", "", "tls://192.0.2.1%b.example", ""},
		{"tls://192.0.2.1%a.example", "", "tls://192.0.2.1", ""},
	} {
		if a, b := identity(other[0], other[1]), identity(other[2], other[3]); a == b {
			t.Errorf("%q: both are %q", other, a)
		}
	}
}
