package upstream

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/responses"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// FuzzResponse reads messages without sending them: most would be lost time, for the client waits for a better one.
// Whatever an upstream sends, it is refused or comes to addresses that it has at the end of the chain.
func FuzzResponse(f *testing.F) {
	q := lookup.Question{Name: "target.example.", Type: dns.TypeA}
	seed := func(rcode int, answer, ns []string) {
		m := new(dns.Msg).SetQuestion(q.Name, q.Type)
		m.Response, m.Rcode, m.Compress = true, rcode, true
		m.Answer, m.Ns = fake.RRs(answer...), fake.RRs(ns...)
		m.SetEdns0(udpSize, false)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)*2/3])
	}
	chain := func(n int) (rrs []string) {
		for i := range n {
			rrs = append(rrs, fmt.Sprintf("l%d.example. 300 IN CNAME l%d.example.", i, i+1))
		}
		return append(rrs, "target.example. 300 IN CNAME l0.example.", fmt.Sprintf("l%d.example. 300 IN A 192.0.2.1", n))
	}
	soa := []string{"example. 300 IN SOA ns.example. h.example. 1 2 3 4 60"}
	seed(dns.RcodeSuccess, []string{"target.example. 300 IN A 192.0.2.1", "target.example. 300 IN A 192.0.2.1"}, nil)
	seed(dns.RcodeSuccess, chain(3), nil)
	seed(dns.RcodeSuccess, chain(16), nil)
	seed(dns.RcodeSuccess, []string{"target.example. 300 IN CNAME b.example.", "b.example. 300 IN CNAME target.example."}, nil)
	seed(dns.RcodeSuccess, nil, soa)
	seed(dns.RcodeSuccess, nil, []string{"example. 300 IN NS ns.example."})
	seed(dns.RcodeNameError, []string{"target.example. 300 IN CNAME b.example."}, soa)
	seed(dns.RcodeServerFailure, nil, nil)
	for i := range 100 {
		generated := responses.New(1, i)
		r := new(dns.Msg).SetQuestion(generated.Name, dns.TypeA).SetEdns0(udpSize, false)
		for _, b := range generated.Messages(r, true) {
			f.Add(b)
		}
	}
	outcomes := []string{"success", "nodata", "nxdomain", "cname", "loop", "malformed", "referral"}
	us := New(Config{})
	f.Fuzz(func(t *testing.T, packet []byte) {
		m := new(dns.Msg)
		if m.Unpack(packet) != nil {
			return
		}
		q := q
		if len(m.Question) == 1 { // or else no response would be to the question
			q.Name = lookup.Canonical(m.Question[0].Name)
		}
		if check(m, q) != nil {
			return
		}
		c := lookup.NewChain(q.Name)
		o, done, err := us.read(c, m, q)
		if outcome := label(m, o, done, err); !slices.Contains(outcomes, outcome) {
			t.Errorf("the outcome is %q", outcome)
		}
		switch {
		case err != nil:
			return
		case !done:
			if c.End() == q.Name || len(o.Data) > 0 {
				t.Errorf("not done at %s with %d addresses", c.End(), len(o.Data)/4)
			}
			return
		case o.TTL > math.MaxInt32, o.Links > lookup.MaxLinks, len(o.Data) > 4*lookup.MaxRecords, len(o.Data) > 0 && o.Links != c.Links():
			t.Errorf("TTL %d, %d links, %d addresses", o.TTL, o.Links, len(o.Data)/4)
		}
		var seen []netip.Addr
		for ip := range slices.Chunk(o.Data, 4) {
			addr, ok := netip.AddrFromSlice(ip)
			if !ok || slices.Contains(seen, addr) || !hasAddress(m, c.End(), ip) {
				t.Errorf("address %v of %s is not in %v", addr, c.End(), m)
			}
			seen = append(seen, addr)
		}
		answer := &dns.Msg{Answer: lookup.Records(lookup.Question{Name: "example.org.", Type: dns.TypeA}, o.TTL, o.Data)}
		if _, err := answer.Pack(); err != nil {
			t.Error(err)
		}
	})
}

func hasAddress(m *dns.Msg, name string, ip []byte) bool {
	return slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
		a, ok := rr.(*dns.A)
		return ok && strings.EqualFold(a.Hdr.Name, name) && bytes.Equal(a.A.To4(), ip)
	})
}
