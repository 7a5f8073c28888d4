package answers

import (
	"encoding/binary"
	"math"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

const (
	// MaxStale is the longest stale window: the time for which an answer can be served after its TTL.
	MaxStale = 365 * 24 * time.Hour

	// MaxTTL is the longest TTL (RFC 2181, section 8).
	MaxTTL = math.MaxInt32 * time.Second

	// maxAge is the age of the oldest answer that can be served. An older one in the copy counts as that old.
	maxAge = MaxStale + MaxTTL
)

// In the copy, the key of a record is the type (uint16) and the name of the question. Its value is the time at which the
// answer came (int64, milliseconds since 1970), the TTL (uint32, seconds), whether it counts as expired (uint8, 0 or 1),
// the number of links (uint8), and the addresses. Numbers are big-endian.
const (
	keySize   = 2
	valueSize = 8 + 4 + 1 + 1
)

// recordKey returns the key of the record of q.
func recordKey(q lookup.Question) string {
	return string(binary.BigEndian.AppendUint16(nil, q.Type)) + q.Name
}

// recordValue returns the value of the record of e.
func (es *Entries) recordValue(e *Entry) string {
	now := es.now()
	stored := now.Add(-now.Sub(e.Stored)).UnixMilli() // by the wall clock as it is set now
	b := make([]byte, 0, valueSize+len(e.Addrs))
	b = binary.BigEndian.AppendUint64(b, uint64(stored)) // #nosec G115 -- read back as int64
	b = binary.BigEndian.AppendUint32(b, e.TTL)
	var expired byte
	if e.Expired {
		expired = 1
	}
	b = append(b, expired, e.Links)
	return string(append(b, e.Addrs...))
}

// readRecord returns the answer in a record. It is not ok when the record has none: no client could have asked for it, or
// its parts do not fit together.
func readRecord(key, value string) (q lookup.Question, e *Entry, ok bool) {
	if len(key) <= keySize || len(value) < valueSize {
		return q, nil, false
	}
	b := []byte(value)
	q = lookup.Question{Name: key[keySize:], Type: binary.BigEndian.Uint16([]byte(key))}
	e = &Entry{Answered: true, Stored: time.UnixMilli(int64(binary.BigEndian.Uint64(b)))} // #nosec G115 -- written from int64
	e.TTL, e.Expired, e.Links, e.Addrs = binary.BigEndian.Uint32(b[8:]), b[12] == 1, b[13], b[valueSize:]
	_, isName := dns.IsDomainName(q.Name)
	ok = isName && b[12] <= 1 && dns.IsFqdn(q.Name) && q.Name == lookup.Canonical(q.Name) && e.Links <= lookup.MaxLinks &&
		lookup.IsAddress(q.Type) && len(e.Addrs)%lookup.AddrLen(q.Type) == 0
	return q, e.compact(), ok
}
