// Package rdata teaches the DNS library the ALIAS record: zone files that have it load, and messages that have it
// are read and written, in every plugin of the program that imports this package.
package rdata

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/miekg/dns"
)

// TypeALIAS is the type code of ALIAS records, of the range for private use (RFC 6895, section 3.1). It is that of
// PowerDNS, so that its zones and transfers are understood.
const TypeALIAS uint16 = 65401

// Refused is told why the RDATA in a zone file is no good, unless it is nil: the library's parser reports the place,
// and drops the reason. It is to be set before anything is parsed, and is called by whoever parses.
var Refused func(reason error)

// The library's tables are read without a lock, so this is the only time to change them.
func init() {
	dns.PrivateHandle("ALIAS", TypeALIAS, func() dns.PrivateRdata { return new(ALIAS) })
	dns.StringToType["ANAME"] = TypeALIAS // a synonym, for reading only
}

// ALIAS is the RDATA of an ALIAS record. It belongs to the record it is in.
type ALIAS struct {
	// Target is the name whose addresses the owner has, fully qualified and in presentation form.
	Target string
}

var _ dns.PrivateRdata = (*ALIAS)(nil)

// Of returns the RDATA of rr, or nil when it is no ALIAS record.
func Of(rr dns.RR) *ALIAS {
	if private, ok := rr.(*dns.PrivateRR); ok {
		if a, ok := private.Data.(*ALIAS); ok {
			return a
		}
	}
	return nil
}

// Compare returns -1, 0 or 1 as a is before b in canonical order, the same, or behind it (RFC 4034, section 6.3).
func (a *ALIAS) Compare(b *ALIAS) int { return bytes.Compare(a.canonical(), b.canonical()) }

// canonical returns the RDATA in canonical form (RFC 4034, section 6.2). A name that was changed to something
// invalid has none.
func (a *ALIAS) canonical() []byte {
	buf := make([]byte, maxLen)
	n, err := dns.PackDomainName(dns.CanonicalName(a.Target), buf, 0, nil, false)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// maxLen is the length of the longest name in octets (RFC 1035, section 2.3.4).
const maxLen = 255

// String implements dns.PrivateRdata.
func (a *ALIAS) String() string { return a.Target }

// Parse implements dns.PrivateRdata. The parser does not pass on $ORIGIN, without which a relative name means nothing.
func (a *ALIAS) Parse(tokens []string) error {
	target, err := parseTarget(tokens)
	if err != nil {
		if Refused != nil {
			Refused(err)
		}
		return err
	}
	a.Target = target
	return nil
}

func parseTarget(tokens []string) (string, error) {
	if len(tokens) != 1 {
		return "", fmt.Errorf("ALIAS has %d targets %s, and takes one", len(tokens), quote(strings.Join(tokens, " ")))
	}
	target := tokens[0]
	if _, err := netip.ParseAddr(strings.TrimSuffix(target, ".")); err == nil {
		return "", fmt.Errorf("ALIAS target %s is an address: write an A or AAAA record instead", quote(target))
	}
	if !dns.IsFqdn(target) {
		return "", fmt.Errorf("ALIAS target %s is relative: write it in full and with a final dot, as %s",
			quote(target), quote(inFull(target)+"."))
	}
	// Packed and unpacked, each name has but one spelling, whatever is escaped in the zone file.
	buf := make([]byte, maxLen)
	n, err := dns.PackDomainName(target, buf, 0, nil, false)
	if err != nil {
		return "", fmt.Errorf("ALIAS target %s is not a domain name: %v", quote(target), err)
	}
	name, _, err := dns.UnpackDomainName(buf[:n], 0)
	return name, err
}

// quote makes text from a zone file fit for a line of a log: a quoted token may have anything in it.
func quote(s string) string {
	return "'" + strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s) + "'"
}

// inFull returns an example of what a relative name could be in full.
func inFull(relative string) string {
	switch {
	case relative == "@":
		return "the.zone"
	case strings.Contains(relative, "."):
		return relative
	default:
		return relative + ".the.zone"
	}
}

// Pack implements dns.PrivateRdata. The name is not compressed (RFC 3597, section 4).
func (a *ALIAS) Pack(buf []byte) (int, error) {
	return dns.PackDomainName(a.Target, buf, 0, nil, false)
}

var (
	errCompressed = errors.New("ALIAS target is compressed")
	errCut        = errors.New("ALIAS target ends early")
)

// Unpack implements dns.PrivateRdata. The buffer goes on behind the RDATA, so only the name may be looked at.
func (a *ALIAS) Unpack(buf []byte) (int, error) {
	for off := 0; off < len(buf) && off < maxLen; off += 1 + int(buf[off]) {
		switch {
		case buf[off] > 63: // RFC 3597, section 4: in a type that not everybody knows, there must be no pointer
			return 0, errCompressed
		case buf[off] == 0:
			name, n, err := dns.UnpackDomainName(buf[:off+1], 0)
			a.Target = name
			return n, err
		}
	}
	return 0, errCut
}

// Copy implements dns.PrivateRdata.
func (a *ALIAS) Copy(to dns.PrivateRdata) error {
	b, ok := to.(*ALIAS)
	if !ok {
		return fmt.Errorf("%T is not the RDATA of an ALIAS record", to)
	}
	*b = *a
	return nil
}

// Len implements dns.PrivateRdata.
func (a *ALIAS) Len() int {
	n, err := a.Pack(make([]byte, maxLen))
	if err != nil {
		return 0
	}
	return n
}
