package upstream

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/coredns/plugin/pkg/rcode"

	"github.com/miekg/dns"
)

// The TTL of a negative answer, in seconds: that of its SOA record within these bounds, and noSOATTL without a SOA record.
const (
	minNegativeTTL = 5
	maxNegativeTTL = 300
	noSOATTL       = 30
)

// check returns a *lookup.Failure unless m is a response to q that can be used.
func check(m *dns.Msg, q lookup.Question) error {
	switch {
	case !m.Response, m.Opcode != dns.OpcodeQuery:
		return lookup.Unusable("mismatch", errors.New("not a response"))
	case len(m.Question) != 1, m.Question[0].Qtype != q.Type, m.Question[0].Qclass != dns.ClassINET,
		!strings.EqualFold(m.Question[0].Name, q.Name):
		return lookup.Unusable("mismatch", errors.New("response to another question"))
	case m.Truncated:
		return lookup.Unusable("malformed", errors.New("truncated over TCP"))
	case lookup.HasType(m.Answer, dns.TypeOPT), lookup.HasType(m.Ns, dns.TypeOPT):
		// RFC 6891, section 6.1.1. The number of records in the header may be wrong: then a SOA record may be where the answer
		// is, and the response is no NODATA.
		return lookup.Unusable("malformed", errors.New("OPT record outside the additional section"))
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return nil
	case dns.RcodeServerFailure:
		return lookup.Unusable("servfail", nil)
	case dns.RcodeRefused:
		return lookup.Unusable("refused", nil)
	case dns.RcodeFormatError:
		return lookup.Unusable("formerr", nil)
	case dns.RcodeNotImplemented:
		return lookup.Unusable("notimp", nil)
	default:
		return lookup.Unusable("rcode", errors.New(responseCode(m)))
	}
}

// responseCode returns the name of the code of m. Code 16 is BADVERS (RFC 6891, section 9): the other meaning that it has,
// BADSIG, is that of a code in a TSIG record.
func responseCode(m *dns.Msg) string {
	if m.Rcode == dns.RcodeBadVers {
		return "BADVERS"
	}
	return rcode.ToString(m.Rcode)
}

// read follows the chain through the response m to a lookup of q. It is done when m answers for the end of the chain, with addresses or
// without; otherwise the end of the chain has to be looked up next. The error is a *lookup.Failure.
func (us *Upstreams) read(c *lookup.Chain, m *dns.Msg, q lookup.Question) (o lookup.Outcome, done bool, err error) {
	asked := c.End()
	addrs, err := c.Follow(m.Answer, q.Type)
	if err == nil && m.Rcode == dns.RcodeSuccess {
		addrs, err = us.allowed(addrs, q)
	}
	if err != nil {
		return lookup.Outcome{}, false, err
	}
	soa := lookup.SOAFor(m.Ns, c.End())
	switch {
	case soa != nil && soa.Ns == "": // as are all fields of a record without rdata
		return lookup.Outcome{}, false, lookup.Unusable("malformed", errors.New("SOA record without data"))
	case m.Rcode == dns.RcodeNameError:
		// The code is about the end of the chain (RFC 6604, section 3).
		return lookup.Outcome{TTL: negativeTTL(soa)}, true, nil
	case len(addrs) > 0:
		return lookup.Outcome{Data: addrs, TTL: c.TTL(), Links: c.Links()}, true, nil
	case soa == nil && c.End() != asked:
		return lookup.Outcome{}, false, nil
	case reportsFailure(m):
		return lookup.Outcome{}, false, lookup.Unusable("servfail", errors.New("no records, and an Extended DNS Error that says why"))
	case soa == nil && lookup.HasType(m.Ns, dns.TypeNS):
		// RFC 2308, section 2.2: NS records without a SOA record are a referral and no NODATA.
		return lookup.Outcome{}, false, lookup.Unusable("referral", nil)
	default:
		return lookup.Outcome{TTL: negativeTTL(soa)}, true, nil
	}
}

// reportsFailure reports whether m says that the upstream could not look up: with No Reachable Authority (22) or Network
// Error (23; RFC 8914, section 4). A server that answers NOERROR without records then, as alias does with on_failure empty,
// says nothing about the name.
func reportsFailure(m *dns.Msg) bool {
	opt := m.IsEdns0()
	return opt != nil && slices.ContainsFunc(opt.Option, func(o dns.EDNS0) bool {
		ede, ok := o.(*dns.EDNS0_EDE)
		return ok && (ede.InfoCode == dns.ExtendedErrorCodeNoReachableAuthority || ede.InfoCode == dns.ExtendedErrorCodeNetworkError)
	})
}

// allowed returns addrs, the answer to q, without those that are denied. The error is that no other is left.
func (us *Upstreams) allowed(addrs []byte, q lookup.Question) ([]byte, error) {
	allowed := lookup.Allowed(addrs, q.Type, us.deny)
	if len(allowed) == len(addrs) || !lookup.IsAddress(q.Type) { // HTTPS records have lost hints at most
		return slices.Clip(allowed), nil
	}
	var denied netip.Addr
	for ip := range lookup.Each(addrs, q.Type) {
		if denied, _ = netip.AddrFromSlice(ip); us.deny(denied) {
			break
		}
	}
	if len(allowed) == 0 {
		return nil, lookup.Filtered(lookup.Denied, fmt.Errorf("no address but %s", denied))
	}
	us.leftOut(q, denied)
	return slices.Clip(allowed), nil
}

// negativeTTL returns the TTL, in seconds, of the negative answer with soa, which may be nil (RFC 2308, section 5).
func negativeTTL(soa *dns.SOA) uint32 {
	if soa == nil {
		return noSOATTL
	}
	return min(max(min(lookup.TTLOf(soa), soa.Minttl), minNegativeTTL), maxNegativeTTL)
}
