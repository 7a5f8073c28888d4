package backend

import (
	"cmp"
	"strings"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// aliasIn returns the alias that the ALIAS records of name in r make, or nil when there are none, or the backend is not
// authoritative. The targets are in canonical order (RFC 4034, section 6.3), each once; the smallest TTL counts.
func (b *Backend) aliasIn(r Response, name string) *records.Alias {
	if !r.Own() {
		return nil
	}
	var all []*rdata.ALIAS
	ttl := uint32(lookup.NoLimit)
	for _, rr := range r.Msg.Answer {
		al := rdata.Of(rr)
		if al == nil || al.Target == "" || !strings.EqualFold(rr.Header().Name, name) {
			continue
		}
		all, ttl = append(all, al), min(ttl, lookup.TTLOf(rr))
	}
	if len(all) == 0 {
		return nil
	}
	if signer := r.Signer(); signer != "" && !b.Signs {
		b.cfg.Warn("Zone %s has aliases and signatures of its own: a validating resolver takes the addresses for bogus; "+
			"let dnssec sign instead", signer)
	}
	targets := rdata.Targets(all)
	if len(targets) > records.MaxTargets {
		b.cfg.Warn("%s has %d ALIAS records, of which %d are used", cmp.Or(r.Wildcard, name), len(targets), records.MaxTargets)
		targets = targets[:records.MaxTargets]
	}
	return b.newAlias(r, name, ttl, targets)
}

// newAlias returns the alias of name, for which the backend responded with r, with those of targets that the alias of its
// owner, which is name or its wildcard, may have, or nil when there are none.
func (b *Backend) newAlias(r Response, name string, ttl uint32, targets []string) *records.Alias {
	if b.cfg.Allowed != nil {
		targets = b.cfg.Allowed(cmp.Or(r.Wildcard, name), targets)
	}
	if len(targets) == 0 {
		return nil
	}
	return b.cfg.Zones.NewAlias(name, r.apex(name), ttl, targets...)
}

// Flatten says which CNAME records of the backend are aliases, for queries of addresses.
type Flatten uint8

const (
	FlattenNone Flatten = iota // none of them
	FlattenApex                // those at the apex of a zone: one of Config.Zones, or a zone of the backend below them
	FlattenAll                 // all of them
)

// flattened returns the alias that the CNAME record of name in r is, or nil when it has none, or it is not to be flattened. One that
// stands for a DNAME record (RFC 6672, section 3.1) is not: with it, two zones on different servers could lead into each other
// with longer and longer names, and neither the servers nor a resolver between them would see one chain.
func (b *Backend) flattened(r Response, name string) *records.Alias {
	if r.Msg == nil {
		return nil
	}
	cname := lookup.CNAMEOf(r.Msg.Answer, name)
	flatten := b.cfg.Flatten
	if cname == nil || flatten == FlattenNone || flatten == FlattenApex && !b.isApex(name, r.Own()) {
		return nil
	}
	if dname, _ := lookup.DNAMEOf(r.Msg.Answer, name); dname != nil {
		return nil
	}
	return b.newAlias(r, name, lookup.TTLOf(cname), []string{lookup.Canonical(cname.Target)})
}

// isApex reports whether name is one of the zones, or the apex of a zone that the backend has below them. own says that the
// backend is authoritative for the name: otherwise it has no zone there.
func (b *Backend) isApex(name string, own bool) bool {
	if _, ok := b.cfg.Zones[name]; ok || !own {
		return ok
	}
	soa := b.Answer(lookup.Question{Name: name, Type: dns.TypeSOA}).SOA(name) // and not b.SOA, which goes on to a zone above
	return soa != nil && strings.EqualFold(soa.Hdr.Name, name)
}
