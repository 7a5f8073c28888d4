package answers

import (
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/lookup"
)

// Entry is a cache entry: the last answer to a question, and whether the last lookup failed. Once Entries has it, it is
// immutable, and safe for concurrent use.
type Entry struct {
	lookup.Outcome           // the answer, or empty
	Answered       bool      // Outcome is an answer, perhaps a negative one; otherwise there were only failures
	Expired        bool      // the answer counts as expired, whatever its TTL
	Adopted        bool      // it is of another server of the fleet
	Stored         time.Time // when the answer came
	*Backoff                 // nil unless the last lookup failed

	saved time.Time   // when the answer came that the copy has
	gone  atomic.Bool // it is no longer in the cache
	room  [16]byte    // for the data, when it is short: that saves an allocation for each entry
}

// Backoff says that a target fails, and until when it is not looked up (RFC 9520, section 3.2). It is immutable. How
// long the back-off is, the caller decides.
type Backoff struct {
	Failures int             // in a row
	Retry    time.Time       // from when on the target may be looked up
	Cause    *lookup.Failure // the last failure, not nil
}

// None stands for no entry: it has no answer and does not fail. Compare pointers with it, and do not change it.
var None = new(Entry)

// NewEntry returns the entry for an answer that came at stored. The data belongs to it then: the caller must not
// change them.
func NewEntry(o lookup.Outcome, stored time.Time) *Entry {
	return (&Entry{Outcome: o, Answered: true, Stored: stored}).compact()
}

// Fail returns a new entry with the answer of e, if it has one, and with b. It does not change e, which may be None.
func (e *Entry) Fail(b Backoff) *Entry {
	failed := e.clone()
	failed.Backoff = &b
	return failed
}

// Failing reports whether the last lookup failed.
func (e *Entry) Failing() bool { return e.Backoff != nil }

// BackingOff reports whether the target fails and is not to be looked up at now: it may be from Retry on.
func (e *Entry) BackingOff(now time.Time) bool { return e.Failing() && now.Before(e.Retry) }

// LastFailure returns the last failure, or nil when the last lookup did not fail.
func (e *Entry) LastFailure() *lookup.Failure {
	if e.Failing() {
		return e.Cause
	}
	return nil
}

// clone returns an entry like e that can be changed.
func (e *Entry) clone() *Entry {
	return (&Entry{Outcome: e.Outcome, Answered: e.Answered, Expired: e.Expired, Adopted: e.Adopted, Stored: e.Stored, Backoff: e.Backoff}).compact()
}

// compact moves the data of e, which nobody else has yet, into it when it is short.
func (e *Entry) compact() *Entry {
	if n := len(e.Data); 0 < n && n <= len(e.room) {
		copy(e.room[:], e.Data)
		e.Data = e.room[:n:n]
	}
	return e
}

// same reports whether two answers are the same but for their age.
func (e *Entry) same(o *Entry) bool {
	return e.Expired == o.Expired && e.Links == o.Links && e.Scope == o.Scope && e.Exact == o.Exact && string(e.Data) == string(o.Data)
}

// Ref is a cached pointer to the entry of one question, for a caller that loads it again and again: it saves the search.
// It keeps no entry of more than 256 octets of data, and no failure without an answer. The zero value has no entry.
// It is safe for concurrent use, and must not be copied.
type Ref struct{ entry atomic.Pointer[Entry] }

// Entry returns the entry that LoadRef found last, or nil when there is none or when it is no longer in the cache.
func (r *Ref) Entry() *Entry {
	if e := r.entry.Load(); e != nil && !e.gone.Load() {
		return e
	}
	return nil
}

// searches is how many loads there are for one search although the Ref has the entry: by searches the cache knows which
// entries are in use.
const searches = 16

// load returns the entry of r, but nil in one of searches calls.
func (r *Ref) load() *Entry {
	if e := r.Entry(); e != nil && rand.Uint32()%searches != 0 { // #nosec G404 -- no secret
		return e
	}
	return nil
}

// set has r keep e, or none when e is nil. Nor does it keep a large one: after its eviction it would stay in memory until
// the next load of r.
func (r *Ref) set(e *Entry) {
	if e != nil && len(e.Data) > ordinarySize {
		e = nil
	}
	if r.entry.Load() != e { // most often it is the same, and a write would take the cache line from other cores
		r.entry.Store(e)
	}
}
