package primary

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
)

// This file is what a Primary with a Fleet does instead of publishing by itself.

const (
	// askPatience is how long a query waits for the store. Then it gets the last number that the server knows.
	askPatience = 100 * time.Millisecond

	// maxRounds is how many zones' changes are published at the same time.
	maxRounds = 32
)

var errNotAgreed = errors.New("the servers with the same share have not agreed on this zone yet")

// local returns what p has found for z. It is nil when p does not transfer z.
func (z *zone) local(p *Primary) *local {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !z.read || z.signed {
		return nil
	}
	if z.found == nil {
		l := &local{own: z.readAt, since: millis(p.since), data: make(map[string]datum, len(z.expansions)), xs: z.expansions}
		for _, x := range z.expansions {
			l.keys = append(l.keys, x.key)
			if x.known || p.Omit && x.tried && x.err != nil {
				rdata := slices.Concat(slices.SortedFunc(lookup.Each(x.addrs, x.qtype), slices.Compare)...)
				l.data[x.key] = datum{string(rdata), x.ttl, x.stored}
			}
		}
		l.aliases = aliasesOf(l.keys, p.Options)
		z.found = l
	}
	return z.found
}

// handout is what a server may hand out for a zone.
type handout struct {
	register *register    // nil: nothing now, unless own is set
	xs       []*expansion // of the zone that goes with it
	own      bool         // the zone is published under its own serial
}

// agree asks the fleet what may be handed out for z.
func (p *Primary) agree(ctx context.Context, z *zone) handout {
	a, asked := p.Fleet.zone(z.name), false
	if away, _ := p.Fleet.isAway(); !away {
		a.mu.Lock()
		patience := askPatience
		if a.published == nil {
			patience = p.Timeout
		}
		a.mu.Unlock()
		asked = p.Fleet.begin(a, func() *local { return z.local(p) }).await(ctx, patience)
	}
	l := z.local(p)
	a.mu.Lock()
	defer a.mu.Unlock()
	if l == nil || len(l.keys) == 0 && !a.some {
		return handout{own: true}
	}
	return handout{register: a.serve(l, asked), xs: l.xs}
}

// agreedSerial is published for a Primary with a Fleet. z is what p knows of the zone, or nil.
func (p *Primary) agreedSerial(ctx context.Context, z *zone, soa *dns.SOA) (serial uint32, known bool) {
	if !z.isReadAt(soa.Serial) {
		if _, err := p.visit(ctx, z.name); err != nil {
			return soa.Serial, false
		}
	}
	switch h := p.agree(ctx, z); {
	case h.own:
		return soa.Serial, true
	case h.register == nil || h.register.own != soa.Serial: // or the response was made before the zone changed
		z.wake()
		return soa.Serial, false
	default:
		return h.register.number, true
	}
}

// lastSerial returns the number of what was last published for z, or own when nothing was.
func (p *Primary) lastSerial(z *zone, own uint32) uint32 {
	a := p.Fleet.zone(z.name)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.published == nil {
		return own
	}
	return a.published.number
}

// transferAgreed is Transfer for a Primary with a Fleet.
func (p *Primary) transferAgreed(z *zone, serial uint32) (<-chan []dns.RR, error) {
	h := p.agree(p.ctx, z)
	if !h.own && h.register == nil { // perhaps because nothing is known of some alias
		if l := z.local(p); l != nil {
			if _, err := p.settle(z, l.xs); err != nil {
				p.Transferred(z.name, outcomeOf(false, err))
				return nil, err
			}
			h = p.agree(p.ctx, z)
		}
	}
	switch {
	case h.own:
		return nil, transfer.ErrNotAuthoritative
	case h.register == nil:
		p.Transferred(z.name, outcomeOf(false, errNotAgreed))
		return nil, fmt.Errorf("transfer of %s: %w", z.name, errNotAgreed)
	case serial != 0 && !serialBefore(serial, h.register.number):
		return p.soaAlone(z, h.register.number)
	}
	rrs, err := p.transferOf(z.name, h.register.own)
	p.Transferred(z.name, outcomeOf(p.omits(z, h), err))
	if err != nil {
		return nil, err
	}
	out := make(chan []dns.RR)
	go func() {
		defer close(out)
		expand(out, rrs, h.register.number, h.xs, h.register.records)
	}()
	return out, nil
}

// transferOf is transferFrom for a zone that must have that serial.
func (p *Primary) transferOf(zone string, own uint32) (<-chan []dns.RR, error) {
	rrs, err := p.transferFrom(zone)
	if err != nil {
		return nil, err
	}
	first := <-rrs
	if len(first) > 0 {
		if soa, ok := first[0].(*dns.SOA); ok && soa.Serial == own {
			all := make(chan []dns.RR)
			go func() {
				defer close(all)
				all <- first
				for batch := range rrs {
					all <- batch
				}
			}()
			return all, nil
		}
	}
	go func() { // the backend's goroutine that sends them has to end
		for range rrs {
		}
	}()
	return nil, fmt.Errorf("transfer of %s: it changes just now", zone)
}

// omits reports whether an alias without addresses is omitted in the transfer of h because its lookups fail.
func (p *Primary) omits(z *zone, h handout) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return slices.ContainsFunc(h.xs, func(x *expansion) bool { return x.err != nil && h.register.data[x.key].rdata == "" })
}

// records returns the records of x as they are transferred.
func (r *register) records(x *expansion) []dns.RR {
	d := r.data[x.key]
	return lookup.Records(lookup.Question{Name: x.owner, Type: x.qtype}, d.ttl, []byte(d.rdata))
}

// share has what was found for z published, and does not wait for that.
func (p *Primary) share(z *zone) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shared = append(p.shared, z)
	if p.sharing < maxRounds {
		p.sharing++
		p.wg.Go(p.shareAll)
	}
}

// shareAll publishes zones as long as there are any.
func (p *Primary) shareAll() {
	for {
		p.mu.Lock()
		if len(p.shared) == 0 || p.ctx.Err() != nil {
			p.sharing--
			p.mu.Unlock()
			return
		}
		z := p.shared[0]
		p.shared = p.shared[1:]
		p.mu.Unlock()
		p.shareOne(z)
	}
}

func (p *Primary) shareOne(z *zone) {
	a := p.Fleet.zone(z.name)
	r := p.Fleet.begin(a, func() *local { return z.local(p) })
	select {
	case <-r.done:
	case <-p.ctx.Done():
		return
	}
	l := z.local(p)
	if l == nil {
		return
	}
	a.mu.Lock()
	than := a.isBehind(l)
	served := a.serve(l, r.answered)
	again := a.waits || !r.answered && a.hasNews(l)
	a.mu.Unlock()
	p.warnBehind(z, l, than)
	if again {
		p.agenda.wake(z, p.Now().Add(time.Second))
	}
	z.mu.Lock()
	first := served != nil && !z.notified
	z.notified = z.notified || first
	z.mu.Unlock()
	if first {
		p.notifier.notify(z.name)
	}
}

// warnBehind logs that this server does not transfer z, because another one has a later zone.
func (p *Primary) warnBehind(z *zone, l *local, than *register) {
	switch {
	case than == nil:
	case than.own != l.own:
		p.Warn("Zone %s is not transferred: it has the serial %d here, and another server with the same share has %d; load the same zone here, or give it a later serial",
			z.name, l.own, than.own)
	default:
		p.Warn("Zone %s is not transferred: a server with the same share that was started later has other aliases for its serial %d, or other properties; use the same Corefile and zone on all servers",
			z.name, l.own)
	}
}
