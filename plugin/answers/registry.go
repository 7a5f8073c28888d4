package answers

import (
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	clog "github.com/coredns/coredns/plugin/pkg/log"
)

var log = clog.NewWithPlugin("alias")

// Registry has the Entries that are in use in a process, by Source. It is safe for concurrent use; a method may wait as
// long as a File takes to open or to close.
type Registry struct {
	newFile  func(Source, *Entries) File
	newFleet func(Source, *Entries) Fleet
	now      func() time.Time

	mu       sync.Mutex
	of       map[Source]*Entries
	expected map[weak.Pointer[Share]]expectation // those that join when their server starts
	sizes    map[Source]Size                     // of those expected, altogether
	joined   map[weak.Pointer[Share]]*Entries
}

// expectation is what is expected of a Share, which may be garbage by now.
type expectation struct {
	source Source
	size   Size
}

// NewRegistry returns a Registry without Entries. newFile makes the copy of the Entries of a source that has a path, and newFleet
// the part of a source in its fleet; they do not open it, and do not use the Registry. now is the clock.
func NewRegistry(newFile func(Source, *Entries) File, newFleet func(Source, *Entries) Fleet, now func() time.Time) *Registry {
	return &Registry{
		newFile: newFile, newFleet: newFleet, now: now,
		of:       make(map[Source]*Entries),
		expected: make(map[weak.Pointer[Share]]expectation),
		sizes:    make(map[Source]Size),
		joined:   make(map[weak.Pointer[Share]]*Entries),
	}
}

// Share is the part that one server block has in the Entries of its Source, from NewShare through Join and Serve to Leave.
// It belongs to the server block, which holds the only pointer to it: nothing ends a block that a failed reload leaves
// behind, but once it is garbage, so is its share, which is then given back. A Share is safe for concurrent use.
type Share struct {
	registry   *Registry
	source     Source
	size       Size
	keep       time.Duration
	zones      map[string]struct{}
	generation any // set by Join; guarded by the registry
	serving    atomic.Bool
}

// NewShare returns the share of a server block with those zones, for that many answers. The zones must not be
// changed any more. The registry expects the share to join, so that the Entries have the size for all server blocks
// before the copy is read.
func (r *Registry) NewShare(s Source, size Size, zones map[string]struct{}) *Share {
	share := &Share{registry: r, source: s, size: size, zones: zones}
	r.mu.Lock()
	defer r.mu.Unlock()
	key := weak.Make(share)
	r.expected[key] = expectation{s, size}
	r.sizes[s] = r.sizes[s].plus(size)
	// A reload that fails leaves server blocks behind that nothing ends.
	runtime.AddCleanup(share, func(key weak.Pointer[Share]) { go r.leave(key, false) }, key)
	return share
}

// Keep says for how long after it came the store of the fleet keeps each answer at least. It is called before Join.
func (s *Share) Keep(d time.Duration) { s.keep = d }

// Join returns the Entries of the source, with the answers of the copy and those that a reload hands over. It is called
// once. generation, which is comparable, identifies the start of the server that the block belongs to: the server
// blocks of other generations hand over to this one, if they serve (see Serve) and have not left.
//
// Blocks with the same upstreams hand over all answers, with their back-off. Blocks with other upstreams and the same
// zones hand over all answers, which count as expired then, unless they are of several sources: as with the view
// plugin, it is not known which of them this block continues.
func (s *Share) Join(generation any) *Entries {
	r := s.registry
	r.mu.Lock()
	defer r.mu.Unlock()
	s.generation = generation
	key := weak.Make(s)
	r.expectNoMore(key)
	expected := r.sizes[s.source]
	es, known := r.of[s.source]
	if !known {
		es = newEntries(s.source, s.size.plus(expected), r.now)
		if s.source.Path != "" {
			es.file = r.newFile(s.source, es)
		}
		if s.source.Fleet != "" {
			es.fleet = r.newFleet(s.source, es)
		}
		r.of[s.source] = es
	}
	r.inherit(es, s)
	if !known && es.file != nil {
		es.file.Open()
		log.Infof("Cached answers %d, from %s", es.Len(), s.source.Path)
	}
	if !known && es.fleet != nil {
		es.fleet.Open()
	}
	r.joined[key] = es
	es.add(key, s.size)
	es.keep.Store(max(es.keep.Load(), int64(s.keep)))
	es.resize(expected)
	return es
}

// Serve says that the server listens: from now on the share hands over to those of the next reload. The blocks that a
// failed reload leaves behind never serve, and hand over nothing.
func (s *Share) Serve() { s.serving.Store(true) }

// Leave gives the share back. The last one of a source to leave closes the copy; for any other the copy is written. With
// final, which says that the process ends, no answer is evicted although there is less room: it would be missing in
// the copy. Leave may be called again, and without Join.
func (s *Share) Leave(final bool) { s.registry.leave(weak.Make(s), final) }

// Len returns the number of entries of all sources.
func (r *Registry) Len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, es := range r.of {
		n += es.Len()
	}
	return n
}

// expectNoMore says that the share that key points to, which may be garbage, is not expected to join any more.
func (r *Registry) expectNoMore(key weak.Pointer[Share]) {
	e, ok := r.expected[key]
	if !ok {
		return
	}
	delete(r.expected, key)
	r.sizes[e.source] = r.sizes[e.source].minus(e.size)
	if r.sizes[e.source] == (Size{}) {
		delete(r.sizes, e.source)
	}
}

// inherit hands over to es, for s, the answers of the server blocks of other generations. See Join.
func (r *Registry) inherit(es *Entries, s *Share) {
	var theirs, others []*Entries
	for _, from := range r.of {
		same := from.source.Upstreams == s.source.Upstreams
		switch {
		case from == es, !from.servesBefore(s, !same):
		case same:
			theirs = append(theirs, from)
		default:
			others = append(others, from)
		}
	}
	for _, from := range theirs {
		es.adopt(from, false)
	}
	if len(others) > 1 { // as with the view plugin: which of them s continues is not known
		return
	}
	for _, from := range others {
		es.adopt(from, true)
	}
}

// leave is Share.Leave for the share that key points to, which may be garbage.
func (r *Registry) leave(key weak.Pointer[Share], final bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expectNoMore(key)
	es, ok := r.joined[key]
	if !ok {
		return
	}
	delete(r.joined, key)
	es.remove(key)
	if len(es.sizes) > 0 {
		if !final {
			es.resize(Size{})
		}
	} else {
		delete(r.of, es.source)
	}
	last := len(es.sizes) == 0 // if not, this may be the end of the process all the same, and the others be blocks that were left behind
	switch {
	case es.file == nil:
	case last:
		es.file.Close()
	default:
		es.file.Flush()
	}
	switch {
	case es.fleet == nil:
	case last:
		es.fleet.Close()
	default:
		es.fleet.Flush()
	}
}
