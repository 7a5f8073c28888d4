package lookup

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// The keys of parameters of HTTPS records that have addresses, or name other keys (RFC 9460, section 14.3.2).
const (
	keyMandatory = uint16(dns.SVCB_MANDATORY)
	keyIPv4Hint  = uint16(dns.SVCB_IPV4HINT)
	keyIPv6Hint  = uint16(dns.SVCB_IPV6HINT)
)

// services returns the RDATA of the HTTPS records in ServiceMode that answer has for the end of the chain. The TargetName
// is "." where it is that end (RFC 9460, section 2.5.2), and the end is where the chain leads for addresses too: an owner
// with these addresses can have the record as it is. Behind a record in AliasMode, the TargetName is in full. When there is
// a record in AliasMode, it is returned instead, because the others do not count then (section 2.4.1); of several, the
// first in canonical order.
func (c *Chain) services(answer []dns.RR) (data []byte, alias *dns.HTTPS, err error) {
	var smallest []byte
	ttl := c.ttl
	for _, rr := range answer {
		https, ok := rr.(*dns.HTTPS)
		if !ok || https.Hdr.Class != dns.ClassINET || !strings.EqualFold(https.Hdr.Name, c.End()) {
			continue
		}
		rdata, err := packHTTPS(https, c.targetName(https))
		switch {
		case err != nil:
			return nil, nil, Unusable("malformed", fmt.Errorf("HTTPS record of %s: %w", https.Hdr.Name, err))
		case https.Priority > 0 && https.Target != "." && c.denies(Canonical(https.Target)): // clients would connect to it
		case https.Priority > 0:
			ttl = min(ttl, TTLOf(https))
			data = Append(data, rdata, dns.TypeHTTPS)
		case alias == nil || bytes.Compare(rdata, smallest) < 0:
			alias, smallest = https, rdata
		}
	}
	if alias != nil {
		return nil, alias, nil
	}
	c.ttl = ttl
	return slices.Clip(data), nil, nil
}

// targetName returns the TargetName of rr, a record of the end of the chain, as services has it.
func (c *Chain) targetName(rr *dns.HTTPS) string {
	itself := rr.Target == "." || Canonical(rr.Target) == c.End()
	switch {
	case rr.Priority == 0, !itself:
		return rr.Target
	case c.aliasMode:
		return c.End()
	default:
		return "."
	}
}

// AliasMode returns an HTTPS record in AliasMode that leads to target (RFC 9460, section 2.4.2), as data. target is a name
// as Canonical returns it.
func AliasMode(target string) []byte {
	rdata, err := packHTTPS(&dns.HTTPS{SVCB: dns.SVCB{Target: target}}, target)
	if err != nil { // it is no name
		return nil
	}
	return Append(nil, rdata, dns.TypeHTTPS)
}

// packHTTPS returns the RDATA of rr, not compressed, with that TargetName.
func packHTTPS(rr *dns.HTTPS, target string) ([]byte, error) {
	c := *rr // with the same parameters
	c.Hdr = dns.RR_Header{Name: ".", Rrtype: dns.TypeHTTPS, Class: dns.ClassINET}
	c.Target = target
	if c.Target == "" { // as of a record without RDATA
		return nil, errors.New("no TargetName")
	}
	c.Target = Canonical(c.Target)
	buf := make([]byte, dns.Len(&c)+MaxName) // dns.Len counts names with escapes as they are written
	off, err := dns.PackRR(&c, buf, 0, nil, false)
	if err != nil {
		return nil, err
	}
	header := 1 + 2 + 2 + 4 + 2 // of a record of the root
	return buf[header:off], nil
}

// unpackHTTPS returns the record with that RDATA, or nil when it is none.
func unpackHTTPS(hdr dns.RR_Header, rdata []byte) *dns.HTTPS {
	hdr.Rrtype, hdr.Rdlength = dns.TypeHTTPS, uint16(len(rdata)) // #nosec G115 -- the RDATA of a record
	rr, off, err := dns.UnpackRRWithHeader(hdr, rdata, 0)
	https, ok := rr.(*dns.HTTPS)
	if err != nil || !ok || off != len(rdata) || https.Target == "" {
		return nil
	}
	return https
}

// isHTTPS reports whether rdata is the RDATA of an HTTPS record as packHTTPS returns it.
func isHTTPS(rdata []byte) bool {
	rr := unpackHTTPS(dns.RR_Header{Name: "."}, rdata)
	if rr == nil {
		return false
	}
	packed, err := packHTTPS(rr, rr.Target)
	return err == nil && bytes.Equal(packed, rdata)
}

// WithTargetName returns data, HTTPS records in ServiceMode, with name in place of a TargetName of ".". name is as
// Canonical returns it. The result is data when there is none.
func WithTargetName(data []byte, name string) []byte {
	var with []byte
	replaced := false
	for rdata := range Each(data, dns.TypeHTTPS) {
		if rr := unpackHTTPS(dns.RR_Header{Name: "."}, rdata); rr != nil && rr.Target == "." {
			if packed, err := packHTTPS(rr, name); err == nil {
				rdata, replaced = packed, true
			}
		}
		with = Append(with, rdata, dns.TypeHTTPS)
	}
	if !replaced {
		return data
	}
	return with
}

// WithoutHints returns data, HTTPS records, without those hints that drop reports: it gets the addresses of a hint, and their
// type, A or AAAA. A hint is no longer mandatory then. The result is data when no hint is dropped.
func WithoutHints(data []byte, drop func(qtype uint16, addrs []byte) bool) []byte {
	var without []byte
	dropped := false
	for rdata := range Each(data, dns.TypeHTTPS) {
		var keys []uint16
		for key, value := range parameters(rdata) {
			if qtype := hintType(key); qtype != 0 && drop(qtype, value) {
				keys = append(keys, key)
			}
		}
		if len(keys) > 0 {
			rdata, dropped = withoutKeys(rdata, keys), true
		}
		without = Append(without, rdata, dns.TypeHTTPS)
	}
	if !dropped {
		return data
	}
	return without
}

// hintType returns the type of the addresses in a parameter with that key, or 0 when it is no hint.
func hintType(key uint16) uint16 {
	switch key {
	case keyIPv4Hint:
		return dns.TypeA
	case keyIPv6Hint:
		return dns.TypeAAAA
	default:
		return 0
	}
}

// parametersAt returns where the parameters of rdata, the RDATA of an HTTPS record, begin: behind SvcPriority and TargetName.
func parametersAt(rdata []byte) int {
	off := 2
	for off < len(rdata) && rdata[off] != 0 {
		off += 1 + int(rdata[off])
	}
	return min(off+1, len(rdata))
}

// parameters yields the keys and values of the parameters of rdata, the RDATA of an HTTPS record (RFC 9460, section 2.2).
func parameters(rdata []byte) func(yield func(key uint16, value []byte) bool) {
	return func(yield func(uint16, []byte) bool) {
		for b := rdata[parametersAt(rdata):]; len(b) >= 4; {
			key, size := binary.BigEndian.Uint16(b), int(binary.BigEndian.Uint16(b[2:]))
			if b = b[4:]; len(b) < size || !yield(key, b[:size:size]) {
				return
			}
			b = b[size:]
		}
	}
}

// withoutKeys returns a copy of rdata, the RDATA of an HTTPS record, without the parameters with those keys.
func withoutKeys(rdata []byte, keys []uint16) []byte {
	without := slices.Clone(rdata[:parametersAt(rdata)])
	for key, value := range parameters(rdata) {
		if slices.Contains(keys, key) {
			continue
		}
		if key == keyMandatory {
			value = withoutMandatory(value, keys)
			if len(value) == 0 { // an empty list is an error (RFC 9460, section 8)
				continue
			}
		}
		without = binary.BigEndian.AppendUint16(without, key)
		without = binary.BigEndian.AppendUint16(without, uint16(len(value))) // #nosec G115 -- as it was, or shorter
		without = append(without, value...)
	}
	return without
}

// withoutMandatory returns the list of mandatory keys without those keys.
func withoutMandatory(list []byte, keys []uint16) []byte {
	var without []byte
	for key := range slices.Chunk(list, 2) {
		if len(key) == 2 && !slices.Contains(keys, binary.BigEndian.Uint16(key)) {
			without = append(without, key...)
		}
	}
	return without
}
