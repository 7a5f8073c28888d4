package alias

import (
	"strings"

	"github.com/miekg/dns"
)

// alias is what a name is an alias of, wherever that is said. It is not changed.
type alias struct {
	target string // lower case, fully qualified
	zone   string // the zone of ZONES that the owner is in
	ttl    uint32 // caps the TTL of the answer, in seconds
}

// record is an alias of the Corefile: owner ALIAS target.
type record struct {
	alias
	owner    string // lower case, fully qualified; "*.…" for a wildcard
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

// records holds the aliases by name. It is not changed after set-up.
type records struct {
	all []*record

	// names has every name that exists because of a record: its owner, and the empty non-terminals between
	// the owner and its zone, which have a nil record (RFC 4592, section 2.2.2).
	names map[string]*record

	// wildcards has the wildcard records by the name that is below the asterisk label.
	wildcards map[string]*record
}

func newRecords(zs zones) *records {
	rs := &records{names: make(map[string]*record), wildcards: make(map[string]*record)}
	for z := range zs {
		rs.names[z] = nil
	}
	return rs
}

// add adds r and reports whether its owner had no record yet.
func (rs *records) add(r *record) bool {
	holder, name := rs.names, r.owner
	if r.wildcard {
		holder, name = rs.wildcards, strings.TrimPrefix(r.owner, "*.")
		if name == "" {
			name = "."
		}
	}
	if holder[name] != nil {
		return false
	}
	holder[name] = r
	rs.all = append(rs.all, r)
	rs.addParents(name, r.zone)
	return true
}

// addParents makes name and the names between it and zone exist.
func (rs *records) addParents(name, zone string) {
	for off, end := 0, false; !end && name[off:] != zone; off, end = dns.NextLabel(name, off) {
		if _, ok := rs.names[name[off:]]; !ok {
			rs.names[name[off:]] = nil
		}
	}
}

// find returns the record that name has, by itself or from the closest wildcard, and whether the records make
// name exist at all. A wildcard does not reach below a name that exists (RFC 4592, section 3.3.1).
func (rs *records) find(name string) (r *record, exists bool) {
	if r, ok := rs.names[name]; ok {
		return r, true
	}
	if len(rs.wildcards) == 0 {
		return nil, false
	}
	for off, end := dns.NextLabel(name, 0); !end; off, end = dns.NextLabel(name, off) {
		if _, ok := rs.names[name[off:]]; ok {
			r, exists = rs.wildcards[name[off:]]
			return r, exists
		}
	}
	if _, ok := rs.names["."]; ok {
		r, exists = rs.wildcards["."]
	}
	return r, exists
}
