package alias

import (
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// httpsMode says how HTTPS queries for the owner of an alias are answered (RFC 9460).
type httpsMode uint8

const (
	httpsOff   httpsMode = iota // by the backend
	httpsCopy                   // with the target's records in ServiceMode
	httpsAlias                  // with a record in AliasMode that names the target
)

// follows reports whether queries of type qtype are answered from the target of an alias.
func (a *Alias) follows(qtype uint16) bool {
	return lookup.IsAddress(qtype) || qtype == dns.TypeHTTPS && a.https != httpsOff
}

// addressTypes and allTypes are the types that aliases may be followed for, without https and with it.
var (
	addressTypes = []uint16{dns.TypeA, dns.TypeAAAA}
	allTypes     = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS}
)

// types returns the types that aliases are followed for.
func (o *options) types() []uint16 {
	if o.https == httpsOff {
		return addressTypes
	}
	return allTypes
}

// lookedUp returns the types for which targets are looked up.
func (o *options) lookedUp() []uint16 {
	if o.https == httpsCopy {
		return allTypes
	}
	return addressTypes
}

// hasOwnHTTPS reports whether the backend has HTTPS records for q, a question for these: they win over those of any alias.
func (a *Alias) hasOwnHTTPS(q lookup.Question) bool {
	has := a.backend.Answer(q)
	return has.Msg != nil && lookup.HasType(has.Msg.Answer, dns.TypeHTTPS)
}

// consistent returns data, the HTTPS records of al for q, without the hints that contradict the addresses which clients in net
// are given for the name of q (RFC 9460, section 7.3). While these are not known, all hints stay.
func (a *Alias) consistent(data []byte, q lookup.Question, net lookup.Network, al *records.Alias) []byte {
	return lookup.WithoutHints(data, func(family uint16, hints []byte) bool {
		addrs, known := a.addressesNow(lookup.Question{Name: q.Name, Type: family}, q, net, al)
		if !known {
			return false
		}
		for hint := range lookup.Each(hints, family) {
			if !lookup.Has(addrs, hint, family) {
				return true
			}
		}
		return false
	})
}

// addressesNow returns the addresses that a client in net is given for q, a question for addresses, without a lookup. They are not
// known while one is pending or fails. al is the alias of https, the question for HTTPS records of the same name.
func (a *Alias) addressesNow(q, https lookup.Question, net lookup.Network, al *records.Alias) (addrs []byte, known bool) {
	if a.backend.Alias(https, false) == al { // it is in the zone, and so the addresses of the zone win
		if own, _ := a.backend.Answer(q).Addresses(q); len(own) > 0 {
			return own, true
		}
	}
	g := &gathering{owner: q.Name}
	for t := range al.All() {
		p := answer{alias: t, net: net}
		a.resolveTarget(&p, q, t, g)
		if p.status == pending || p.status == failed {
			return nil, false
		}
		for addr := range lookup.Each(p.Data, q.Type) {
			addrs = lookup.Append(addrs, addr, q.Type)
		}
	}
	return addrs, true
}
