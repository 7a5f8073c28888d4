package lookup

import (
	"math"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// MaxName is the length of the longest name in presentation form without escapes, with its final dot: 255 octets on
// the wire (RFC 1035, section 2.3.4).
const MaxName = 254

// Canonical returns name, which is fully qualified, in lower case and in the spelling that names in a message have: what
// need not be escaped is not, and all else is. The file plugin hands out CNAME targets as they are written in the zone
// file. What is no name at all keeps its spelling.
func Canonical(name string) string {
	if strings.ContainsFunc(name, mayBeEscaped) {
		buf := make([]byte, MaxName+1)
		if n, err := dns.PackDomainName(name, buf, 0, nil, false); err == nil {
			name, _, _ = dns.UnpackDomainName(buf[:n], 0)
		}
	}
	return strings.ToLower(name)
}

// mayBeEscaped reports whether r has several spellings in a name: escaped and not, or in several ways. Bytes outside of
// ASCII are in no name of a message, but may be in one of a zone file.
func mayBeEscaped(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`"'();@\`, r) }

// fits reports whether name is no longer than a name may be.
func fits(name string) bool {
	_, err := dns.PackDomainName(name, make([]byte, MaxName+1), 0, nil, false)
	return err == nil
}

// SOAFor returns the first SOA record of class IN in rrs of a zone that name is in, or nil. The record belongs to rrs. SOAFor
// allocates nothing.
func SOAFor(rrs []dns.RR, name string) *dns.SOA {
	for _, rr := range rrs {
		if soa, ok := rr.(*dns.SOA); ok && soa.Hdr.Class == dns.ClassINET {
			if _, in := within(name, soa.Hdr.Name); in {
				return soa
			}
		}
	}
	return nil
}

// within reports whether name is in zone, and returns what name has before the name of the zone. It allocates nothing.
func within(name, zone string) (prefix string, ok bool) {
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if strings.EqualFold(name[off:], zone) {
			return name[:off], true
		}
	}
	return name, zone == "."
}

// DNAMEOf returns the first DNAME record in rrs of a name above name, and what name has before that one, or nil.
func DNAMEOf(rrs []dns.RR, name string) (*dns.DNAME, string) {
	for _, rr := range rrs {
		if dname, ok := rr.(*dns.DNAME); ok && dname.Hdr.Class == dns.ClassINET {
			if prefix, in := within(name, dname.Hdr.Name); in && prefix != "" {
				return dname, prefix
			}
		}
	}
	return nil, ""
}

// CNAMEOf returns the first CNAME record of name in rrs, or nil. The record belongs to rrs.
func CNAMEOf(rrs []dns.RR, name string) *dns.CNAME {
	for _, rr := range rrs {
		if cname, ok := rr.(*dns.CNAME); ok && cname.Hdr.Class == dns.ClassINET && strings.EqualFold(cname.Hdr.Name, name) {
			return cname
		}
	}
	return nil
}

// HasType reports whether a record of that type is in rrs.
func HasType(rrs []dns.RR, rrtype uint16) bool {
	return slices.ContainsFunc(rrs, func(rr dns.RR) bool { return rr.Header().Rrtype == rrtype })
}

// IsNodata reports whether m is an authoritative NODATA response: the name exists, and has no records of the type that
// was asked for (RFC 2308, section 2.2). A referral is none.
func IsNodata(m *dns.Msg) bool {
	return m.Authoritative && m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 && !HasType(m.Ns, dns.TypeNS)
}

// TTLOf returns the TTL of rr in seconds. One with the most significant bit set counts as zero (RFC 2181, section 8).
func TTLOf(rr dns.RR) uint32 {
	if ttl := rr.Header().Ttl; ttl <= math.MaxInt32 {
		return ttl
	}
	return 0
}

// WithSerial returns a copy of soa with another serial number. soa is not changed.
func WithSerial(soa *dns.SOA, serial uint32) *dns.SOA {
	c := *soa
	c.Serial = serial
	return &c
}
