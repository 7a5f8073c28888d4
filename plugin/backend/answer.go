package backend

import (
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

const (
	// OwnTTL is how long an answer of the backend is valid: a change in a zone is seen within this time.
	OwnTTL = time.Second

	// foreignTTL is how long an answer is valid for which the backend is not authoritative.
	foreignTTL = 30 * time.Second

	// maxRecords is how many records a response may have that is kept.
	maxRecords = 32
)

// Answer is what the backend has for a question. It is valid for a moment, and must not be changed. A query of it that
// timed out leaves the last answer in place, if there is one; otherwise TimedOut is set, and Alias may be nil although the
// zone has one.
type Answer struct {
	Response
	Alias *records.Alias // what the zone has in place of addresses, or nil

	until   time.Time
	version *dns.SOA // of the zone, where that is known: while it is the same, the answer is valid
}

// last returns the last answer to q, be it valid or not, or nil.
func (b *Backend) last(q lookup.Question) *Answer {
	if c := b.answers.find(q); c != nil {
		return c.answer.Load()
	}
	return nil
}

// Len returns the number of questions with a cache entry, after the evictions that are due.
func (b *Backend) Len() int { return b.answers.len() }

// Answer returns what the backend has for q. However many callers ask, the backend is queried once, and then not again for
// OwnTTL, or for 30 seconds when it is not authoritative. Where ZoneOf finds the zone, it is not queried again before
// the zone changes for an SOA record and for a name that has no addresses, and may have an ALIAS record. Responses of
// more than 32 records are not kept.
func (b *Backend) Answer(q lookup.Question) *Answer { return b.answer(q, nil) }

// MayHaveAlias reports whether the zone that gave m, a response to an address query, may have an alias in its place. If so,
// Received finds it.
func (b *Backend) MayHaveAlias(m *dns.Msg) bool {
	return lookup.IsNodata(m) || b.cfg.Flatten != FlattenNone
}

// Received is Answer for a caller that has just got m, a response to q, from the backend with a query of its own. It saves
// that query, and an answer from before that contradicts m does not count. m may go on to the client through plugins
// that change the message, but not its records.
func (b *Backend) Received(q lookup.Question, m *dns.Msg) *Answer { return b.answer(q, m) }

// Alias returns the alias that the backend's zone has for q, or nil. Unless query is set, it does not query the backend
// when the last answer has no alias, or there is none, and returns nil: the query of the client, which is passed on to the
// backend then, finds a new alias (see Received).
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
	c := b.answers.entry(q)
	if a := c.answer.Load(); b.isValid(q, a, received) {
		return a
	}
	c.querying.Lock()
	defer c.querying.Unlock()
	last, now := c.answer.Load(), b.cfg.Now()
	if b.isValid(q, last, received) {
		return last
	}
	var first Response
	if received == nil {
		first = b.Query(q.Name, q.Type)
	} else {
		kept := *received // received goes on to the client, through plugins that change it
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
		c.answer.Store(nil)
	} else {
		c.answer.Store(a)
	}
	return a
}

// isLarge reports whether a has too many records to be kept.
func (a *Answer) isLarge() bool {
	return a.Msg != nil && len(a.Msg.Answer)+len(a.Msg.Ns)+len(a.Msg.Extra) > maxRecords
}

// isValid reports whether a, an answer to q or nil, is valid now, and is not contradicted by received, a response that the
// backend has just given, or nil. An answer with an alias is never contradicted.
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

// complete returns the answer to q that begins with first, the backend's response: where that has no addresses, it queries
// for what stands in their place.
func (b *Backend) complete(q lookup.Question, first Response) *Answer {
	a := &Answer{Response: first}
	switch {
	case a.Msg == nil:
	case q.Type == rdata.TypeALIAS:
		a.Alias = b.aliasIn(a.Response, q.Name)
	case !lookup.IsFollowed(q.Type):
	case lookup.IsNodata(a.Msg):
		r := b.Query(q.Name, rdata.TypeALIAS)
		a.Alias, a.TimedOut = b.aliasIn(r, q.Name), r.TimedOut
		if server := b.server.Load(); a.Alias == nil && server != nil { // see UseServer
			r = b.queryThrough(server, q)
			a.Alias, a.TimedOut = b.flattened(r, q.Name), a.TimedOut || r.TimedOut
		}
	default:
		a.Alias = b.flattened(a.Response, q.Name)
	}
	return a
}

// SOA returns a copy of the SOA record of the backend's zone that the name of q is in, or nil. It belongs to the caller.
// When a valid answer to q has it, the backend is not queried.
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
