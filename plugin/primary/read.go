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

// read reads the aliases of z. It goes over the records of the zone twice, to keep none of the others in memory.
func (p *Primary) read(ctx context.Context, z *zone) error {
	found := make(map[string]*expansion)
	for owner, r := range p.Records.All() {
		if p.closest(owner) == z.name {
			found[owner] = &expansion{owner: owner, alias: r.Alias, wins: true}
		}
	}
	s := &reading{zone: z.name, flatten: p.FlattenApex, zones: p.Zones, aliases: found, cuts: make(records.Zones)}
	if err := p.walk(ctx, z.name, s.collect); err != nil {
		return err
	}
	if s.signed && len(found) > 0 {
		p.Warn("Zone %s is signed already: it is transferred as it is, with its ALIAS records; let dnssec sign instead", z.name)
	}
	own := make(map[lookup.Question]bool)
	err := p.walk(ctx, z.name, func(rr dns.RR) {
		h := rr.Header()
		q := lookup.Question{Name: strings.ToLower(h.Name), Type: h.Rrtype}
		if lookup.IsAddress(q.Type) && found[q.Name] != nil {
			own[q] = true
		}
	})
	if err != nil {
		return err
	}
	z.replace(s.expansions(own), s, p.Now())
	return nil
}

// reading is what is found in the records of a zone.
type reading struct {
	zone    string
	flatten bool          // a CNAME record at the apex is an alias
	zones   records.Zones // that the plugin applies to

	serial  uint32
	aliased bool
	aliases map[string]*expansion // by owner
	cuts    records.Zones         // what is delegated
	signed  bool
}

// collect notes what rr means for the aliases.
func (s *reading) collect(rr dns.RR) {
	owner := strings.ToLower(rr.Header().Name)
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
		if x == nil && s.flatten && owner == s.zone { // at other names secondaries may well have it
			s.add(owner, lookup.Canonical(rr.Target), rr)
		}
	case *dns.PrivateRR:
		al := rdata.Of(rr)
		s.aliased = s.aliased || al != nil
		if al == nil || al.Target == "" || x != nil && x.wins {
			return
		}
		if x == nil || al.Compare(&rdata.ALIAS{Target: x.alias.Target}) < 0 {
			s.add(owner, strings.ToLower(al.Target), rr)
		}
	}
}

func (s *reading) add(owner, target string, rr dns.RR) {
	s.aliases[owner] = &expansion{owner: owner, alias: s.zones.NewAlias(owner, target, lookup.TTLOf(rr))}
}

// expansions returns those of both families, in the order of their owners, without those for which the zone has own
// addresses, or that are delegated.
func (s *reading) expansions(own map[lookup.Question]bool) []*expansion {
	var xs []*expansion
	for owner, x := range s.aliases {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if !x.wins && (own[lookup.Question{Name: owner, Type: qtype}] || s.cuts.Match(owner) != "") {
				continue
			}
			family := *x
			family.qtype = qtype
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
			go func() { // who sends them has to come to an end
				for range rrs {
				}
			}()
			return ctx.Err()
		}
	}
}
