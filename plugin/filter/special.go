package filter

import "net/netip"

// special has the address blocks of the IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890, RFC 8190), and whether addresses
// in them are globally reachable. Of several blocks that an address is in, the smallest counts. Blocks for which the registries say
// "N/A" are not globally reachable by themselves: they are deprecated, or have addresses that stand for IPv4 addresses, see
// Addresses.Denies.
var special = parseBlocks(map[string]bool{
	"0.0.0.0/8":         false, // this network
	"10.0.0.0/8":        false, // private use
	"100.64.0.0/10":     false, // shared address space
	"127.0.0.0/8":       false, // loopback
	"169.254.0.0/16":    false, // link local
	"172.16.0.0/12":     false, // private use
	"192.0.0.0/24":      false, // IETF protocol assignments
	"192.0.0.9/32":      true,  // Port Control Protocol anycast
	"192.0.0.10/32":     true,  // Traversal Using Relays around NAT anycast
	"192.0.2.0/24":      false, // documentation
	"192.31.196.0/24":   true,  // AS112
	"192.52.193.0/24":   true,  // AMT
	"192.88.99.0/24":    false, // 6to4 relay anycast, deprecated
	"192.168.0.0/16":    false, // private use
	"192.175.48.0/24":   true,  // AS112
	"198.18.0.0/15":     false, // benchmarking
	"198.51.100.0/24":   false, // documentation
	"203.0.113.0/24":    false, // documentation
	"240.0.0.0/4":       false, // reserved, and limited broadcast
	"::/128":            false, // unspecified
	"::1/128":           false, // loopback
	"::ffff:0:0/96":     false, // IPv4-mapped
	"64:ff9b::/96":      true,  // NAT64
	"64:ff9b:1::/48":    false, // NAT64 for local use
	"100::/64":          false, // discard-only
	"100:0:0:1::/64":    false, // dummy prefix
	"2001::/23":         false, // IETF protocol assignments
	"2001::/32":         true,  // Teredo: its IPv4 addresses count
	"2001:1::1/128":     true,  // Port Control Protocol anycast
	"2001:1::2/128":     true,  // Traversal Using Relays around NAT anycast
	"2001:1::3/128":     true,  // DNS-SD Service Registration Protocol anycast
	"2001:2::/48":       false, // benchmarking
	"2001:3::/32":       true,  // AMT
	"2001:4:112::/48":   true,  // AS112
	"2001:10::/28":      false, // ORCHID, deprecated
	"2001:20::/28":      true,  // ORCHIDv2
	"2001:30::/28":      true,  // drone remote identification
	"2001:db8::/32":     false, // documentation
	"2002::/16":         true,  // 6to4: its IPv4 addresses count
	"2620:4f:8000::/48": true,  // AS112
	"3fff::/20":         false, // documentation
	"5f00::/16":         false, // segment routing identifiers
	"fc00::/7":          false, // unique local
	"fe80::/10":         false, // link local unicast
	"224.0.0.0/4":       false, // multicast: in registries of its own, and no address of a server
	"ff00::/8":          false, // the same
})

// block is a block of a registry.
type block struct {
	netip.Prefix
	global bool // addresses in it are globally reachable
}

func parseBlocks(of map[string]bool) []block {
	var blocks []block
	for prefix, global := range of {
		blocks = append(blocks, block{netip.MustParsePrefix(prefix), global})
	}
	return blocks
}

// IsSpecial reports whether the IANA special-purpose registries call addr not globally reachable, or it is a multicast address. An IPv6
// address that stands for an IPv4 address is not looked into.
func IsSpecial(addr netip.Addr) bool {
	smallest, global := -1, true
	for _, b := range special {
		if b.Bits() > smallest && b.Contains(addr) {
			smallest, global = b.Bits(), b.global
		}
	}
	return !global
}
