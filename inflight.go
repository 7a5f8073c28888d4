package alias

import (
	"cmp"
	"context"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/limit"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
	"golang.org/x/net/publicsuffix"
	"golang.org/x/time/rate"
)

// When many answers expire at once, so many background lookups begin in one go, and per second, so that they do not
// get in the way of clients: on one core they take two thirds of it at most.
const (
	paceBurst     = 20
	pacePerSecond = 10_000

	// networkLookups is how many lookups of one target and type may be in flight for networks of clients.
	networkLookups = 50
)

// resolveFunc looks a question up, in at most so many attempts.
type resolveFunc func(ctx context.Context, q lookup.Question, attempts int) (lookup.Outcome, error)

// lookups are the lookups in flight: one for each question, and a bounded number in all.
type lookups struct {
	room    *limit.Limiter
	perZone int           // background lookups of one zone
	pace    *rate.Limiter // of background lookups

	mu       sync.Mutex
	inFlight map[lookup.Question]*inFlight
	networks map[lookup.Question]int // lookups for networks that are in flight, by the question without its network

	turns    turns       // of the other servers of a fleet
	succeeds atomic.Bool // the lookup that ended last had an answer
}

// newLookups returns lookups with room for so many at a time, and for so many of one zone.
func newLookups(most, perZone int) *lookups {
	room := limit.New(most, perZone)
	return &lookups{
		room: room, perZone: room.PerZone(), pace: rate.NewLimiter(pacePerSecond, paceBurst), inFlight: make(map[lookup.Question]*inFlight),
		networks: make(map[lookup.Question]int),
	}
}

// sharedLookups has the lookups of server blocks, by what has to be the same for those that share them.
var sharedLookups lookupsByKey

type lookupsByKey struct {
	mu  sync.Mutex
	all map[string]weak.Pointer[lookups]
}

// share returns the lookups with that key that are in use, or own.
func (s *lookupsByKey) share(key string, own *lookups) *lookups {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared := s.all[key].Value(); shared != nil {
		return shared
	}
	if s.all == nil {
		s.all = make(map[string]weak.Pointer[lookups])
	}
	s.all[key] = weak.Make(own)
	runtime.AddCleanup(own, s.forget, key)
	return own
}

// forget drops the lookups with that key when they are no longer in use.
func (s *lookupsByKey) forget(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all[key].Value() == nil {
		delete(s.all, key)
	}
}

// inFlight is a lookup. Everybody who wants its answer waits for the same one.
type inFlight struct {
	lookup.Question                // that of the entry
	net             lookup.Network // that is asked about: it is in the network of the question
	scope           lookup.Network // that the answer is for, when it is finished; it has net

	zone     *records.Zone
	attempts int
	room     limit.Lookup // what it needs room for

	began   time.Time      // by the system's clock
	done    chan struct{}  // closed when there is an answer, or it is finished without one
	entry   *answers.Entry // before and then after it
	adopted bool           // the entry is what the fleet had, and the lookup goes on
}

// stop ends the lookups in flight that c runs, and waits for them.
func (c *cache) stop() {
	c.mu.Lock()
	c.cancel()
	c.mu.Unlock()
	c.wg.Wait()
}

// join returns the lookup in flight of the question of l, or l, and reports that l is the first: then the caller must run
// it. The entry of l is that which the caller has seen. It returns nil when too many lookups are in flight, or the
// cache is stopped. With admitted, l has room already, which join gives back when l is not to be run.
func (c *cache) join(l inFlight, admitted bool) (other *inFlight, first bool) {
	defer func() {
		if admitted && !first {
			c.room.Leave(l.room)
		}
	}()
	c.mu.Lock()
	defer c.mu.Unlock()
	if other, ok := c.inFlight[l.Question]; ok {
		return other, false
	}
	if newer := c.entries.Load(l.Question); newer != l.entry && newer != answers.None {
		if newer.Failing() || c.left(newer, lookup.NoLimit, c.now()) > 0 { // a lookup finished since the caller looked
			return finished(newer, l.Question.Net), false
		}
		l.entry = newer // it has come out of the file
	}
	l.room.Domain = domainOf(l.Question.Name)
	if c.ctx.Err() != nil || !c.networkAdmits(&l) || !admitted && !c.room.Try(l.room) {
		return nil, false
	}
	c.countNetwork(&l, 1)
	l.began, l.done = time.Now(), make(chan struct{})
	c.inFlight[l.Question] = &l
	c.wg.Add(1)
	return &l, true
}

// domainOf returns the domain that a target is in: what somebody can register, a label below a public suffix such as co.uk.
// Whose name servers answer for the target is known to the upstreams alone. No domain that is registered has an escaped
// octet, so only the labels after the last of these count.
func domainOf(target string) string {
	name := target
	if escape := strings.LastIndexByte(target, '\\'); escape >= 0 {
		next, _ := dns.NextLabel(target, escape)
		name = target[next:]
	}
	if domain, err := publicsuffix.EffectiveTLDPlusOne(strings.TrimSuffix(name, ".")); err == nil {
		return domain
	}
	return cmp.Or(name, ".") // a public suffix
}

// networkAdmits reports whether there is room for l among the lookups for networks. The lock is held.
func (ls *lookups) networkAdmits(l *inFlight) bool {
	return l.net.IsEverybody() || ls.networks[l.For(lookup.Network{})] < networkLookups
}

// countNetwork counts n more lookups like l. The lock is held.
func (ls *lookups) countNetwork(l *inFlight, n int) {
	if l.net.IsEverybody() {
		return
	}
	q := l.For(lookup.Network{})
	if ls.networks[q] += n; ls.networks[q] == 0 {
		delete(ls.networks, q)
	}
}

// finished returns a lookup that is finished, with its entry, which is for the network net.
func finished(e *answers.Entry, net lookup.Network) *inFlight {
	l := &inFlight{done: make(chan struct{}), entry: e, scope: net}
	close(l.done)
	return l
}

// run makes the lookup l, which the caller was the first to join.
func (c *cache) run(l *inFlight) {
	defer c.wg.Done()
	result := *l // those who wait for l may have an answer of the fleet by the time there is one
	defer func() { c.finish(l, &result) }()
	defer c.room.Leave(l.room)
	if !l.isClient() {
		c.pace.Wait(c.ctx) // a client who joins meanwhile waits too, for as long as perZone lookups take
	} else if c.entries.IsShared() {
		before := l.entry
		c.wg.Go(func() { c.fetch(l, before) })
	}
	o, err := c.safely(l.For(l.net), l.attempts)
	c.succeeds.Store(err == nil)
	c.settle(&result, o, err)
	if !l.isClient() {
		refreshesCount.WithLabelValues(outcomeOf(err)).Inc()
	}
}

// running returns the lookup of q that is in flight, or nil.
func (ls *lookups) running(q lookup.Question) *inFlight {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	return ls.inFlight[q]
}

// age returns how long a lookup of q has been in flight: 0 if there is none.
func (c *cache) age(q lookup.Question) time.Duration {
	kept, _ := c.find(q)
	if l := c.running(kept); l != nil {
		return time.Since(l.began)
	}
	return 0
}

// finish ends l, which had that result.
func (ls *lookups) finish(l, result *inFlight) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	delete(ls.inFlight, l.Question)
	ls.countNetwork(l, -1)
	if !l.adopted {
		l.entry, l.scope = result.entry, result.scope
		close(l.done)
	}
}

// adopt gives those who wait for l the entry e, that another server had. The lookup goes on.
func (ls *lookups) adopt(l *inFlight, e *answers.Entry) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	if ls.inFlight[l.Question] == l && !l.adopted {
		l.entry, l.scope, l.adopted = e, l.Question.Net, true
		close(l.done)
	}
}

// safely resolves q; a panic is a failure like any other.
func (c *cache) safely(q lookup.Question, attempts int) (o lookup.Outcome, err error) {
	defer func() {
		if r := recover(); r != nil {
			log.Errorf("Recovered from panic in the lookup of %s: %v", q, r)
			err = lookup.Unusable("error", fmt.Errorf("panic: %v", r))
		}
	}()
	return c.resolve(c.ctx, q, attempts)
}

// isCanceled reports whether l, which is finished, ended because the server block that ran it was stopped. Then another that
// shares the lookups looks up for itself.
func (l *inFlight) isCanceled() bool {
	return l.entry.Failing() && l.entry.Cause.Outcome == lookup.Canceled
}

// isFor reports whether the answer of l, which is finished, is for the clients of net.
func (l *inFlight) isFor(net lookup.Network) bool {
	return net.IsEverybody() || l.scope == net || l.scope.Holds(net) && !l.entry.Exact
}

// doneWithin waits for l until patience has passed since it began, and reports whether it is finished.
func (l *inFlight) doneWithin(patience time.Duration) bool {
	timer := time.NewTimer(patience - time.Since(l.began))
	defer timer.Stop()
	select {
	case <-l.done:
	case <-timer.C:
	}
	select { // both may have been the case
	case <-l.done:
		return true
	default:
		return false
	}
}

// outcomeOf returns what the metrics call the end of what returned err.
func outcomeOf(err error) string {
	if err != nil {
		return "failure"
	}
	return "success"
}
