package primary

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// The published serial is the zone's own, plus an offset: the half seconds from the epoch to the start of the server,
// plus one for each change of addresses. So it grows with both, and is later after a restart than all before, without a
// file.

const (
	// maxJump is by how much the published serial grows at once with the zone's own: so little that a further
	// change does not take it out of the half of the number space that counts as later (RFC 1982, section 3.2).
	maxJump = 1 << 30

	serialUnit = 500 * time.Millisecond
)

// epoch is when offsets begin to count.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// offsetAt returns the half seconds since the epoch. They stay in the half of the number space that counts as later for 34
// years; those of smaller units would be over sooner.
func offsetAt(now time.Time) uint32 { return uint32(now.Sub(epoch) / serialUnit) } // #nosec G115 -- it wraps

// AwaitSerial waits for the next half second, once in the life of a process: one that is killed as soon as it has begun and
// started again is to have later serial numbers.
var AwaitSerial = sync.OnceFunc(func() {
	time.Sleep(time.Until(epoch.Add(time.Duration(time.Since(epoch)/serialUnit+1) * serialUnit)))
})

// serialBefore reports whether a is before b in serial number arithmetic (RFC 1982, section 3.2).
func serialBefore(a, b uint32) bool { return a != b && b-a < 1<<31 }

// Serial returns the published serial of the zone with that SOA record, which the backend has.
func (p *Primary) Serial(soa *dns.SOA) uint32 {
	name := strings.ToLower(soa.Hdr.Name)
	z := p.zone(name)
	if z == nil || !z.wasVisited() { // secondaries may ask for a zone that has just appeared
		ctx, cancel := context.WithTimeout(p.ctx, p.Timeout)
		defer cancel()
		var err error
		if z, err = p.visit(ctx, name); err != nil { // a large zone takes longer; it may have succeeded that of another instance
			z = p.zone(name)
		}
	}
	if z == nil {
		return soa.Serial
	}
	return z.serial(soa.Serial)
}

// serial returns the published serial for the zone's own. An own serial that is before the last is taken for that of a
// response that was on its way.
func (z *zone) serial(own uint32) uint32 {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.signed {
		return own
	}
	z.advance(own)
	return z.own + z.offset
}

// advance takes note of the zone's own serial number, unless it is before the last. The lock is held.
func (z *zone) advance(own uint32) {
	if !serialBefore(z.own, own) {
		return
	}
	if jump := own - z.own; jump > maxJump && z.offset != 0 {
		z.offset -= jump - maxJump
	}
	z.own = own
	z.pending = true // transfer notifies too, but one secondary after the other
}

// isUpToDate takes note of the zone's own serial number, and reports whether the zone has been read with it.
func (z *zone) isUpToDate(own uint32) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.advance(own)
	if own != z.own { // it has gone back, which the published serial never does
		if z.offset != 0 {
			z.offset += z.own - own
			z.changed = true
		}
		z.own = own
	}
	return z.read && z.readAt == own
}

// Writer returns a writer that gives the SOA records of authoritative responses the published serial, and writes to w.
func (p *Primary) Writer(w dns.ResponseWriter) dns.ResponseWriter { return serialWriter{w, p} }

type serialWriter struct {
	dns.ResponseWriter
	p *Primary
}

// WriteMsg implements dns.ResponseWriter.
func (w serialWriter) WriteMsg(m *dns.Msg) error {
	if m == nil || !m.Authoritative {
		return w.ResponseWriter.WriteMsg(m)
	}
	answer, ns := w.p.renumber(m.Answer), w.p.renumber(m.Ns)
	if answer == nil && ns == nil {
		return w.ResponseWriter.WriteMsg(m)
	}
	n := *m
	if answer != nil {
		n.Answer = answer
	}
	if ns != nil {
		n.Ns = ns
	}
	return w.ResponseWriter.WriteMsg(&n)
}

// renumber returns a copy of rrs in which the SOA record has the published serial, or nil when none has another.
func (p *Primary) renumber(rrs []dns.RR) []dns.RR {
	for i, rr := range rrs {
		soa, ok := rr.(*dns.SOA)
		if !ok {
			continue
		}
		serial := p.Serial(soa)
		if serial == soa.Serial {
			return nil
		}
		renumbered := slices.Clone(rrs)
		renumbered[i] = lookup.WithSerial(soa, serial)
		return renumbered
	}
	return nil
}
