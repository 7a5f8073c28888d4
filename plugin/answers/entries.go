// Package answers is the cache: the entries, how many there may be, who shares them, and what a reload hands over. A
// copy outside the process is made through the interface File.
//
// It must not know when an answer is fresh, stale or to be looked up, nor who looks up: these rules belong to the
// caller. It must not know how the copy is stored.
package answers

import (
	"iter"
	"time"
	"weak"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/maypok86/otter/v2"
)

const (
	// MaxLag is how much older than in memory the copy of an answer may be when the addresses are the same: not each
	// lookup is worth a write.
	MaxLag = time.Minute

	// ordinarySize is how many octets of addresses an answer may have that counts for one. A larger answer counts for
	// more, so that a hostile target cannot fill the memory.
	ordinarySize = 256
)

// Source tells whose answers a cache has: what one set of resolvers says can be another's secret, or nonsense.
type Source struct {
	Upstreams string // identifies the set of resolvers
	Path      string // of the file with the copy; "": there is none
}

// File is a copy of the entries outside the process. Its methods return at once, but for Open, Flush and Close, which
// take seconds at most. Keys and values are strings of octets; a value is never empty. It is safe for concurrent use.
type File interface {
	Open()                 // calls Restore with each record that there is, now or once the copy can be read
	Put(key, value string) // has the record written
	Delete(key string)     // has the record removed
	Flush()                // waits until what has changed is written
	Close()                // is Flush, and gives the copy up
}

// Entries are the cache entries of one source. Server blocks with the same source share them. It is safe for concurrent
// use.
type Entries struct {
	source  Source
	now     func() time.Time
	answers *otter.Cache[lookup.Question, *Entry]
	// failures has targets without an answer. When the resolver is dead, no failure pushes an answer out.
	failures *otter.Cache[lookup.Question, *Entry]
	file     File                        // nil if there is no copy
	sizes    map[weak.Pointer[Share]]int // of those who share the entries; guarded by the registry
}

// New returns Entries for size answers, which are neither shared nor copied. An answer with more than 256 octets of
// addresses counts for more than one. now is the clock.
func New(size int, now func() time.Time) *Entries {
	return newEntries(Source{}, size, now)
}

func newEntries(s Source, size int, now func() time.Time) *Entries {
	es := &Entries{source: s, now: now, sizes: make(map[weak.Pointer[Share]]int)}
	es.failures = otter.Must(&otter.Options[lookup.Question, *Entry]{MaximumSize: size})
	es.answers = otter.Must(&otter.Options[lookup.Question, *Entry]{
		MaximumWeight: uint64(size), // #nosec G115 -- a size
		Weigher: func(_ lookup.Question, e *Entry) uint32 {
			return uint32(1 + len(e.Addrs)/ordinarySize) // #nosec G115 -- addresses come in one message
		},
		OnAtomicDeletion: func(e otter.DeletionEvent[lookup.Question, *Entry]) {
			e.Value.gone.Store(true)
			if e.WasEvicted() && es.file != nil {
				es.file.Delete(recordKey(e.Key))
			}
		},
	})
	return es
}

// Load returns the entry of q, or None.
func (es *Entries) Load(q lookup.Question) *Entry {
	if e, ok := es.answers.GetIfPresent(q); ok {
		return e
	}
	return es.failure(q)
}

// LoadRef is Load for a caller that keeps a Ref for q. Ref may be nil.
func (es *Entries) LoadRef(q lookup.Question, ref *Ref) *Entry {
	if ref == nil {
		return es.Load(q)
	}
	if e := ref.load(); e != nil {
		return e
	}
	e, ok := es.answers.GetIfPresent(q)
	ref.set(e)
	if !ok {
		return es.failure(q)
	}
	return e
}

// failure returns the entry of q when there is no answer.
func (es *Entries) failure(q lookup.Question) *Entry {
	if e, ok := es.failures.GetIfPresent(q); ok {
		return e
	}
	return None
}

// Len returns the number of entries.
func (es *Entries) Len() int {
	es.answers.CleanUp() // evictions are due
	es.failures.CleanUp()
	return es.answers.EstimatedSize() + es.failures.EstimatedSize()
}

// Size returns how many answers there may be.
func (es *Entries) Size() int { return int(es.answers.GetMaximum()) } // #nosec G115 -- a sum of sizes

// Full reports whether there is no room for another answer.
func (es *Entries) Full() bool {
	return es.answers.WeightedSize()+uint64(es.failures.EstimatedSize()) >= es.answers.GetMaximum() // #nosec G115 -- a size
}

// Update replaces the entry of q with what change returns, and returns that. change gets None when there is no entry; it
// may return the entry that it gets, and must not use es. The copy gets an answer when it differs from the last one, or
// is by more than lag newer than the one in the copy.
func (es *Entries) Update(q lookup.Question, lag time.Duration, change func(current *Entry) *Entry) *Entry {
	var e *Entry
	es.answers.Compute(q, func(current *Entry, found bool) (*Entry, otter.ComputeOp) {
		if !found {
			current = es.failure(q)
		}
		switch e = change(current); {
		case e == current:
			return nil, otter.CancelOp
		case !e.Answered:
			es.failures.Set(q, e)
			return nil, otter.CancelOp
		case !found:
			es.failures.Invalidate(q)
		}
		e.saved = current.saved
		if es.file != nil && (!e.same(current) || e.Stored.Sub(e.saved) > lag) {
			e.saved = e.Stored
			es.file.Put(recordKey(q), es.recordValue(e))
		}
		return e, otter.WriteOp
	})
	return e
}

// Restore takes over a record of the copy, unless there is a newer answer, and returns the value that the copy is to
// have: the same, a newer one, or "" to have the record removed. Open calls it.
func (es *Entries) Restore(key, value string) string {
	q, restored, ok := readRecord(key, value)
	if !ok {
		return ""
	}
	now := es.now()
	// As ages are measured by the clock that only goes forward, so is that of a restored answer from here on. When it
	// is from the future, or from long ago, the clock is or was wrong: the copy keeps what it has.
	age := now.Sub(restored.Stored)
	ageless := age < 0 || age > maxAge
	if ageless {
		age, restored.Expired = min(max(age, 0), maxAge), true
	}
	fresh := !restored.Expired && age < time.Duration(restored.TTL)*time.Second
	restored.Stored = now.Add(-age)
	restored.saved = restored.Stored
	es.answers.Compute(q, func(current *Entry, found bool) (*Entry, otter.ComputeOp) {
		switch {
		case !found: // but lookups may have failed before the copy could be read
			restored.Backoff = es.failure(q).Backoff
			es.failures.Invalidate(q)
			return restored, otter.WriteOp
		case restored.Stored.After(current.Stored) && !ageless,
			current.Expired && fresh: // it is from these upstreams, and current was handed over from others
			restored.Backoff = current.Backoff
			if es.file != nil {
				es.file.Put(key, value) // current may be on its way there
			}
			return restored, otter.WriteOp
		case !current.same(restored) || current.Stored.Sub(restored.Stored) > MaxLag:
			value = es.recordValue(current)
		}
		return nil, otter.CancelOp
	})
	return value
}

// All yields the records of all answers, for the copy.
func (es *Entries) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for q, e := range es.answers.All() {
			if !yield(recordKey(q), es.recordValue(e)) {
				return
			}
		}
	}
}

// adopt takes over the answers of from for which es has none, or an older one. With expired they count as expired.
func (es *Entries) adopt(from *Entries, expired bool) {
	for q, e := range from.answers.All() {
		es.Update(q, 0, func(current *Entry) *Entry {
			if current.Answered && (expired && !current.Expired || !current.Stored.Before(e.Stored)) {
				return current
			}
			adopted := e.clone()
			adopted.Expired = e.Expired || expired
			if expired {
				adopted.Backoff = current.Backoff
			}
			return adopted
		})
	}
}

// resize gives es the size that those who share it have together, and more.
func (es *Entries) resize(more int) {
	size := more
	for _, n := range es.sizes {
		size += n
	}
	es.answers.SetMaximum(uint64(size))  // #nosec G115 -- a sum of sizes
	es.failures.SetMaximum(uint64(size)) // #nosec G115
}
