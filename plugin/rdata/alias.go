// Package rdata defines the ALIAS record type. In a program that imports this package, the DNS library reads ALIAS
// records from zone files, and packs and unpacks them in messages. That holds for all plugins of the program.
//
// The package does not know what an alias is for: it does no lookups, and it knows neither CoreDNS nor the Corefile. Of
// the target it knows only that it is a domain name. It must stay importable by programs that do not run a server.
//
// All functions and methods may be called concurrently, unless one call changes an ALIAS that another one uses.
package rdata

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"unicode"

	"github.com/miekg/dns"
)

// TypeALIAS is the type code of ALIAS records, from the range for private use (RFC 6895, section 3.1). PowerDNS uses the
// same code, so its zone files load as they are, and its zone transfers are understood.
const TypeALIAS uint16 = 65401

// Refused, if it is not nil, is called with the reason each time a zone parser refuses the RDATA of an ALIAS record: the
// error of the DNS library has the line, but not the reason. The goroutine that parses calls it, so it must be safe for
// concurrent use where zones are parsed concurrently. Set it before the first zone is parsed: it is read without a lock.
var Refused func(reason error)

// The DNS library reads its tables of types without a lock, so only an init function may change them.
func init() {
	dns.PrivateHandle("ALIAS", TypeALIAS, func() dns.PrivateRdata { return new(ALIAS) })
	dns.StringToType["ANAME"] = TypeALIAS // a synonym, which is read and never written
}

// ALIAS is the RDATA of an ALIAS record. The record that contains it owns it: dns.Copy copies it with the record. Do not
// change that of a record which others may read, such as a record from the backend.
type ALIAS struct {
	// Target is the name whose addresses the owner has: fully qualified, in presentation form, in the case in which it
	// was written. It is "" when the RDATA is empty (\# 0 in a zone file, RFC 3597, section 5): the DNS library calls
	// neither Parse nor Unpack then.
	Target string
}

var _ dns.PrivateRdata = (*ALIAS)(nil)

// Of returns the RDATA of rr, or nil if rr is not an ALIAS record. It does not copy: the result belongs to rr.
func Of(rr dns.RR) *ALIAS {
	if private, ok := rr.(*dns.PrivateRR); ok {
		if a, ok := private.Data.(*ALIAS); ok {
			return a
		}
	}
	return nil
}

// Compare returns -1 if a comes before b in canonical order, 0 if they are the same, and 1 if a comes after b (RFC 4034,
// section 6.3). The case of letters does not count.
func (a *ALIAS) Compare(b *ALIAS) int { return bytes.Compare(a.canonical(), b.canonical()) }

// Targets returns the targets of all, in lower case: each once, in canonical order (see Compare). It does not change all.
func Targets(all []*ALIAS) []string {
	sorted := slices.SortedFunc(slices.Values(all), (*ALIAS).Compare)
	targets := make([]string, 0, len(sorted))
	for i, a := range sorted {
		if i == 0 || a.Compare(sorted[i-1]) != 0 {
			targets = append(targets, strings.ToLower(a.Target))
		}
	}
	return targets
}

// canonical returns the RDATA in canonical form (RFC 4034, section 6.2), or nil if Target is not a domain name.
func (a *ALIAS) canonical() []byte {
	buf := make([]byte, maxLen)
	n, err := dns.PackDomainName(dns.CanonicalName(a.Target), buf, 0, nil, false)
	if err != nil {
		return nil
	}
	return buf[:n]
}

// maxLen is the length in octets of the longest domain name (RFC 1035, section 2.3.4).
const maxLen = 255

// String implements dns.PrivateRdata. It returns Target.
func (a *ALIAS) String() string { return a.Target }

// Parse implements dns.PrivateRdata. It takes one token, which must be a fully qualified domain name: the zone parser does
// not pass on $ORIGIN, without which a relative name cannot be completed. An address is refused as well. The error is a
// sentence for operators, and goes to Refused too. After an error, Target is as it was.
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
	// Packing and unpacking gives each name one spelling, whatever the zone file escapes.
	buf := make([]byte, maxLen)
	n, err := dns.PackDomainName(target, buf, 0, nil, false)
	if err != nil {
		return "", fmt.Errorf("ALIAS target %s is not a domain name: %v", quote(target), err)
	}
	name, _, err := dns.UnpackDomainName(buf[:n], 0)
	return name, err
}

// quote makes text from a zone file safe for a line of the log: a quoted token may contain any octet.
func quote(s string) string {
	return "'" + strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s) + "'"
}

// inFull returns an example of a relative name in full, without the final dot.
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

// Pack implements dns.PrivateRdata. It writes the name into buf, not compressed (RFC 3597, section 4), and returns its
// length in octets. It returns an error if Target is not a domain name or buf is too short.
func (a *ALIAS) Pack(buf []byte) (int, error) {
	return dns.PackDomainName(a.Target, buf, 0, nil, false)
}

var (
	errCompressed = errors.New("ALIAS target is compressed")
	errCut        = errors.New("ALIAS target ends early")
)

// Unpack implements dns.PrivateRdata. It returns the length of the name in octets. It reads no further than the name: buf
// has the rest of the message, and the DNS library compares the length with that of the RDATA. A name that is compressed
// or does not end in buf is an error. Unpack does not keep buf.
func (a *ALIAS) Unpack(buf []byte) (int, error) {
	for off := 0; off < len(buf) && off < maxLen; off += 1 + int(buf[off]) {
		switch {
		case buf[off] > 63: // not a label: compression is forbidden here (RFC 3597, section 4)
			return 0, errCompressed
		case buf[off] == 0:
			name, n, err := dns.UnpackDomainName(buf[:off+1], 0)
			a.Target = name
			return n, err
		}
	}
	return 0, errCut
}

// Copy implements dns.PrivateRdata. It returns an error if to is not an *ALIAS.
func (a *ALIAS) Copy(to dns.PrivateRdata) error {
	b, ok := to.(*ALIAS)
	if !ok {
		return fmt.Errorf("%T is not the RDATA of an ALIAS record", to)
	}
	*b = *a
	return nil
}

// Len implements dns.PrivateRdata. It returns the length in octets that Pack writes, or 0 if Target is not a domain name.
func (a *ALIAS) Len() int {
	n, err := a.Pack(make([]byte, maxLen))
	if err != nil {
		return 0
	}
	return n
}
