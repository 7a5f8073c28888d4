package alias

import (
	"fmt"
	"strings"

	"github.com/coredns/alias/plugin/rdata"

	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
)

var _ transfer.Transferer = (*Alias)(nil)

// Transfer implements transfer.Transferer. A zone of the backend leaves with its aliases expanded to addresses. One
// without aliases is left to the backend.
func (a *Alias) Transfer(zone string, serial uint32) (<-chan []dns.RR, error) {
	if a.primary == nil {
		return nil, transfer.ErrNotAuthoritative
	}
	z, err := a.primary.visit(a.primary.ctx, strings.ToLower(zone))
	if err != nil {
		return nil, err // and not the zone with what nobody knows, from the backend
	}
	if z == nil || z.asItIs() {
		return nil, transfer.ErrNotAuthoritative
	}
	// The serial number is read before the addresses: at worst these are newer, and leave once more.
	current, expansions := z.current()
	if serial != 0 && !serialBefore(serial, current) { // RFC 1995, section 2
		return a.primary.soaAlone(z, current)
	}
	var records <-chan []dns.RR
	omitted, err := a.primary.settle(z, expansions)
	if err == nil {
		records, err = a.primary.transfer(z.name)
	}
	countTransfer(z.name, omitted, err)
	if err != nil {
		return nil, err
	}
	out := make(chan []dns.RR)
	go func() {
		defer close(out)
		a.primary.expand(out, records, z, current, expansions)
	}()
	return out, nil
}

// transfer returns the records of zone from the first backend that has it.
func (p *primary) transfer(zone string) (<-chan []dns.RR, error) {
	for _, b := range p.backends {
		records, err := b.Transfer(zone, 0)
		if err == transfer.ErrNotAuthoritative {
			continue
		}
		return records, err
	}
	return nil, transfer.ErrNotAuthoritative
}

// soaAlone returns the SOA record of z, for a secondary that is up to date.
func (p *primary) soaAlone(z *outgoing, serial uint32) (<-chan []dns.RR, error) {
	soa := p.a.soa(question{z.name, dns.TypeSOA})
	if soa == nil {
		return nil, fmt.Errorf("no SOA record of %s", z.name)
	}
	out := make(chan []dns.RR, 1)
	out <- []dns.RR{withSerial(soa, serial)} // not a later one: that would make no sense to the secondary
	close(out)
	return out, nil
}

// settle resolves expansions. When one fails with nothing remembered, it is omitted, or an error fails the transfer.
func (p *primary) settle(z *outgoing, expansions []*expansion) (omitted bool, err error) {
	p.resolve(z, expansions)
	if err := p.ctx.Err(); err != nil { // not all of them were
		return false, fmt.Errorf("transfer of %s: %w", z.name, err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	for _, x := range expansions {
		if x.err == nil {
			continue
		}
		omitted = omitted || len(x.addrs) == 0
		if x.known { // secondaries have that
			continue
		}
		if !p.omit {
			return false, fmt.Errorf("transfer of %s: %s %s: %w", z.name, x.owner, dns.TypeToString[x.qtype], x.err)
		}
		p.a.cache.tell(log.Warningf, "Zone %s is transferred without %s %s: %v", z.name, x.owner, dns.TypeToString[x.qtype], x.err)
		z.set(x, nil)
	}
	return omitted, nil
}

// countTransfer counts how a transfer of zone ends, or begins.
func countTransfer(zone string, omitted bool, err error) {
	outcome := endedIn(err)
	if err == nil && omitted {
		outcome = "omitted"
	}
	transfersCount.WithLabelValues(zone, outcome).Inc()
}

// expand sends the records of z, with addresses in place of aliases. It always takes all of records.
func (p *primary) expand(out chan<- []dns.RR, records <-chan []dns.RR, z *outgoing, serial uint32, expansions []*expansion) {
	owners := make(map[string]*expansion, len(expansions))
	for _, x := range expansions {
		owners[x.owner] = x
	}
	var soa dns.RR
	for rrs := range records {
		var batch []dns.RR
		for _, rr := range rrs {
			if s, ok := rr.(*dns.SOA); ok {
				if soa == nil {
					soa = withSerial(s, serial)
					batch = append(batch, soa)
				}
				continue // the last one follows the addresses
			}
			if !replaced(rr, owners) {
				batch = append(batch, rr)
			}
		}
		if len(batch) > 0 {
			out <- batch
		}
	}
	for _, x := range expansions {
		if rrs := z.records(x); len(rrs) > 0 {
			out <- rrs
		}
	}
	if soa != nil {
		out <- []dns.RR{soa}
	}
}

// replaced reports whether rr does not leave, since an alias stands in its place: the ALIAS record itself, a CNAME record
// that is flattened, and what a record of the Corefile wins over.
func replaced(rr dns.RR, owners map[string]*expansion) bool {
	h := rr.Header()
	switch h.Rrtype {
	case rdata.TypeALIAS:
		return true
	case dns.TypeCNAME:
		return owners[strings.ToLower(h.Name)] != nil
	case dns.TypeA, dns.TypeAAAA:
		x := owners[strings.ToLower(h.Name)]
		return x != nil && x.wins
	}
	return false
}

// withSerial returns a copy of soa with another serial number.
func withSerial(soa *dns.SOA, serial uint32) *dns.SOA {
	c := *soa
	c.Serial = serial
	return &c
}

// serialBefore reports whether a is before b in serial number arithmetic (RFC 1982, section 3.2).
func serialBefore(a, b uint32) bool { return a != b && b-a < 1<<31 }
