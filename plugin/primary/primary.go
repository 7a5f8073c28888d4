// Package primary is the zones of a server block as secondaries get them: it expands aliases to addresses in outgoing
// zone transfers, keeps the addresses up to date, publishes serial numbers that grow with each change, and notifies
// secondaries.
//
// It must not know how an alias is looked up or what is cached: the functions in Config tell it.
package primary

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"sync"
	"time"

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
	// minInterval is the shortest time between two background lookups of an alias for the secondaries.
	minInterval = 30 * time.Second

	// spread is the time over which lookups are spread that are due in the same moment.
	spread = time.Second

	// maxZones is how many zones there may be: a backend may say of any name that it is a zone.
	maxZones = 1_000_000

	// pollInterval is how often the backends are asked for the serial numbers of their zones.
	pollInterval = 2 * time.Second
)

// Config is what a Primary is made of. Its functions are called by many goroutines.
type Config struct {
	Zones   records.Zones
	Records *records.Records
	// Backends are the plugins behind alias that can transfer zones.
	Backends []transfer.Transferer
	// List returns the zones that the backends may have, by name; nil for one that has to be asked for. The map belongs
	// to the caller. Those in Zones count.
	List        func() map[string]*file.Zone
	Secondaries []Secondaries
	// FlattenApex says that a CNAME record at the apex of a zone is an alias.
	FlattenApex bool
	// Omit says that an alias that fails is omitted in a transfer, and does not abort it.
	Omit bool
	// Before is the Primary of the server block that a reload replaces, or nil: the serial numbers go on.
	Before *Primary

	// SOA returns the SOA record that the backend has for the apex of zone, and nil when it has none. The error, a
	// *lookup.Failure, says why this is not known.
	SOA func(zone string) (*dns.SOA, error)
	// Lookup looks an alias up, unless what is cached is fresh.
	Lookup Lookup
	// Concurrent is how many lookups of one zone may be in flight.
	Concurrent int
	Timeout    time.Duration // how long a query for a SOA record waits for a zone that has just appeared
	Now        func() time.Time

	// Warn logs what stays wrong until somebody changes it, once, and Limited a message with logf, unless there are
	// too many.
	Warn    func(format string, v ...any)
	Limited func(logf func(string, ...any), format string, v ...any)
	// Transferred counts a transfer of zone, with the outcome success, failure or omitted; Notified a NOTIFY with the
	// outcome success or failure.
	Transferred, Notified func(zone, outcome string)
}

// Lookup returns what the server answers for al with addresses of qtype, even when that is stale. The error says why
// there is no answer.
type Lookup func(ctx context.Context, al *records.Alias, qtype uint16) (Addresses, error)

// Addresses is what a Lookup found.
type Addresses struct {
	Addrs []byte    // one after the other; shared
	TTL   uint32    // in seconds
	Own   bool      // they are in the zones of this server
	Next  time.Time // before that, another lookup finds the same
	// Stored is when the answer came. It is zero when Next is the end of a back-off.
	Stored time.Time
}

// Primary has the outgoing zones of a server block with the transfer plugin. It is safe for concurrent use.
type Primary struct {
	Config
	notifier *notifier

	mu     sync.RWMutex
	before *Primary
	zones  map[string]*zone

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// New returns a Primary that does nothing in the background before Start.
func New(cfg Config) *Primary {
	p := &Primary{Config: cfg, before: cfg.Before, zones: make(map[string]*zone)}
	p.Config.Before = nil // or each instance would hold all before it
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.notifier = newNotifier(cfg.Secondaries, cfg.Notified)
	return p
}

// Start starts to follow the aliases.
func (p *Primary) Start() {
	p.wg.Go(func() { p.every(pollInterval, p.poll) })
	p.wg.Go(func() { p.every(time.Second, p.Refresh) })
}

// Stop ends all that p does, and waits for it.
func (p *Primary) Stop() {
	p.cancel()
	p.wg.Wait()
	p.notifier.stop()
}

// every calls do, now and from time to time.
func (p *Primary) every(interval time.Duration, do func()) {
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

// poll looks for zones that appear, change or go. Most have not, which is seen without a query where it can be.
func (p *Primary) poll() {
	list := p.List()
	for name, fz := range list {
		if serial, ok := serialOf(fz); ok && p.zone(name) == nil && p.Zones.Match(name) != "" {
			p.add(name, serial) // before any is read: it matters which zone is the closest to a record
		}
	}
	for _, z := range p.all() {
		if _, ok := list[z.name]; !ok && !z.isGone() {
			list[z.name] = nil
		}
	}
	for name, fz := range list {
		if p.ctx.Err() != nil {
			return
		}
		if serial, ok := serialOf(fz); ok {
			if z := p.zone(name); z != nil && z.isReadAt(serial) {
				continue
			}
		}
		if _, err := p.visit(p.ctx, name); err != nil {
			p.Limited(log.Warningf, "Zone %s: %v", name, err)
		}
	}
	p.mu.Lock()
	p.before = nil
	p.mu.Unlock()
}

// serialOf returns the serial number of fz, which may be nil.
func serialOf(fz *file.Zone) (uint32, bool) {
	if fz == nil {
		return 0, false
	}
	serial := fz.SOASerialIfDefined()
	return uint32(serial), serial >= 0 // #nosec G115 -- of 32 bits
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

// visit asks whether the backend has the zone, and reads it when it has changed. It returns nil when the backend does not
// have it, and an error when that is not known, or not before ctx ends.
func (p *Primary) visit(ctx context.Context, name string) (*zone, error) {
	if p.Zones.Match(name) == "" {
		return nil, nil
	}
	soa, err := p.SOA(name)
	z := p.zone(name)
	switch {
	case err != nil && z != nil && lookup.AsFailure(err).Outcome == lookup.Timeout:
		return z, nil
	case err != nil:
		return nil, fmt.Errorf("no SOA record of %s from the backend", name)
	case soa == nil:
		if z != nil {
			z.clear() // but its serial number counts on, should it come back
		}
		return nil, nil
	case z == nil:
		z = p.add(name, soa.Serial)
	}
	if err := z.reading.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer z.reading.Release(1)
	if z.isUpToDate(soa.Serial) {
		return z, nil
	}
	err = p.read(ctx, z)
	if errors.Is(err, transfer.ErrNotAuthoritative) { // a zone that cannot be transferred
		z.clear()
		return nil, nil
	}
	return z, err
}

// add adds a zone of which no more is known than its serial number.
func (p *Primary) add(name string, serial uint32) *zone {
	p.mu.Lock()
	defer p.mu.Unlock()
	if z := p.zones[name]; z != nil {
		return z
	}
	z := newZone(name, serial)
	if len(p.zones) >= maxZones {
		return z
	}
	if p.before != nil {
		if before := p.before.zone(name); before != nil {
			z.succeed(before)
		}
	}
	p.zones[name] = z
	return z
}

// closest returns the closest zone that encloses name, or "".
func (p *Primary) closest(name string) string {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if z := p.zones[name[off:]]; z != nil && !z.isGone() {
			return name[off:]
		}
	}
	return ""
}

// Refresh starts to look up what is due, and notifies secondaries of what has changed. Start calls it once a second.
func (p *Primary) Refresh() {
	now := p.Now()
	for _, z := range p.all() {
		if z.publish() {
			p.notifier.notify(z.name)
		}
		if due := z.dueBy(now); len(due) > 0 {
			p.wg.Go(func() { p.resolve(z, due) })
		}
	}
}

// resolve looks up the addresses of expansions, unless they are fresh. It returns when all are.
func (p *Primary) resolve(z *zone, expansions []*expansion) {
	var lookups errgroup.Group
	lookups.SetLimit(p.Concurrent)
	for _, x := range expansions {
		lookups.Go(func() error {
			p.resolveOne(z, x)
			return nil
		})
	}
	lookups.Wait()
}

func (p *Primary) resolveOne(z *zone, x *expansion) {
	found, err := p.Lookup(p.ctx, x.alias, x.qtype)
	if p.ctx.Err() != nil {
		return
	}
	z.mu.Lock()
	defer z.mu.Unlock()
	x.due = dueAfter(found, x)
	x.busy, x.tried, x.err = false, true, err
	if err == nil {
		x.ttl = found.TTL
		z.set(x, found.Addrs)
	}
}

// dueAfter returns when x is to be looked up again. The lock of the zone is held.
func dueAfter(found Addresses, x *expansion) time.Time {
	switch {
	case found.Stored.IsZero():
		return found.Next
	case found.Own && !x.tried: // what the backend answered may be from a moment before the zone was read
		return found.Next
	}
	due := found.Stored.Add(minInterval)
	if found.Next.After(due) {
		due = found.Next
	}
	return due.Add(spreadOf(x.alias.Target))
}

// spreadOf returns by how much later than it could a target is looked up again: all aliases of a target at the same time,
// for one change is to be one transfer.
func spreadOf(target string) time.Duration {
	h := fnv.New32a()
	io.WriteString(h, target)
	return time.Duration(h.Sum32()) % spread
}
