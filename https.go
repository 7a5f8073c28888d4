package alias

import (
	"slices"
	"strings"

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

// hasOwnHTTPS reports whether the backend's zone has HTTPS records for q, a question for these: they win over those of any alias.
func (a *Alias) hasOwnHTTPS(q lookup.Question) bool {
	has := a.backend.Answer(q)
	return has.Own() && slices.ContainsFunc(has.Msg.Answer, func(rr dns.RR) bool {
		return rr.Header().Rrtype == dns.TypeHTTPS && strings.EqualFold(rr.Header().Name, q.Name)
	})
}

// resolveServing sets ans to the HTTPS records of that target of al, which has failover, whose addresses are served: a
// client that gets both has to reach one service with them. The HTTPS records of the others are looked up in the
// background.
func (a *Alias) resolveServing(ans *answer, q lookup.Question, al *records.Alias) {
	serving, alone := a.serving(ans.net, q.Name, al)
	others := &gathering{owner: q.Name}
	for t := range al.All() {
		if t != serving {
			a.resolveTarget(&answer{alias: t, net: ans.net}, q, t, others)
		}
	}
	a.lookUpLater(others)
	if a.resolveTarget(ans, q, serving, nil); !alone {
		ans.Data = lookup.WithTargetName(ans.Data, serving.Target)
	}
}

// serving returns the target of al whose A records are served for name to clients in net, or else whose AAAA records, or
// else the first; and whether no other target's addresses are served.
func (a *Alias) serving(net lookup.Network, name string, al *records.Alias) (serving *records.Alias, alone bool) {
	var all []*records.Alias
	for _, family := range addressTypes {
		addrs := answer{alias: al, net: net}
		a.resolveTargets(&addrs, lookup.Question{Name: name, Type: family}, name, al)
		for t := range al.All() {
			if len(addrs.Data) > 0 && t.Target == addrs.target {
				all = append(all, t)
			}
		}
	}
	return firstOfServing(all, al)
}

// firstOfServing returns the first of all, the targets that serve the families, or al when there is none; and whether they
// are the same.
func firstOfServing(all []*records.Alias, al *records.Alias) (first *records.Alias, alone bool) {
	if len(all) == 0 {
		return al, true
	}
	return all[0], len(slices.Compact(all)) == 1
}

// consistent returns data, HTTPS records, without the hints that contradict the addresses which the same clients are given,
// as far as these are known (RFC 9460, section 7.3).
func consistent(data []byte, addresses func(family uint16) (addrs []byte, known bool)) []byte {
	return lookup.WithoutHints(data, func(family uint16, hints []byte) bool {
		addrs, known := addresses(family)
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

// fitHTTPS makes ans, the answer to an HTTPS query for name from al, fit the addresses that the same clients are given for
// name. A TargetName of "." stays only if these are the addresses of the target: browsers use no record of another
// TargetName. Hints that contradict them are dropped.
func (a *Alias) fitHTTPS(ans *answer, name string, al *records.Alias) {
	if a.hasOwnAddresses(name, al) {
		ans.Data = lookup.WithTargetName(ans.Data, ans.target)
	}
	ans.Data = consistent(ans.Data, func(family uint16) ([]byte, bool) {
		return a.addressesNow(ans, lookup.Question{Name: name, Type: family}, al)
	})
}

// hasOwnAddresses reports whether the zone has addresses of either family for name, which win over al.
func (a *Alias) hasOwnAddresses(name string, al *records.Alias) bool {
	return slices.ContainsFunc(addressTypes, func(family uint16) bool {
		return len(a.ownAddresses(lookup.Question{Name: name, Type: family}, al)) > 0
	})
}

// addressesNow returns the addresses that the client of ans, the answer to an HTTPS query from al, is given for q, a
// question for addresses of the same name. They are not known while a lookup is pending or fails. ans is then for no more
// clients than they are.
func (a *Alias) addressesNow(ans *answer, q lookup.Question, al *records.Alias) (addrs []byte, known bool) {
	if own := a.ownAddresses(q, al); len(own) > 0 {
		return own, true
	}
	p, g := answer{alias: al, net: ans.net}, &gathering{owner: q.Name}
	if al.Next == nil {
		a.resolveTarget(&p, q, al, g)
	} else {
		a.gather(&p, q, al, g)
	}
	switch p.status {
	case pending:
		return nil, false
	case failed:
		addrs, _ = a.backend.Answer(q).Addresses(q) // see fallBack
		return addrs, len(addrs) > 0
	}
	ans.scope = max(ans.scope, p.scope)
	return p.Data, true
}

// ownAddresses returns the addresses of the zone for q, which win over al unless that is a record.
func (a *Alias) ownAddresses(q lookup.Question, al *records.Alias) []byte {
	if r, _ := a.records.Find(q.Name); r.Alias == al {
		return nil
	}
	addrs, _ := a.backend.Answer(q).Addresses(q)
	return addrs
}
