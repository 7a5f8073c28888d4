package upstream

import (
	"fmt"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/subnet"

	"github.com/miekg/dns"
)

// scope returns how many bits of n the response m is for, to a query about n that was sent with an OPT record or without.
// More than n has say that n is too large, or that the scope is not known: then the answer is for n itself, but for no
// smaller network in it.
//
// A query without one, because an earlier query or its response was lost or damaged, did not have the network: what it
// brought is kept for n alone, or one lost packet would give the answer to all networks. It is for everybody if the
// upstream does not know EDNS at all.
//
// A response without the option is for everybody, but for n alone when the upstream has sent the option before: PowerDNS
// Recursor sends it with scope 0, and leaves it out when the answer is for some networks.
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

// scopeOf returns how many bits of n, the network of the query, the response m is for; 0 is for everybody. It is not sent without
// the option, and then 0. The error, a *lookup.Failure, is that the response is for another network.
func scopeOf(m *dns.Msg, n lookup.Network) (bits uint8, sent bool, err error) {
	option := subnet.Of(m)
	switch {
	case n.IsEverybody(), option == nil:
		return 0, false, nil
	case !subnet.IsAbout(option, n):
		return 0, true, lookup.Unusable("mismatch", fmt.Errorf("response for another network than %s", n))
	default:
		return option.SourceScope, true, nil
	}
}
