package filter_test

import (
	"net/netip"
	"testing"

	"github.com/coredns/alias/plugin/filter"
	"github.com/coredns/alias/plugin/records"
)

func zones(names ...string) records.Zones {
	zs := make(records.Zones)
	for _, name := range names {
		zs[name] = struct{}{}
	}
	return zs
}

func TestTargets(t *testing.T) {
	for _, tc := range []struct {
		name        string
		allow, deny records.Zones
		target      string
		denied      bool
	}{
		{"nothing is said", nil, nil, "app.example.", false},
		{"at an allowed name", zones("example."), nil, "example.", false},
		{"below an allowed name", zones("example."), nil, "a.b.example.", false},
		{"beside an allowed name", zones("example."), nil, "anexample.", true},
		{"above an allowed name", zones("a.example."), nil, "example.", true},
		{"one of several allowed names", zones("example.", "example.net."), nil, "a.example.net.", false},
		{"at a denied name", nil, zones("example."), "example.", true},
		{"below a denied name", nil, zones("example."), "a.b.example.", true},
		{"beside a denied name", nil, zones("example."), "anexample.", false},
		{"denied below an allowed name", zones("example."), zones("bad.example."), "a.bad.example.", true},
		{"allowed below a denied name", zones("good.example."), zones("example."), "good.example.", true},
		{"the root allows all", zones("."), nil, "a.example.", false},
		{"the root denies all", nil, zones("."), "a.example.", true},
		{"the root itself", zones("example."), nil, ".", true},
	} {
		targets := filter.Targets{Allow: tc.allow, Deny: tc.deny}
		if got := targets.Denies(tc.target); got != tc.denied {
			t.Errorf("%s: %s denied: %v", tc.name, tc.target, got)
		}
		if targets.IsEmpty() != (tc.allow == nil && tc.deny == nil) {
			t.Errorf("%s: empty: %v", tc.name, targets.IsEmpty())
		}
	}
}

func TestAddresses(t *testing.T) {
	prefixes := filter.Addresses{Prefixes: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("2a00:1::/32")}}
	special := filter.Addresses{Special: true}
	for _, tc := range []struct {
		addr                    string
		byPrefix, bySpecialness bool
	}{
		{"9.255.255.255", false, false}, {"10.0.0.0", true, true}, {"10.255.255.255", true, true}, {"11.0.0.0", false, false},
		{"2a00:1::1", true, false}, {"2a00:2::1", false, false},
		{"::ffff:10.1.2.3", true, true}, {"::ffff:8.8.8.8", false, true}, // the block of mapped addresses is not globally reachable
		{"::10.1.2.3", true, true}, {"::8.8.8.8", false, false},
		{"64:ff9b::10.1.2.3", true, true}, {"64:ff9b::8.8.8.8", false, false}, {"64:ff9b:1::8.8.8.8", false, true},
		{"2002:a01:203::1", true, true}, {"2002:808:808::1", false, false},
		{"2001:0:808:808::f5fe:fdfc", true, true},                                // a Teredo client with the address 10.1.2.3
		{"2001:0:a01:203::f7f7:f7f7", true, true},                                // one whose server has it
		{"2001:0:808:808::f7f7:f7f7", false, false}, {"2001:1::1", false, false}, // 8.8.8.8
	} {
		addr := netip.MustParseAddr(tc.addr)
		if got := prefixes.Denies(addr); got != tc.byPrefix {
			t.Errorf("%s is denied by prefix: %v", addr, got)
		}
		if got := special.Denies(addr); got != tc.bySpecialness {
			t.Errorf("%s is denied as special: %v", addr, got)
		}
		if (filter.Addresses{}).Denies(addr) {
			t.Errorf("%s is denied by nothing", addr)
		}
		if n := testing.AllocsPerRun(10, func() { special.Denies(addr) }); n > 0 {
			t.Errorf("%s: %v allocations", addr, n)
		}
	}
}

// The first and the last address of each block of the registries, and those before and after it.
func TestSpecial(t *testing.T) {
	for _, tc := range []struct {
		block                  string
		special, before, after bool
	}{
		{"0.0.0.0/8", true, false, false},
		{"10.0.0.0/8", true, false, false},
		{"100.64.0.0/10", true, false, false},
		{"127.0.0.0/8", true, false, false},
		{"169.254.0.0/16", true, false, false},
		{"172.16.0.0/12", true, false, false},
		{"192.0.0.0/29", true, false, true},
		{"192.0.0.8/32", true, true, false},
		{"192.0.0.9/32", false, true, false},
		{"192.0.0.10/32", false, false, true},
		{"192.0.0.170/31", true, true, true},
		{"192.0.2.0/24", true, false, false},
		{"192.31.196.0/24", false, false, false},
		{"192.52.193.0/24", false, false, false},
		{"192.88.99.0/24", true, false, false},
		{"192.168.0.0/16", true, false, false},
		{"192.175.48.0/24", false, false, false},
		{"198.18.0.0/15", true, false, false},
		{"198.51.100.0/24", true, false, false},
		{"203.0.113.0/24", true, false, false},
		{"224.0.0.0/4", true, false, true},
		{"240.0.0.0/4", true, true, false},
		{"255.255.255.255/32", true, true, false},
		{"::/128", true, false, true},
		{"::1/128", true, true, false},
		{"::ffff:0:0/96", true, false, false},
		{"64:ff9b::/96", false, false, false},
		{"64:ff9b:1::/48", true, false, false},
		{"100::/64", true, false, true},
		{"100:0:0:1::/64", true, true, false},
		{"2001::/32", false, false, true},
		{"2001:1::1/128", false, true, false},
		{"2001:1::3/128", false, false, true},
		{"2001:2::/48", true, true, true},
		{"2001:3::/32", false, true, true},
		{"2001:4:112::/48", false, true, true},
		{"2001:10::/28", true, true, false},
		{"2001:20::/28", false, true, false},
		{"2001:30::/28", false, false, true},
		{"2001:1ff:ffff:ffff:ffff:ffff:ffff:ffff/128", true, true, false},
		{"2001:db8::/32", true, false, false},
		{"2002::/16", false, false, false},
		{"2620:4f:8000::/48", false, false, false},
		{"3fff::/20", true, false, false},
		{"5f00::/16", true, false, false},
		{"fc00::/7", true, false, false},
		{"fe80::/10", true, false, false},
		{"ff00::/8", true, false, false},
	} {
		p := netip.MustParsePrefix(tc.block)
		first, last := p.Addr(), lastOf(p)
		for addr, want := range map[netip.Addr]bool{first: tc.special, last: tc.special, first.Prev(): tc.before, last.Next(): tc.after} {
			if addr.IsValid() && filter.IsSpecial(addr) != want {
				t.Errorf("%s: %s is special: %v", tc.block, addr, !want)
			}
		}
	}
}

// lastOf returns the last address of p.
func lastOf(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < 8*len(b); i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
