package primary

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"

	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
)

var _ transfer.Transferer = (*Primary)(nil)

// settleTime is how long a transfer waits for lookups while it has addresses without them. A client waits some seconds.
const settleTime = 500 * time.Millisecond

// Transfer implements transfer.Transferer: it transfers a zone of the backend with addresses in place of its aliases and with
// the published serial. A serial other than 0 is that of a secondary that asks for IXFR: if it is not before the published
// one, the SOA record is sent alone, and else the whole zone (RFC 1995, section 2). The caller has to take all records from
// the channel, and must not change them.
//
// The error is transfer.ErrNotAuthoritative for a zone without aliases and for one that is signed already, which are left
// to the backend, and for a name that is no zone. Any other error is a transfer that fails: the zone is not known, the
// backend fails, p is stopped, or an alias failed without an answer in the cache.
func (p *Primary) Transfer(zone string, serial uint32) (<-chan []dns.RR, error) {
	z, err := p.visit(p.ctx, strings.ToLower(zone))
	if err != nil {
		return nil, err // the transfer plugin would take the zone from the backend, with its ALIAS records
	}
	switch {
	case z == nil:
		return nil, transfer.ErrNotAuthoritative
	case p.Fleet != nil:
		return p.transferAgreed(z, serial)
	case z.isUntouched():
		return nil, transfer.ErrNotAuthoritative
	}
	// The serial is read before the records and addresses. At worst these are newer, and are transferred once more under the
	// next serial.
	current, expansions := z.current()
	if serial != 0 && !serialBefore(serial, current) {
		return p.soaAlone(z, current)
	}
	var rrs <-chan []dns.RR
	omitted, err := p.settle(z, expansions)
	if err == nil {
		rrs, err = p.transferFrom(z.name)
	}
	p.Transferred(z.name, outcomeOf(omitted, err))
	if err != nil {
		return nil, err
	}
	out := make(chan []dns.RR)
	go func() {
		defer close(out)
		expand(out, rrs, current, expansions, z.records)
	}()
	return out, nil
}

// outcomeOf returns the outcome of a transfer for the metrics.
func outcomeOf(omitted bool, err error) string {
	switch {
	case err != nil:
		return "failure"
	case omitted:
		return "omitted"
	default:
		return "success"
	}
}

// transferFrom returns the records of zone from the first backend that has it.
func (p *Primary) transferFrom(zone string) (<-chan []dns.RR, error) {
	for _, b := range p.Backends {
		rrs, err := b.Transfer(zone, 0)
		if err == transfer.ErrNotAuthoritative {
			continue
		}
		return rrs, err
	}
	return nil, transfer.ErrNotAuthoritative
}

// soaAlone returns the SOA record of z, for a secondary that is up to date.
func (p *Primary) soaAlone(z *zone, serial uint32) (<-chan []dns.RR, error) {
	soa, err := p.SOA(z.name)
	if err != nil || soa == nil {
		return nil, fmt.Errorf("no SOA record of %s", z.name)
	}
	out := make(chan []dns.RR, 1)
	out <- []dns.RR{lookup.WithSerial(soa, serial)} // a later one would say that there is more to transfer
	close(out)
	return out, nil
}

// settle makes known what expansions are transferred with. It looks them up, for settleTime in all: after that, those that
// are known are transferred as they are. It waits longer only for expansions of which nothing is known, neither addresses nor
// a failure. When one fails without an answer in the cache, it is omitted, or an error aborts the transfer at once.
func (p *Primary) settle(z *zone, expansions []*expansion) (omitted bool, err error) {
	ctx, abort := context.WithCancel(p.ctx)
	defer abort()
	abortOnFailure := func(x *expansion) {
		if x.err != nil && !x.known && !p.Omit {
			abort()
		}
	}
	soon, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	p.resolve(soon, z, expansions, abortOnFailure)
	p.resolve(ctx, z, z.unknown(expansions), abortOnFailure)
	if err := p.ctx.Err(); err != nil { // then not all of them were looked up
		return false, fmt.Errorf("transfer of %s: %w", z.name, err)
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	unknown := false
	for _, x := range expansions {
		if x.err == nil {
			unknown = unknown || !x.known
			continue
		}
		omitted = omitted || len(x.addrs) == 0
		if x.known { // secondaries have these addresses, so they do no harm
			continue
		}
		if !p.Omit {
			return false, fmt.Errorf("transfer of %s: %s %s: %w", z.name, x.owner, dns.TypeToString[x.qtype], x.err)
		}
		p.Limited(log.Warningf, "Zone %s is transferred without %s %s: %v", z.name, x.owner, dns.TypeToString[x.qtype], x.err)
		z.set(x, nil)
	}
	if unknown { // the server is being stopped
		return false, fmt.Errorf("transfer of %s: %w", z.name, context.Canceled)
	}
	return omitted, nil
}

// expand sends rrs, the records of a zone, with those of expansions in place of aliases, to out. It always takes all of rrs, so
// that the backend's goroutine ends.
func expand(out chan<- []dns.RR, rrs <-chan []dns.RR, serial uint32, expansions []*expansion, records func(*expansion) []dns.RR) {
	owners := make(map[string]*expansion, len(expansions))
	for _, x := range expansions {
		owners[x.owner] = x
	}
	var soa dns.RR
	for batch := range rrs {
		var kept []dns.RR
		for _, rr := range batch {
			if s, ok := rr.(*dns.SOA); ok {
				if soa == nil {
					soa = lookup.WithSerial(s, serial)
					kept = append(kept, soa)
				}
				continue // the last one follows the addresses
			}
			if !isReplaced(rr, owners) {
				kept = append(kept, rr)
			}
		}
		if len(kept) > 0 {
			out <- kept
		}
	}
	for _, x := range expansions {
		if rrs := records(x); len(rrs) > 0 {
			out <- rrs
		}
	}
	if soa != nil {
		out <- []dns.RR{soa}
	}
}

// isReplaced reports whether rr is not transferred: it is an ALIAS record, a CNAME record that is flattened, or an address
// that a record of the Corefile wins over.
func isReplaced(rr dns.RR, owners map[string]*expansion) bool {
	h := rr.Header()
	switch h.Rrtype {
	case rdata.TypeALIAS:
		return true
	case dns.TypeCNAME:
		return owners[lookup.Canonical(h.Name)] != nil
	case dns.TypeA, dns.TypeAAAA:
		x := owners[lookup.Canonical(h.Name)]
		return x != nil && x.wins
	}
	return false
}
