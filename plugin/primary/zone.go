package primary

import (
	"slices"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
)

// zone is an outgoing zone.
type zone struct {
	name    string
	reading *semaphore.Weighted // held by the one who reads the zone

	mu         sync.Mutex
	own        uint32 // the zone's own serial number, which the backend has
	offset     uint32 // the published serial is own + offset; 0 as long as there has been no alias
	visited    bool   // the backend was asked for it
	gone       bool   // the backend does not have it, or cannot transfer it
	aliased    bool   // it has ALIAS records, be it such that are never used
	signed     bool   // it is signed already, and transferred as it is
	read       bool   // expansions are those of the zone with the serial number readAt
	readAt     uint32
	expansions []*expansion
	changed    bool // secondaries have other addresses
	pending    bool // there is something that no secondary has got, and a NOTIFY is to be sent
	notified   bool // secondaries were notified of all that was here at the start
}

// expansion is one family of an alias in an outgoing zone. But for its state, it is not changed.
type expansion struct {
	owner string
	qtype uint16
	alias *records.Alias
	wins  bool // over the addresses that the zone has at the owner

	// The state is guarded by the lock of the zone.
	addrs []byte // what secondaries have, or are about to be notified of
	known bool   // addrs is set
	ttl   uint32 // in seconds
	err   error  // why there are no addresses, not even stale ones
	tried bool
	busy  bool
	due   time.Time // when it is looked up again
}

func newZone(name string, serial uint32) *zone {
	return &zone{name: name, own: serial, reading: semaphore.NewWeighted(1)}
}

// succeed makes z go on where another instance of it is, so that secondaries notice nothing of a reload.
func (z *zone) succeed(before *zone) {
	before.mu.Lock()
	defer before.mu.Unlock()
	z.own, z.offset, z.notified, z.changed = before.own, before.offset, before.notified, before.changed
	for _, x := range before.expansions {
		z.expansions = append(z.expansions, &expansion{owner: x.owner, qtype: x.qtype, alias: x.alias, addrs: x.addrs, known: x.known, ttl: x.ttl})
	}
}

// isGone reports whether the backend does not have z.
func (z *zone) isGone() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.gone
}

// isReadAt reports whether z has been read with the zone's own serial number.
func (z *zone) isReadAt(own uint32) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.read && z.readAt == own && z.own == own
}

// wasVisited reports whether the backend was asked for z, so that its serial number is known.
func (z *zone) wasVisited() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.visited
}

// isUntouched reports whether z is transferred as the backend has it.
func (z *zone) isUntouched() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.signed || z.offset == 0 && !z.aliased
}

// current returns the expansions of z, and the published serial that goes with them.
func (z *zone) current() (uint32, []*expansion) {
	z.mu.Lock()
	defer z.mu.Unlock()
	own := z.own
	if z.read && serialBefore(z.readAt, own) { // it has changed since it was read
		own = z.readAt
	}
	return own + z.offset, z.expansions
}

// replace sets the expansions, which are those of the zone as it was read.
func (z *zone) replace(xs []*expansion, s *reading, now time.Time) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.signed, z.aliased, z.gone = s.signed, s.aliased, false; z.signed {
		xs = nil
	}
	last := make(map[lookup.Question]*expansion, len(z.expansions))
	for _, x := range z.expansions {
		last[lookup.Question{Name: x.owner, Type: x.qtype}] = x
	}
	same := len(xs) == len(last)
	for _, x := range xs {
		if l := last[lookup.Question{Name: x.owner, Type: x.qtype}]; l != nil {
			x.addrs, x.known, x.ttl = l.addrs, l.known, l.ttl
		} else {
			same = false
		}
	}
	if !same && !z.read && z.offset != 0 { // because of a reload, or the zone was gone: its own serial number may be the same
		z.changed = true
	}
	z.expansions, z.read, z.visited, z.readAt = xs, true, true, s.serial
	if len(xs) > 0 && z.offset == 0 {
		z.offset = max(offsetAt(now), 1)
	}
}

// clear drops what is known of a zone that has gone.
func (z *zone) clear() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.expansions, z.read, z.visited, z.gone = nil, false, true, true
}

// set takes note of the addresses of x, which secondaries get from now on. The lock is held.
func (z *zone) set(x *expansion, addrs []byte) {
	if !x.known {
		z.pending = true
	} else if !lookup.SameAddrs(x.addrs, addrs, x.qtype) {
		z.changed = true
	}
	x.addrs, x.known = addrs, true
}

// dueBy returns the expansions to be looked up at now, which are busy then.
func (z *zone) dueBy(now time.Time) []*expansion {
	z.mu.Lock()
	defer z.mu.Unlock()
	var due []*expansion
	for _, x := range z.expansions {
		if !x.busy && !now.Before(x.due) {
			x.busy = true
			due = append(due, x)
		}
	}
	return due
}

// publish makes the published serial grow when the addresses have changed, and reports whether secondaries are to be
// notified. The first time they are when all aliases have been looked up.
func (z *zone) publish() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !z.notified {
		if z.offset == 0 || slices.ContainsFunc(z.expansions, func(x *expansion) bool { return !x.tried }) {
			return false
		}
		z.notified = true
	}
	notify := (z.changed || z.pending) && z.offset != 0
	if z.changed {
		z.offset++ // more slowly than the clock, so that the serial after a restart is later
	}
	z.changed, z.pending = false, false
	return notify
}

// records returns the address records of x as they are transferred.
func (z *zone) records(x *expansion) []dns.RR {
	z.mu.Lock()
	addrs, ttl := x.addrs, x.ttl
	z.mu.Unlock()
	return lookup.AddressRecords(lookup.Question{Name: x.owner, Type: x.qtype}, ttl, addrs)
}
