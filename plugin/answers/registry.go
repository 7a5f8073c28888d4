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

// Registry has the Entries in use in a process, by source. It is safe for concurrent use.
type Registry struct {
	newFile func(Source, *Entries) File
	now     func() time.Time

	mu       sync.Mutex
	of       map[Source]*Entries
	expected map[weak.Pointer[Share]]struct{} // to join, when their server starts
	joined   map[weak.Pointer[Share]]*Entries
}

// NewRegistry returns a Registry. newFile makes the copy of the Entries of a source with a path; it is not opened. now
// is the clock.
func NewRegistry(newFile func(Source, *Entries) File, now func() time.Time) *Registry {
	return &Registry{
		newFile: newFile, now: now,
		of:       make(map[Source]*Entries),
		expected: make(map[weak.Pointer[Share]]struct{}),
		joined:   make(map[weak.Pointer[Share]]*Entries),
	}
}

// Share is the part that one server block has in the Entries of its source. It belongs to the block: when the block is
// garbage, as after a reload that failed, so is its share, which is then given back.
type Share struct {
	registry   *Registry
	source     Source
	size       int
	zones      map[string]struct{}
	generation any
	serving    atomic.Bool
}

// NewShare returns the share of a server block with those zones, for size answers. The registry expects it to join, so
// that the Entries have the size for all server blocks before the copy is read.
func (r *Registry) NewShare(s Source, size int, zones map[string]struct{}) *Share {
	share := &Share{registry: r, source: s, size: size, zones: zones}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected[weak.Make(share)] = struct{}{}
	return share
}

// Join returns the Entries of the source, with what is in the copy and what the server blocks of other generations hand
// over, which a reload replaces: from the same upstreams all answers; from other upstreams of the same zones all answers,
// expired, unless there are several such upstreams. generation identifies the server that the block belongs to.
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
	// A reload that fails leaves blocks behind that nobody ends.
	runtime.AddCleanup(s, func(key weak.Pointer[Share]) { go r.leave(key, false) }, key)
	return es
}

// Serve says that the server listens: the share takes part in hand-overs from now on. The blocks of a reload that failed
// never serve, and have no part in the next.
func (s *Share) Serve() { s.serving.Store(true) }

// Leave gives the share back. final says that the process ends, and that nothing is to be evicted any more: it would be
// missing in the copy. It may be called again, and without Join.
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

// sizeFor returns the size that s and those who are expected want of the source of s.
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

// inherit hands over to es, for s, the answers of the server blocks of other generations.
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
	if len(others) > 1 { // as with the view plugin: which of them s goes on from is not known
		return
	}
	for from := range others {
		es.adopt(from, true)
	}
}

func (r *Registry) leave(key weak.Pointer[Share], final bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
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
	case len(es.sizes) > 0: // this may be the end of the process, with blocks left behind
		es.file.Flush()
	default:
		es.file.Close()
	}
}
