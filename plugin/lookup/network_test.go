package lookup_test

import (
	"net/netip"
	"testing"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// network returns the network with that prefix.
func network(prefix string) lookup.Network {
	p := netip.MustParsePrefix(prefix)
	return lookup.NetworkOf(p.Addr(), p.Bits())
}

func TestNetworkOf(t *testing.T) {
	for _, tc := range []struct {
		addr string
		bits int
		want string
	}{
		{"192.0.2.77", 24, "192.0.2.0/24"},
		{"192.0.2.77", 32, "192.0.2.77/32"},
		{"192.0.2.77", 23, "192.0.2.0/23"},
		{"192.0.2.77", 0, "0.0.0.0/0"},
		{"192.0.2.77", 33, "0.0.0.0/0"}, // not a prefix
		{"2001:db8:1:2ff::1", 56, "2001:db8:1:200::/56"},
		{"2001:db8::1", 128, "2001:db8::1/128"},
		{"2001:db8::1", 0, "0.0.0.0/0"},
		{"::ffff:192.0.2.77", 120, "::ffff:192.0.2.0/120"},
	} {
		n := lookup.NetworkOf(netip.MustParseAddr(tc.addr), tc.bits)
		if n.String() != tc.want || n.IsEverybody() || (n == lookup.Global) != (tc.want == "0.0.0.0/0") {
			t.Errorf("%s/%d: %s, want %s", tc.addr, tc.bits, n, tc.want)
		}
		if want := netip.MustParsePrefix(tc.want); n.Prefix() != want || n.Bits() != want.Bits() {
			t.Errorf("%s/%d: %s, %d bits", tc.addr, tc.bits, n.Prefix(), n.Bits())
		}
	}
}

// Networks are equal when they have the same clients, and differ from everybody and from those of the other family.
func TestNetworkIsComparable(t *testing.T) {
	if network("192.0.2.1/24") != network("192.0.2.254/24") {
		t.Error("the same network is not equal")
	}
	different := []lookup.Network{{}, lookup.Global, network("192.0.0.0/16"), network("192.0.0.0/24"), network("c000::/16"), network("::ffff:192.0.0.0/112")}
	for i, n := range different {
		for j, o := range different {
			if (n == o) != (i == j) {
				t.Errorf("%s and %s", n, o)
			}
		}
	}
	if n := (lookup.Network{}); !n.IsEverybody() || n.Bits() != 0 || n.Prefix().IsValid() {
		t.Errorf("everybody: %s, %d bits", n, n.Bits())
	}
}

func TestNetworkCutAndHolds(t *testing.T) {
	for _, tc := range []struct {
		n    string
		bits int
		want string
	}{
		{"192.0.2.0/24", 32, "192.0.2.0/24"}, {"192.0.2.0/24", 24, "192.0.2.0/24"}, {"192.0.2.0/24", 16, "192.0.0.0/16"},
		{"192.0.2.0/24", 0, "0.0.0.0/0"}, {"2001:db8:1::/48", 33, "2001:db8::/33"}, {"2001:db8:1::/48", 0, "0.0.0.0/0"},
	} {
		n, cut := network(tc.n), network(tc.n).Cut(tc.bits)
		if cut != network(tc.want) {
			t.Errorf("%s with %d bits: %s, want %s", tc.n, tc.bits, cut, tc.want)
		}
		if !cut.Holds(n) || !n.Holds(n) || n.Holds(cut) != (n == cut) {
			t.Errorf("%s and %s: which has the other?", n, cut)
		}
	}
	for _, pair := range [][2]string{
		{"192.0.2.0/24", "192.0.3.0/24"}, {"192.0.2.0/24", "192.0.2.0/23"}, {"192.0.2.0/24", "2001:db8::/48"},
		{"::/1", "192.0.2.0/24"}, {"192.0.2.0/24", "::ffff:192.0.2.0/120"}, {"192.0.2.0/24", "0.0.0.0/0"},
	} {
		if network(pair[0]).Holds(network(pair[1])) {
			t.Errorf("%s has %s", pair[0], pair[1])
		}
	}
	for _, n := range []string{"192.0.2.0/24", "2001:db8::/48", "0.0.0.0/0"} {
		if !lookup.Global.Holds(network(n)) {
			t.Errorf("Global has not %s", n)
		}
	}
}

func TestQuestionForNetwork(t *testing.T) {
	q := lookup.Question{Name: "target.example.", Type: dns.TypeA}
	if got := q.For(network("192.0.2.0/24")).String(); got != "target.example. A for 192.0.2.0/24" {
		t.Errorf("got %q", got)
	}
	if q.For(lookup.Global) == q || q.For(lookup.Global).For(lookup.Network{}) != q {
		t.Error("the question for everybody is not apart")
	}
}
