package lookup

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// MaxLinks is how many links, CNAME records and aliases, a chain has at most.
const MaxLinks = 16

// Chain is the chain of names from a target to its records. Its links are CNAME and DNAME records, HTTPS records in
// AliasMode and, inside the server's own zones, aliases. A Chain is not safe for concurrent use.
type Chain struct {
	names []string // the target, and each name that a link led to
	ttl   uint32   // the smallest TTL of the records so far, in seconds

	aliasMode bool // one of the links is an HTTPS record in AliasMode

	// Deny reports a name that may not be a link's target; nil denies none. It is set before the first link.
	Deny func(name string) bool
}

// NewChain returns a chain without links that begins at target, a name as Canonical returns it.
func NewChain(target string) *Chain { return &Chain{names: []string{target}, ttl: math.MaxInt32} }

// End returns the last name of the chain, which is the target while there are no links.
func (c *Chain) End() string { return c.names[len(c.names)-1] }

// Links returns the number of links.
func (c *Chain) Links() uint8 { return uint8(len(c.names) - 1) } // #nosec G115 -- at most MaxLinks

// TTL returns the smallest TTL, in seconds, of the records that Follow has used: the links, and the records. It is
// math.MaxInt32 when there were none.
func (c *Chain) TTL() uint32 { return c.ttl }

// Extend adds a link to target, a name as Canonical returns it. The error is a *Failure with the outcome "loop": target is
// in the chain already, or the chain has MaxLinks links; or with the outcome "denied", see Deny. The chain is unchanged then.
func (c *Chain) Extend(target string) error {
	switch {
	case c.denies(target):
		return Filtered(Denied, fmt.Errorf("%s leads to %s", c.End(), target))
	case slices.Contains(c.names, target):
		return Unusable(Loop, fmt.Errorf("%s leads back to itself", target))
	case c.Links() == MaxLinks:
		return TooLong()
	}
	c.names = append(c.names, target)
	return nil
}

func (c *Chain) denies(target string) bool { return c.Deny != nil && c.Deny(target) }

// TooLong returns the failure of a chain of more than MaxLinks links.
func TooLong() *Failure { return Unusable(Loop, fmt.Errorf("more than %d links", MaxLinks)) }

// Follow extends the chain with the CNAME and DNAME records of answer, which may be in any order, and returns the RDATA of
// the records of its end, of type qtype (A, AAAA or HTTPS): each once, at most MaxRecords, and nil when answer has none.
// For type HTTPS, a record in AliasMode extends the chain too. Records of other names, types and classes do not count. The
// result belongs to the caller.
//
// The error is a *Failure, with the outcome "loop" or "denied" (see Extend), or "malformed" when a record has no address or
// name in it, or leads to a name that is too long.
func (c *Chain) Follow(answer []dns.RR, qtype uint16) ([]byte, error) {
	for {
		data, alias, err := c.records(answer, qtype)
		if err != nil || len(data) > 0 {
			return data, err
		}
		link, err := c.link(answer, alias)
		if link == nil || err != nil {
			return nil, err
		}
		if err := c.Extend(Canonical(link.Target)); err != nil {
			return nil, err
		}
		c.ttl = min(c.ttl, TTLOf(link))
	}
}

// records returns the RDATA of the records that answer has for the end of the chain, or the HTTPS record in AliasMode that
// it has.
func (c *Chain) records(answer []dns.RR, qtype uint16) (data []byte, alias *dns.HTTPS, err error) {
	if qtype == dns.TypeHTTPS {
		return c.services(answer)
	}
	data, err = c.addresses(answer, qtype)
	return data, nil, err
}

// link returns the CNAME record that leads on from the end of the chain, or nil. Where answer has a DNAME record above the
// end, link makes the CNAME record from it: servers should send one that says the same, and old servers give that one the
// TTL 0 (RFC 6672, sections 3.1 and 3.4). It makes one from alias too, an HTTPS record in AliasMode or nil; the TargetName
// "." leads nowhere (RFC 9460, section 2.5.1).
func (c *Chain) link(answer []dns.RR, alias *dns.HTTPS) (*dns.CNAME, error) {
	if alias != nil {
		if alias.Target == "." {
			return nil, nil
		}
		c.aliasMode = true
		return &dns.CNAME{Hdr: alias.Hdr, Target: alias.Target}, nil
	}
	cname := CNAMEOf(answer, c.End())
	if dname, prefix := DNAMEOf(answer, c.End()); dname != nil {
		cname = &dns.CNAME{Hdr: dname.Hdr, Target: dname.Target}
		if dname.Target != "" {
			cname.Target = prefix + strings.TrimPrefix(dname.Target, ".")
			if !fits(cname.Target) {
				return nil, Unusable("malformed", fmt.Errorf("DNAME record of %s leads to a name that is too long", dname.Hdr.Name))
			}
		}
	}
	if cname != nil && cname.Target == "" {
		return nil, Unusable("malformed", fmt.Errorf("%s record of %s without a name", dns.Type(cname.Hdr.Rrtype), cname.Hdr.Name))
	}
	return cname, nil
}

// addresses returns the addresses that answer has for the end of the chain.
func (c *Chain) addresses(answer []dns.RR, qtype uint16) ([]byte, error) {
	var addrs []byte
	for _, rr := range answer {
		var ip []byte
		switch a := rr.(type) {
		case *dns.A:
			ip = a.A.To4()
		case *dns.AAAA:
			ip = a.AAAA.To16()
		default:
			continue
		}
		h := rr.Header()
		if h.Rrtype != qtype || h.Class != dns.ClassINET || !strings.EqualFold(h.Name, c.End()) {
			continue
		}
		if len(ip) != AddrLen(qtype) {
			return nil, Unusable("malformed", fmt.Errorf("%s record of %s without an address", dns.TypeToString[qtype], h.Name))
		}
		c.ttl = min(c.ttl, TTLOf(rr))
		addrs = Append(addrs, ip, qtype)
	}
	return slices.Clip(addrs), nil
}
