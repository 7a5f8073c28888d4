package primary

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"hash"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// register is a content of a zone, and the number under which it is published. It is not changed once it is published.
type register struct {
	number  uint32
	own     uint32
	aliases string
	since   int64 // the latest of the servers that published it
	data    map[string]datum
}

// datum is what an alias is expanded to, for one type.
type datum struct {
	rdata  string // as package lookup has it, sorted
	ttl    uint32 // in seconds
	stored int64  // when the answer came, in milliseconds since 1970
}

// isSame reports whether o has the same content, but for TTLs.
func (r *register) isSame(o *register) bool {
	if r.own != o.own || r.aliases != o.aliases || len(r.data) != len(o.data) {
		return false
	}
	for key, d := range r.data {
		if other, ok := o.data[key]; !ok || other.rdata != d.rdata {
			return false
		}
	}
	return true
}

// precedes reports whether r wins over what a server has found: see rule 5.
func (r *register) precedes(l *local) bool {
	switch {
	case r.own != l.own:
		return serialBefore(l.own, r.own)
	case r.aliases == l.aliases:
		return false
	case r.since != l.since:
		return r.since > l.since
	}
	return r.aliases > l.aliases
}

// millis is now as registers have it.
func millis(now time.Time) int64 { return now.UnixMilli() }

// keyOf returns the key of the expansion x. It is another one when the alias has other targets: then the data are not of use.
func keyOf(x *expansion) string {
	hash := sha256.New()
	fmt.Fprintln(hash, x.wins, x.alias.Failover != nil)
	for al := range x.alias.All() {
		fmt.Fprintln(hash, al.Target, al.TTL)
	}
	return dns.TypeToString[x.qtype] + " " + short(hash) + " " + x.owner
}

// aliasesOf returns what stands for all expansions of a zone, in any order, and for what else decides about them.
func aliasesOf(keys []string, options string) string {
	hash := sha256.New()
	fmt.Fprintln(hash, options)
	for _, key := range slices.Sorted(slices.Values(keys)) {
		fmt.Fprintln(hash, key)
	}
	return short(hash)
}

// short returns 96 bits of a hash as text.
func short(h hash.Hash) string { return base64.RawURLEncoding.EncodeToString(h.Sum(nil)[:12]) }

// typeOf returns the type of the expansion with that key.
func typeOf(key string) uint16 {
	text, _, _ := strings.Cut(key, " ")
	return dns.StringToType[text]
}

// The fields of a register in the store. Those of expansions have their keys as names, which have spaces in them.
const (
	fieldNumber  = "number"
	fieldOwn     = "own"
	fieldAliases = "aliases"
	fieldSince   = "since"
)

// fields returns r as it is in the store.
func (r *register) fields() map[string]string {
	fields := map[string]string{
		fieldNumber: formatNumber(r.number), fieldOwn: formatNumber(r.own), fieldAliases: r.aliases, fieldSince: strconv.FormatInt(r.since, 10),
	}
	for key, d := range r.data {
		fields[key] = fmt.Sprintf("%d %d %s", d.stored, d.ttl, base64.StdEncoding.EncodeToString([]byte(d.rdata)))
	}
	return fields
}

// snapshotOf returns the register with these fields. If there is something wrong with one of them, it is none, but has to be
// replaced like one.
func snapshotOf(fields map[string]string) snapshot {
	s := snapshot{known: true, number: fields[fieldNumber], fields: fields}
	r := &register{aliases: fields[fieldAliases], data: make(map[string]datum)}
	var ok, ok2 bool
	var err error
	r.number, ok = parseNumber(fields[fieldNumber])
	r.own, ok2 = parseNumber(fields[fieldOwn])
	if r.since, err = strconv.ParseInt(fields[fieldSince], 10, 64); !ok || !ok2 || err != nil {
		return s
	}
	for key, text := range fields {
		if !strings.Contains(key, " ") {
			continue
		}
		if r.data[key], ok = parseDatum(text, typeOf(key)); !ok {
			return s
		}
	}
	s.is = r
	return s
}

func parseDatum(text string, qtype uint16) (datum, bool) {
	parts := strings.Split(text, " ")
	if len(parts) != 3 {
		return datum{}, false
	}
	stored, err := strconv.ParseInt(parts[0], 10, 64)
	ttl, ok := parseNumber(parts[1])
	rdata, err2 := base64.StdEncoding.DecodeString(parts[2])
	return datum{string(rdata), ttl, stored}, err == nil && ok && err2 == nil && lookup.IsData(rdata, qtype)
}

// changes returns what makes the register s that of r.
func (s snapshot) changes(r *register) (set map[string]string, remove []string) {
	was := s.fields
	if was == nil && s.is != nil {
		was = s.is.fields()
	}
	set = r.fields()
	for name, text := range was {
		switch now, ok := set[name]; {
		case !ok:
			remove = append(remove, name)
		case now == text && name != fieldNumber:
			delete(set, name)
		}
	}
	return set, remove
}
