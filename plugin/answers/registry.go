package answers

import (
	"maps"
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
	newFile func(Source, *Entries) File
	now     func() time.Time

	mu       sync.Mutex
	of       map[Source]*Entries
	expected map[weak.Pointer[Share]]struct{} // those that join when their server starts
	joined   map[weak.Pointer[Share]]*Entries
}

// NewRegistry returns a Registry without Entries. newFile makes the copy of the Entries of a source that has a path; it
// does not open it, and does not use the Registry. now is the clock.
func NewRegistry(newFile func(Source, *Entries) File, now func() time.Time) *Registry {
	return &Registry{
		newFile: newFile, now: now,
		of:       make(map[Source]*Entries),
		expected: make(map[weak.Pointer[Share]]struct{}),
		joined:   make(map[weak.Pointer[Share]]*Entries),
	}
}

// Share is the part that one server block has in the Entries of its Source, from NewShare through Join and Serve to Leave.
// It belongs to the server block, which holds the only pointer to it: nothing ends a block that a failed reload leaves
// behind, but once it is garbage, so is its share, which is then given back. A Share is safe for concurrent use.
type Share struct {
	registry   *Registry
	source     Source
	size       int
	zones      map[string]struct{}
	generation any // set by Join; guarded by the registry
	serving    atomic.Bool
}

// NewShare returns the share of a server block with those zones, for size answers, at least one. The zones must not be
// changed any more. The registry expects the share to join, so that the Entries have the size for all server blocks
// before the copy is read.
func (r *Registry) NewShare(s Source, size int, zones map[string]struct{}) *Share {
	share := &Share{registry: r, source: s, size: size, zones: zones}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected[weak.Make(share)] = struct{}{}
	return share
}

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
	es, known := r.of[s.source]
	if !known {
		es = newEntries(s.source, r.sizeFor(s), r.now)
		if s.source.Path != "" {
			es.file = r.newFile(s.source, es)
		}
		r.of[s.source] = es
	}
	r.inherit(es, s)
	if !known && es.file != nil {
		es.file.Open()
		log.Infof("Cached answers %d, from %s", es.Len(), s.source.Path)
	}
	delete(r.expected, key)
	r.joined[key] = es
	es.sizes[key] = s.size
	es.resize(r.sizeFor(s) - s.size)
	// A reload that fails leaves server blocks behind that nothing ends.
	runtime.AddCleanup(s, func(key weak.Pointer[Share]) { go r.leave(key, false) }, key)
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

// sizeFor returns the size of s and of the shares of the same source that are expected to join.
func (r *Registry) sizeFor(s *Share) int {
	size := s.size
	for p := range r.expected {
		switch o := p.Value(); {
		case o == nil:
			delete(r.expected, p)
		case o != s && o.source == s.source:
			size += o.size
		}
	}
	return size
}

// inherit hands over to es, for s, the answers of the server blocks of other generations. See Join.
func (r *Registry) inherit(es *Entries, s *Share) {
	theirs, others := make(map[*Entries]struct{}), make(map[*Entries]struct{})
	for p, from := range r.joined {
		switch o := p.Value(); {
		case o == nil, o.generation == s.generation, !o.serving.Load(), from == es:
		case o.source.Upstreams == s.source.Upstreams:
			theirs[from] = struct{}{}
		case maps.Equal(o.zones, s.zones):
			others[from] = struct{}{}
		}
	}
	for from := range theirs {
		es.adopt(from, false)
	}
	if len(others) > 1 { // as with the view plugin: which of them s continues is not known
		return
	}
	for from := range others {
		es.adopt(from, true)
	}
}

// leave is Share.Leave for the share that key points to, which may be garbage.
func (r *Registry) leave(key weak.Pointer[Share], final bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.expected, key)
	es, ok := r.joined[key]
	if !ok {
		return
	}
	delete(r.joined, key)
	delete(es.sizes, key)
	if len(es.sizes) > 0 {
		if !final {
			es.resize(0)
		}
	} else {
		delete(r.of, es.source)
	}
	switch {
	case es.file == nil:
	case len(es.sizes) > 0: // this may be the end of the process, and the others be blocks that were left behind
		es.file.Flush()
	default:
		es.file.Close()
	}
}
