package upstream

import (
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	// plainTime is how long an upstream is asked without EDNS once it has shown that it does not know it. After that, one
	// query tries again; the others go on without for tryTime, which is longer than a query takes.
	plainTime = 15 * time.Minute
	tryTime   = 30 * time.Second

	// maxDrops is how often in a row an upstream leaves a query with an OPT record without response, and answers the next
	// query without one, until it is taken for one that drops such queries. A lost packet looks the same, and so does an
	// upstream that is slow or comes back.
	maxDrops = 3
)

// edns is what is known about one upstream and EDNS: whether the next query has an OPT record (RFC 6891, section 6.2.2). It
// is safe for concurrent use.
type edns struct {
	mu         sync.Mutex
	plainUntil time.Time // when EDNS is tried again; zero: it is in use
	silent     bool      // the last query with an OPT record had no response, so the next has none
	since      time.Time // when silent was set or unset
	drops      int       // how often in a row a query without OPT record was answered after that
}

// use reports whether a query that is sent now has an OPT record.
func (e *edns) use(now time.Time) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case e.plainUntil.IsZero():
		return !e.silent
	case now.Before(e.plainUntil):
		return false
	default:
		e.plainUntil = now.Add(tryTime)
		return true
	}
}

// isUnknown reports whether the upstream has shown that it does not know EDNS.
func (e *edns) isUnknown() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return !e.plainUntil.IsZero()
}

// answered notes a response to a query that was sent with or without an OPT record, and does not refuse that.
func (e *edns) answered(with bool, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case with:
		e.plainUntil, e.drops = time.Time{}, 0
		e.set(false, now)
	case e.silent:
		e.drops++
		e.set(false, now)
		if e.drops == maxDrops {
			e.plain(now)
		}
	}
}

// refused notes that the upstream refused a query with an OPT record, and answered the same without one.
func (e *edns) refused(now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.plain(now)
}

// timedOut notes that a query had no response. One that was sent before the last change says nothing new.
func (e *edns) timedOut(with bool, sent, now time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	switch {
	case sent.Before(e.since):
	case with && !e.plainUntil.IsZero(): // it was tried again
		e.plain(now)
	case with:
		e.set(true, now)
	case e.silent: // so it is not for the OPT record
		e.set(false, now)
	}
}

// plain begins a time without EDNS. The lock is held.
func (e *edns) plain(now time.Time) {
	e.plainUntil, e.drops = now.Add(plainTime), 0
	e.set(false, now)
}

func (e *edns) set(silent bool, now time.Time) {
	if e.silent != silent {
		e.silent, e.since = silent, now
	}
}

// refusesEDNS reports whether m, the response to a query with an OPT record, says that the upstream does not answer such
// queries: with one of the codes of RFC 6891, section 7, with BADVERS (section 6.1.3) or BADCOOKIE (RFC 7873, section 5.3),
// or with no more than a header.
func refusesEDNS(m *dns.Msg) bool {
	if !m.Response || m.Opcode != dns.OpcodeQuery {
		return false
	}
	switch m.Rcode {
	case dns.RcodeFormatError, dns.RcodeNotImplemented, dns.RcodeBadVers, dns.RcodeBadCookie:
		return true
	}
	return len(m.Question) == 0
}
