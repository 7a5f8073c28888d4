package alias

import (
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/limit"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/plugin/store"
	"github.com/coredns/alias/plugin/upstream"

	"github.com/miekg/dns"
)

// entries has the cache entries of all server blocks, and their files.
var entries = answers.NewRegistry(newFile, newFleet, time.Now)

// resolvers has the upstreams of all server blocks, and resolverWarnings what was logged about them.
var (
	resolvers        upstream.Registry
	resolverWarnings = onceLog{max: maxWarnings}

	// denialsOfAddresses has what was logged about addresses that are left out of answers. Server blocks share the lookups.
	denialsOfAddresses = onceLog{max: maxWarnings}
)

// beat begins the background work of all primaries.
var beat primary.Beat

// newFile returns the file that keeps a copy of es.
func newFile(s answers.Source, es *answers.Entries) answers.File {
	return store.New(s.Path, s.Upstreams, es, func(err error) { persistWrites.WithLabelValues(outcomeOf(err)).Inc() })
}

// newFleet returns the part of es in the store that several servers share.
func newFleet(s answers.Source, es *answers.Entries) answers.Fleet {
	location, err := store.ParseLocation(strings.Fields(s.Fleet))
	if err != nil {
		panic(err) // it was parsed before
	}
	return store.NewShared(location, s.Upstreams, es, func(operation string, err error) {
		shareOperations.WithLabelValues(operation, outcomeOf(err)).Inc()
	})
}

// lifecycle is where an Alias is between its start and its end.
type lifecycle struct {
	instance any // of the server, that the plugin is started with
	started  time.Time
	begun    atomic.Bool    // the servers listen, and the lookups at start-up have begun
	primed   atomic.Bool    // every record was looked up, or has failed one full round
	priming  sync.WaitGroup // the lookups at start-up
	stopping sync.Once
}

// running has the instances between their start and their end. A reload that fails late leaves instances behind that
// nobody ends, and that may even serve when another server found its port taken: they are here as long as something
// else holds them.
var running = new(instances)

type instances struct {
	mu  sync.Mutex
	set map[string][]weak.Pointer[Alias] // by the first of their zones: there may be thousands of server blocks
}

// firstOf returns the zone of zs that sorts first, or "".
func firstOf(zs records.Zones) string {
	if len(zs) == 0 {
		return ""
	}
	return slices.Min(slices.Collect(maps.Keys(zs)))
}

func (is *instances) add(a *Alias) {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.set == nil {
		is.set = make(map[string][]weak.Pointer[Alias])
	}
	first := firstOf(a.zones)
	is.set[first] = append(is.set[first], weak.Make(a))
}

func (is *instances) remove(a *Alias) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.with(firstOf(a.zones), func(other *Alias) bool { return other != a })
}

// with calls keep for the instances with that first zone, and removes those for which it returns false. The lock is held.
func (is *instances) with(first string, keep func(*Alias) bool) {
	kept := slices.DeleteFunc(is.set[first], func(p weak.Pointer[Alias]) bool {
		a := p.Value()
		return a == nil || !keep(a)
	})
	if len(kept) == 0 {
		delete(is.set, first)
		return
	}
	is.set[first] = kept
}

// each calls do for the instances running now. The lock is held.
func (is *instances) each(do func(*Alias)) {
	for first := range is.set {
		is.with(first, func(a *Alias) bool {
			do(a)
			return true
		})
	}
}

// all returns the instances running now.
func (is *instances) all() []*Alias {
	is.mu.Lock()
	defer is.mu.Unlock()
	var as []*Alias
	is.each(func(a *Alias) { as = append(as, a) })
	return as
}

// primaryFor returns the primary of the one instance that has these zones and transfers them, or nil when there is none
// or more.
func (is *instances) primaryFor(zs records.Zones) *primary.Primary {
	is.mu.Lock()
	defer is.mu.Unlock()
	var found []*primary.Primary
	is.with(firstOf(zs), func(a *Alias) bool {
		if a.primary != nil && maps.Equal(a.zones, zs) {
			found = append(found, a.primary)
		}
		return true
	})
	if len(found) != 1 {
		return nil
	}
	return found[0]
}

// start makes a part of what is running. Its records are looked up only when the servers listen, because the upstream
// may be one of them.
func (a *Alias) start() {
	a.upstreams.Start()
	a.cache.entries = a.share.Join(a.instance)
	a.cache.lookups = sharedLookups.share(a.cache.key, a.cache.lookups)
	a.started = time.Now()
	running.add(a)
}

// stop ends all that a does and waits for it, for no longer than twice the timeout and what the file takes, which is seconds at
// most. It may be called again.
func (a *Alias) stop() { a.end(false) }

// end is stop; final says that the process ends.
func (a *Alias) end(final bool) {
	a.stopping.Do(func() {
		running.remove(a)
		a.cache.stop()
		if a.primary != nil {
			a.primary.Stop()
		}
		a.priming.Wait()
		a.share.Leave(final)
		a.upstreams.Stop()
	})
}

// prime starts to look up the records of the plugins of a started instance of the server, and not of one that is left
// behind, which have not begun with it. It holds the lock, so that none of them is stopped meanwhile, which would wait for
// lookups that are only just beginning.
func (is *instances) prime(instance any) {
	is.mu.Lock()
	defer is.mu.Unlock()
	is.each(func(a *Alias) {
		if a.instance == instance && a.begun.CompareAndSwap(false, true) {
			a.share.Serve()
			a.priming.Go(a.prime)
			if a.primary != nil {
				a.primary.Start()
			}
		}
	})
}

// prime looks up all types of every record, in the background and as many as the cache holds, and those first that
// have no cached answer.
func (a *Alias) prime() {
	a.cache.entries.Await(a.cache.ctx)
	a.primeAll(func(e *answers.Entry) bool { return !e.Answered })
	a.primed.Store(true)
	a.primeAll(func(*answers.Entry) bool { return true })
}

// primeAll looks up the targets of records whose entries have the property, those of each zone in turn. There are more
// calls at a time than there is room for lookups, so that those of a few zones do not take all.
func (a *Alias) primeAll(property func(*answers.Entry) bool) {
	each := a.cache.perZone
	limit.InTurn(a.records.ByZone(), each, 8*each, func(first *records.Alias) {
		var lookups sync.WaitGroup
		for al := range first.All() {
			for _, qtype := range a.lookedUp() {
				lookups.Go(func() { a.primeAlias(al, qtype, property) })
			}
		}
		lookups.Wait()
	})
}

func (a *Alias) primeAlias(al *records.Alias, qtype uint16, property func(*answers.Entry) bool) {
	if a.cache.entries.Full() || a.cache.ctx.Err() != nil {
		return
	}
	if !al.Inside {
		if q := (lookup.Question{Name: al.Target, Type: qtype}); property(a.cache.entries.Load(q)) {
			a.cache.await(a.cache.ctx, q, al.TTL, al.Zone, al.Zone.Apex)
		}
		return
	}
	x := newExpanding(a, "", qtype)
	if t := x.expandTarget(al); t.err != nil && len(x.missing) == 0 { // and so it will be until the Corefile or the zone changes
		a.warnings.warnOnce("Alias to %s %s fails: %v", al.Target, dns.TypeToString[qtype], t.err)
	}
	for q := range x.missing {
		if !property(a.cache.entries.Load(q)) {
			delete(x.missing, q)
		}
	}
	x.await(a.cache.ctx, al.Zone.Apex)
}
