package backend

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

const (
	// OwnTTL is how long an answer of the backend is valid: a change in a zone is seen in this time.
	OwnTTL = time.Second

	// foreignTTL is how long it is valid that the backend has no data of its own for a name.
	foreignTTL = 30 * time.Second

	// maxRecords is how many records a response may have that is kept for the next query.
	maxRecords = 32
)

// Answer is what the backend has for a question. It is valid for a moment, and must not be changed.
type Answer struct {
	Response
	Alias *records.Alias // what the zone has in place of addresses, or nil

	until   time.Time
	version *dns.SOA // of the zone, where that is known: while it is the same, the answer is valid
}

// slot has what the backend answered to a question.
type slot struct {
	answer   atomic.Pointer[Answer] // the last
	querying sync.Mutex             // held by the one who queries the backend
}

// slot returns the slot of q.
func (b *Backend) slot(q lookup.Question) *slot {
	if s, ok := b.answers.GetIfPresent(q); ok {
		return s
	}
	s, _ := b.answers.SetIfAbsent(q, new(slot))
	return s
}

// last returns what the backend answered to q last, be it valid or not, or nil.
func (b *Backend) last(q lookup.Question) *Answer {
	if s, ok := b.answers.GetIfPresent(q); ok {
		return s.answer.Load()
	}
	return nil
}

// Len returns the number of questions for which an answer may be kept.
func (b *Backend) Len() int {
	b.answers.CleanUp() // evictions are due
	return b.answers.EstimatedSize()
}

// Answer returns what the backend has for q. However many callers ask, the backend is queried once, and then not for
// OwnTTL, or for 30 seconds when it has no data of its own.
func (b *Backend) Answer(q lookup.Question) *Answer { return b.answer(q, nil) }

// MayHaveAlias reports whether the zone that gave m, a response to an address query, may have an alias in its place.
func (b *Backend) MayHaveAlias(m *dns.Msg) bool {
	return lookup.IsNodata(m) || b.cfg.Flatten != FlattenNone
}

// Received is Answer for a caller that has just got m from the backend.
func (b *Backend) Received(q lookup.Question, m *dns.Msg) *Answer { return b.answer(q, m) }

// Alias returns the alias that the backend's zone has for q, or nil. Unless query is set, it is nil too when the zone
// had none a moment ago: then the client's own query tells.
func (b *Backend) Alias(q lookup.Question, query bool) *records.Alias {
	last := b.last(q)
	switch {
	case !query && (last == nil || last.Alias == nil):
		return nil
	case b.isValid(q, last, nil):
		return last.Alias
	}
	return b.Answer(q).Alias
}

func (b *Backend) answer(q lookup.Question, received *dns.Msg) *Answer {
	s := b.slot(q)
	if a := s.answer.Load(); b.isValid(q, a, received) {
		return a
	}
	s.querying.Lock()
	defer s.querying.Unlock()
	last, now := s.answer.Load(), b.cfg.Now()
	if b.isValid(q, last, received) {
		return last
	}
	var first Response
	if received == nil {
		first = b.Query(q.Name, q.Type)
	} else {
		kept := *received // which goes on to the client, and through plugins that change it
		first.Msg = &kept
	}
	a := b.complete(q, first)
	switch {
	case !a.TimedOut:
		a.version = versionOf(a.Msg, q)
	case last != nil:
		*a = *last
	}
	a.until = now.Add(a.ttl())
	if a.isLarge() {
		s.answer.Store(nil)
	} else {
		s.answer.Store(a)
	}
	return a
}

// isLarge reports whether a has too many records to be kept.
func (a *Answer) isLarge() bool {
	return a.Msg != nil && len(a.Msg.Answer)+len(a.Msg.Ns)+len(a.Msg.Extra) > maxRecords
}

// isValid reports whether a, which the backend answered to q and may be nil, is valid now, and not contradicted by what
// was just received.
func (b *Backend) isValid(q lookup.Question, a *Answer, received *dns.Msg) bool {
	if a == nil || !b.cfg.Now().Before(a.until) && !b.isUnchanged(a, q.Name) {
		return false
	}
	return received == nil || a.Alias != nil || a.Msg != nil && lookup.IsNodata(a.Msg) == lookup.IsNodata(received)
}

// ttl returns how long a is valid.
func (a *Answer) ttl() time.Duration {
	if a.Msg == nil || a.Msg.Authoritative || a.Alias != nil || isReferral(a.Msg) {
		return OwnTTL
	}
	return foreignTTL
}

// complete returns what the backend has for q, to which it responded first: where it has no such records, what stands in
// their place.
func (b *Backend) complete(q lookup.Question, first Response) *Answer {
	a := &Answer{Response: first}
	switch {
	case a.Msg == nil:
	case q.Type == rdata.TypeALIAS:
		a.Alias = b.aliasIn(a.Response, q.Name)
	case !lookup.IsAddress(q.Type):
	case lookup.IsNodata(a.Msg):
		r := b.Query(q.Name, rdata.TypeALIAS)
		a.Alias, a.TimedOut = b.aliasIn(r, q.Name), r.TimedOut
		if server := b.server.Load(); a.Alias == nil && server != nil {
			// etcd leaves a CNAME record out when it cannot look up by itself where that leads.
			r = b.queryThrough(server, q)
			a.Alias, a.TimedOut = b.flattened(r, q.Name), a.TimedOut || r.TimedOut
		}
	default:
		a.Alias = b.flattened(a.Response, q.Name)
	}
	return a
}

// SOA returns a copy of the SOA record of the backend's zone that the name of q is in, or nil. It looks first into what
// the backend answered to q.
func (b *Backend) SOA(q lookup.Question) *dns.SOA {
	if last := b.last(q); b.isValid(q, last, nil) {
		if soa := last.SOA(q.Name); soa != nil {
			return soa
		}
	}
	a := b.Answer(lookup.Question{Name: q.Name, Type: dns.TypeSOA})
	if soa := a.SOA(q.Name); soa != nil || a.Msg == nil {
		return soa
	}
	// A CNAME or a delegation at the name hides it.
	apex := b.cfg.Zones.Match(q.Name)
	if off, end := dns.NextLabel(q.Name, 0); apex == "." && !end {
		apex = q.Name[off:]
	}
	if apex == q.Name {
		return nil
	}
	return b.Answer(lookup.Question{Name: apex, Type: dns.TypeSOA}).SOA(q.Name)
}
