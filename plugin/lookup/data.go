package lookup

import (
	"bytes"
	"encoding/binary"
	"iter"
	"net/netip"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// lengthSize is the size in octets of the length before the RDATA of an HTTPS record.
const lengthSize = 2

// IsFollowed reports whether an alias can have records of that type: A, AAAA or HTTPS.
func IsFollowed(qtype uint16) bool { return IsAddress(qtype) || qtype == dns.TypeHTTPS }

// IsAddress reports whether qtype is A or AAAA.
func IsAddress(qtype uint16) bool { return qtype == dns.TypeA || qtype == dns.TypeAAAA }

// AddrLen returns the length in octets of an address of type A or AAAA; qtype must be one of them.
func AddrLen(qtype uint16) int {
	if qtype == dns.TypeA {
		return 4
	}
	return 16
}

// next returns the RDATA of the first record in data, and what follows it. It is not ok when data ends early.
func next(data []byte, qtype uint16) (rdata, rest []byte, ok bool) {
	size := 0
	switch {
	case IsAddress(qtype):
		size = AddrLen(qtype)
	case len(data) < lengthSize:
		return nil, nil, false
	default:
		size, data = int(binary.BigEndian.Uint16(data)), data[lengthSize:]
	}
	if len(data) < size {
		return nil, nil, false
	}
	return data[:size:size], data[size:], true
}

// Each yields the RDATA of each record in data, of type qtype. They are parts of data, and are clipped.
func Each(data []byte, qtype uint16) iter.Seq[[]byte] {
	return func(yield func([]byte) bool) {
		for len(data) > 0 {
			rdata, rest, ok := next(data, qtype)
			if !ok || !yield(rdata) {
				return
			}
			data = rest
		}
	}
}

// Count returns the number of records in data, of type qtype.
func Count(data []byte, qtype uint16) int {
	if IsAddress(qtype) {
		return len(data) / AddrLen(qtype)
	}
	n := 0
	for range Each(data, qtype) {
		n++
	}
	return n
}

// IsData reports whether data has whole records of type qtype, which is A, AAAA or HTTPS, and nothing else. HTTPS records
// have the form that Follow gives them.
func IsData(data []byte, qtype uint16) bool {
	if !IsFollowed(qtype) {
		return false
	}
	for len(data) > 0 {
		rdata, rest, ok := next(data, qtype)
		if !ok || qtype == dns.TypeHTTPS && !isHTTPS(rdata) {
			return false
		}
		data = rest
	}
	return true
}

// Append appends rdata, the RDATA of a record of type qtype, to data, unless data has it already or has MaxRecords records.
func Append(data, rdata []byte, qtype uint16) []byte {
	if Has(data, rdata, qtype) || Count(data, qtype) >= MaxRecords {
		return data
	}
	if !IsAddress(qtype) {
		data = binary.BigEndian.AppendUint16(data, uint16(len(rdata))) // #nosec G115 -- the RDATA of a record
	}
	return append(data, rdata...)
}

// Has reports whether data has a record with that RDATA. A search is less work than a set: there are few records.
func Has(data, rdata []byte, qtype uint16) bool {
	for r := range Each(data, qtype) {
		if bytes.Equal(r, rdata) {
			return true
		}
	}
	return false
}

// Same reports whether a and b, records of type qtype, are the same set. Neither may have a record twice.
func Same(a, b []byte, qtype uint16) bool {
	return len(a) == len(b) && (bytes.Equal(a, b) || bytes.Equal(sorted(a, qtype), sorted(b, qtype)))
}

func sorted(data []byte, qtype uint16) []byte {
	return slices.Concat(slices.SortedFunc(Each(data, qtype), bytes.Compare)...)
}

// Allowed returns data, records of type qtype, without the addresses that deny reports, and without hints that have one of
// them. The result may be data.
func Allowed(data []byte, qtype uint16, deny func(netip.Addr) bool) []byte {
	denied := func(ip []byte) bool {
		addr, _ := netip.AddrFromSlice(ip)
		return deny(addr)
	}
	if qtype == dns.TypeHTTPS {
		return WithoutHints(data, func(family uint16, addrs []byte) bool {
			return slices.ContainsFunc(slices.Collect(Each(addrs, family)), denied)
		})
	}
	var allowed []byte
	for ip := range Each(data, qtype) {
		if !denied(ip) {
			allowed = append(allowed, ip...)
		}
	}
	return allowed
}

// Records returns the records of q.Name with data, the RDATA of records of q.Type (A, AAAA or HTTPS), and a TTL in seconds.
// The records belong to the caller. Their addresses are parts of data, and must not be changed; they are clipped, so that
// the caller may append to them. Address records share one allocation.
func Records(q Question, ttl uint32, data []byte) []dns.RR {
	if len(data) == 0 {
		return nil
	}
	rrs := make([]dns.RR, 0, Count(data, q.Type))
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Type, Class: dns.ClassINET, Ttl: ttl}
	switch q.Type {
	case dns.TypeA:
		as := make([]dns.A, cap(rrs))
		for ip := range Each(data, q.Type) {
			a := &as[len(rrs)]
			a.Hdr, a.A = hdr, ip
			rrs = append(rrs, a)
		}
	case dns.TypeAAAA:
		as := make([]dns.AAAA, cap(rrs))
		for ip := range Each(data, q.Type) {
			a := &as[len(rrs)]
			a.Hdr, a.AAAA = hdr, ip
			rrs = append(rrs, a)
		}
	default:
		for rdata := range Each(data, q.Type) {
			if rr := unpackHTTPS(hdr, rdata); rr != nil {
				rrs = append(rrs, rr)
			}
		}
	}
	return rrs
}

// Strings returns the records in data for a message: addresses, and the RDATA of other records in presentation form.
func Strings(data []byte, qtype uint16) []string {
	var s []string
	for _, rr := range Records(Question{Name: ".", Type: qtype}, 0, data) {
		s = append(s, strings.TrimPrefix(rr.String(), rr.Header().String()))
	}
	return s
}
