package answers

import (
	"encoding/binary"
	"math"
	"net/netip"
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

// In the copy, the key of a record is the type (uint16) and the name of the question. If the answer is for a network, the
// most significant bit of the type is set, and between the type and the name stand the address family (uint8, 4 or 6), the
// prefix length (uint8), and as many octets of the address as have bits of the prefix. The value is the time at which the
// answer came (int64, milliseconds since 1970), the TTL (uint32, seconds), flags (uint8: 1, it counts as expired; 2, it is
// exact, which only an answer for a network is), the number of links (uint8), and the data. Numbers are big-endian.
const (
	keySize    = 2
	timeSize   = 8
	answerSize = 4 + 1 + 1

	forNetwork = 1 << 15

	flagExpired = 1
	flagExact   = 2
)

// recordKey returns the key of the record of q.
func recordKey(q lookup.Question) string {
	if q.Net.IsEverybody() {
		return string(binary.BigEndian.AppendUint16(nil, q.Type)) + q.Name
	}
	b := binary.BigEndian.AppendUint16(nil, q.Type|forNetwork)
	addr, bits := q.Net.Prefix().Addr(), q.Net.Bits()
	family := byte(6)
	if addr.Is4() {
		family = 4
	}
	b = append(b, family, byte(bits)) // #nosec G115 -- at most 128
	return string(append(b, addr.AsSlice()[:octets(bits)]...)) + q.Name
}

// octets returns the number of octets that have so many bits.
func octets(bits int) int { return (bits + 7) / 8 }

// readKey returns the question of a record with that key. It is not ok when no client could have asked it.
func readKey(key string) (q lookup.Question, ok bool) {
	if len(key) <= keySize {
		return q, false
	}
	q = lookup.Question{Name: key[keySize:], Type: binary.BigEndian.Uint16([]byte(key))}
	if q.Type&forNetwork != 0 {
		q.Type &^= forNetwork
		if q.Net, q.Name, ok = readNetwork(q.Name); !ok {
			return q, false
		}
	}
	return q, isAskable(q) && recordKey(q) == key
}

// isAskable reports whether the name of q is one of a target.
func isAskable(q lookup.Question) bool {
	_, isName := dns.IsDomainName(q.Name)
	return isName && dns.IsFqdn(q.Name) && q.Name == lookup.Canonical(q.Name)
}

// readNetwork returns the network that key begins with, and the rest.
func readNetwork(key string) (n lookup.Network, rest string, ok bool) {
	sizes := map[byte]int{4: 4, 6: 16}
	if len(key) < 2 || sizes[key[0]] == 0 {
		return n, "", false
	}
	octetsOfAddr, bits := make([]byte, sizes[key[0]]), int(key[1])
	if rest = key[2:]; bits > 8*len(octetsOfAddr) || len(rest) < octets(bits) {
		return n, "", false
	}
	copy(octetsOfAddr, rest[:octets(bits)])
	addr, _ := netip.AddrFromSlice(octetsOfAddr)
	return lookup.NetworkOf(addr, bits), rest[octets(bits):], true
}

// recordValue returns the value of the record of e.
func (es *Entries) recordValue(e *Entry) string {
	now := es.now()
	stored := now.Add(-now.Sub(e.Stored)).UnixMilli() // by the wall clock as it is set now
	b := make([]byte, 0, timeSize+answerSize+len(e.Data))
	b = binary.BigEndian.AppendUint64(b, uint64(stored)) // #nosec G115 -- read back as int64
	return string(appendAnswer(b, e))
}

// answerValue returns the value of the record of e without its time.
func answerValue(e *Entry) string {
	return string(appendAnswer(make([]byte, 0, answerSize+len(e.Data)), e))
}

func appendAnswer(b []byte, e *Entry) []byte {
	b = binary.BigEndian.AppendUint32(b, e.TTL)
	var flags byte
	if e.Expired {
		flags |= flagExpired
	}
	if e.Exact {
		flags |= flagExact
	}
	b = append(b, flags, e.Links)
	return append(b, e.Data...)
}

// readRecord returns the answer in a record. It is not ok when the record has none: no client could have asked for it, or
// its parts do not fit together.
func readRecord(key, value string) (q lookup.Question, e *Entry, ok bool) {
	q, ok = readKey(key)
	if !ok || len(value) < timeSize {
		return q, nil, false
	}
	if e, ok = readAnswer(q, value[timeSize:]); ok {
		e.Stored = time.UnixMilli(int64(binary.BigEndian.Uint64([]byte(value)))) // #nosec G115 -- written from int64
	}
	return q, e, ok
}

// readAnswer returns the answer to q in a value without its time.
func readAnswer(q lookup.Question, value string) (e *Entry, ok bool) {
	if len(value) < answerSize {
		return nil, false
	}
	b := []byte(value)
	e = &Entry{Answered: true}
	e.TTL, e.Expired, e.Links, e.Data = binary.BigEndian.Uint32(b), b[4]&flagExpired != 0, b[5], b[answerSize:]
	e.Scope = uint8(q.Net.Bits()) // #nosec G115 -- at most 128
	flags := byte(flagExpired)
	if q.Net.Bits() > 0 {
		flags |= flagExact
	}
	e.Exact = b[4]&flagExact != 0
	return e.compact(), b[4]&^flags == 0 && e.Links <= lookup.MaxLinks && lookup.IsData(e.Data, q.Type)
}
