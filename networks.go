package alias

import (
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
)

// peekUnknown is peek for a network without an answer. e says whether lookups for such networks fail.
func (c *cache) peekUnknown(q lookup.Question, limit uint32, zone *records.Zone, e *answers.Entry) (*answers.Entry, time.Duration, status) {
	everybody := q.For(lookup.Network{})
	switch {
	case c.entries.Load(everybody).BackingOff(c.now()):
		return c.staleOrFailed(q, limit, zone, e)
	case !c.hasRoom(q):
		networksCapped.WithLabelValues(zone.Name).Inc()
		return c.peek(everybody, limit, zone, nil)
	case e.Failing(): // as with a stale answer, no client waits until the target answers again
		if other, left, s := c.peek(everybody, limit, zone, nil); s == hit || s == stale {
			c.prefetch(q, q.Net, zone, e)
			return other, left, s
		}
	}
	return e, c.left(e, limit, c.now()), pending
}

// hasOther reports whether there is an answer for everybody that can be served when the lookup of q, about a network, fails.
func (c *cache) hasOther(q lookup.Question, limit uint32) bool {
	if q.Net.IsEverybody() {
		return false
	}
	e := c.entries.Load(q.For(lookup.Network{}))
	return c.canServe(q.Type, e, c.left(e, limit, c.now()))
}

// hasRoom reports whether an answer to q for one network more can be kept. An expired one makes room.
func (c *cache) hasRoom(q lookup.Question) bool { return c.entries.HasRoom(q, c.hasExpired) }

// hasExpired reports whether the TTL of e has run out.
func (c *cache) hasExpired(e *answers.Entry) bool { return c.left(e, lookup.NoLimit, c.now()) <= 0 }

// settleFor is settle for the answer o to the question of a client of whom the network is known. It is for the networks of
// its scope.
func (c *cache) settleFor(l *inFlight, o lookup.Outcome) {
	l.scope = l.net.Cut(int(o.Scope))
	q := l.Question.For(l.scope)
	c.entries.MakeRoom(q, c.hasExpired)
	l.entry = c.store(q, l.zone, answers.None, o)
	if l.scope == lookup.Global {
		c.store(l.Question.For(lookup.Network{}), l.zone, answers.None, o)
	}
	switch {
	case l.scope == l.Question.Net:
	case l.scope.Holds(l.Question.Net): // the entry of a smaller network would be found first
		c.entries.Remove(l.Question)
	case c.entries.Load(q) != l.entry: // there was no room for it: the entry of the larger network, about to expire, makes some
		c.entries.Remove(l.Question)
	}
}
