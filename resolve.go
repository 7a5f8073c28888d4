package alias

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// maxLinks is how many CNAME records and aliases a chain may have.
	maxLinks = 16

	// maxAddrs is how many addresses of a target are used. With all that go into a response there would be no room for a longer
	// owner name, or for EDNS.
	maxAddrs = 512

	// How long a negative answer is remembered, in seconds: what its SOA record says within these bounds, and
	// without a SOA record noSOATTL.
	minNegativeTTL = 5
	maxNegativeTTL = 300
	noSOATTL       = 30
)

// question is what is looked up, and what the outcome is remembered under.
type question struct {
	name  string // lower case, fully qualified
	qtype uint16 // A or AAAA
}

func (q question) String() string { return q.name + " " + dns.TypeToString[q.qtype] }

// outcome is what a lookup ended in, unless it failed.
type outcome struct {
	addrs []byte // the addresses one after the other, 4 or 16 bytes each; empty: the target has none (NODATA)
	ttl   uint32 // in seconds, as received: of the chain, or of the negative answer
	links uint8  // how many CNAME records led to the addresses, at most maxLinks
}

// failure is the error of a lookup that ended without a usable answer.
type failure struct {
	outcome string // of a closed set, for metrics
	ede     uint16 // Extended DNS Error (RFC 8914)
	detail  error  // may be nil
}

func (f *failure) Error() string {
	if f.detail == nil {
		return f.outcome
	}
	return f.outcome + ": " + f.detail.Error()
}

func (f *failure) Unwrap() error { return f.detail }

func networkFailure(outcome string, detail error) *failure {
	return &failure{outcome, dns.ExtendedErrorCodeNetworkError, detail}
}

func unusable(outcome string, detail error) *failure {
	return &failure{outcome, dns.ExtendedErrorCodeNoReachableAuthority, detail}
}

// asFailure returns err as a failure.
func asFailure(err error) *failure {
	var f *failure
	if errors.As(err, &f) {
		return f
	}
	return unusable("error", err)
}

// resolve looks q up, in at most the given number of attempts, each of which takes at most u.timeout. The
// attempts go to the upstreams in turn. The error is a *failure.
func (u *upstreams) resolve(ctx context.Context, q question, attempts int) (outcome, error) {
	var err error
	first := u.turn.Add(1)
	for i := range attempts {
		var o outcome
		if o, err = u.attempt(ctx, u.pick(first+uint32(i)), q); err == nil {
			return o, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return outcome{}, err
}

// attempt looks q up through one upstream. A chain that the upstream does not follow to its end is followed
// here, inside the same attempt.
func (u *upstreams) attempt(ctx context.Context, up *upstream, q question) (outcome, error) {
	deadline := time.Now().Add(u.timeout)
	c := newChain(q.name)
	for {
		began := time.Now()
		m, err := up.ask(ctx, deadline, question{c.end(), q.qtype}, c.links() == 0)
		var o outcome
		var done bool
		if err == nil {
			o, done, err = c.read(m, q.qtype)
		}
		up.report(label(m, o, done, err), time.Since(began))
		if err != nil || done {
			return o, err
		}
	}
}

// label returns what the metrics call the response m, which was read as o, done and err.
func label(m *dns.Msg, o outcome, done bool, err error) string {
	switch {
	case err != nil:
		return asFailure(err).outcome
	case !done:
		return "cname"
	case m.Rcode == dns.RcodeNameError:
		return "nxdomain"
	case len(o.addrs) == 0:
		return "nodata"
	default:
		return "success"
	}
}

// chain is the way from a target to its addresses, along CNAME records and, inside ZONES, aliases.
type chain struct {
	names []string // the target and every name that a link led to
	ttl   uint32   // the smallest TTL on the way
}

func newChain(target string) *chain { return &chain{names: []string{target}, ttl: math.MaxInt32} }

// end is the last name of the chain.
func (c *chain) end() string { return c.names[len(c.names)-1] }

// links is how many links the chain has.
func (c *chain) links() uint8 { return uint8(len(c.names) - 1) } // #nosec G115 -- at most maxLinks

// follow extends the chain with the CNAME records of answer, which may be in any order, and returns the
// addresses of its end, none when answer has none.
func (c *chain) follow(answer []dns.RR, qtype uint16) ([]byte, error) {
	for {
		addrs, err := c.addresses(answer, qtype)
		if err != nil || len(addrs) > 0 {
			return addrs, err
		}
		cname := cnameOf(answer, c.end())
		if cname == nil {
			return nil, nil
		}
		if err := c.extend(canonical(cname.Target)); err != nil {
			return nil, err
		}
		c.ttl = min(c.ttl, ttlOf(cname))
	}
}

// canonical returns name in lower case and in one spelling, whatever is escaped in it: file hands out targets as they are
// in the zone file.
func canonical(name string) string {
	if strings.Contains(name, `\`) {
		buf := make([]byte, maxName+1)
		if n, err := dns.PackDomainName(name, buf, 0, nil, false); err == nil {
			name, _, _ = dns.UnpackDomainName(buf[:n], 0)
		}
	}
	return strings.ToLower(name)
}

// extend adds a link to target.
func (c *chain) extend(target string) error {
	switch {
	case slices.Contains(c.names, target):
		return unusable("loop", fmt.Errorf("%s leads back to itself", target))
	case c.links() == maxLinks:
		return tooLong()
	}
	c.names = append(c.names, target)
	return nil
}

func tooLong() *failure { return unusable("loop", fmt.Errorf("more than %d links", maxLinks)) }

// addresses returns the addresses that answer has for the end of the chain, each once, and at most maxAddrs.
func (c *chain) addresses(answer []dns.RR, qtype uint16) ([]byte, error) {
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
		if h.Rrtype != qtype || h.Class != dns.ClassINET || !strings.EqualFold(h.Name, c.end()) {
			continue
		}
		if len(ip) != addrLen(qtype) {
			return nil, unusable("malformed", fmt.Errorf("%s record of %s without an address", dns.TypeToString[qtype], h.Name))
		}
		c.ttl = min(c.ttl, ttlOf(rr))
		if len(addrs) < maxAddrs*len(ip) && !hasAddr(addrs, ip) {
			addrs = append(addrs, ip...)
		}
	}
	return slices.Clip(addrs), nil
}

// hasAddr reports whether ip is one of addrs. There are few: a search is less work than a set.
func hasAddr(addrs, ip []byte) bool {
	for addr := range slices.Chunk(addrs, len(ip)) {
		if bytes.Equal(addr, ip) {
			return true
		}
	}
	return false
}

// read follows the chain through the response m. It is done when m ends it, with addresses or without;
// otherwise the end of the chain has to be looked up.
func (c *chain) read(m *dns.Msg, qtype uint16) (o outcome, done bool, err error) {
	asked := c.end()
	addrs, err := c.follow(m.Answer, qtype)
	if err != nil {
		return outcome{}, false, err
	}
	soa := soaFor(m.Ns, c.end())
	switch {
	case m.Rcode == dns.RcodeNameError:
		// The code is about the end of the chain (RFC 6604, section 3).
		return outcome{ttl: negativeTTL(soa)}, true, nil
	case len(addrs) > 0:
		return outcome{addrs, c.ttl, c.links()}, true, nil
	case soa == nil && c.end() != asked:
		return outcome{}, false, nil
	case soa == nil && hasType(m.Ns, dns.TypeNS):
		// RFC 2308, section 2.2: NS records without a SOA record are a referral and no NODATA.
		return outcome{}, false, unusable("referral", nil)
	default:
		return outcome{ttl: negativeTTL(soa)}, true, nil
	}
}

// negativeTTL returns how long the negative answer with soa is remembered (RFC 2308, section 5); soa may be nil.
func negativeTTL(soa *dns.SOA) uint32 {
	if soa == nil {
		return noSOATTL
	}
	return min(max(min(ttlOf(soa), soa.Minttl), minNegativeTTL), maxNegativeTTL)
}

// soaFor returns the SOA record in rrs of a zone that name is in, or nil.
func soaFor(rrs []dns.RR, name string) *dns.SOA {
	for _, rr := range rrs {
		if soa, ok := rr.(*dns.SOA); ok && encloses(soa.Hdr.Name, name) {
			return soa
		}
	}
	return nil
}

// encloses is dns.IsSubDomain, without its allocations.
func encloses(zone, name string) bool {
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if strings.EqualFold(name[off:], zone) {
			return true
		}
	}
	return zone == "."
}

func cnameOf(rrs []dns.RR, name string) *dns.CNAME {
	for _, rr := range rrs {
		if cname, ok := rr.(*dns.CNAME); ok && cname.Hdr.Class == dns.ClassINET && strings.EqualFold(cname.Hdr.Name, name) {
			return cname
		}
	}
	return nil
}

func hasType(rrs []dns.RR, rrtype uint16) bool {
	return slices.ContainsFunc(rrs, func(rr dns.RR) bool { return rr.Header().Rrtype == rrtype })
}

// ttlOf returns the TTL of rr; one with the most significant bit set counts as zero (RFC 2181, section 8).
func ttlOf(rr dns.RR) uint32 {
	if ttl := rr.Header().Ttl; ttl <= math.MaxInt32 {
		return ttl
	}
	return 0
}

func isAddress(qtype uint16) bool { return qtype == dns.TypeA || qtype == dns.TypeAAAA }

// addrLen is the length of an address of the given type.
func addrLen(qtype uint16) int {
	if qtype == dns.TypeA {
		return 4
	}
	return 16
}
