package alias

import (
	"bytes"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// resolveTargets sets ans to the answer to q from al, which has several targets: to what all of them have, or with failover to
// what the first has that has anything.
func (a *Alias) resolveTargets(ans *answer, q lookup.Question, al *records.Alias) {
	if ans.seen == nil {
		ans.seen = new(seen)
	}
	parts := a.parts(ans, q, al)
	for _, has := range []func(*answer) bool{(*answer).isFresh, (*answer).isStale} {
		counts := indices(parts, has)
		if len(counts) == 0 {
			continue
		}
		if al.Failover != nil {
			counts = counts[:1]
			a.noteFailover(al, q.Type, parts, counts[0])
		}
		ans.union(parts, counts, q.Type)
		return
	}
	ans.setNone(parts)
}

// seen has the owners of several targets that an answer has come by: each counts once, so that aliases that lead to one another
// end. It is safe for concurrent use.
type seen struct {
	mu     sync.Mutex
	owners []string
}

// add adds owner, and reports whether it counts.
func (s *seen) add(owner string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if slices.Contains(s.owners, owner) || len(s.owners) == lookup.MaxLinks {
		return false
	}
	s.owners = append(s.owners, owner)
	return true
}

// isFresh and isStale report whether ans has records, and which.
func (ans *answer) isFresh() bool { return len(ans.Data) > 0 && ans.status != stale }
func (ans *answer) isStale() bool { return len(ans.Data) > 0 && ans.status == stale }

// isPending reports whether a lookup has to find ans.
func (ans *answer) isPending() bool { return ans.status == pending }

// indices returns the indices of the parts that have the property.
func indices(parts []answer, property func(*answer) bool) []int {
	var all []int
	for i := range parts {
		if property(&parts[i]) {
			all = append(all, i)
		}
	}
	return all
}

// union sets ans to the records of those parts, each once, with the smallest TTL and the longest scope.
func (ans *answer) union(parts []answer, which []int, qtype uint16) {
	first := &parts[which[0]]
	ans.Data, ans.TTL, ans.target, ans.status = first.Data, first.TTL, first.target, first.status
	ans.scope, ans.age, ans.cause = first.scope, first.age, first.cause
	if len(which) == 1 {
		return
	}
	ans.Data = bytes.Clone(first.Data)
	targets := []string{first.target}
	for _, i := range which[1:] {
		p := &parts[i]
		for rdata := range lookup.Each(p.Data, qtype) {
			ans.Data = lookup.Append(ans.Data, rdata, qtype)
		}
		ans.TTL, ans.scope, ans.age = min(ans.TTL, p.TTL), max(ans.scope, p.scope), max(ans.age, p.age)
		ans.status = max(ans.status, p.status) // hit, miss, stale
		targets = append(targets, p.target)
	}
	ans.target = strings.Join(targets, ",")
}

// setNone sets ans to what the client gets when no target has records: NODATA when that is what all of them say, and a failure
// otherwise.
func (ans *answer) setNone(parts []answer) {
	ans.status = nodata
	for i := range parts {
		switch p := &parts[i]; {
		case p.status == failed:
			ans.status = failed
			if ans.cause == nil {
				ans.cause = p.cause
			}
		case p.status == stale && ans.status == nodata:
			ans.status, ans.age, ans.cause = stale, p.age, p.cause
		}
	}
}

// parts returns what each target of al has for q. It waits for lookups as long as they can change the answer; but when a target has
// records, for no longer than an attempt takes.
func (a *Alias) parts(ans *answer, q lookup.Question, al *records.Alias) []answer {
	var parts []answer
	for t := range al.All() {
		p := answer{alias: t, net: ans.net, seen: ans.seen}
		a.resolveTarget(&p, q, t, false)
		parts = append(parts, p)
	}
	if slices.ContainsFunc(parts, func(p answer) bool { return p.isPending() }) {
		a.lookUpParts(parts, q, al.Failover != nil)
	}
	return parts
}

// lookUpParts looks up the parts that are pending. Those that are not waited for stay so, and are looked up in the background.
func (a *Alias) lookUpParts(parts []answer, q lookup.Question, failover bool) {
	type result struct {
		i int
		answer
	}
	results := make(chan result, len(parts))
	for _, i := range indices(parts, (*answer).isPending) {
		r := result{i, answer{alias: parts[i].alias, net: parts[i].net}}
		go func() {
			a.resolveTarget(&r.answer, q, r.alias, true)
			results <- r
		}()
	}
	patience := time.NewTimer(a.cache.timeout)
	defer patience.Stop()
	for over := false; isOpen(parts, failover, over); {
		select {
		case r := <-results:
			parts[r.i] = r.answer
		case <-patience.C:
			over = true
		}
	}
}

// isOpen reports whether a part that is pending may change the answer and is worth a wait: not when a target has records, and the
// last lookup of the other failed, or the wait is over.
func isOpen(parts []answer, failover, over bool) bool {
	fresh := slices.ContainsFunc(parts, func(p answer) bool { return p.isFresh() })
	for i := range parts {
		switch p := &parts[i]; {
		case failover && p.isFresh():
			return false
		case p.isPending() && !(fresh && (over || p.cause != nil)):
			return true
		}
	}
	return false
}

// noteFailover counts and logs when another target of al answers than before.
func (a *Alias) noteFailover(al *records.Alias, qtype uint16, parts []answer, serving int) {
	before := al.Failover.Serve(qtype, serving)
	if before == serving {
		return
	}
	first, now := parts[0].target, parts[serving].target
	if serving < before {
		failovers.WithLabelValues(al.Zone, "back").Inc()
		a.cache.log.limited(log.Infof, "Failover of %s %s: back to %s", first, dns.TypeToString[qtype], now)
		return
	}
	failovers.WithLabelValues(al.Zone, "over").Inc()
	a.cache.log.limited(log.Warningf, "Failover of %s %s: %s answers in its place", first, dns.TypeToString[qtype], now)
}
