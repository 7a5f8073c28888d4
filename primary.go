package alias

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/rdata"

	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sync/semaphore"
)

const (
	// minRefresh is how long an alias of a zone is left alone at least, after it was looked up for the secondaries.
	minRefresh = 30 * time.Second

	// spread is over how much time those are spread that are due in the same moment.
	spread = time.Second

	// maxJump is by how much the serial number that leaves grows at once with the backend's own: so little that a further
	// change does not take it out of the half of the number space that counts as later (RFC 1982, section 3.2).
	maxJump = 1 << 30

	// maxZones is how many zones are remembered.
	maxZones = 1_000_000

	// pollEvery is how often the backends are asked for the serial numbers of their zones.
	pollEvery = 2 * time.Second
)

// epoch is when the serial numbers that leave begin to count.
var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// primary keeps secondaries up to date about the aliases in the zones of a server block that has transfer.
type primary struct {
	a        *Alias
	backends []transfer.Transferer        // those behind alias
	list     func() map[string]*file.Zone // the zones that may be there; nil for one that has to be asked for
	notifier *notifier
	omit     bool     // an alias that fails is left out, and does not stop the transfer
	before   *primary // of the instance that a reload replaces, or nil

	mu    sync.RWMutex
	zones map[string]*outgoing

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// outgoing is a zone of a backend as it leaves.
type outgoing struct {
	name     string
	scanning *semaphore.Weighted // held by the one who reads the zone

	mu         sync.Mutex
	own        uint32 // the backend's serial number
	ahead      uint32 // by how much the one that leaves is ahead; 0 as long as there has been no alias
	seen       bool   // it has been looked at
	gone       bool   // the backend does not have it, or cannot transfer it
	aliased    bool   // it has ALIAS records, be it such that are never used
	signed     bool   // it is signed already, and leaves as it is
	scanned    bool   // expansions are those of the zone with the serial number asOf
	asOf       uint32
	expansions []*expansion
	changed    bool // secondaries have other addresses
	news       bool // there are addresses that no secondary has got
	announced  bool // secondaries were told of all that was here at the start
}

// expansion is one family of an alias in a zone that leaves. But for what says so, it is not changed.
type expansion struct {
	owner string
	qtype uint16
	alias *alias
	wins  bool // over the addresses that the zone has at the owner

	// These belong to the lock of the zone.
	addrs []byte // what secondaries have, or are about to be told
	known bool   // addrs is set
	ttl   uint32
	err   error // why there are no addresses, not even remembered ones
	tried bool
	busy  bool
	due   time.Time // when it is looked up again
}

// newPrimary returns a primary that does nothing before it is started. list returns the zones that the backends may
// have, of which those inside of the plugin's count.
func newPrimary(a *Alias, backends []transfer.Transferer, list func() map[string]*file.Zone, n *notifier, omit bool) *primary {
	p := &primary{a: a, backends: backends, list: list, notifier: n, omit: omit, zones: make(map[string]*outgoing)}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// start starts to follow the aliases.
func (p *primary) start() {
	p.wg.Go(func() { p.every(pollEvery, p.poll) })
	p.wg.Go(func() { p.every(time.Second, p.follow) })
}

// stop ends all that p does, and waits for it.
func (p *primary) stop() {
	p.cancel()
	p.wg.Wait()
	p.notifier.stop()
}

// every calls do, now and from time to time.
func (p *primary) every(interval time.Duration, do func()) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		do()
		select {
		case <-ticker.C:
		case <-p.ctx.Done():
			return
		}
	}
}

// poll looks for zones that appear, change or go. Most have not, so that is seen without a question where it can be.
func (p *primary) poll() {
	list := p.list()
	for name, zone := range list {
		if serial, ok := serialOf(zone); ok && p.zone(name) == nil && p.a.zones.match(name) != "" {
			p.add(name, serial) // before any is read: it matters which zone is the closest to a record
		}
	}
	for _, z := range p.all() {
		if _, ok := list[z.name]; !ok && !z.isGone() {
			list[z.name] = nil
		}
	}
	for name, zone := range list {
		if p.ctx.Err() != nil {
			return
		}
		if serial, ok := serialOf(zone); ok {
			if z := p.zone(name); z != nil && z.isAsOf(serial) {
				continue
			}
		}
		if _, err := p.visit(p.ctx, name); err != nil {
			p.a.cache.tell(log.Warningf, "Zone %s: %v", name, err)
		}
	}
	p.mu.Lock()
	p.before = nil // or each instance would hold all before it
	p.mu.Unlock()
}

// serialOf returns the serial number of zone, which may be nil.
func serialOf(zone *file.Zone) (uint32, bool) {
	if zone == nil {
		return 0, false
	}
	serial := zone.SOASerialIfDefined()
	return uint32(serial), serial >= 0 // #nosec G115 -- of 32 bits
}

// all returns the zones.
func (p *primary) all() []*outgoing {
	p.mu.RLock()
	defer p.mu.RUnlock()
	zs := make([]*outgoing, 0, len(p.zones))
	for _, z := range p.zones {
		zs = append(zs, z)
	}
	return zs
}

// zone returns the zone with this name, or nil.
func (p *primary) zone(name string) *outgoing {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.zones[name]
}

// visit sees whether the backend has the zone, and reads it when it has changed. It returns nil when it is not there, and an
// error when that is not known, or not before ctx ends.
func (p *primary) visit(ctx context.Context, name string) (*outgoing, error) {
	if p.a.zones.match(name) == "" {
		return nil, nil
	}
	r := p.a.ask(name, dns.TypeSOA)
	z := p.zone(name)
	soa := ownSOA(r, name)
	switch {
	case soa == nil && r.late && z != nil:
		return z, nil
	case soa == nil && (r.late || r.unable):
		return nil, fmt.Errorf("no SOA record of %s from the backend", name)
	case soa == nil:
		if z != nil {
			z.clear() // but its serial number counts on, should it come back
		}
		return nil, nil
	case z == nil:
		z = p.add(name, soa.Serial)
	}
	if err := z.scanning.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer z.scanning.Release(1)
	if z.upToDate(soa.Serial) {
		return z, nil
	}
	err := p.scan(ctx, z)
	if errors.Is(err, transfer.ErrNotAuthoritative) { // what cannot be transferred
		z.clear()
		return nil, nil
	}
	return z, err
}

// ownSOA returns the SOA record of zone in r, or nil.
func ownSOA(r reply, zone string) *dns.SOA {
	if !r.own() {
		return nil
	}
	soa := soaFor(r.m.Answer, zone)
	if soa == nil || !strings.EqualFold(soa.Hdr.Name, zone) {
		return nil
	}
	return soa
}

// add adds a zone of which no more is known than its serial number.
func (p *primary) add(name string, serial uint32) *outgoing {
	p.mu.Lock()
	defer p.mu.Unlock()
	if z := p.zones[name]; z != nil {
		return z
	}
	z := &outgoing{name: name, own: serial, scanning: semaphore.NewWeighted(1)}
	if len(p.zones) >= maxZones {
		return z // a backend may say of any name that it is a zone
	}
	if p.before != nil {
		if before := p.before.zone(name); before != nil {
			z.succeed(before)
		}
	}
	p.zones[name] = z
	return z
}

// succeed makes z go on where another instance of it is, so that secondaries notice nothing of a reload.
func (z *outgoing) succeed(before *outgoing) {
	before.mu.Lock()
	defer before.mu.Unlock()
	z.own, z.ahead, z.announced, z.changed = before.own, before.ahead, before.announced, before.changed
	for _, x := range before.expansions {
		z.expansions = append(z.expansions, &expansion{owner: x.owner, qtype: x.qtype, alias: x.alias, addrs: x.addrs, known: x.known, ttl: x.ttl})
	}
}

// scan reads the aliases of z. It goes over the records of the zone twice, to keep none of the others in memory.
func (p *primary) scan(ctx context.Context, z *outgoing) error {
	found := make(map[string]*expansion)
	for owner, r := range p.a.records.all() {
		if p.closest(owner) == z.name {
			found[owner] = &expansion{owner: owner, alias: r.alias, wins: true}
		}
	}
	s := &reading{zone: z.name, flatten: p.a.flatten, zones: p.a.zones, aliases: found, cuts: make(zones)}
	if err := p.walk(ctx, z.name, s.collect); err != nil {
		return err
	}
	if s.signed && len(found) > 0 {
		p.a.tellOnce("Zone %s is signed already: it is transferred as it is, with its ALIAS records; let dnssec sign instead", z.name)
	}
	own := make(map[question]bool)
	err := p.walk(ctx, z.name, func(rr dns.RR) {
		h := rr.Header()
		q := question{strings.ToLower(h.Name), h.Rrtype}
		if isAddress(q.qtype) && found[q.name] != nil {
			own[q] = true
		}
	})
	if err != nil {
		return err
	}
	var xs []*expansion
	for owner, x := range found {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if !x.wins && (own[question{owner, qtype}] || s.cuts.match(owner) != "") {
				continue
			}
			family := *x
			family.qtype = qtype
			xs = append(xs, &family)
		}
	}
	slices.SortFunc(xs, func(a, b *expansion) int { return strings.Compare(a.owner, b.owner) })
	z.replace(xs, s, p.a.cache.now())
	return nil
}

// reading is what is found in the records of a zone.
type reading struct {
	zone    string
	flatten flatten
	zones   zones // ZONES

	serial  uint32
	aliased bool
	aliases map[string]*expansion // by owner
	cuts    zones                 // what is delegated
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
		if x == nil && s.flatten != flattenNone && owner == s.zone { // at other names secondaries may well have it
			s.add(owner, canonical(rr.Target), rr)
		}
	case *dns.PrivateRR:
		al := rdata.Of(rr)
		s.aliased = s.aliased || al != nil
		if al == nil || al.Target == "" || x != nil && x.wins {
			return
		}
		if x == nil || al.Compare(&rdata.ALIAS{Target: x.alias.target}) < 0 {
			s.add(owner, strings.ToLower(al.Target), rr)
		}
	}
}

func (s *reading) add(owner, target string, rr dns.RR) {
	s.aliases[owner] = &expansion{owner: owner, alias: s.zones.newAlias(owner, target, ttlOf(rr))}
}

// walk calls do with the records of zone.
func (p *primary) walk(ctx context.Context, zone string, do func(dns.RR)) error {
	records, err := p.transfer(zone)
	if err != nil {
		return err
	}
	for {
		select {
		case rrs, ok := <-records:
			if !ok {
				return nil
			}
			for _, rr := range rrs {
				do(rr)
			}
		case <-ctx.Done():
			go func() { // who sends them has to come to an end
				for range records {
				}
			}()
			return ctx.Err()
		}
	}
}

// closest returns the closest zone that encloses name, or "".
func (p *primary) closest(name string) string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if z := p.zones[name[off:]]; z != nil && !z.isGone() {
			return name[off:]
		}
	}
	return ""
}

// serial returns the serial number that leaves with the backend's soa.
func (p *primary) serial(soa *dns.SOA) uint32 {
	name := strings.ToLower(soa.Hdr.Name)
	z := p.zone(name)
	if z == nil || !z.wasSeen() { // secondaries may ask for a zone that has just appeared
		ctx, cancel := context.WithTimeout(p.ctx, p.a.upstreams.timeout)
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

// renumber returns a copy of rrs in which the SOA record has the serial number that leaves, or nil if there is none that
// has another.
func (p *primary) renumber(rrs []dns.RR) []dns.RR {
	for i, rr := range rrs {
		soa, ok := rr.(*dns.SOA)
		if !ok {
			continue
		}
		serial := p.serial(soa)
		if serial == soa.Serial {
			return nil
		}
		renumbered := slices.Clone(rrs)
		renumbered[i] = withSerial(soa, serial)
		return renumbered
	}
	return nil
}

// follow looks up what is due, and tells secondaries about what has changed.
func (p *primary) follow() {
	now := p.a.cache.now()
	for _, z := range p.all() {
		if z.turn() {
			p.notifier.notify(z.name)
		}
		if due := z.dueBy(now); len(due) > 0 {
			p.wg.Go(func() { p.resolve(z, due) })
		}
	}
}

// resolve looks up the addresses of expansions, unless they are fresh. It returns when all are.
func (p *primary) resolve(z *outgoing, expansions []*expansion) {
	var lookups errgroup.Group
	lookups.SetLimit(p.a.cache.spare)
	for _, x := range expansions {
		lookups.Go(func() error {
			p.resolveOne(z, x)
			return nil
		})
	}
	lookups.Wait()
}

func (p *primary) resolveOne(z *outgoing, x *expansion) {
	z.mu.Lock()
	first := !x.tried
	z.mu.Unlock()
	addrs, ttl, due, err := p.a.lookupFor(p.ctx, x, first)
	if p.ctx.Err() != nil {
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	x.busy, x.tried, x.err, x.due = false, true, err, due
	if err == nil {
		x.ttl = ttl
		z.set(x, addrs)
	}
}

// lookupFor returns the addresses of x and their TTL, even when they are stale, and when they are to be looked up again.
// first says that it is the first time since the zone was read.
func (a *Alias) lookupFor(ctx context.Context, x *expansion, first bool) (addrs []byte, ttl uint32, due time.Time, err error) {
	jitter := spreadOf(x.alias.target)
	due = a.cache.now().Add(minRefresh + jitter)
	d, err := a.locate(x.alias, x.qtype)
	switch {
	case err != nil:
		return nil, 0, due, err
	case d.own && first: // and what the zone says about it is from a moment before, maybe
		return d.addrs, a.cache.clamp(d.limit), a.cache.now().Add(ownFor), nil
	case d.own:
		return d.addrs, a.cache.clamp(d.limit), due, nil
	}
	e := a.cache.await(ctx, d.question, d.limit, x.alias.zone)
	now := a.cache.now()
	left := a.cache.left(e, d.limit, now)
	switch {
	case !a.cache.usable(e, left) && !e.failing(): // it was not looked up
		return nil, 0, due, networkFailure(canceled, nil)
	case !a.cache.usable(e, left):
		return nil, 0, e.retry, e.cause
	case d.links+e.links > maxLinks:
		return nil, 0, due, tooLong()
	case left <= 0:
		return e.addrs, a.staleTTL, due, nil
	}
	due = now.Add(left)
	if soonest := e.stored.Add(minRefresh); soonest.After(due) {
		due = soonest
	}
	return e.addrs, a.cache.of(e, d.limit), due.Add(jitter), nil
}

// spreadOf returns by how much later than it could a target is looked up again: all aliases of a target at the same time,
// for one change is to be one transfer.
func spreadOf(target string) time.Duration {
	h := fnv.New32a()
	io.WriteString(h, target)
	return time.Duration(h.Sum32()) % spread
}

// isGone reports whether the backend does not have z.
func (z *outgoing) isGone() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.gone
}

// isAsOf reports whether z has been read with the backend's serial number own.
func (z *outgoing) isAsOf(own uint32) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.scanned && z.asOf == own && z.own == own
}

// wasSeen reports whether z has been looked at, so that its serial number is known.
func (z *outgoing) wasSeen() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.seen
}

// asItIs reports whether z leaves as the backend has it.
func (z *outgoing) asItIs() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	return z.signed || z.ahead == 0 && !z.aliased
}

// current returns the expansions of z, and the serial number that goes with them.
func (z *outgoing) current() (uint32, []*expansion) {
	z.mu.Lock()
	defer z.mu.Unlock()
	own := z.own
	if z.scanned && serialBefore(z.asOf, own) { // it has changed since it was read
		own = z.asOf
	}
	return own + z.ahead, z.expansions
}

// serial returns the serial number that leaves for the backend's own. One that is before the last is taken for that of a
// response that was under way.
func (z *outgoing) serial(own uint32) uint32 {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.signed {
		return own
	}
	z.advance(own)
	return z.own + z.ahead
}

// advance takes note of the backend's serial number, unless it is before the last. The lock is held.
func (z *outgoing) advance(own uint32) {
	if !serialBefore(z.own, own) {
		return
	}
	if jump := own - z.own; jump > maxJump && z.ahead != 0 {
		z.ahead -= jump - maxJump
	}
	z.own = own
	z.news = true // transfer tells of it too, but to one secondary after the other
}

// upToDate takes note of the backend's serial number, and reports whether the zone has been read with it.
func (z *outgoing) upToDate(own uint32) bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.advance(own)
	if own != z.own { // it has gone back, and the one that leaves never does
		if z.ahead != 0 {
			z.ahead += z.own - own
			z.changed = true
		}
		z.own = own
	}
	return z.scanned && z.asOf == own
}

// replace sets the expansions, which are those of the zone as it was read.
func (z *outgoing) replace(xs []*expansion, s *reading, now time.Time) {
	z.mu.Lock()
	defer z.mu.Unlock()
	if z.signed, z.aliased, z.gone = s.signed, s.aliased, false; z.signed {
		xs = nil
	}
	last := make(map[question]*expansion, len(z.expansions))
	for _, x := range z.expansions {
		last[question{x.owner, x.qtype}] = x
	}
	same := len(xs) == len(last)
	for _, x := range xs {
		if l := last[question{x.owner, x.qtype}]; l != nil {
			x.addrs, x.known, x.ttl = l.addrs, l.known, l.ttl
		} else {
			same = false
		}
	}
	if !same && !z.scanned && z.ahead != 0 { // because of a reload, or the zone was gone: its own serial number may be the same
		z.changed = true
	}
	z.expansions, z.scanned, z.seen, z.asOf = xs, true, true, s.serial
	if len(xs) > 0 && z.ahead == 0 {
		z.ahead = max(clockOf(now), 1)
	}
}

// clear drops what is known of a zone that has gone.
func (z *outgoing) clear() {
	z.mu.Lock()
	defer z.mu.Unlock()
	z.expansions, z.scanned, z.seen, z.gone = nil, false, true, true
}

// set takes note of the addresses of x, which secondaries get from now on. The lock is held.
func (z *outgoing) set(x *expansion, addrs []byte) {
	if !x.known {
		z.news = true
	} else if !sameAddrs(x.addrs, addrs, addrLen(x.qtype)) {
		z.changed = true
	}
	x.addrs, x.known = addrs, true
}

// dueBy returns the expansions to be looked up at now, which are busy then.
func (z *outgoing) dueBy(now time.Time) []*expansion {
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

// turn makes the serial number grow when the addresses have changed, and reports whether secondaries are to be told. The
// first time they are when all aliases have been looked up.
func (z *outgoing) turn() bool {
	z.mu.Lock()
	defer z.mu.Unlock()
	if !z.announced {
		if z.ahead == 0 || slices.ContainsFunc(z.expansions, func(x *expansion) bool { return !x.tried }) {
			return false
		}
		z.announced = true
	}
	tell := (z.changed || z.news) && z.ahead != 0
	if z.changed {
		z.ahead++ // more slowly than the clock, so that the one after a restart is later
	}
	z.changed, z.news = false, false
	return tell
}

// clockOf returns the half seconds since the epoch. They stay in the half of the number space that counts as later for 34
// years; those of smaller units would be over sooner.
func clockOf(now time.Time) uint32 { return uint32(now.Sub(epoch) / serialUnit) } // #nosec G115 -- it wraps

const serialUnit = 500 * time.Millisecond

// awaitSerial waits for the next half second, once in the life of a process: one that is killed as soon as it has begun and
// started again is to have later serial numbers.
var awaitSerial = sync.OnceFunc(func() {
	time.Sleep(time.Until(epoch.Add(time.Duration(time.Since(epoch)/serialUnit+1) * serialUnit)))
})

// records returns the address records of x as they leave.
func (z *outgoing) records(x *expansion) []dns.RR {
	z.mu.Lock()
	addrs, ttl := x.addrs, x.ttl
	z.mu.Unlock()
	return addressRecords(question{x.owner, x.qtype}, ttl, addrs)
}
