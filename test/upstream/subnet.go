package upstream

import (
	"net/netip"
	"sync"

	"github.com/miekg/dns"
)

// Subnet returns the Client Subnet option of m (RFC 7871), or nil.
func Subnet(m *dns.Msg) *dns.EDNS0_SUBNET {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if s, ok := o.(*dns.EDNS0_SUBNET); ok {
				return s
			}
		}
	}
	return nil
}

// WithSubnet gives r the Client Subnet option for prefix, and returns r. An invalid prefix stands for a source prefix
// length of 0.
func WithSubnet(r *dns.Msg, prefix netip.Prefix) *dns.Msg {
	if r.IsEdns0() == nil {
		r.SetEdns0(1232, false)
	}
	s := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: 1, Address: make([]byte, 4)}
	if prefix.IsValid() {
		s.SourceNetmask, s.Address = uint8(prefix.Bits()), prefix.Addr().AsSlice() // #nosec G115 -- at most 128
		if prefix.Addr().Is6() {
			s.Family = 2
		}
	}
	r.IsEdns0().Option = append(r.IsEdns0().Option, s)
	return r
}

// Everybody is the last octet of the address that ByNetwork answers a query without the option with.
const Everybody = 255

// AddressFor returns the address that ByNetwork answers clients of prefix with: one for each prefix of up to 24 bits of
// IPv4, and of 33 to 56 bits of IPv6. The invalid prefix stands for a query without the option.
func AddressFor(prefix netip.Prefix, qtype uint16) netip.Addr {
	four := [4]byte{10, 0, 0, Everybody}
	if prefix.IsValid() {
		octets := prefix.Masked().Addr().AsSlice()
		four = [4]byte{11, octets[0], octets[1], octets[2]}
		if len(octets) == 16 {
			four = [4]byte{12, octets[4], octets[5], octets[6]}
		}
	}
	if qtype == dns.TypeA {
		return netip.AddrFrom4(four)
	}
	six := [16]byte{0x20, 0x01, 0x0d, 0xb8}
	copy(six[12:], four[:])
	return netip.AddrFrom16(six)
}

// PrefixOf returns the network that s tells, cut to so many bits.
func PrefixOf(s *dns.EDNS0_SUBNET, bits int) netip.Prefix {
	addr, _ := netip.AddrFromSlice(s.Address)
	if s.Family == 1 {
		addr = addr.Unmap()
	}
	prefix, _ := addr.Prefix(min(bits, int(s.SourceNetmask)))
	return prefix
}

// ByNetwork answers A and AAAA queries for any name with an address for the network of the client. It is the handler of a
// resolver, and of an authoritative server. Its methods may be called concurrently.
type ByNetwork struct {
	TTL uint32

	mu    sync.Mutex
	scope int
	asked []netip.Prefix
}

// Scope sets the scope of the responses from now on. It may be longer than the prefix of the query. A negative one stands for no
// option in the response.
func (b *ByNetwork) Scope(bits int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.scope = bits
}

// Asked returns the networks in the A and AAAA queries since it was called last; that of a query without the option is invalid.
func (b *ByNetwork) Asked() []netip.Prefix {
	b.mu.Lock()
	defer b.mu.Unlock()
	asked := b.asked
	b.asked = nil
	return asked
}

// ServeDNS is a Handler.
func (b *ByNetwork) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	q, option := r.Question[0], Subnet(r)
	m := new(dns.Msg).SetReply(r)
	m.Authoritative, m.RecursionAvailable = true, true
	if q.Qtype != dns.TypeA && q.Qtype != dns.TypeAAAA {
		write(w, r, m)
		return
	}
	b.mu.Lock()
	scope := b.scope
	var sent, answered netip.Prefix
	if option != nil {
		sent = PrefixOf(option, int(option.SourceNetmask))
		if scope >= 0 {
			answered = PrefixOf(option, scope)
		}
	}
	b.asked = append(b.asked, sent)
	b.mu.Unlock()
	if r.IsEdns0() != nil {
		m.SetEdns0(1232, false)
	}
	if option != nil && scope >= 0 {
		repeated := *option
		repeated.SourceScope = uint8(scope) // #nosec G115 -- at most 128
		m.IsEdns0().Option = []dns.EDNS0{&repeated}
	}
	addr, hdr := AddressFor(answered, q.Qtype), dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: b.TTL}
	if q.Qtype == dns.TypeA {
		m.Answer = []dns.RR{&dns.A{Hdr: hdr, A: addr.AsSlice()}}
	} else {
		m.Answer = []dns.RR{&dns.AAAA{Hdr: hdr, AAAA: addr.AsSlice()}}
	}
	write(w, r, m)
}
