// Package subnet reads and makes the EDNS Client Subnet option (RFC 7871): that of a client's query, that of a query to an
// upstream, and that of a response.
//
// It must not know what is cached for a network, or which queries have the option.
//
// Its functions are safe for concurrent use, and change nothing that they are given.
package subnet

import (
	"net/netip"
	"slices"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// The address families of the option (RFC 7871, section 6).
const (
	familyNone = 0 // dig has it when the prefix length is 0
	familyIPv4 = 1
	familyIPv6 = 2
)

// Lengths are how many bits of an IPv4 and of an IPv6 address are used at most: 0 to 32, and 0 to 128. Of a family with 0,
// no network is known.
type Lengths struct{ V4, V6 int }

// Of returns the Client Subnet option of m, which belongs to m, or nil when it has none.
func Of(m *dns.Msg) *dns.EDNS0_SUBNET {
	opt := m.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if option, ok := o.(*dns.EDNS0_SUBNET); ok {
			return option
		}
	}
	return nil
}

// Network returns the network of the client that option, of a query, tells, cut to the lengths. It is everybody when it
// tells nothing: the client does not want its address to be used (RFC 7871, section 7.1.2), or the lengths are 0. It is not
// ok when option is malformed: its scope is not 0, or bits are set beyond the prefix (section 6).
func (l Lengths) Network(option *dns.EDNS0_SUBNET) (n lookup.Network, ok bool) {
	if option.SourceScope != 0 {
		return n, false
	}
	if option.Family == familyNone {
		return n, option.SourceNetmask == 0
	}
	addr, ok := address(option)
	if !ok {
		return n, false
	}
	prefix, err := addr.Prefix(int(option.SourceNetmask))
	if err != nil || prefix.Addr() != addr {
		return n, false
	}
	most := l.V6
	if addr.Is4() {
		most = l.V4
	}
	if bits := min(prefix.Bits(), most); bits > 0 {
		n = lookup.NetworkOf(addr, bits)
	}
	return n, true
}

// address returns the address of option, which is ok if it is one of the option's family.
func address(option *dns.EDNS0_SUBNET) (addr netip.Addr, ok bool) {
	addr, ok = netip.AddrFromSlice(option.Address)
	switch option.Family {
	case familyIPv4:
		addr = addr.Unmap() // the library has it in 16 octets
		return addr, ok && addr.Is4()
	case familyIPv6:
		return addr, ok && addr.Is6()
	default:
		return addr, false
	}
}

// Option returns the option of a query about n (RFC 7871, section 6), which is neither everybody nor lookup.Global. It
// belongs to the caller.
func Option(n lookup.Network) *dns.EDNS0_SUBNET {
	addr := n.Prefix().Addr()
	family := uint16(familyIPv6)
	if addr.Is4() {
		family = familyIPv4
	}
	return &dns.EDNS0_SUBNET{
		Code: dns.EDNS0SUBNET, Family: family, SourceNetmask: uint8(n.Bits()), Address: addr.AsSlice(), // #nosec G115 -- at most 128
	}
}

// IsAbout reports whether option, of a response, answers a query about n: it repeats the family, the prefix length and the
// address. A response that does not has to be dropped (RFC 7871, section 7.3). n is neither everybody nor lookup.Global.
func IsAbout(option *dns.EDNS0_SUBNET, n lookup.Network) bool {
	addr, ok := address(option)
	return ok && int(option.SourceNetmask) == n.Bits() && addr == n.Prefix().Addr()
}

// With returns extra, the additional section of a response, with option in its OPT record, in place of one that is there. The
// records belong to extra, but for the OPT record.
func With(extra []dns.RR, option *dns.EDNS0_SUBNET) []dns.RR {
	opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
	var others []dns.RR
	for _, rr := range extra {
		if theirs, ok := rr.(*dns.OPT); ok {
			opt.Hdr, opt.Option = theirs.Hdr, slices.DeleteFunc(slices.Clone(theirs.Option), func(o dns.EDNS0) bool { return o.Option() == dns.EDNS0SUBNET })
		} else {
			others = append(others, rr)
		}
	}
	opt.Option = append(opt.Option, option)
	return append(others, opt)
}
