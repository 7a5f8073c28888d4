package alias

import (
	"hash/maphash"
	"iter"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// alias is what a name is an alias of, wherever that is said. It is not changed.
type alias struct {
	target string // lower case, fully qualified
	zone   string // the zone of ZONES that the owner is in
	ttl    uint32 // caps the TTL of the answer, in seconds
	inside bool   // target is in ZONES
}

// record is what a name has in the Corefile: an alias of its own or of the closest wildcard, or none (nil).
type record struct {
	*alias
	wildcard bool
}

// zones is the set of zones that the plugin applies to, lower case and fully qualified.
type zones map[string]struct{}

// match returns the closest zone that encloses name, or "".
func (z zones) match(name string) string {
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if _, ok := z[name[off:]]; ok {
			return name[off:]
		}
	}
	if _, ok := z["."]; ok {
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
// there for each has no pointers, which the garbage collector would follow over and over again.
type records struct {
	aliases []alias // each once: many names may have the same
	count   int     // of records

	wildcards bool // some are wildcards

	// nodes has every name that exists because of a record: its owner, and the empty non-terminals between the owner
	// and its zone, which have no alias (RFC 4592, section 2.2.2).
	nodes []node
	text  []byte // the names of nodes, one after the other
	table []bucket
	seed  maphash.Seed

	indices map[alias]uint32 // of aliases, until it is sealed
}

// node is a name. Its aliases are one more than an index of aliases, or 0 for none.
type node struct {
	offset   uint32 // in text
	length   uint8  // at most maxName
	own      uint32 // the alias of the name itself
	wildcard uint32 // the alias of the wildcard below it
}

// bucket is a place of the hash table by which nodes are found. What collides is in the places that follow.
type bucket struct {
	hash uint32 // the lower half of it
	node uint32 // one more than its index, or 0 for a free place
}

func newRecords(zs zones) *records {
	rs := &records{table: make([]bucket, 8), seed: maphash.MakeSeed(), indices: make(map[alias]uint32)}
	for z := range zs {
		rs.node(z)
	}
	return rs
}

// add makes owner an alias and reports whether it had no record yet.
func (rs *records) add(owner string, al alias) bool {
	name, wildcard := cutWildcard(owner)
	holder := &rs.node(name).own
	if wildcard {
		holder = &rs.node(name).wildcard
	}
	if *holder != 0 {
		return false
	}
	*holder = rs.index(al)
	rs.count++
	rs.wildcards = rs.wildcards || wildcard
	for off, end := 0, false; !end && name[off:] != al.zone; off, end = dns.NextLabel(name, off) {
		rs.node(name[off:])
	}
	return true
}

// cutWildcard returns the name that owner is the wildcard of, or else owner itself.
func cutWildcard(owner string) (name string, wildcard bool) {
	if name, wildcard = strings.CutPrefix(owner, "*."); name == "" {
		name = "."
	}
	return name, wildcard
}

// seal drops what is there for add alone.
func (rs *records) seal() {
	rs.indices = nil
	rs.aliases = slices.Clone(rs.aliases)
	rs.nodes, rs.text = slices.Clone(rs.nodes), slices.Clone(rs.text)
}

// index returns one more than the index of al in aliases, where it is added if need be.
func (rs *records) index(al alias) uint32 {
	i, ok := rs.indices[al]
	if !ok {
		rs.aliases = append(rs.aliases, al)
		i = uint32(len(rs.aliases)) // #nosec G115 -- the text of more would not fit into memory
		rs.indices[al] = i
	}
	return i
}

// node returns the node of name, which is added if need be. It is good until the next is added.
func (rs *records) node(name string) *node {
	if n := rs.lookup(name); n != nil {
		return n
	}
	if 4*(len(rs.nodes)+1) > 3*len(rs.table) {
		rs.grow()
	}
	rs.nodes = append(rs.nodes, node{offset: uint32(len(rs.text)), length: uint8(len(name))}) // #nosec G115
	rs.text = append(rs.text, name...)
	rs.put(uint32(maphash.String(rs.seed, name)), len(rs.nodes)) // #nosec G115 -- half of it
	return &rs.nodes[len(rs.nodes)-1]
}

// grow makes the table twice as large.
func (rs *records) grow() {
	before := rs.table
	rs.table = make([]bucket, 2*len(before))
	for _, p := range before {
		if p.node != 0 {
			rs.put(p.hash, int(p.node))
		}
	}
}

// put puts a node into the next free place.
func (rs *records) put(hash uint32, node int) {
	mask := uint32(len(rs.table) - 1) // #nosec G115
	i := hash & mask
	for rs.table[i].node != 0 {
		i = (i + 1) & mask
	}
	rs.table[i] = bucket{hash, uint32(node)} // #nosec G115
}

// lookup returns the node of name, or nil.
func (rs *records) lookup(name string) *node {
	hash, mask := uint32(maphash.String(rs.seed, name)), uint32(len(rs.table)-1) // #nosec G115
	for i := hash & mask; rs.table[i].node != 0; i = (i + 1) & mask {
		if rs.table[i].hash != hash {
			continue
		}
		if n := &rs.nodes[rs.table[i].node-1]; string(rs.name(n)) == name {
			return n
		}
	}
	return nil
}

func (rs *records) name(n *node) []byte { return rs.text[n.offset : n.offset+uint32(n.length)] }

func (rs *records) record(i uint32, wildcard bool) record {
	if i == 0 {
		return record{}
	}
	return record{&rs.aliases[i-1], wildcard}
}

// all returns the owners, in the order of the Corefile but for those that are empty at first, and their records.
func (rs *records) all() iter.Seq2[string, record] {
	return func(yield func(string, record) bool) {
		for i := range rs.nodes {
			n := &rs.nodes[i]
			if n.own != 0 && !yield(string(rs.name(n)), rs.record(n.own, false)) {
				return
			}
			if n.wildcard != 0 && !yield("*."+strings.TrimPrefix(string(rs.name(n)), "."), rs.record(n.wildcard, true)) {
				return
			}
		}
	}
}

// find returns the record that name has, by itself or from the closest wildcard, and whether the records make
// name exist at all. A wildcard does not reach below a name that exists (RFC 4592, section 3.3.1).
func (rs *records) find(name string) (r record, exists bool) {
	if n := rs.lookup(name); n != nil {
		return rs.record(n.own, false), true
	}
	if !rs.wildcards {
		return record{}, false
	}
	for off, end := dns.NextLabel(name, 0); !end; off, end = dns.NextLabel(name, off) {
		if n := rs.lookup(name[off:]); n != nil {
			return rs.record(n.wildcard, true), n.wildcard != 0
		}
	}
	if n := rs.lookup("."); n != nil {
		return rs.record(n.wildcard, true), n.wildcard != 0
	}
	return record{}, false
}
