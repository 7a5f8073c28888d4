package primary

import (
	"math"
	"time"
)

// Several servers with one store publish one serial number for one content of a zone. They are a fleet. These are the rules, and
// this file, with number.go and member.go, is where they are. Nothing here waits or asks: fleet.go does.
//
//  1. A number is made for one content, by one server, once. Divided by 16, the numbers of a server leave its id as the remainder
//     (number.go), with the store and without it. So two contents never have one number, whatever the store loses.
//  2. The store has a register for each zone: the last number, and the content that it stands for (register.go). It changes by
//     compare-and-swap on the number, to a later number. What a server transfers is the content of a register, and not what the
//     server itself has found.
//  3. Before a server hands a number out, it asks the store whether its register is the last one. So numbers never go back from one
//     server to another. When the store does not answer, the server goes on with the last register that it has.
//  4. A server never hands out a number that is before one that it knows of, from any source. When the store has an earlier number,
//     it has lost writes: the server writes its own again, and then a later one, because there may be others that were lost.
//  5. Of each expansion the newest answer counts, of the zone's own serial the latest. A server whose zone is not as late as that
//     of the register is behind, and hands nothing out. Of servers with different aliases for one own serial, the one that was
//     started last is right, and the others are behind.
//  6. A server that has been without the store for some time publishes alone. When the store is back, the server takes the register
//     over if its number is later, and writes a later one if it is not, or if the server has something newer.
//  7. A server that is gone without having said so may have published alone. So others write later numbers for all zones.
//     Likewise one that starts when there is such a server (member.go).

// agreement is what a server knows of the register of a zone.
type agreement struct {
	published *register // what is handed out, or nil: the newest register that was in the store, or one that was published alone
	stored    snapshot  // the register in the store when it was last read
	confirmed *register // the last one that was in the store for certain, or nil
	lost      time.Time // when it was noticed that the store had lost a register
	latest    uint32    // the latest number that the server knows of, also without its content
	some      bool      // latest is set
	tried     *register // it was written, but it is not known with what result
	compared  *local    // the last that was the same as the register in the store
	waits     bool      // there is something to publish, and the server cannot make a number yet
	notify    bool      // a number of this server is published, and secondaries have to be notified
}

// snapshot is a register as the store had it.
type snapshot struct {
	known  bool
	number string            // as it is in the store, which may be no number; "": there is no register
	is     *register         // nil when there is none, or none that this server can read
	fields map[string]string // as they are in the store; nil: those of is
}

// local is what this server has found for a zone.
type local struct {
	own     uint32 // the zone's own serial
	aliases string // stands for what is expanded, and how
	since   int64  // when this server began to have these aliases, in milliseconds since 1970
	data    map[string]datum
	keys    []string // of all expansions: data lacks those of which nothing is known
	xs      []*expansion
}

// question is what to ask the store next, or nothing. With to, it is a swap.
type question struct {
	kind questionKind
	from snapshot
	to   *register
}

type questionKind int

const (
	askNothing questionKind = iota
	askNumber
	askLoad
	askSwap
)

// maxSwaps is how often a server tries to swap before it does something else.
const maxSwaps = 3

// session is a sequence of questions. It begins with the number, so that what is handed out in the end was the last when, or after,
// the session began.
type session struct {
	asked bool
	swaps int
}

// next returns what to ask next. makes makes numbers. It may not be able to.
func (a *agreement) next(s *session, l *local, makes numbering) question {
	switch {
	case !s.asked:
		return question{kind: askNumber}
	case !a.stored.known:
		return question{kind: askLoad}
	case l == nil || s.swaps == maxSwaps || len(l.keys) == 0 && !a.some:
		return question{} // a zone that has never had aliases is published under its own serial
	}
	is := a.stored.is
	makes.renewed = later(makes.renewed, a.lost)
	if a.isAgreed(l) && !makes.isOutdated(is) {
		return question{}
	}
	want, ok := a.want(l)
	if !ok {
		return question{}
	}
	if p := a.published; p != nil && p.isSame(want) && !a.isBefore(p.number) && (is == nil || is.number != p.number) {
		return question{kind: askSwap, from: a.stored, to: p} // it was published alone, or the store has lost it
	}
	if is != nil && is.isSame(want) && !a.isBefore(is.number) && !makes.isOutdated(is) {
		a.compared = l
		return question{}
	}
	if want.number, ok = makes.number(want.own, a.latest, a.some); !ok {
		a.waits = true
		return question{}
	}
	return question{kind: askSwap, from: a.stored, to: want}
}

// isAgreed reports whether l was compared with the register in the store, which has all of it.
func (a *agreement) isAgreed(l *local) bool {
	return a.compared == l && a.stored.is != nil && a.stored.is == a.published
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// hasNumber takes the answer to askNumber.
func (a *agreement) hasNumber(s *session, number string) {
	s.asked = true
	if number != a.stored.number {
		a.stored.known = false
	}
	if n, ok := parseNumber(number); ok {
		a.hear(n)
	}
}

// hear notes that a number exists.
func (a *agreement) hear(n uint32) {
	if !a.some || serialBefore(a.latest, n) {
		a.latest, a.some = n, true
	}
}

// hasLoaded takes the answer to askLoad.
func (a *agreement) hasLoaded(r snapshot, now time.Time) {
	if c := a.confirmed; c != nil && (r.is == nil || serialBefore(r.is.number, c.number)) {
		a.lost = now
	}
	a.confirmed = r.is
	if r.is != nil && a.stored.is != nil && r.is.number == a.stored.is.number {
		r.is = a.stored.is // a number has one content
	}
	a.stored, a.compared = r, nil
	a.stored.known = true
	if r.is == nil {
		return
	}
	a.hear(r.is.number)
	if a.tried != nil && a.tried.number == r.is.number {
		a.tried, a.notify = nil, true
	}
	if !a.isBefore(r.is.number) {
		a.published = r.is
	}
}

// hasSwapped takes the answer to askSwap.
func (a *agreement) hasSwapped(s *session, q question, swapped bool) {
	s.swaps++
	if !swapped {
		a.stored.known = false
		return
	}
	a.hear(q.to.number)
	a.stored = snapshot{known: true, number: formatNumber(q.to.number), is: q.to}
	a.published, a.confirmed, a.notify = q.to, q.to, true
}

// hasFailed notes that there is no answer to q. A swap may have been done, or may be done yet: its number exists.
func (a *agreement) hasFailed(q question) {
	a.stored.known = false
	if q.kind == askSwap {
		a.hear(q.to.number)
		a.tried = q.to
	}
}

// publishAlone publishes what this server has, without the store, when that is something new.
func (a *agreement) publishAlone(l *local, makes numbering) {
	if !a.hasNews(l) {
		return
	}
	want, _ := a.want(l)
	var ok bool
	if want.number, ok = makes.number(want.own, a.latest, a.some); !ok {
		a.waits = true
		return
	}
	a.hear(want.number)
	a.published, a.notify = want, true
}

// hasNews reports whether l has something that is not published.
func (a *agreement) hasNews(l *local) bool {
	want, ok := a.want(l)
	return ok && (len(l.keys) > 0 || a.some) && (a.published == nil || !a.published.isSame(want) || a.isBefore(a.published.number))
}

// serve returns what is handed out: the content, and its number. It is nil when this server is behind, or knows of a later
// number. With asked, which is after a session that has not failed, it is also nil when the store does not have this register.
func (a *agreement) serve(l *local, asked bool) *register {
	r := a.published
	switch {
	case r == nil || l == nil || r.own != l.own || r.aliases != l.aliases || a.isBefore(r.number):
		return nil
	case asked && !(a.stored.known && a.stored.is != nil && a.stored.is.number == r.number):
		return nil
	}
	return r
}

// isBefore reports whether the server knows of a number that is later than n.
func (a *agreement) isBefore(n uint32) bool { return a.some && serialBefore(n, a.latest) }

// known returns the registers that count.
func (a *agreement) known() [2]*register { return [2]*register{a.stored.is, a.published} }

// isBehind reports whether a register has something later than l, and if so, which.
func (a *agreement) isBehind(l *local) (than *register) {
	for _, r := range a.known() {
		if r != nil && r.precedes(l) {
			return r
		}
	}
	return nil
}

// want returns the content to be published, without its number. It is not known when l is behind, or lacks data.
func (a *agreement) want(l *local) (*register, bool) {
	if a.isBehind(l) != nil {
		return nil, false
	}
	w := &register{own: l.own, aliases: l.aliases, since: l.since, data: make(map[string]datum, len(l.keys))}
	for _, r := range a.known() {
		if r != nil && r.own == w.own && r.aliases == w.aliases {
			w.since = max(w.since, r.since)
		}
	}
	for _, key := range l.keys {
		newest := datum{stored: math.MinInt64}
		found := false
		for _, r := range a.known() {
			if r == nil {
				continue
			}
			if d, ok := r.data[key]; ok && (!found || d.stored > newest.stored) {
				newest, found = d, true
			}
		}
		if d, ok := l.data[key]; ok && (!found || d.stored > newest.stored && d.rdata != newest.rdata) {
			newest, found = d, true
		}
		if !found {
			return nil, false
		}
		w.data[key] = newest
	}
	return w, true
}
