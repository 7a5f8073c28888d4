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

// zone is a zone of the backend. It stays when the zone goes, for its serial.
type zone struct {
	name    string
	reading *semaphore.Weighted // held by the goroutine that reads the zone

	agenda  *agenda
	awaited bool // it is in this slot of agenda, whose lock guards both
	slot    int

	mu         sync.Mutex
	own        uint32 // the zone's own serial, that of the backend
	offset     uint32 // the published serial is own + offset; 0 as long as there has been no alias
	visited    bool   // the backend was queried for it, and it was read if there is one
	gone       bool   // the backend does not have it, or cannot transfer it
	aliased    bool   // it has ALIAS records, even if they are never used
	signed     bool   // it is signed already, and transferred as it is
	read       bool   // expansions are those of the zone with its own serial readAt
	readAt     uint32
	expansions []*expansion
	advanced   uint32 // by how much the published serial has grown with the zone's own, all in all
	advancedAt uint32 // what advanced was for the zone that was read: the published serial of that is as much less
	changed    bool   // secondaries have other addresses, so the published serial has to grow
	pending    bool   // a NOTIFY has to be sent, under the serial that is published
	notified   bool   // secondaries were notified after the start
	found      *local // what is to be published by a Fleet; nil after a change
}

// expansion is what an alias is expanded to in transfers, for one type. Only its state changes.
type expansion struct {
	owner string
	qtype uint16
	alias *records.Alias
	wins  bool   // over the addresses that the zone has at the owner
	key   string // see keyOf

	// The state is guarded by the lock of the zone.
	addrs  []byte // that secondaries have, or are about to be notified of
	known  bool   // addrs is set
	ttl    uint32 // in seconds
	stored int64  // when the answer came that addrs are from, in milliseconds since 1970; 0: they are stale, or the lookup failed
	err    error  // why there are no addresses, not even stale ones
	tried  bool
	busy   bool
	due    time.Time // when it is looked up again
}

func newZone(name string, serial uint32, a *agenda) *zone {
	return &zone{name: name, own: serial, reading: semaphore.NewWeighted(1), agenda: a}
}

// wake has Refresh look at z: there may be something to publish, or to look up.
func (z *zone) wake() { z.agenda.wake(z, time.Time{}) }

// succeed makes z, which is new, go on where before is, so that secondaries notice nothing of a reload. unsent says that a
// NOTIFY of before waits to be sent.
func (z *zone) succeed(before *zone, unsent bool) {
	before.mu.Lock()
	defer before.mu.Unlock()
	z.own, z.offset, z.gone = before.own, before.offset, before.gone
	z.notified, z.changed, z.pending = before.notified, before.changed, before.pending || unsent
	for _, x := range before.expansions {
		z.expansions = append(z.expansions, &expansion{owner: x.owner, qtype: x.qtype, alias: x.alias, addrs: x.addrs, known: x.known, ttl: x.ttl, stored: x.stored, key: x.key})
	}
	z.wake()
}

// lastOwn returns the last known serial of the zone's own.
func (z *zone) lastOwn() uint32 {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.own
}

// isGone reports whether the backend does not have z.
func (z *zone) isGone() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.gone
}

// hasAliases reports whether z has, or has had, aliases: then its published serial is known.
func (z *zone) hasAliases() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.offset != 0
}

// isReadAt reports whether z has been read with the zone's own serial own, and has not changed since.
func (z *zone) isReadAt(own uint32) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.read && z.readAt == own && z.own == own
}

// isRead reports whether the backend has z and z has been read, so that it can be transferred.
func (z *zone) isRead() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.read
}

// wasVisited reports whether the backend was queried for z, so that it is known whether the published serial is the
// zone's own.
func (z *zone) wasVisited() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.visited
}

// isUntouched reports whether z is transferred as it is in the backend.
func (z *zone) isUntouched() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.signed || z.offset == 0 && !z.aliased
}

// current returns the expansions of z, and the published serial that goes with them: that of the zone as it was read,
// which a response may have shown to have changed since.
func (z *zone) current() (uint32, []*expansion) {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.own + z.offset - (z.advanced - z.advancedAt), z.expansions
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
			x.addrs, x.known, x.ttl, x.stored = l.addrs, l.known, l.ttl, l.stored
		} else {
			same = false
		}
	}
	if !same && !z.read && z.offset != 0 { // after a reload, or the zone was gone: its own serial may be the same as before
		z.changed = true
	}
	z.found = nil
	z.expansions, z.read, z.visited, z.readAt, z.advancedAt = xs, true, true, s.serial, s.advanced
	if z.readAt == z.own { // what was read is the newest that is known
		z.advancedAt = z.advanced
	}
	if len(xs) > 0 && z.offset == 0 {
		z.offset = max(offsetAt(now), 1)
	}
	z.wake()
}

// clear drops the expansions of a zone that has gone. The published serial stays.
func (z *zone) clear() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.expansions, z.read, z.visited, z.gone, z.found = nil, false, true, true, nil
}

// set sets the addresses of x, which secondaries get from now on. The lock is held.
func (z *zone) set(x *expansion, addrs []byte) {
	if !x.known {
		z.pending = true
	} else if !lookup.Same(x.addrs, addrs, x.qtype) {
		z.changed = true
	}
	x.addrs, x.known, z.found = addrs, true, nil
	z.wake()
}

// dueLookup is a lookup that is due.
type dueLookup struct {
	zone      *zone
	expansion *expansion
}

// dueBy returns the lookups that are due at now, and makes their expansions busy: those of targets that do not fail, and then
// those of the ones that do. It has Refresh look at z again when the next one is due.
func (z *zone) dueBy(now time.Time) (due [2][]dueLookup) {
	z.mu.Lock()
	defer z.mu.Unlock()
	var next time.Time
	for _, x := range z.expansions {
		switch {
		case x.busy:
		case !now.Before(x.due):
			x.busy = true
			of := &due[0]
			if x.err != nil {
				of = &due[1]
			}
			*of = append(*of, dueLookup{z, x})
		case next.IsZero() || x.due.Before(next):
			next = x.due
		}
	}
	if !next.IsZero() {
		z.agenda.wake(z, next)
	}
	return due
}

// unknown returns those of expansions of which neither addresses nor a failure are known.
func (z *zone) unknown(expansions []*expansion) []*expansion {
	z.mu.Lock()
	defer z.mu.Unlock()
	var xs []*expansion
	for _, x := range expansions {
		if !x.known && x.err == nil {
			xs = append(xs, x)
		}
	}
	return xs
}

// publish makes the published serial grow when the addresses have changed, and reports whether secondaries have to be
// notified. After the start, it waits until all aliases have been looked up.
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
		z.offset++ // once a second at most, so that the published serial after a restart is later
	}
	z.changed, z.pending = false, false
	return notify
}

// records returns the address records of x as they are transferred.
func (z *zone) records(x *expansion) []dns.RR {
	z.mu.Lock()
	addrs, ttl := x.addrs, x.ttl
	z.mu.Unlock()
	return lookup.Records(lookup.Question{Name: x.owner, Type: x.qtype}, ttl, addrs)
}
