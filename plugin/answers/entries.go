// Package answers is the cache: its entries, how many there may be, which server blocks share them, and what a reload
// hands over from one server block to the next. A copy of the entries outside the process is kept through the interface
// File.
//
// It must not know when an answer is fresh, stale or due for a lookup, or what looks it up: the caller has these rules.
// It must not know how the copy is stored.
//
// A caller that needs no copy and shares nothing begins with New. The plugin begins with NewRegistry: each server block
// gets a Share, and joins the Entries of its Source with it.
package answers

import (
	"iter"
	"maps"
	"sync/atomic"
	"time"
	"weak"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/maypok86/otter/v2"
)

const (
	// MaxLag is how much older than the cached answer its copy may be when the addresses are the same: not each lookup is
	// worth a write. The lag that Entries.Update gets is at most this.
	MaxLag = time.Minute

	// ordinarySize is a number of octets of addresses. An answer counts for one, and for one more with each of them, so
	// that a hostile target cannot fill the memory.
	ordinarySize = 256
)

// Source tells whose answers a cache has. Server blocks with different upstreams do not see each other's answers: what
// one set of upstreams answers can be a secret of its network, or be wrong for another.
type Source struct {
	Upstreams string // identifies the set of upstreams, by any spelling that is always the same
	Path      string // of the file with the copy; "": there is none
	Fleet     string // the location of the store that is shared with other servers; "": there is none
}

// File is a copy of the answers of one Source outside the process. Entries calls it, and it calls Restore and All of
// the Entries that it was made for. Keys and values are strings of octets; no value is empty.
//
// It is safe for concurrent use. Put and Delete return at once, and call no method of the Entries, which hold a lock.
// Open, Flush and Close may take some seconds, and end then, whatever the state of the copy: there are no errors.
type File interface {
	// Open calls Restore with each record of the copy and writes the value that it returns. If the copy cannot be read
	// now, this is done later. Put and Delete may be called before Open: such a record is restored first, and
	// what was put is written after that.
	Open()
	Put(key, value string) // has the record written, soon
	Delete(key string)     // has the record removed, soon
	Flush()                // waits until what has changed is written
	Close()                // does the same, and gives the copy up. It is called once, and nothing after it.
}

// Entries are the cache entries of one Source, by question. Server blocks with the same source share them.
//
// There are at most Size answers for everybody, and as many failures of targets that have no answer. An answer with 256
// octets of data or more counts for more than one: for one more with each 256 octets. Past that, those go that are used
// least, a moment later. The same holds for the answers for networks of clients (RFC 7871), which have a size of their own,
// so that clients who claim many networks evict no answer for everybody. Entries is safe for concurrent use.
type Entries struct {
	source    Source
	now       func() time.Time
	everybody *pool
	networks  *pool                                    // the entries for networks
	index     *otter.Cache[lookup.Question, *networks] // the networks with an answer, by the question without its network
	file      File                                     // nil if there is no copy
	fleet     Fleet                                    // nil if nothing is shared
	keep      atomic.Int64                             // for how long the fleet's store keeps an answer, in nanoseconds
	sizes     map[weak.Pointer[Share]]Size             // of the shares that have joined; guarded by the registry, and so is size
	size      Size                                     // the sum of sizes
}

// Size is how many answers there may be.
type Size struct {
	Everybody int // at least one
	Networks  int // for networks of clients; 0: none
}

func (s Size) plus(o Size) Size  { return Size{s.Everybody + o.Everybody, s.Networks + o.Networks} }
func (s Size) minus(o Size) Size { return Size{s.Everybody - o.Everybody, s.Networks - o.Networks} }

// pool has entries that are evicted for one another.
type pool struct {
	answers *otter.Cache[lookup.Question, *Entry]
	// failures has the entries without an answer. They are apart, so that no failure evicts an answer when the upstreams
	// are down.
	failures *otter.Cache[lookup.Question, *Entry]
}

// newPool returns a pool for size answers and as many failures. After an answer has gone, or was replaced, it calls deleted.
func newPool(size int, deleted func(otter.DeletionEvent[lookup.Question, *Entry])) *pool {
	size = max(size, 1) // 0 would be no bound
	return &pool{
		failures: otter.Must(&otter.Options[lookup.Question, *Entry]{MaximumSize: size}),
		answers: otter.Must(&otter.Options[lookup.Question, *Entry]{
			MaximumWeight: uint64(size), // #nosec G115 -- a size
			Weigher: func(_ lookup.Question, e *Entry) uint32 {
				return uint32(1 + len(e.Data)/ordinarySize) // #nosec G115 -- the records come in one message
			},
			OnAtomicDeletion: deleted,
		}),
	}
}

// load returns the entry of q, or None.
func (p *pool) load(q lookup.Question) *Entry {
	if e, ok := p.answers.GetIfPresent(q); ok {
		return e
	}
	return p.failure(q)
}

// failure returns the entry of q when there is no answer.
func (p *pool) failure(q lookup.Question) *Entry {
	if e, ok := p.failures.GetIfPresent(q); ok {
		return e
	}
	return None
}

// len returns the number of entries, after the evictions that are due.
func (p *pool) len() int {
	p.answers.CleanUp()
	p.failures.CleanUp()
	return p.answers.EstimatedSize() + p.failures.EstimatedSize()
}

func (p *pool) resize(size int) {
	size = max(size, 1)
	p.answers.SetMaximum(uint64(size))  // #nosec G115 -- a sum of sizes
	p.failures.SetMaximum(uint64(size)) // #nosec G115
}

// New returns Entries for that many answers, which are neither shared nor copied. now is the clock.
func New(size Size, now func() time.Time) *Entries {
	return newEntries(Source{}, size, now)
}

func newEntries(s Source, size Size, now func() time.Time) *Entries {
	es := &Entries{source: s, now: now, sizes: make(map[weak.Pointer[Share]]Size)}
	es.everybody = newPool(size.Everybody, es.deleted)
	es.networks = newPool(size.Networks, es.deleted)
	es.index = otter.Must(&otter.Options[lookup.Question, *networks]{}) // as many as networks has, at most
	return es
}

// deleted is called when an answer has gone, or was replaced.
func (es *Entries) deleted(e otter.DeletionEvent[lookup.Question, *Entry]) {
	e.Value.gone.Store(true)
	if e.Cause == otter.CauseReplacement {
		return
	}
	if !e.Key.Net.IsEverybody() {
		es.reindex(e.Key, func(ns *networks) *networks { return ns.without(e.Key.Net) })
	}
	if es.file != nil { // here, where no Update can put a newer answer before it
		es.file.Delete(recordKey(e.Key))
	}
}

// pool returns the pool that q has its entry in.
func (es *Entries) pool(q lookup.Question) *pool {
	if q.Net.IsEverybody() {
		return es.everybody
	}
	return es.networks
}

// Load returns the entry of q, or None. It waits for no lookup and no update.
func (es *Entries) Load(q lookup.Question) *Entry { return es.pool(q).load(q) }

// LoadRef is Load for a caller that keeps ref for q, a question of everybody, and for no other question. ref may be nil. It
// allocates nothing.
func (es *Entries) LoadRef(q lookup.Question, ref *Ref) *Entry {
	if ref == nil {
		return es.Load(q)
	}
	if e := ref.load(); e != nil {
		return e
	}
	e, ok := es.everybody.answers.GetIfPresent(q)
	ref.set(e)
	if !ok {
		return es.everybody.failure(q)
	}
	return e
}

// Len returns the number of entries, after the evictions that are due.
func (es *Entries) Len() int { return es.everybody.len() + es.networks.len() }

// Size returns how many answers for everybody there may be: as many as all server blocks that share es want together.
func (es *Entries) Size() int { return int(es.everybody.answers.GetMaximum()) } // #nosec G115 -- a sum of sizes

// Full reports whether an answer for everybody more would have another one evicted, with a failure counted for an answer: the
// target may have one soon. It is exact only when no eviction is due.
func (es *Entries) Full() bool {
	p := es.everybody
	return p.answers.WeightedSize()+uint64(p.failures.EstimatedSize()) >= p.answers.GetMaximum() // #nosec G115 -- a size
}

// Update replaces the entry of q with the one that change returns, and returns that. Updates of one question come one
// after the other.
//
// change gets the current entry, or None when there is none. It returns that entry, and then nothing changes, or a new
// one, that no Entries have yet, and which belongs to es from then on. Where the current entry has an answer, the new
// one has one too: that of the current one, see Entry.Fail, or another. change must not use es.
//
// The copy gets an answer when it is not the same as the last one but for its age, or when it is by more than lag newer
// than the one in the copy. An answer for one network more than MaxNetworks is returned, but not kept.
func (es *Entries) Update(q lookup.Question, lag time.Duration, change func(current *Entry) *Entry) *Entry {
	var e *Entry
	p := es.pool(q)
	p.answers.Compute(q, func(current *Entry, found bool) (*Entry, otter.ComputeOp) {
		if !found {
			current = p.failure(q)
		}
		switch e = change(current); {
		case e == current:
			return nil, otter.CancelOp
		case !e.Answered:
			p.failures.Set(q, e)
			return nil, otter.CancelOp
		case !found && !es.admit(q):
			return nil, otter.CancelOp
		}
		e.saved = current.saved
		if es.file != nil && (!e.same(current) || e.Stored.Sub(e.saved) > lag) {
			e.saved = e.Stored
			es.file.Put(recordKey(q), es.recordValue(e))
		}
		if e.Stored != current.Stored {
			es.tell(q, e)
		}
		return e, otter.WriteOp
	})
	return e
}

// admit prepares for the first answer to q, and reports whether it can be kept.
func (es *Entries) admit(q lookup.Question) bool {
	if !q.Net.IsEverybody() {
		admitted := true
		es.reindex(q, func(ns *networks) *networks {
			if admitted = ns == nil || len(ns.all) < MaxNetworks; admitted {
				ns = ns.with(q.Net)
			}
			return ns
		})
		if !admitted {
			return false
		}
		es.networks.failures.Invalidate(q.For(lookup.Global)) // lookups of networks without an answer no longer fail
	}
	es.pool(q).failures.Invalidate(q)
	return true
}

// Restore takes over a record of the copy, unless there is a newer answer, and returns the value that the copy is to
// have: the same, that of the newer answer, or "" to have a record removed that is none of an answer. File.Open calls
// it. An answer keeps its age; when its time cannot be true, it counts as expired.
func (es *Entries) Restore(key, value string) string {
	q, restored, ok := readRecord(key, value)
	if !ok {
		return ""
	}
	now := es.now()
	// The age of a restored answer is measured by the monotonic clock from here on, as all others are. When the answer is
	// from the future, or from long ago, the wall clock is or was wrong: the copy keeps what it has.
	age := now.Sub(restored.Stored)
	ageless := age < 0 || age > maxAge
	if ageless {
		age, restored.Expired = min(max(age, 0), maxAge), true
	}
	fresh := !restored.Expired && age < time.Duration(restored.TTL)*time.Second
	restored.Stored = now.Add(-age)
	restored.saved = restored.Stored
	p := es.pool(q)
	p.answers.Compute(q, func(current *Entry, found bool) (*Entry, otter.ComputeOp) {
		switch {
		case !found: // lookups may have failed before the copy could be read
			restored.Backoff = p.failure(q).Backoff
			if !es.admit(q) {
				value = ""
				return nil, otter.CancelOp
			}
			return restored, otter.WriteOp
		case restored.Stored.After(current.Stored) && !ageless,
			current.Expired && fresh: // restored is from these upstreams, and current was handed over from others
			restored.Backoff = current.Backoff
			if es.file != nil {
				es.file.Put(key, value) // the file may be about to write current
			}
			return restored, otter.WriteOp
		case !current.same(restored) || current.Stored.Sub(restored.Stored) > MaxLag:
			value = es.recordValue(current)
		}
		return nil, otter.CancelOp
	})
	return value
}

// All yields the keys and values of the records of all answers, in no order, for the copy. Failures have none. Answers
// that are stored meanwhile may be missing.
func (es *Entries) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for q, e := range es.all() {
			if !yield(recordKey(q), es.recordValue(e)) {
				return
			}
		}
	}
}

// all yields the answers and their questions.
func (es *Entries) all() iter.Seq2[lookup.Question, *Entry] {
	return func(yield func(lookup.Question, *Entry) bool) {
		for _, p := range []*pool{es.everybody, es.networks} {
			for q, e := range p.answers.All() {
				if !yield(q, e) {
					return
				}
			}
		}
	}
}

// adopt takes over the answers of from for which es has none, or an older one. With expired they count as expired from
// now on, and no answer that does not is replaced.
func (es *Entries) adopt(from *Entries, expired bool) {
	for q, e := range from.all() {
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

// add adds a share with that size, and remove takes it away.
func (es *Entries) add(key weak.Pointer[Share], size Size) {
	es.sizes[key] = size
	es.size = es.size.plus(size)
}

func (es *Entries) remove(key weak.Pointer[Share]) {
	es.size = es.size.minus(es.sizes[key])
	delete(es.sizes, key)
}

// servesBefore reports whether a share of es serves that is of another generation than s, with the same zones if
// sameZones is set.
func (es *Entries) servesBefore(s *Share, sameZones bool) bool {
	for p := range es.sizes {
		o := p.Value()
		if o != nil && o.generation != s.generation && o.serving.Load() && (!sameZones || maps.Equal(o.zones, s.zones)) {
			return true
		}
	}
	return false
}

// resize gives es the size of all shares that have joined, and more.
func (es *Entries) resize(more Size) {
	size := es.size.plus(more)
	es.everybody.resize(size.Everybody)
	es.networks.resize(size.Networks)
}
