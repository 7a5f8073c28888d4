package upstream

import (
	"fmt"
	"net/netip"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// The address families of the Client Subnet option (RFC 7871, section 6).
const (
	familyIPv4 = 1
	familyIPv6 = 2
)

// subnetOption returns the Client Subnet option of a query about n (RFC 7871, section 6). n is neither everybody nor Global.
func subnetOption(n lookup.Network) *dns.EDNS0_SUBNET {
	addr := n.Prefix().Addr()
	family := uint16(familyIPv6)
	if addr.Is4() {
		family = familyIPv4
	}
	return &dns.EDNS0_SUBNET{
		Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: uint8(n.Bits()), Address: addr.AsSlice(), // #nosec G115 -- at most 128
	}
}

// scope returns how many bits of n the response m is for, to a query about n that was sent with an OPT record or without. More than n has
// say that n is too large, or that the scope is not known: then the answer is for n itself, but for no smaller network in it.
//
// A query without one, because an earlier query or its response was lost or damaged, did not have the network: what it brought is kept
// for n alone, or one lost packet would give the answer to all networks. It is for everybody if the upstream does not know EDNS at all.
//
// A response without the option is for everybody, but for n alone when the upstream has sent the option before: PowerDNS Recursor sends
// it with scope 0, and leaves it out when the answer is for some networks.
func (up *upstream) scope(m *dns.Msg, n lookup.Network, opt bool) (uint8, error) {
	bits, sent, err := scopeOf(m, n)
	if sent && err == nil {
		up.sendsSubnet.Store(true)
	}
	if !sent && !n.IsEverybody() && (up.sendsSubnet.Load() || !opt && !up.edns.isUnknown()) {
		bits = uint8(n.Bits() + 1) // #nosec G115 -- at most 129
	}
	return bits, err
}

// scopeOf returns how many bits of n, the network of the query, the response m is for; 0 is for everybody. Without the option, which
// was not sent then, it is 0. The error, a *lookup.Failure,
// is that the response is for another network: such a response has to be dropped (section 7.3).
func scopeOf(m *dns.Msg, n lookup.Network) (bits uint8, sent bool, err error) {
	opt := m.IsEdns0()
	if n.IsEverybody() || opt == nil {
		return 0, false, nil
	}
	query := subnetOption(n)
	for _, o := range opt.Option {
		got, ok := o.(*dns.EDNS0_SUBNET)
		if !ok {
			continue
		}
		addr, _ := netip.AddrFromSlice(got.Address)
		if got.Family == familyIPv4 {
			addr = addr.Unmap() // the library has it in 16 octets
		}
		if got.Family != query.Family || got.SourceNetmask != query.SourceNetmask || addr != n.Prefix().Addr() {
			return 0, true, lookup.Unusable("mismatch", fmt.Errorf("response for another network than %s", n))
		}
		return got.SourceScope, true, nil
	}
	return 0, false, nil
}
