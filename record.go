package alias

import (
	"encoding/binary"
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/miekg/dns"
)

// alias is what a name is an alias of, wherever that is said. But for its answers it is not changed.
type alias struct {
	target string // lower case, fully qualified
	zone   string // the zone of ZONES that the owner is in
	ttl    uint32 // caps the TTL of the answer, in seconds
	inside bool   // target is in ZONES

	answers [2]atomic.Pointer[entry] // those of the target that were found last, by family
}

// family returns the place of an address type in the answers of an alias.
func family(qtype uint16) int {
	if qtype == dns.TypeA {
		return 0
	}
	return 1
}

// record is what a name has in the Corefile: an alias of its own or of the closest wildcard, or none (nil).
type record struct {
	*alias
	wildcard bool
}

// zones is the set of zones that the plugin applies to, lower case and fully qualified.
type zones map[string]struct{}

// match returns the closest zone that encloses name, or "".
func (z zones) match(name string) string { return closest(z, name) }

// closest returns the closest of zs that encloses name, or "".
func closest[V any](zs map[string]V, name string) string {
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if _, ok := zs[name[off:]]; ok {
			return name[off:]
		}
	}
	if _, ok := zs["."]; ok {
		return "."
	}
	return ""
}

// newAlias returns what makes owner an alias of target.
func (z zones) newAlias(owner, target string, ttl uint32) *alias {
	return &alias{target: target, zone: z.match(owner), ttl: ttl, inside: z.inside(target)}
}

// inside reports whether name is in one of the zones. The root zone does not count.
func (z zones) inside(name string) bool {
	zone := z.match(name)
	return zone != "" && zone != "."
}

// records holds the aliases of the Corefile by name. It is not changed once it is sealed. There may be millions, so what is
// there for each is in one place, and without pointers, which the garbage collector would follow over and over again.
type records struct {
	zones     zones
	aliases   []alias // each once, when it is sealed: many names may have the same
	count     int     // of records
	wildcards bool    // some are wildcards

	// nodes has every name that exists because of a record: its owner, and the empty non-terminals between the owner
	// and its zone, which have no alias (RFC 4592, section 2.2.2). See node.
	nodes []byte
	size  int // how many there are
	table []bucket
	seed  maphash.Seed

	said    []said          // what aliases are made of; until it is sealed, as indices
	indices map[said]uint32 // of said
}

// said is what the Corefile says of an alias.
type said struct {
	target, zone string
	ttl          uint32
}

// node is where a name is in nodes. There is the alias of the name itself, that of the wildcard below it (uint32 each: one more
// than the index, or 0 for none), the length of the name (uint16), and the name.
type node uint32

const (
	wildcardOffset = 4
	lengthOffset   = 8
	nameOffset     = 10
)

// bucket is a place of the hash table by which nodes are found. What collides is in the buckets that follow.
type bucket struct {
	hash uint32 // the lower half of it
	node node   // or 0 when it is free: what is at the beginning of nodes is none
}

func newRecords(zs zones) *records {
	rs := &records{zones: zs, nodes: make([]byte, 1), table: make([]bucket, 8), seed: maphash.MakeSeed(), indices: make(map[said]uint32)}
	for z := range zs {
		rs.node(z)
	}
	return rs
}

// add makes owner, which is in the zone of s, the alias that s says, and reports whether it had no record yet.
func (rs *records) add(owner string, s said) bool {
	name, wildcard := cutWildcard(owner, s.zone)
	at := rs.node(name)
	if wildcard {
		at += wildcardOffset
	}
	if binary.NativeEndian.Uint32(rs.nodes[at:]) != 0 {
		return false
	}
	binary.NativeEndian.PutUint32(rs.nodes[at:], rs.index(s))
	rs.count++
	rs.wildcards = rs.wildcards || wildcard
	for off, end := 0, false; !end && name[off:] != s.zone; off, end = dns.NextLabel(name, off) {
		rs.node(name[off:])
	}
	return true
}

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

// seal makes the aliases, and drops what is there for add alone. It puts the targets into one piece of memory: where they are
// was up to the parser of the Corefile.
func (rs *records) seal() {
	var targets strings.Builder
	for _, s := range rs.said {
		targets.WriteString(s.target)
	}
	rest := targets.String()
	rs.aliases = make([]alias, len(rs.said))
	for i, s := range rs.said {
		al := &rs.aliases[i]
		al.target, rest = rest[:len(s.target)], rest[len(s.target):]
		al.zone, al.ttl, al.inside = s.zone, s.ttl, rs.zones.inside(s.target)
	}
	rs.said, rs.indices = nil, nil
	rs.nodes = slices.Clone(rs.nodes)
}

// index returns one more than the index of s, which is added if need be.
func (rs *records) index(s said) uint32 {
	i, ok := rs.indices[s]
	if !ok {
		rs.said = append(rs.said, s)
		i = uint32(len(rs.said)) // #nosec G115 -- the names of more would not fit into nodes
		rs.indices[s] = i
	}
	return i
}

// node returns the node of name, which is added if need be.
func (rs *records) node(name string) node {
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
	rs.nodes = append(rs.nodes, make([]byte, lengthOffset)...)
	rs.nodes = binary.NativeEndian.AppendUint16(rs.nodes, uint16(len(name))) // #nosec G115 -- one with escapes has a thousand
	rs.nodes = append(rs.nodes, name...)
	rs.put(bucket{rs.hash(name), n})
	return n
}

func (rs *records) hash(name string) uint32 { return uint32(maphash.String(rs.seed, name)) } // #nosec G115 -- half of it

// put puts b into the next free place.
func (rs *records) put(b bucket) {
	mask := uint32(len(rs.table) - 1) // #nosec G115
	i := b.hash & mask
	for rs.table[i].node != 0 {
		i = (i + 1) & mask
	}
	rs.table[i] = b
}

// lookup returns the node of name, or 0.
func (rs *records) lookup(name string) node {
	hash, mask := rs.hash(name), uint32(len(rs.table)-1) // #nosec G115
	for i := hash & mask; rs.table[i].node != 0; i = (i + 1) & mask {
		if b := rs.table[i]; b.hash == hash && string(rs.name(b.node)) == name {
			return b.node
		}
	}
	return 0
}

// name returns the name of n.
func (rs *records) name(n node) []byte {
	length := node(binary.NativeEndian.Uint16(rs.nodes[n+lengthOffset:]))
	return rs.nodes[n+nameOffset : n+nameOffset+length]
}

// record returns the record of n, or of the wildcard below it.
func (rs *records) record(n node, wildcard bool) record {
	if wildcard {
		n += wildcardOffset
	}
	if i := binary.NativeEndian.Uint32(rs.nodes[n:]); i != 0 {
		return record{&rs.aliases[i-1], wildcard}
	}
	return record{}
}

// all returns the owners and their records, in the order of the Corefile but for those that were empty non-terminals first.
func (rs *records) all() iter.Seq2[string, record] {
	return func(yield func(string, record) bool) {
		for n := node(1); int(n) < len(rs.nodes); n += nameOffset + node(len(rs.name(n))) {
			name := string(rs.name(n))
			if r := rs.record(n, false); r.alias != nil && !yield(name, r) {
				return
			}
			if r := rs.record(n, true); r.alias != nil && !yield("*."+strings.TrimPrefix(name, "."), r) {
				return
			}
		}
	}
}

// find returns the record that name has, by itself or from the closest wildcard, and whether the records make
// name exist at all. A wildcard does not reach below a name that exists (RFC 4592, section 3.3.1).
func (rs *records) find(name string) (r record, exists bool) {
	if n := rs.lookup(name); n != 0 {
		return rs.record(n, false), true
	}
	if !rs.wildcards {
		return record{}, false
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
	return r, r.alias != nil
}
