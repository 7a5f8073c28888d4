// Package records has the zones that the plugin applies to, the aliases that the Corefile states in them, by name and
// as wildcards, and the rules for the names of owners and targets. A million aliases take little memory.
//
// It must not know the Corefile's syntax, nor what is cached or looked up: an Alias has cached pointers for the cache, and
// does not use them itself.
//
// Zones are collected first, and then given to New. Add adds the records, Seal ends that, and from then on Find finds
// them.
package records

import (
	"bytes"
	"encoding/binary"
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// Record is the alias that a name has in the Corefile: its own, or that of the closest wildcard.
type Record struct {
	*Alias        // nil: none
	Wildcard bool // the alias is that of a wildcard
}

// Records has the aliases of the Corefile by name. One goroutine adds them; once it is sealed, it is not changed and
// safe for concurrent use. There may be millions of names: all stand in one slice, without pointers that the garbage
// collector would have to follow.
type Records struct {
	zones     Zones
	aliases   []Alias // each once, by zone, when it is sealed: many names may have the same
	count     int     // of records
	wildcards bool    // some are wildcards

	// nodes has every name that exists: the zones, the owners of records, and the empty non-terminals between an owner
	// and its zone, which have no alias (RFC 4592, section 2.2.2). See node.
	nodes []byte
	size  int // how many there are
	table []bucket
	seed  maphash.Seed

	sorting sync.Once
	sorted  []node // all nodes with a record, in the order of their names read backwards; made by Below

	// Until Records is sealed: what the aliases are made of, and one more than the index of each in stated.
	stated  []statement
	indices map[statement]uint32
}

// statement is what the Corefile states of an alias.
type statement struct {
	targets  string // with a space between them
	zone     string
	ttl      uint32
	failover bool
}

// node is the offset of a name in nodes. At the offset are the alias of the name itself and that of the wildcard below it
// (uint32 each: one more than the index, or 0 for none), the length of the name (uint16), and the name.
type node uint32

const (
	wildcardOffset = 4
	lengthOffset   = 8
	nameOffset     = 10
)

// bucket is a place of the hash table by which nodes are found. Names that collide are in the buckets that follow.
type bucket struct {
	hash uint32 // the lower half of it
	node node   // 0: the bucket is free; no node is at offset 0
}

// New returns Records without records for those zones, which must not be changed any more.
func New(zones Zones) *Records {
	rs := &Records{
		zones: zones, nodes: make([]byte, 1), table: make([]bucket, 8), seed: maphash.MakeSeed(),
		indices: make(map[statement]uint32),
	}
	for z := range zones {
		rs.node(z)
	}
	return rs
}

// Add makes owner an alias of targets, at least one, unless owner has a record already, and reports whether it did. With
// failover, the first of them that has an answer counts, and not all. Names are lower case and fully qualified, and owner
// is in one of the zones. A leading label * makes a wildcard, unless owner is the name of the zone. ttl, in seconds, caps
// the TTL of the answer. Records must not be sealed.
func (rs *Records) Add(owner string, ttl uint32, failover bool, targets ...string) bool {
	zone := rs.zones.Match(owner)
	name, wildcard := cutWildcard(owner, zone)
	at := rs.node(name)
	if wildcard {
		at += wildcardOffset
	}
	if binary.NativeEndian.Uint32(rs.nodes[at:]) != 0 {
		return false
	}
	binary.NativeEndian.PutUint32(rs.nodes[at:], rs.index(statement{strings.Join(targets, " "), zone, ttl, failover}))
	rs.count++
	rs.wildcards = rs.wildcards || wildcard
	for off, end := 0, false; !end && name[off:] != zone; off, end = dns.NextLabel(name, off) {
		rs.node(name[off:])
	}
	return true
}

// Len returns the number of records.
func (rs *Records) Len() int { return rs.count }

// cutWildcard returns the name that owner is the wildcard of, or else owner itself. The name of a zone is no wildcard in it:
// what it would match is outside.
func cutWildcard(owner, zone string) (name string, wildcard bool) {
	if owner == zone {
		return owner, false
	}
	if name, wildcard = strings.CutPrefix(owner, "*."); name == "" {
		name = "."
	}
	return name, wildcard
}

// Seal makes the aliases, and drops what only Add needs. It is called once. It copies the targets into one string: as the
// parser of the Corefile returned them, they may be parts of larger ones.
func (rs *Records) Seal() {
	var targets strings.Builder
	size := 0
	for _, s := range rs.stated {
		size += len(s.targets)
	}
	targets.Grow(size)
	for _, s := range rs.stated {
		targets.WriteString(s.targets)
	}
	rest := targets.String()
	rs.aliases = make([]Alias, len(rs.stated))
	zones := make(map[string]*Zone)
	places := rs.places()
	for i, s := range rs.stated {
		first := &rs.aliases[places[i]]
		if zones[s.zone] == nil {
			zones[s.zone] = &Zone{Name: s.zone, Apex: s.zone}
		}
		rs.fill(first, s, zones[s.zone], rest[:len(s.targets)])
		if s.failover {
			first.Failover = new(Failover)
		}
		rest = rest[len(s.targets):]
	}
	rs.stated, rs.indices = nil, nil
	rs.nodes = slices.Clone(rs.nodes)
	for n := range rs.all() {
		for _, at := range []node{n, n + wildcardOffset} {
			if i := binary.NativeEndian.Uint32(rs.nodes[at:]); i != 0 {
				binary.NativeEndian.PutUint32(rs.nodes[at:], places[i-1]+1)
			}
		}
	}
}

// fill fills in first, the alias of the first of targets, and makes those of the others.
func (rs *Records) fill(first *Alias, s statement, zone *Zone, targets string) {
	for al := first; ; al = al.Next {
		target, others, more := strings.Cut(targets, " ")
		al.Target, al.Zone, al.TTL, al.Inside = target, zone, s.ttl, rs.zones.Inside(target)
		if targets = others; !more {
			return
		}
		al.Next = new(Alias)
	}
}

// places returns the index in aliases of each statement: those of a zone stand together, in their order.
func (rs *Records) places() []uint32 {
	counts := make(map[string]uint32)
	for _, s := range rs.stated {
		counts[s.zone]++
	}
	next, begin := make(map[string]uint32, len(counts)), uint32(0)
	places := make([]uint32, len(rs.stated))
	for i, s := range rs.stated {
		place, ok := next[s.zone]
		if !ok {
			place, begin = begin, begin+counts[s.zone]
		}
		places[i], next[s.zone] = place, place+1
	}
	return places
}

// after returns the node that follows n, or the end of nodes.
func (rs *Records) after(n node) node { return n + nameOffset + node(len(rs.name(n))) }

// index returns one more than the index of s, which is added if need be.
func (rs *Records) index(s statement) uint32 {
	i, ok := rs.indices[s]
	if !ok {
		rs.stated = append(rs.stated, s)
		i = uint32(len(rs.stated)) // #nosec G115 -- the names of more would not fit into nodes
		rs.indices[s] = i
	}
	return i
}

// node returns the node of name, which is added if need be.
func (rs *Records) node(name string) node {
	if n := rs.lookup(name); n != 0 {
		return n
	}
	if rs.size++; 4*rs.size > 3*len(rs.table) {
		before := rs.table
		rs.table = make([]bucket, 2*len(before))
		for _, b := range before {
			if b.node != 0 {
				rs.put(b)
			}
		}
	}
	n := node(len(rs.nodes)) // #nosec G115 -- no Corefile is that large
	if size := nameOffset + len(name); len(rs.nodes)+size > cap(rs.nodes) {
		rs.nodes = slices.Grow(rs.nodes, len(rs.nodes)+size) // twice as much: append would grow it by a quarter, and so more often
	}
	rs.nodes = append(rs.nodes, make([]byte, lengthOffset)...)
	rs.nodes = binary.NativeEndian.AppendUint16(rs.nodes, uint16(len(name))) // #nosec G115 -- one with escapes has a thousand
	rs.nodes = append(rs.nodes, name...)
	rs.put(bucket{rs.hash(name), n})
	return n
}

func (rs *Records) hash(name string) uint32 { return uint32(maphash.String(rs.seed, name)) } // #nosec G115 -- half of it

// put puts b into the next free place.
func (rs *Records) put(b bucket) {
	mask := uint32(len(rs.table) - 1) // #nosec G115
	i := b.hash & mask
	for rs.table[i].node != 0 {
		i = (i + 1) & mask
	}
	rs.table[i] = b
}

// lookup returns the node of name, or 0.
func (rs *Records) lookup(name string) node {
	hash, mask := rs.hash(name), uint32(len(rs.table)-1) // #nosec G115
	for i := hash & mask; rs.table[i].node != 0; i = (i + 1) & mask {
		if b := rs.table[i]; b.hash == hash && string(rs.name(b.node)) == name {
			return b.node
		}
	}
	return 0
}

// name returns the name of n.
func (rs *Records) name(n node) []byte {
	length := node(binary.NativeEndian.Uint16(rs.nodes[n+lengthOffset:]))
	return rs.nodes[n+nameOffset : n+nameOffset+length]
}

// record returns the record of n, or of the wildcard below it.
func (rs *Records) record(n node, wildcard bool) Record {
	if wildcard {
		n += wildcardOffset
	}
	if i := binary.NativeEndian.Uint32(rs.nodes[n:]); i != 0 {
		return Record{&rs.aliases[i-1], wildcard}
	}
	return Record{}
}

// All yields the owners and their records, each once, in no particular order; the owner of a wildcard has its label *.
// Records must be sealed.
func (rs *Records) All() iter.Seq2[string, Record] {
	return func(yield func(string, Record) bool) {
		for n := range rs.all() {
			if !rs.yield(n, yield) {
				return
			}
		}
	}
}

// Below is All for the owners at name and below it: it takes no longer for many records elsewhere. name is lower case and fully
// qualified.
func (rs *Records) Below(name string) iter.Seq2[string, Record] {
	if name == "." {
		return rs.All()
	}
	return func(yield func(string, Record) bool) {
		rs.sorting.Do(rs.sort)
		if n := rs.lookup(name); n != 0 && !rs.yield(n, yield) {
			return
		}
		suffix := []byte("." + name)
		first, _ := slices.BinarySearchFunc(rs.sorted, suffix, func(n node, suffix []byte) int { return compareBackwards(rs.name(n), suffix) })
		for _, n := range rs.sorted[first:] {
			if !bytes.HasSuffix(rs.name(n), suffix) || !rs.yield(n, yield) {
				return
			}
		}
	}
}

// all yields the nodes.
func (rs *Records) all() iter.Seq[node] {
	return func(yield func(node) bool) {
		for n := node(1); int(n) < len(rs.nodes) && yield(n); n = rs.after(n) {
		}
	}
}

// yield yields the records of n, and returns what yield returned last.
func (rs *Records) yield(n node, yield func(string, Record) bool) bool {
	name := string(rs.name(n))
	if r := rs.record(n, false); r.Alias != nil && !yield(name, r) {
		return false
	}
	if r := rs.record(n, true); r.Alias != nil && !yield("*."+strings.TrimPrefix(name, "."), r) {
		return false
	}
	return true
}

// sort makes sorted. Backwards, what is below a name follows the name with its dot.
func (rs *Records) sort() {
	for n := range rs.all() {
		if rs.record(n, false).Alias != nil || rs.record(n, true).Alias != nil {
			rs.sorted = append(rs.sorted, n)
		}
	}
	rs.sorted = slices.Clip(rs.sorted)
	slices.SortFunc(rs.sorted, func(a, b node) int { return compareBackwards(rs.name(a), rs.name(b)) })
}

// compareBackwards compares a and b octet by octet from their ends.
func compareBackwards(a, b []byte) int {
	for i, j := len(a)-1, len(b)-1; i >= 0 && j >= 0; i, j = i-1, j-1 {
		if a[i] != b[j] {
			return int(a[i]) - int(b[j])
		}
	}
	return len(a) - len(b)
}

// ByZone yields the aliases of each zone that has any, and each alias once: records with the same targets, TTL and zone
// share one. The aliases must not be copied. Records must be sealed.
func (rs *Records) ByZone() iter.Seq[[]Alias] {
	return func(yield func([]Alias) bool) {
		for rest := rs.aliases; len(rest) > 0; {
			n := 1
			for n < len(rest) && rest[n].Zone == rest[0].Zone {
				n++
			}
			if !yield(rest[:n:n]) {
				return
			}
			rest = rest[n:]
		}
	}
}

// Find returns the record that name has, its own or that of the closest wildcard, and whether name exists: because it has
// a record, because a name below it has one, or because it is a zone. A wildcard does not reach below a name that exists
// (RFC 4592, section 3.3.1). name is lower case and fully qualified; Records must be sealed. Find allocates nothing.
func (rs *Records) Find(name string) (r Record, exists bool) {
	if n := rs.lookup(name); n != 0 {
		return rs.record(n, false), true
	}
	if !rs.wildcards {
		return Record{}, false
	}
	encloser := node(0)
	for off, end := dns.NextLabel(name, 0); !end && encloser == 0; off, end = dns.NextLabel(name, off) {
		encloser = rs.lookup(name[off:])
	}
	if encloser == 0 {
		encloser = rs.lookup(".")
	}
	if encloser != 0 {
		r = rs.record(encloser, true)
	}
	return r, r.Alias != nil
}
