package lookup

import (
	"net/netip"
	"unique"
)

// Network is the network of the clients that an answer is for (RFC 7871). The zero Network stands for everybody: for
// clients of whom no network is known. A Network is comparable, and as small as a pointer.
type Network struct{ prefix unique.Handle[netip.Prefix] }

// Global is the network that has all clients: the answer to a question about any network is for it when the scope of the
// answer is 0. It is of both address families.
var Global = Network{unique.Make(netip.PrefixFrom(netip.IPv4Unspecified(), 0))}

// NetworkOf returns the network of addr with that prefix length, which is at most that of the family of addr. An
// IPv4 address in the form of an IPv6 address counts as an IPv6 address. Without prefix, the network is Global.
func NetworkOf(addr netip.Addr, bits int) Network {
	p, err := addr.Prefix(bits)
	if err != nil || bits == 0 {
		return Global
	}
	return Network{unique.Make(p)}
}

// IsEverybody reports whether n is the zero Network.
func (n Network) IsEverybody() bool { return n == Network{} }

// Prefix returns the address and the prefix length of n. It is invalid for everybody, and 0.0.0.0/0 for Global.
func (n Network) Prefix() netip.Prefix {
	if n.IsEverybody() {
		return netip.Prefix{}
	}
	return n.prefix.Value()
}

// Bits returns the prefix length: 0 for Global and for everybody.
func (n Network) Bits() int { return max(n.Prefix().Bits(), 0) }

// Cut returns the network with at most that many bits that n is in. It is Global for 0 bits. n is not everybody.
func (n Network) Cut(bits int) Network {
	p := n.Prefix()
	if bits >= p.Bits() {
		return n
	}
	return NetworkOf(p.Addr(), bits)
}

// Holds reports whether all clients of o are in n. Neither is everybody.
func (n Network) Holds(o Network) bool {
	p, q := n.Prefix(), o.Prefix()
	return n == Global || p.Bits() <= q.Bits() && p.Contains(q.Addr())
}

// String returns the address and prefix length, for messages.
func (n Network) String() string { return n.Prefix().String() }
