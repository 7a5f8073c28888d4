package primary

import (
	"context"
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// read reads the aliases of z from the backend: those of the zone, and those of the Corefile that belong to it. It goes
// over the records of the zone twice, so that it need not keep the other records in memory. advanced is that of the zone
// when its reading began.
func (p *Primary) read(ctx context.Context, z *zone, advanced uint32) error {
	found := make(map[string]*expansion)
	for owner, r := range p.Records.Below(z.name) {
		if p.isClosest(z, owner) {
			found[owner] = &expansion{owner: owner, alias: r.Alias, wins: true}
		}
	}
	s := &reading{
		zone: z.name, advanced: advanced, types: p.Types, allowed: p.Allowed, flatten: p.FlattenApex, zones: p.Zones, aliases: found,
		inZone: make(map[string]*zoneAliases), cuts: make(records.Zones),
	}
	if err := p.walk(ctx, z.name, s.collect); err != nil {
		return err
	}
	s.complete()
	if s.signed && len(found) > 0 {
		p.Warn("Zone %s is signed already: it is transferred as it is, with its ALIAS records; let dnssec sign instead", z.name)
	}
	own := make(map[lookup.Question]bool)
	err := p.walk(ctx, z.name, func(rr dns.RR) {
		h := rr.Header()
		q := lookup.Question{Name: lookup.Canonical(h.Name), Type: h.Rrtype}
		if lookup.IsFollowed(q.Type) && found[q.Name] != nil {
			own[q] = true
		}
	})
	if err != nil {
		return err
	}
	z.replace(s.expansions(own), s, p.Now())
	return nil
}

// reading is one reading of a zone, and what it finds.
type reading struct {
	zone     string
	advanced uint32   // that of the zone when its reading began
	types    []uint16 // that aliases are expanded to
	allowed  func(owner string, targets []string) []string
	flatten  bool          // a CNAME record at the apex is an alias
	zones    records.Zones // that the plugin applies to

	serial  uint32
	aliased bool
	aliases map[string]*expansion   // by owner: first those of the Corefile, in the end all
	inZone  map[string]*zoneAliases // by owner: those of the zone
	cuts    records.Zones           // names that are delegated
	signed  bool                    // there is an RRSIG record for the SOA record
}

// collect notes what rr means for the aliases.
func (s *reading) collect(rr dns.RR) {
	owner := lookup.Canonical(rr.Header().Name)
	x := s.aliases[owner]
	switch rr := rr.(type) {
	case *dns.SOA:
		s.serial = rr.Serial
	case *dns.RRSIG:
		s.signed = s.signed || rr.TypeCovered == dns.TypeSOA
	case *dns.NS:
		if owner != s.zone {
			s.cuts[owner] = struct{}{}
		}
	case *dns.CNAME:
		if x == nil && s.flatten && owner == s.zone { // at other names a CNAME record is allowed, so secondaries get it
			s.add(owner, &rdata.ALIAS{Target: lookup.Canonical(rr.Target)}, rr)
		}
	case *dns.PrivateRR:
		al := rdata.Of(rr)
		s.aliased = s.aliased || al != nil
		if al != nil && al.Target != "" && x == nil {
			s.add(owner, al, rr)
		}
	}
}

// zoneAliases are the aliases of an owner in the zone.
type zoneAliases struct {
	all []*rdata.ALIAS
	ttl uint32 // the smallest, in seconds
}

func (s *reading) add(owner string, al *rdata.ALIAS, rr dns.RR) {
	of := s.inZone[owner]
	if of == nil {
		of = &zoneAliases{ttl: lookup.NoLimit}
		s.inZone[owner] = of
	}
	of.all, of.ttl = append(of.all, al), min(of.ttl, lookup.TTLOf(rr))
}

// complete adds the aliases of the zone to those of the Corefile.
func (s *reading) complete() {
	for owner, of := range s.inZone {
		targets := rdata.Targets(of.all)
		targets = targets[:min(len(targets), records.MaxTargets)]
		if s.allowed != nil {
			targets = s.allowed(owner, targets)
		}
		if len(targets) > 0 {
			s.aliases[owner] = &expansion{owner: owner, alias: s.zones.NewAlias(owner, s.zone, of.ttl, targets...)}
		}
	}
}

// expansions returns the expansions of all types, in the order of their owners. There is none for an alias of the zone
// where the zone has records of that type of its own, or below a delegation. HTTPS records of the zone win over any alias.
func (s *reading) expansions(own map[lookup.Question]bool) []*expansion {
	var xs []*expansion
	for owner, x := range s.aliases {
		for _, qtype := range s.types {
			wins := x.wins && lookup.IsAddress(qtype)
			if !wins && own[lookup.Question{Name: owner, Type: qtype}] || !x.wins && s.cuts.Match(owner) != "" {
				continue
			}
			family := *x
			family.qtype = qtype
			family.key = keyOf(&family)
			xs = append(xs, &family)
		}
	}
	slices.SortFunc(xs, func(a, b *expansion) int { return strings.Compare(a.owner, b.owner) })
	return xs
}

// walk calls do with the records of zone.
func (p *Primary) walk(ctx context.Context, zone string, do func(dns.RR)) error {
	rrs, err := p.transferFrom(zone)
	if err != nil {
		return err
	}
	for {
		select {
		case batch, ok := <-rrs:
			if !ok {
				return nil
			}
			for _, rr := range batch {
				do(rr)
			}
		case <-ctx.Done():
			go func() { // the backend's goroutine that sends them has to end
				for range rrs {
				}
			}()
			return ctx.Err()
		}
	}
}
