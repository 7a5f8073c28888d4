package alias

import (
	"net/netip"
	"slices"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// subnets says how much of a client's address goes to the upstreams (RFC 7871): so many bits of an IPv4 and of an IPv6 address. The zero
// value is: nothing, and the option of queries is not looked at.
type subnets struct {
	on     bool
	v4, v6 int
}

// areSent reports whether the upstreams get anything of an address: otherwise there are no answers but those for everybody.
func (s subnets) areSent() bool { return s.v4 > 0 || s.v6 > 0 }

// subnetOf returns the Client Subnet option of r, or nil when it has none.
func subnetOf(r *dns.Msg) *dns.EDNS0_SUBNET {
	opt := r.IsEdns0()
	if opt == nil {
		return nil
	}
	for _, o := range opt.Option {
		if subnet, ok := o.(*dns.EDNS0_SUBNET); ok {
			return subnet
		}
	}
	return nil
}

// The address families of the option (RFC 7871, section 6).
const (
	familyNone = 0 // dig has it when the prefix length is 0
	familyIPv4 = 1
	familyIPv6 = 2
)

// network returns the network of the client that option, of a query, tells: everybody, when it tells nothing, or nothing that goes to the
// upstreams. It is not ok when option is malformed: its scope is not 0, or bits are set beyond the prefix (RFC 7871, section 6).
func (s subnets) network(option *dns.EDNS0_SUBNET) (n lookup.Network, ok bool) {
	most := 0
	addr, known := netip.AddrFromSlice(option.Address)
	switch option.Family {
	case familyNone:
		return n, option.SourceNetmask == 0 && option.SourceScope == 0
	case familyIPv4:
		addr, most = addr.Unmap(), s.v4
		known = known && addr.Is4()
	case familyIPv6:
		most = s.v6
		known = known && addr.Is6()
	default:
		return n, false
	}
	prefix, err := addr.Prefix(int(option.SourceNetmask))
	if !known || err != nil || option.SourceScope != 0 || prefix.Addr() != addr {
		return n, false
	}
	bits := min(prefix.Bits(), most)
	if bits == 0 { // the client does not want its address to be used (RFC 7871, section 7.1.2), or the operator does not
		return n, true
	}
	return lookup.NetworkOf(addr, bits), true
}

// setClient notes the network of the client who sent r, and the option for the response, in ans. It is not ok when the option of r
// is malformed.
func (s subnets) setClient(ans *answer, r *dns.Msg) (ok bool) {
	option := subnetOf(r)
	if option == nil {
		return true
	}
	ans.net, ok = s.network(option)
	repeated := *option
	ans.Subnet = &repeated
	return ok
}

// setScope sets the scope in the option for the response: that of the answer, and 0 when it is negative (RFC 7871, section
// 7.4).
func (ans *answer) setScope() {
	if ans.Subnet != nil && len(ans.Data) > 0 {
		ans.Subnet.SourceScope = ans.scope
	}
}

// withSubnet returns extra, the additional section of a backend's response, with option in its OPT record.
func withSubnet(extra []dns.RR, option *dns.EDNS0_SUBNET) []dns.RR {
	if option == nil {
		return extra
	}
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
