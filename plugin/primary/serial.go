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

// Published serial = the zone's own serial + the half seconds from 2026-01-01 to the start of the server + 1 for each
// change of addresses. So it grows with the zone's own and with the addresses, and after a restart it is later than all
// before, without a file. The sum of the last two is the offset of a zone. A zone that never had an alias has none.
//
// There are two exceptions, for which the offset is changed: a published serial never goes back when the zone's own does,
// and never jumps by more than maxJump. After a restart they are forgotten.

const (
	// maxJump is by how much the published serial grows at once with the zone's own, at most. It leaves room for further
	// changes inside the half of the number space that counts as later (RFC 1982, section 3.2).
	maxJump = 1 << 30

	// serialUnit is the time in which the offset at the start grows by one.
	serialUnit = 500 * time.Millisecond
)

// epoch is the time at which the offset at the start is zero.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// offsetAt returns the half seconds since the epoch. For 34 years they stay in the half of the number space that counts as
// later; with a smaller unit it would be fewer.
func offsetAt(now time.Time) uint32 { return uint32(now.Sub(epoch) / serialUnit) } // #nosec G115 -- it wraps

// AwaitSerial waits for the next half second, once in the life of a process, and returns at once after that. A process
// that calls it before New never has the published serials of one that was killed as soon as it had begun.
var AwaitSerial = sync.OnceFunc(func() {
	time.Sleep(time.Until(epoch.Add(time.Duration(time.Since(epoch)/serialUnit+1) * serialUnit)))
})

// serialBefore reports whether a is before b in serial number arithmetic (RFC 1982, section 3.2).
func serialBefore(a, b uint32) bool { return a != b && b-a < 1<<31 }

// Serial returns the published serial of the zone whose SOA record the backend has just answered with. It is the zone's
// own when the zone has no aliases, or is signed, or is none of the backend's. A zone that p has not seen yet is read
// first, for up to Config.Timeout. Serial does not change soa.
func (p *Primary) Serial(soa *dns.SOA) uint32 {
	serial, _ := p.published(soa, false)
	return serial
}

// published is Serial, and reports whether the serial is known: a zone that takes longer than Config.Timeout to read may
// have aliases, and then its own serial is earlier than what secondaries have from before a restart. With compared, somebody
// compares the serial with those of other servers with the same Fleet.
func (p *Primary) published(soa *dns.SOA, compared bool) (serial uint32, known bool) {
	name := strings.ToLower(soa.Hdr.Name)
	known = true
	z := p.zone(name)
	if z == nil || !z.wasVisited() { // a secondary may query a zone that has just appeared
		ctx, cancel := context.WithTimeout(p.ctx, p.Timeout)
		defer cancel()
		var err error
		if z, err = p.visit(ctx, name); err != nil { // a large zone takes longer; after a reload its serial is known even so
			z = p.zone(name)
			known = z != nil && z.hasAliases()
		}
	}
	if z == nil {
		return soa.Serial, known
	}
	switch {
	case p.Fleet == nil:
		return z.serial(soa.Serial), known
	case !compared:
		return p.lastSerial(z, soa.Serial), known
	}
	ctx, cancel := context.WithTimeout(p.ctx, p.Timeout)
	defer cancel()
	return p.agreedSerial(ctx, z, soa)
}

// serial returns the published serial for the zone's own. When that is before the last, it is of a response that was made
// before the zone changed: whether the zone has really gone back, visit finds out.
func (z *zone) serial(own uint32) uint32 {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.signed {
		return own
	}
	z.advance(own)
	return z.own + z.offset
}

// advance notes the zone's own serial, unless it is before the last. The lock is held.
func (z *zone) advance(own uint32) {
	if !serialBefore(z.own, own) {
		return
	}
	step := own - z.own
	if step > maxJump && z.offset != 0 {
		z.offset -= step - maxJump
		step = maxJump
	}
	z.own = own
	z.advanced += step
	z.pending = true // the transfer plugin notifies too, but one secondary after the other
	z.wake()
}

// isUpToDate notes the zone's own serial as the backend has just answered, and reports whether the zone has been read with
// it. last is what was known of it before the query: when a response has shown a later one since, this is not a zone that
// has gone back, but the older of two answers. If the zone is not up to date, advanced is for the reading that begins.
func (z *zone) isUpToDate(own, last uint32) (advanced uint32, ok bool) {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.advance(own)
	if own != z.own && z.own == last { // it has gone back: the published serial stays, and grows with the next change, which this is
		if z.offset != 0 {
			z.offset += z.own - own
			z.changed = true
			z.wake()
		}
		z.own, z.read = own, false
	}
	if z.read && z.readAt == z.own {
		z.advancedAt = z.advanced
		return z.advanced, true
	}
	return z.advanced, false
}

// Writer returns a writer that puts the published serial into the SOA records of authoritative responses and writes them
// to w. It changes copies: the backend's records stay as they are. While the
// serial of a zone is not known yet, an answer with its SOA record becomes SERVFAIL.
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
	answer, known := w.p.renumber(m.Answer, true)
	if !known { // a secondary asks again, and never sees a serial that goes back
		return w.ResponseWriter.WriteMsg(withoutAnswer(m))
	}
	ns, _ := w.p.renumber(m.Ns, false) // of a negative answer, whose serial nobody compares
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

// withoutAnswer returns m as SERVFAIL.
func withoutAnswer(m *dns.Msg) *dns.Msg {
	n := *m
	n.Rcode, n.Authoritative, n.Answer, n.Ns = dns.RcodeServerFailure, false, nil, nil
	return &n
}

// renumber returns a copy of rrs in which the SOA record has the published serial, or nil when nothing has to change. It
// reports whether the serial is known.
func (p *Primary) renumber(rrs []dns.RR, compared bool) (renumbered []dns.RR, known bool) {
	for i, rr := range rrs {
		soa, ok := rr.(*dns.SOA)
		if !ok {
			continue
		}
		serial, known := p.published(soa, compared)
		if serial == soa.Serial {
			return nil, known
		}
		renumbered = slices.Clone(rrs)
		renumbered[i] = lookup.WithSerial(soa, serial)
		return renumbered, known
	}
	return nil, true
}
