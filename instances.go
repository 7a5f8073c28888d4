package alias

import (
	"maps"
	"sync"
	"time"
	"weak"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// running has the instances between their start and their end. A reload that fails late leaves instances behind that
// nobody ends, and that may even serve when another server found its port taken: they are here as long as something
// else holds them.
var running = new(instances)

type instances struct {
	mu  sync.Mutex
	set map[weak.Pointer[Alias]]struct{}
}

func (is *instances) add(a *Alias) {
	is.mu.Lock()
	defer is.mu.Unlock()
	if is.set == nil {
		is.set = make(map[weak.Pointer[Alias]]struct{})
	}
	is.set[weak.Make(a)] = struct{}{}
}

func (is *instances) remove(a *Alias) {
	is.mu.Lock()
	defer is.mu.Unlock()
	delete(is.set, weak.Make(a))
}

// all returns the instances running now.
func (is *instances) all() []*Alias {
	is.mu.Lock()
	defer is.mu.Unlock()
	as := make([]*Alias, 0, len(is.set))
	for p := range is.set {
		if a := p.Value(); a != nil {
			as = append(as, a)
		} else {
			delete(is.set, p)
		}
	}
	return as
}

// primaryFor returns the one instance that has these zones and lets them leave, or nil when there is none or more.
func (is *instances) primaryFor(zs zones) *primary {
	var found *primary
	for _, a := range is.all() {
		if a.primary != nil && maps.Equal(a.zones, zs) {
			if found != nil {
				return nil
			}
			found = a.primary
		}
	}
	return found
}

// entries returns how many answers and failures are remembered.
func (is *instances) entries() float64 {
	memories := make(map[*memory]struct{})
	for _, a := range is.all() {
		memories[a.cache.memory] = struct{}{}
	}
	n := 0
	for m := range memories {
		n += m.len()
	}
	return float64(n)
}

// start makes a part of what is running. Its records are resolved only when the servers listen, for the upstream
// may be one of them.
func (a *Alias) start() {
	for _, up := range a.upstreams.list {
		up.start()
	}
	a.cache.memory = memories.join(a)
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
			a.primary.stop()
		}
		a.priming.Wait()
		memories.leave(a.share, final)
		for _, up := range a.upstreams.list {
			up.stop()
		}
	})
}

// prime starts to resolve the records of the plugins of a started instance of the server, and not of one that is left
// behind, which have not begun with it. It holds the lock, so that none of them is stopped meanwhile, which would wait for
// lookups that are only just beginning.
func (is *instances) prime(instance any) {
	is.mu.Lock()
	defer is.mu.Unlock()
	for p := range is.set {
		if a := p.Value(); a != nil && a.instance == instance && a.begun.CompareAndSwap(false, true) {
			a.priming.Go(a.prime)
			if a.primary != nil {
				a.primary.start()
			}
		}
	}
}

// prime resolves both families of every record, in the background and as many as the memory holds, and those first that
// nothing is remembered of.
func (a *Alias) prime() {
	a.primeAll(func(e *entry) bool { return !e.answered })
	a.primed.Store(true)
	a.primeAll(func(*entry) bool { return true })
}

// primeAll resolves the targets of records that have the property.
func (a *Alias) primeAll(property func(*entry) bool) {
	var lookups errgroup.Group
	lookups.SetLimit(a.cache.spare)
	for i := range a.records.aliases {
		al := &a.records.aliases[i]
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			lookups.Go(func() error {
				a.primeAlias(al, qtype, property)
				return nil
			})
		}
	}
	lookups.Wait()
}

func (a *Alias) primeAlias(al *alias, qtype uint16, property func(*entry) bool) {
	if a.cache.memory.full() || a.cache.ctx.Err() != nil {
		return
	}
	d, err := a.locate(al, qtype)
	switch {
	case err != nil: // and so it will be until the Corefile or the zone changes
		a.tellOnce("Alias to %s %s fails: %v", al.target, dns.TypeToString[qtype], err)
	case !d.own && property(a.cache.memory.load(d.question)):
		a.cache.await(a.cache.ctx, d.question, d.limit, al.zone)
	}
}
