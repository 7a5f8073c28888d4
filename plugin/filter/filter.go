// Package filter says which names may be targets, and which addresses may be served, on a server whose zones are edited by others.
//
// It must not know where a target comes from, how it is looked up, or what becomes of what it denies: the caller does.
//
// Its types are read-only once they are made, and safe for concurrent use.
package filter

import (
	"net/netip"
	"slices"

	"github.com/coredns/alias/plugin/records"
)

// Targets denies names as targets. The zero Targets denies none.
type Targets struct {
	Allow records.Zones // if there are any, a target has to be at or below one of them
	Deny  records.Zones // and at or below none of these
}

// IsEmpty reports whether t denies none.
func (t Targets) IsEmpty() bool { return len(t.Allow)+len(t.Deny) == 0 }

// Denies reports whether name, which is lower case and fully qualified, may not be a target. It allocates nothing.
func (t Targets) Denies(name string) bool {
	return len(t.Allow) > 0 && t.Allow.Match(name) == "" || t.Deny.Match(name) != ""
}

// Addresses denies addresses. The zero Addresses denies none.
type Addresses struct {
	Prefixes []netip.Prefix // those in one of them
	Special  bool           // those that are not globally reachable, see IsSpecial
}

// Denies reports whether addr may not be served. An IPv6 address that stands for an IPv4 address is denied when that is: the
// IPv4-mapped and IPv4-compatible addresses (RFC 4291, section 2.5.5), those of NAT64 (RFC 6052), 6to4 (RFC 3056) and Teredo (RFC
// 4380). It allocates nothing.
func (a Addresses) Denies(addr netip.Addr) bool {
	if a.denies(addr) {
		return true
	}
	for _, ip := range embedded(addr) {
		if ip.IsValid() && a.denies(ip) {
			return true
		}
	}
	return false
}

func (a Addresses) denies(addr netip.Addr) bool {
	return a.Special && IsSpecial(addr) || slices.ContainsFunc(a.Prefixes, func(p netip.Prefix) bool { return p.Contains(addr) })
}

// The prefixes of IPv6 addresses that have an IPv4 address in them.
var (
	mapped     = netip.MustParsePrefix("::ffff:0:0/96")
	compatible = netip.MustParsePrefix("::/96")
	nat64      = netip.MustParsePrefix("64:ff9b::/96")
	sixToFour  = netip.MustParsePrefix("2002::/16")
	teredo     = netip.MustParsePrefix("2001::/32")
)

// embedded returns the IPv4 addresses that addr stands for: two at most, that of a Teredo client and that of its server. Those that are
// not valid do not count.
func embedded(addr netip.Addr) (ips [2]netip.Addr) {
	if !addr.Is6() {
		return ips
	}
	b := addr.As16()
	switch {
	case mapped.Contains(addr), compatible.Contains(addr), nat64.Contains(addr):
		ips[0] = netip.AddrFrom4([4]byte(b[12:]))
	case sixToFour.Contains(addr):
		ips[0] = netip.AddrFrom4([4]byte(b[2:6]))
	case teredo.Contains(addr):
		ips[0] = netip.AddrFrom4([4]byte(b[4:8]))
		ips[1] = netip.AddrFrom4([4]byte{^b[12], ^b[13], ^b[14], ^b[15]}) // which is written inverted (RFC 4380, section 4)
	}
	return ips
}
