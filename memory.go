package alias

import (
	"encoding/binary"
	"iter"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"weak"

	"github.com/coredns/alias/plugin/store"

	"github.com/maypok86/otter/v2"
	"github.com/miekg/dns"
)

const (
	// maxLag is how much older than in memory an answer in the file may be whose addresses are the same: not each
	// lookup is worth a write.
	maxLag = time.Minute

	// maxAge is the age of the oldest answer that can be of use, in the file.
	maxAge = maxStale + maxTTL

	// ordinarySize is how many octets of addresses an answer may have that counts for one. Who has more counts for more,
	// so that a hostile target cannot fill the memory.
	ordinarySize = 256
)

// source is whose answers a memory has: what one resolver says can be another's secret, or nonsense.
type source struct {
	upstreams string // in any order
	path      string // of the file that keeps the answers, or ""
}

var _ store.Contents = (*memory)(nil)

// memory is what is remembered. Server blocks with the same source share it, and a reload hands it on. It is safe for
// concurrent use.
type memory struct {
	source
	now     func() time.Time
	answers *otter.Cache[question, *entry]
	// failures of targets that have no answer. When the resolver is dead, nothing that a client asks for makes answers go.
	failures *otter.Cache[question, *entry]
	file     *store.Bucket // nil if the answers are not kept in one
	shares   map[*share]struct{}
}

// searches is how many of the loads of an answer that is kept elsewhere are searches all the same, one of so many: by these the
// memory knows which answers are in use.
const searches = 16

// share is the part of a memory that one plugin asks for. It holds nothing of the plugin.
type share struct {
	*memory
	size int
}

// newMemory returns a memory for size answers, with nothing in it.
func newMemory(s source, size int) *memory {
	m := &memory{source: s, now: time.Now, shares: make(map[*share]struct{})}
	m.failures = otter.Must(&otter.Options[question, *entry]{MaximumSize: size})
	m.answers = otter.Must(&otter.Options[question, *entry]{
		MaximumWeight: uint64(size), // #nosec G115 -- at most maxCacheSize
		Weigher: func(_ question, e *entry) uint32 {
			return uint32(1 + len(e.addrs)/ordinarySize) // #nosec G115 -- addrs come in one message
		},
		OnAtomicDeletion: func(e otter.DeletionEvent[question, *entry]) {
			e.Value.gone.Store(true)
			if e.WasEvicted() && m.file != nil {
				m.file.Delete(recordKey(e.Key))
			}
		},
	})
	if s.path != "" {
		m.file = store.New(s.path, s.upstreams, m, func(err error) { persistWrites.WithLabelValues(endedIn(err)).Inc() })
	}
	return m
}

// load returns what is remembered of q, or nothing.
func (m *memory) load(q question) *entry {
	if e, ok := m.answers.GetIfPresent(q); ok {
		return e
	}
	return m.failure(q)
}

// loadAt is load for the one who keeps the answer to q at place, where it is put when it is found, unless place is nil. A large one
// is not: it is kept until the next query, even when it is remembered no more.
func (m *memory) loadAt(q question, place *atomic.Pointer[entry]) *entry {
	if place == nil {
		return m.load(q)
	}
	kept := place.Load()
	if kept != nil && !kept.gone.Load() && rand.Uint32()%searches != 0 { // #nosec G404 -- no secret
		return kept
	}
	e, ok := m.answers.GetIfPresent(q)
	switch {
	case !ok || len(e.addrs) > ordinarySize:
		place.Store(nil)
	case e != kept:
		place.Store(e)
	}
	if !ok {
		return m.failure(q)
	}
	return e
}

// failure returns what is remembered of q when there is no answer.
func (m *memory) failure(q question) *entry {
	if e, ok := m.failures.GetIfPresent(q); ok {
		return e
	}
	return nothing
}

func (m *memory) len() int { return m.answers.EstimatedSize() + m.failures.EstimatedSize() }

func (m *memory) full() bool {
	return m.answers.WeightedSize()+uint64(m.failures.EstimatedSize()) >= m.answers.GetMaximum() // #nosec G115 -- a size
}

// update replaces what is remembered of q with what change makes of it, and returns that. change gets nothing when there is
// nothing, and must not use m. An answer goes to the file when it is another one, or by more than lag newer than the one there.
func (m *memory) update(q question, lag time.Duration, change func(current *entry) *entry) *entry {
	var e *entry
	m.answers.Compute(q, func(current *entry, found bool) (*entry, otter.ComputeOp) {
		if !found {
			current = m.failure(q)
		}
		switch e = change(current); {
		case e == current:
			return nil, otter.CancelOp
		case !e.answered:
			m.failures.Set(q, e)
			return nil, otter.CancelOp
		case !found:
			m.failures.Invalidate(q)
		}
		e.saved = current.saved
		if m.file != nil && (!sameOutcome(e, current) || e.stored.Sub(e.saved) > lag) {
			e.saved = e.stored
			m.file.Put(recordKey(q), m.recordValue(e))
		}
		return e, otter.WriteOp
	})
	return e
}

// sameOutcome reports whether two answers are the same but for their age.
func sameOutcome(a, b *entry) bool {
	return a.answered == b.answered && a.past == b.past && a.links == b.links && slices.Equal(a.addrs, b.addrs)
}

// Restore implements store.Contents.
func (m *memory) Restore(key, value string) string {
	q, restored, ok := readRecord(key, value)
	if !ok {
		return ""
	}
	now := m.now()
	// As ages are measured by the clock that only goes forward, so is that of a restored answer from here on. When it
	// is from the future, or from long ago, the clock is or was wrong: the file keeps what it has.
	age := now.Sub(restored.stored)
	ageless := age < 0 || age > maxAge
	if ageless {
		age, restored.past = min(max(age, 0), maxAge), true
	}
	fresh := !restored.past && age < time.Duration(restored.ttl)*time.Second
	restored.stored = now.Add(-age)
	restored.saved = restored.stored
	m.answers.Compute(q, func(current *entry, found bool) (*entry, otter.ComputeOp) {
		switch {
		case !found: // but the target may have failed before the file could be read
			f := m.failure(q)
			restored.trouble = f.trouble
			m.failures.Invalidate(q)
			return restored, otter.WriteOp
		case restored.stored.After(current.stored) && !ageless,
			current.past && fresh: // the upstreams' own answer, and not what others have said
			restored.trouble = current.trouble
			if m.file != nil {
				m.file.Put(key, value) // current may be on its way there
			}
			return restored, otter.WriteOp
		case !sameOutcome(current, restored) || current.stored.Sub(restored.stored) > maxLag:
			value = m.recordValue(current)
		}
		return nil, otter.CancelOp
	})
	return value
}

// All implements store.Contents.
func (m *memory) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for q, e := range m.answers.All() {
			if !yield(recordKey(q), m.recordValue(e)) {
				return
			}
		}
	}
}

// In the file, a record is under the type and the name of the question. Its value is the time at which the answer came (int64,
// milliseconds since 1970), the TTL (uint32, seconds), whether it is past in any case (uint8, 0 or 1), the number of
// links (uint8), and the addresses.
const (
	keySize   = 2
	valueSize = 8 + 4 + 1 + 1
)

func recordKey(q question) string {
	return string(binary.BigEndian.AppendUint16(nil, q.qtype)) + q.name
}

func (m *memory) recordValue(e *entry) string {
	now := m.now()
	stored := now.Add(-now.Sub(e.stored)).UnixMilli() // by the clock as it is set now
	b := make([]byte, 0, valueSize+len(e.addrs))
	b = binary.BigEndian.AppendUint64(b, uint64(stored)) // #nosec G115 -- read back as int64
	b = binary.BigEndian.AppendUint32(b, e.ttl)
	var past byte
	if e.past {
		past = 1
	}
	b = append(b, past, e.links)
	return string(append(b, e.addrs...))
}

// readRecord returns the answer in a record, unless it is none.
func readRecord(key, value string) (q question, e *entry, ok bool) {
	if len(key) <= keySize || len(value) < valueSize {
		return q, nil, false
	}
	b := []byte(value)
	q = question{key[keySize:], binary.BigEndian.Uint16([]byte(key))}
	e = &entry{answered: true, stored: time.UnixMilli(int64(binary.BigEndian.Uint64(b)))} // #nosec G115 -- written from int64
	e.ttl, e.past, e.links, e.addrs = binary.BigEndian.Uint32(b[8:]), b[12] == 1, b[13], b[valueSize:]
	_, isName := dns.IsDomainName(q.name)
	ok = isName && b[12] <= 1 && dns.IsFqdn(q.name) && q.name == canonical(q.name) && e.links <= maxLinks &&
		isAddress(q.qtype) && len(e.addrs)%addrLen(q.qtype) == 0
	return q, e.compact(), ok
}

// memories are those in use.
var memories = registry{of: make(map[source]*memory), expected: make(map[weak.Pointer[Alias]]struct{})}

type registry struct {
	mu       sync.Mutex
	of       map[source]*memory
	expected map[weak.Pointer[Alias]]struct{} // to join, when their server starts
}

// join returns the memory that a is to use, with what there is to remember.
func (r *registry) join(a *Alias) *memory {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, known := r.of[a.source]
	if !known {
		m = newMemory(a.source, r.sizeFor(a))
		r.of[a.source] = m
	}
	m.inherit(a)
	if !known && m.file != nil {
		m.file.Open()
		log.Infof("Cached answers %d, from %s", m.len(), m.path)
	}
	a.share.memory = m
	m.shares[a.share] = struct{}{}
	delete(r.expected, weak.Make(a))
	m.resize(r.sizeFor(a) - a.share.size)
	runtime.AddCleanup(a, func(s *share) { go r.leave(s, false) }, a.share) // a failed reload leaves instances behind that nobody ends
	return m
}

// expect says that a is to join, so that the memory has the size for all of its server blocks before the file is read.
func (r *registry) expect(a *Alias) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expected[weak.Make(a)] = struct{}{}
}

// sizeFor returns how much a and those who are expected want to be remembered of the source of a.
func (r *registry) sizeFor(a *Alias) int {
	size := a.share.size
	for p := range r.expected {
		switch b := p.Value(); {
		case b == nil:
			delete(r.expected, p)
		case b != a && b.source == a.source:
			size += b.share.size
		}
	}
	return size
}

// leave gives a share back. It may be called again, and without the share having been used. final says that the process ends, and
// nothing is to make room any more: it would not be in the file.
func (r *registry) leave(s *share, final bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m := s.memory
	if m == nil {
		return
	}
	if _, ok := m.shares[s]; !ok {
		return
	}
	delete(m.shares, s)
	if len(m.shares) > 0 {
		if !final {
			m.resize(0)
		}
	} else {
		delete(r.of, m.source)
	}
	switch {
	case m.file == nil:
	case len(m.shares) > 0: // this may be the end of the process, with instances left behind
		m.file.Flush()
	default:
		m.file.Close()
	}
}

// resize makes m as large as those who share it want it, together, and by more for those to come.
func (m *memory) resize(more int) {
	size := more
	for s := range m.shares {
		size += s.size
	}
	m.answers.SetMaximum(uint64(size))  // #nosec G115 -- a sum of sizes
	m.failures.SetMaximum(uint64(size)) // #nosec G115
}

// inherit takes over what is remembered elsewhere by the instances before a reload: from the same upstreams all, and what
// others said is past, if the zones were those of a.
func (m *memory) inherit(a *Alias) {
	theirs, others := make(map[*memory]struct{}), make(map[*memory]struct{})
	for _, b := range running.all() {
		switch from := b.cache.memory; {
		case b.instance == a.instance, !b.begun.Load(), from == m: // not begun: a failed reload has left it behind
		case from.upstreams == m.upstreams:
			theirs[from] = struct{}{}
		case maps.Equal(b.zones, a.zones):
			others[from] = struct{}{}
		}
	}
	for from := range theirs {
		m.adopt(from, false)
	}
	if len(others) > 1 { // of views, for example: who knows which
		return
	}
	for from := range others {
		m.adopt(from, true)
	}
}

// adopt takes over the answers of another memory that m has none of, or older ones.
func (m *memory) adopt(from *memory, past bool) {
	for q, e := range from.answers.All() {
		m.update(q, 0, func(current *entry) *entry {
			if current.answered && (past && !current.past || !current.stored.Before(e.stored)) {
				return current
			}
			adopted := e.clone()
			adopted.past = e.past || past
			if past {
				adopted.trouble = current.trouble
			}
			return adopted
		})
	}
}

// upstreamsOf returns what tells one set of resolvers from another.
func upstreamsOf(rs []resolver, serverName string) string {
	var names []string
	for _, r := range rs {
		name := r.protocol + "://" + r.addr
		if r.protocol != "dns" {
			if r.serverName == "" {
				r.serverName = serverName
			}
			name += "%" + r.serverName
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
