// Package primary makes the server a primary for zones with aliases, which other servers do not know: it expands
// aliases to addresses in outgoing zone transfers, keeps these addresses up to date, publishes a serial that grows with
// each change of them, and notifies the secondaries.
//
// A server block has one Primary: New makes it, Start begins its background work, Stop ends it. Transfer is for the
// transfer plugin; Serial and Writer put the published serial into the SOA records of responses.
//
// The package must not know how an alias is looked up, what is cached, or how the backend is queried (the backend: the
// next plugins in the server block, which hold the zones' other data). The functions in Config do that.
package primary

import (
	"context"
	"hash/fnv"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/limit"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/plugin/file"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

var log = clog.NewWithPlugin("alias")

const (
	// minInterval is the shortest time between two background lookups of an alias that did not fail.
	minInterval = 30 * time.Second

	// spread is the time over which background lookups are spread that are due in the same moment.
	spread = time.Second

	// jobZones is how many zones' lookups the background work has begun at a time, if these have as many as they may. They may
	// wait in the Lookup, so that zones whose lookups take long do not hold up the others.
	jobZones = 2

	// Refresh looks at refreshShare zones, and then pauses: as long as a goroutine can run on each core, the runtime looks
	// for clients' queries once in 10 ms only.
	refreshShare = 64
	refreshPause = time.Millisecond

	// maxZones is how many zones there may be: a backend may answer any name with the SOA record of a zone.
	maxZones = 1_000_000

	// pollInterval is the shortest time between two checks of the zones' own serials, and pollShare how often it is at least
	// the time that a check takes: with very many zones, the checks take a hundredth of a core.
	pollInterval = 2 * time.Second
	pollShare    = 100
)

// Config is what a Primary is made of. Zone names in it, and in the calls of its functions, are lower case and fully
// qualified. All functions are required; many goroutines call them at the same time. What they return must not be
// changed afterwards, unless it says otherwise.
type Config struct {
	Zones   records.Zones    // that the plugin applies to; zones of the backend that are not in them are left alone
	Types   []uint16         // that aliases are expanded to: A, AAAA, and perhaps HTTPS
	Records *records.Records // of the Corefile, sealed; in transfers they win over the zone's own addresses
	// Backends are the plugins of the backend that can transfer zones. The first that has a zone counts.
	Backends []transfer.Transferer
	// List returns the zones that the backends may have, by name. Where the *file.Zone is known, its serial is read
	// without a query; for one that is nil, SOA is called. The map belongs to the caller of List.
	List        func() map[string]*file.Zone
	Secondaries []Secondaries // that are notified
	// Allowed returns those of targets that the alias of owner may have. It may be nil, which allows all.
	Allowed func(owner string, targets []string) []string
	// FlattenApex says that a CNAME record at the apex of a zone is an alias. Other CNAME records are transferred.
	FlattenApex bool
	// Omit says that an alias is omitted in a transfer when its lookup fails and no answer is cached. If not set, it
	// aborts the transfer, and the secondary keeps the zone that it has.
	Omit bool
	// Beat begins the background work. Any number of Primaries may share one; nil is one of its own.
	Beat *Beat
	// Fleet has the server publish the same serials as others. It may be nil: then it publishes its own.
	Fleet *Fleet
	// Options stands for what decides what aliases are expanded to, beside their targets. It is of use with a Fleet alone.
	Options string
	// Before is the Primary of the server block that a reload replaces, or nil. The published serials go on where it
	// has them, so that secondaries notice nothing unless something has changed.
	Before *Primary

	// SOA returns the SOA record that the backend has at the apex of zone, and nil when zone is no zone of the
	// backend. The error, a *lookup.Failure, says why this is not known. With lookup.Timeout, the last known state of
	// the zone counts.
	SOA    func(zone string) (*dns.SOA, error)
	Lookup Lookup
	// Concurrent is how many lookups for one zone may be in flight, at least 1.
	Concurrent int
	// Timeout is how long Serial waits for a zone that it has not seen yet to be read.
	Timeout time.Duration
	Now     func() time.Time // the clock, which may be set

	// Warn logs, once, what stays wrong until the operator changes it. Limited logs a message with logf, unless there
	// are too many.
	Warn    func(format string, v ...any)
	Limited func(logf func(string, ...any), format string, v ...any)
	// Transferred counts a transfer of zone, with the outcome success, failure or omitted. Notified counts a NOTIFY
	// for zone to one secondary, with the outcome success or failure.
	Transferred, Notified func(zone, outcome string)
}

// Lookup returns what the server answers for al, the alias of owner, in zone, with records of qtype, one of Types: a fresh
// answer from the cache, or what a lookup finds, or else a stale answer. The error says why there is none of these. It
// returns soon after ctx ends, then with what is cached. It does not keep the lookups of one zone waiting for those of
// another.
type Lookup func(ctx context.Context, zone, owner string, al *records.Alias, qtype uint16) (Found, error)

// Found is what a Lookup found. When there is an error, only Next, Stored and Unfinished count.
type Found struct {
	Data []byte    // the RDATA of the records, as package lookup has it; none: the target has none. Shared, not to be changed
	TTL  uint32    // in seconds
	Own  bool      // they are the server's own, such as those of a target in Zones
	Next time.Time // before that, another Lookup finds the same
	// Stored is when the answer came, or the attempt was made. It is zero when Next is the end of a back-off.
	Stored time.Time
	// Unfinished says that the Lookup ended before the lookup did. The data, or the error, were known before. The
	// error has the outcome lookup.Canceled when nothing was.
	Unfinished bool
	// Stale says that the data are from before Stored, and were kept because the lookup failed.
	Stale bool
}

// Primary has the zones of a server block that are transferred to secondaries. It is safe for concurrent use.
type Primary struct {
	Config
	notifier *notifier

	agenda *agenda
	job    [2]*limit.Turns[dueLookup] // lookups of the background work: of targets that do not fail, and of those that do

	since time.Time // when it was made

	mu      sync.RWMutex
	before  *Primary
	zones   map[string]*zone
	shared  []*zone // that have to be looked at with the Fleet
	sharing int     // how many goroutines do

	beating  sync.Mutex // held while background work begins
	nextPoll time.Time  // of no use while polling
	polling  atomic.Bool

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a Primary. It does nothing in the background before Start, but it transfers zones already.
func New(cfg Config) *Primary {
	p := &Primary{Config: cfg, before: cfg.Before, zones: make(map[string]*zone), agenda: newAgenda(cfg.Now()), since: cfg.Now()}
	p.Config.Before = nil // or each instance would hold all before it
	p.ctx, p.cancel = context.WithCancel(context.Background())
	if p.Beat == nil {
		p.Beat = new(Beat)
	}
	p.notifier = newNotifier(&p.Config)
	for i := range p.job {
		p.job[i] = limit.NewTurns(cfg.Concurrent, jobZones*cfg.Concurrent, func(d *dueLookup) {
			p.resolveOne(p.ctx, d.zone, d.expansion, func(x *expansion) { x.busy = false })
		})
	}
	return p
}

// Start begins the background work: it reads the zones, and again when they change, looks the aliases up when their
// answers expire, at most every 30 s, and notifies the secondaries of changes. To be called once.
func (p *Primary) Start() {
	if p.Fleet != nil {
		p.Fleet.join(p)
	}
	p.Beat.add(p)
	p.beat()
}

// Stop ends the background work and waits for it: for lookups that have begun, no longer than their context lets them. A
// transfer that has not begun to send records fails. Stop may be called more than once, and without Start.
func (p *Primary) Stop() {
	p.Beat.remove(p)
	p.cancel()
	p.beating.Lock() // what beats now begins no more after this
	defer p.beating.Unlock()
	p.wg.Wait()
	for _, turns := range p.job {
		turns.Wait()
	}
	if p.Fleet != nil {
		p.Fleet.leave(p)
	}
	p.notifier.stop()
}

// all returns the zones.
func (p *Primary) all() []*zone {
	p.mu.RLock()
	defer p.mu.RUnlock()
	zs := make([]*zone, 0, len(p.zones))
	for _, z := range p.zones {
		zs = append(zs, z)
	}
	return zs
}

// zone returns the zone with this name, or nil.
func (p *Primary) zone(name string) *zone {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.zones[name]
}

// add adds a zone of which no more is known than its own serial.
func (p *Primary) add(name string, serial uint32) *zone {
	p.mu.Lock()
	defer p.mu.Unlock()
	if z := p.zones[name]; z != nil {
		return z
	}
	z := newZone(name, serial, p.agenda)
	if len(p.zones) >= maxZones {
		return z
	}
	if p.before != nil {
		if before := p.before.zone(name); before != nil {
			z.succeed(before, p.before.notifier.waits(name))
		}
	}
	p.zones[name] = z
	return z
}

// isClosest reports whether z, which the backend has, is the closest of its zones that encloses name.
func (p *Primary) isClosest(z *zone, name string) bool {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if name[off:] == z.name {
			return true
		}
		if other := p.zones[name[off:]]; other != nil && !other.isGone() {
			return false
		}
	}
	return z.name == "."
}

// Refresh publishes the changes since the last call, as one change for each zone, and notifies the secondaries of them.
// Then it starts the lookups that are due, and does not wait for them. Start has it called once a second, so that a
// published serial does not grow faster than the clock.
func (p *Primary) Refresh() {
	now := p.Now()
	for i, z := range p.agenda.take(now) {
		if i%refreshShare == refreshShare-1 {
			time.Sleep(refreshPause)
		}
		if p.Fleet != nil {
			p.share(z)
		} else if z.publish() {
			p.notifier.notify(z.name)
		}
		for i, due := range z.dueBy(now) {
			p.job[i].Add(z.name, due)
		}
	}
}

// resolve looks up the addresses of expansions, unless those in the cache are fresh. It returns when all lookups have
// finished, or soon after ctx ends. After each lookup it calls then, with the lock of the zone.
func (p *Primary) resolve(ctx context.Context, z *zone, expansions []*expansion, then func(*expansion)) {
	var lookups errgroup.Group
	lookups.SetLimit(p.Concurrent)
	for _, x := range expansions {
		lookups.Go(func() error {
			p.resolveOne(ctx, z, x, then)
			return nil
		})
	}
	lookups.Wait()
}

func (p *Primary) resolveOne(ctx context.Context, z *zone, x *expansion, then func(*expansion)) {
	if p.ctx.Err() != nil {
		return
	}
	found, err := p.Lookup(ctx, z.name, x.owner, x.alias, x.qtype)
	if p.ctx.Err() != nil {
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	defer z.wake()
	defer then(x)
	if !found.Unfinished {
		x.due, x.tried = dueAfter(found, x), true
	} else if isCanceled(err) || err == nil && x.known && x.err == nil { // secondaries have addresses that are as good
		return
	}
	x.err = err
	z.found = nil
	if err == nil {
		switch {
		case !found.Stale:
			x.stored = millis(found.Stored)
		case !x.known || !lookup.Same(x.addrs, found.Data, x.qtype):
			x.stored = 0
		}
		x.ttl = found.TTL
		z.set(x, found.Data)
	}
}

func isCanceled(err error) bool {
	return err != nil && lookup.AsFailure(err).Outcome == lookup.Canceled
}

// dueAfter returns when x is to be looked up again. The lock of the zone is held.
func dueAfter(found Found, x *expansion) time.Time {
	switch {
	case found.Stored.IsZero():
		return found.Next
	case found.Own && !x.tried: // the backend answer may be cached since before the zone was read
		return found.Next
	}
	due := found.Stored.Add(minInterval)
	if found.Next.After(due) {
		due = found.Next
	}
	return due.Add(spreadOf(x.alias.Target))
}

// spreadOf returns the delay of background lookups of a target. It is the same for all aliases of a target, so that one
// change of its addresses is one change of the zone.
func spreadOf(target string) time.Duration {
	h := fnv.New32a()
	io.WriteString(h, target)
	return time.Duration(h.Sum32()) % spread
}
