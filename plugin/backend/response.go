package backend

import (
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// Own reports whether the backend is authoritative for r: it is no referral, and comes from no other server.
func (r Response) Own() bool { return r.Msg != nil && r.Msg.Authoritative }

// Exists reports whether the backend's zone has the name that it was queried for, which is in zone, or has delegated it. A
// name that only a wildcard matches does not exist (RFC 4592, section 2.2.3), nor does one of which there is no response.
func (r Response) Exists(zone string) bool {
	switch {
	case r.Msg == nil, r.Wildcard != "":
		return false
	case r.Msg.Authoritative:
		return r.Msg.Rcode != dns.RcodeNameError || len(r.Msg.Answer) > 0
	}
	return r.Msg.Rcode == dns.RcodeSuccess && len(r.Msg.Answer) == 0 && slices.ContainsFunc(r.Msg.Ns, func(rr dns.RR) bool {
		h := rr.Header()
		return h.Rrtype == dns.TypeNS && dns.IsSubDomain(zone, h.Name) && !strings.EqualFold(zone, h.Name)
	})
}

// Addresses returns the addresses that r, a response to q, has for it, along CNAME records: one after the other, and their
// TTL in seconds, which is the smallest on the way. There are none when the CNAME records loop. The addresses belong to
// the caller.
func (r Response) Addresses(q lookup.Question) ([]byte, uint32) {
	if r.Msg == nil || r.Msg.Rcode != dns.RcodeSuccess {
		return nil, 0
	}
	c := lookup.NewChain(q.Name)
	addrs, err := c.Follow(r.Msg.Answer, q.Type)
	if err != nil {
		return nil, 0
	}
	return addrs, c.TTL()
}

// SOA returns a copy of the SOA record in r of a zone that name is in, or nil. It belongs to the caller.
func (r Response) SOA(name string) *dns.SOA {
	if r.Msg == nil {
		return nil
	}
	soa := lookup.SOAFor(r.Msg.Answer, name)
	if soa == nil {
		soa = lookup.SOAFor(r.Msg.Ns, name)
	}
	if soa == nil {
		return nil
	}
	return lookup.WithSerial(soa, soa.Serial)
}

// apex returns the apex of the zone that r, a response about name, comes from, lower case: the authority section has its NS
// records beside an answer, and its SOA record where there is none. It returns "" when r has neither.
func (r Response) apex(name string) string {
	for _, rr := range r.Msg.Ns {
		h := rr.Header()
		if (h.Rrtype == dns.TypeNS || h.Rrtype == dns.TypeSOA) && dns.IsSubDomain(h.Name, name) {
			return lookup.Canonical(h.Name)
		}
	}
	return ""
}

// Signer returns the name of the zone whose signatures are in r, or "" when there are none. If there are, the zone was
// signed before the backend loaded it.
func (r Response) Signer() string {
	if r.Msg == nil {
		return ""
	}
	for _, section := range [][]dns.RR{r.Msg.Answer, r.Msg.Ns} {
		for _, rr := range section {
			if sig, ok := rr.(*dns.RRSIG); ok {
				return sig.SignerName
			}
		}
	}
	return ""
}

// isReferral reports whether m refers to the name servers of another zone. A negative answer may have NS records too, but
// beside the SOA record (RFC 2308, section 2.2).
func isReferral(m *dns.Msg) bool {
	return m.Rcode == dns.RcodeSuccess && len(m.Answer) == 0 && lookup.HasType(m.Ns, dns.TypeNS) && !lookup.HasType(m.Ns, dns.TypeSOA)
}
