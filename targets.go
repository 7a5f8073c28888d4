package alias

import (
	"slices"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// maxNested is how many other owners of several targets an alias may lead to inside ZONES: a query looks at all of their targets.
const maxNested = 16

// resolveTargets sets ans to the answer to q from al, the alias of owner, which has several targets: to what all of them
// have, or with failover to what the first has that has anything. All lookups that are needed are in flight at the same
// time. It waits for them as long as they can change the answer, but no longer than an attempt takes when a target has
// records.
func (a *Alias) resolveTargets(ans *answer, q lookup.Question, owner string, al *records.Alias) {
	if q.Type == dns.TypeHTTPS && al.Failover != nil {
		a.resolveServing(ans, q, al)
		return
	}
	g := &gathering{owner: owner}
	a.gather(ans, q, al, g)
	if ans.status == pending {
		a.await(ans, q, al, g)
	}
	a.lookUpLater(g)
}

// lookUpLater begins those lookups of g in the background that have not begun: this answer does not need them, but others will.
func (a *Alias) lookUpLater(g *gathering) {
	for _, f := range g.pending {
		if g.begin(f.question) {
			kept, e := a.cache.find(f.question)
			a.cache.prefetch(kept, f.question.Net, f.zone, e)
		}
	}
}

// await is resolveTargets for an ans that is pending. The lookups that it no longer waits for go on.
func (a *Alias) await(ans *answer, q lookup.Question, al *records.Alias, g *gathering) {
	results, done := make(chan found), make(chan struct{})
	defer close(done)
	patience := time.NewTimer(a.cache.timeout - g.age())
	defer patience.Stop()
	for ans.status == pending {
		for _, f := range g.pending {
			if !g.begin(f.question) {
				continue
			}
			go func() {
				f.entry, _, f.status = a.cache.get(f.question, f.limit, f.zone, nil)
				select {
				case results <- f:
				case <-done:
				}
			}()
		}
		select {
		case f := <-results:
			g.finish(f)
		case <-patience.C:
			g.over = true
		}
		g.restart()
		a.gather(ans, q, al, g)
	}
}

// gathering is what is known of several targets while a query waits for their lookups. One goroutine uses it.
type gathering struct {
	owner    string                    // of the alias that the query is for
	nested   map[string]*answer        // by owner, those of the aliases with several targets that it leads to; nil: not known yet
	pending  []found                   // the lookups that can change the answer
	begun    map[lookup.Question]bool  // the lookups that were begun for it
	finished map[lookup.Question]found // their results
	over     bool                      // the wait is over, if any target has records
}

// found is a lookup of a target, and what it found.
type found struct {
	question lookup.Question
	limit    uint32 // the TTL of the alias
	zone     *records.Zone
	age      time.Duration // how long the lookup had been in flight already

	entry  *answers.Entry // if it has finished
	status status
}

// restart forgets what a finished lookup may change.
func (g *gathering) restart() {
	clear(g.nested)
	g.pending = g.pending[:0]
}

// age returns how long the last of the pending lookups has been in flight.
func (g *gathering) age() time.Duration {
	age := g.pending[0].age
	for _, f := range g.pending {
		age = min(age, f.age)
	}
	return age
}

// begin notes that the lookup of q begins. It reports whether it had not begun before.
func (g *gathering) begin(q lookup.Question) bool {
	if g.begun[q] {
		return false
	}
	if g.begun == nil {
		g.begun = make(map[lookup.Question]bool)
	}
	g.begun[q] = true
	return true
}

// finish notes the result of a lookup.
func (g *gathering) finish(f found) {
	if g.finished == nil {
		g.finished = make(map[lookup.Question]found)
	}
	g.finished[f.question] = f
}

// find returns what is known for q, as cache.peek does, or what a lookup that was begun for g has found.
func (g *gathering) find(c *cache, q lookup.Question, limit uint32, zone *records.Zone, cached *answers.Ref) (*answers.Entry, time.Duration, status) {
	if f, ok := g.finished[q]; ok {
		return f.entry, c.left(f.entry, limit, c.now()), f.status
	}
	e, left, s := c.peek(q, limit, zone, cached)
	switch {
	case s == pending:
		g.pending = append(g.pending, found{question: q, limit: limit, zone: zone, age: c.age(q)})
	case s == hit && g.begun[q]: // its lookup has just finished
		s = miss
	}
	return e, left, s
}

// gather sets ans to what al has for q, as far as that is known now. The status is pending when a lookup may change the
// answer and is worth a wait.
func (a *Alias) gather(ans *answer, q lookup.Question, al *records.Alias, g *gathering) {
	n := 0
	for range al.All() {
		n++
	}
	parts := make([]answer, 0, n)
	for t := range al.All() {
		parts = append(parts, answer{alias: t, net: ans.net})
		p := &parts[len(parts)-1]
		if a.resolveTarget(p, q, t, g); q.Type == dns.TypeHTTPS { // the owner has addresses of other targets too
			p.Data = lookup.WithTargetName(p.Data, t.Target)
		}
	}
	failover := al.Failover != nil
	if i := waited(parts, failover, g.over); i >= 0 {
		ans.status, ans.cause = pending, parts[i].cause
		return
	}
	ans.status, ans.cause = hit, nil
	which := counting(parts, failover)
	if len(which) == 0 {
		ans.setNone(parts)
		return
	}
	if failover && ans.net.Bits() == 0 { // there may be very many networks, each with other targets that answer
		a.noteFailover(al, q.Type, parts, which[0])
	}
	ans.union(parts, which, q.Type)
}

// gatherNested is gather for an alias with several targets that another one leads to inside ZONES.
func (a *Alias) gatherNested(ans *answer, q lookup.Question, d *destination, g *gathering) {
	known, ok := g.nested[d.Name]
	if d.Name == g.owner || ok && known == nil || !ok && len(g.nested) == maxNested {
		ans.status, ans.cause = failed, lookup.Unusable(lookup.Loop, nil)
		a.warnings.warnOnce("Alias to %s %s fails: %v", ans.target, dns.TypeToString[q.Type], ans.cause)
		return
	}
	if !ok {
		if g.nested == nil {
			g.nested = make(map[string]*answer)
		}
		g.nested[d.Name] = nil
		known = &answer{net: ans.net}
		a.gather(known, q, d.several, g)
		g.nested[d.Name] = known
	}
	ans.Data, ans.TTL, ans.status = known.Data, known.TTL, known.status
	ans.scope, ans.age, ans.cause = known.scope, known.age, known.cause
}

// isFresh and isStale report whether ans has records, and which. A stale answer may be pending still.
func (ans *answer) isFresh() bool { return len(ans.Data) > 0 && ans.status < stale }
func (ans *answer) isStale() bool { return len(ans.Data) > 0 && ans.status >= stale }

// waited returns the index of a part that is pending, may change the answer and is worth a wait, or -1. When a target has
// records, a lookup is not worth a wait if the last one of that target failed, or if it takes longer than an attempt.
func waited(parts []answer, failover, over bool) int {
	records := slices.ContainsFunc(parts, func(p answer) bool { return len(p.Data) > 0 })
	found := -1
	for i := range parts {
		switch p := &parts[i]; {
		case failover && p.isFresh():
			return found
		case p.status == pending && p.cause == nil && !(records && over):
			return i
		case p.status == pending && !records:
			found = i
		}
	}
	return found
}

// part is what one of several targets has: an answer, or what it has for a transfer.
type part[T any] interface {
	*T
	isFresh() bool // it has records, and they are fresh
	isStale() bool // it has records, and they are stale
}

// counting returns the indices of the parts that count: those with fresh records, or else those with stale ones; with
// failover the first of them. None has records if there is none.
func counting[T any, P part[T]](parts []T, failover bool) []int {
	for _, has := range []func(P) bool{P.isFresh, P.isStale} {
		which := make([]int, 0, len(parts))
		for i := range parts {
			if has(&parts[i]) && !(failover && len(which) > 0) {
				which = append(which, i)
			}
		}
		if len(which) > 0 {
			return which
		}
	}
	return nil
}

// union sets ans to the records of those parts, each once, with the smallest TTL and the longest scope.
func (ans *answer) union(parts []answer, which []int, qtype uint16) {
	first := &parts[which[0]]
	ans.Data, ans.TTL, ans.target, ans.status = first.Data, first.TTL, first.target, min(first.status, stale)
	ans.scope, ans.age, ans.cause = first.scope, first.age, first.cause
	if len(which) == 1 {
		return
	}
	size := 0
	for _, i := range which {
		size += len(parts[i].Data)
	}
	ans.Data = append(make([]byte, 0, size), first.Data...)
	targets := append(make([]string, 0, len(which)), first.target)
	for _, i := range which[1:] {
		p := &parts[i]
		for rdata := range lookup.Each(p.Data, qtype) {
			ans.Data = lookup.Append(ans.Data, rdata, qtype)
		}
		ans.TTL, ans.scope, ans.age = min(ans.TTL, p.TTL), max(ans.scope, p.scope), max(ans.age, p.age)
		ans.status = max(ans.status, min(p.status, stale)) // hit, miss, stale
		targets = append(targets, p.target)
	}
	ans.target = strings.Join(targets, ",")
}

// setNone sets ans to what the client gets when no target has records: a failure when one fails, and otherwise NODATA,
// which is stale when that of one is.
func (ans *answer) setNone(parts []answer) {
	ans.status = nodata
	targets := make([]string, len(parts))
	for i := range parts {
		p := &parts[i]
		targets[i] = p.target
		if p.status == failed && ans.status != failed || p.status == stale && ans.status == nodata {
			ans.status, ans.age, ans.cause = p.status, p.age, p.cause
		}
	}
	ans.target = strings.Join(targets, ",")
}

// noteFailover counts and logs when another target of al answers than before.
func (a *Alias) noteFailover(al *records.Alias, qtype uint16, parts []answer, serving int) {
	before := al.Failover.Serve(qtype, serving)
	if before == serving {
		return
	}
	first, now := parts[0].target, parts[serving].target
	if serving < before {
		failovers.WithLabelValues(al.Zone.Name, "back").Inc()
		a.cache.log.limited(log.Infof, "Failover of %s %s: back to %s", first, dns.TypeToString[qtype], now)
		return
	}
	failovers.WithLabelValues(al.Zone.Name, "over").Inc()
	a.cache.log.limited(log.Warningf, "Failover of %s %s: %s answers in its place", first, dns.TypeToString[qtype], now)
}
