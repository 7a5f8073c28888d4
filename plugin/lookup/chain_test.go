package lookup_test

import (
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// addresses returns addrs, of type qtype, as text.
func addresses(t testing.TB, addrs []byte, qtype uint16) (s []string) {
	t.Helper()
	if len(addrs)%lookup.AddrLen(qtype) != 0 {
		t.Fatalf("%d octets of addresses", len(addrs))
	}
	for ip := range slices.Chunk(addrs, lookup.AddrLen(qtype)) {
		addr, _ := netip.AddrFromSlice(ip)
		s = append(s, addr.String())
	}
	return s
}

// links returns a chain of n CNAME records from target.example, and an address at its end.
func links(n int) []string {
	rrs := []string{fmt.Sprintf("l%d.example. 300 IN A 192.0.2.1", n)}
	for i := range n {
		from := fmt.Sprintf("l%d.example.", i)
		if i == 0 {
			from = "target.example."
		}
		rrs = append(rrs, fmt.Sprintf("%s 300 IN CNAME l%d.example.", from, i+1))
	}
	return rrs
}

// long returns a name of n characters, at least 3.
func long(n int) string {
	label := strings.Repeat("x", 49) + "."
	name := strings.Repeat(label, n/len(label))
	if rest := n % len(label); rest > 1 {
		return name + strings.Repeat("y", rest-1) + "."
	}
	return name
}

func TestChainFollow(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer []string
		qtype  uint16 // A, unless it is stated

		addrs   []string
		end     string // target.example., unless it is stated
		links   uint8
		ttl     uint32
		failure string // the text of the error, or ""
	}{
		{name: "no records", ttl: math.MaxInt32},
		{name: "one address", answer: []string{"target.example. 300 IN A 192.0.2.1"}, addrs: []string{"192.0.2.1"}, ttl: 300},
		{name: "the order of addresses stays", answer: []string{"target.example. 300 IN A 192.0.2.2", "target.example. 200 IN A 192.0.2.1"},
			addrs: []string{"192.0.2.2", "192.0.2.1"}, ttl: 200},
		{name: "IPv6", qtype: dns.TypeAAAA, answer: []string{"target.example. 300 IN A 192.0.2.1", "target.example. 200 IN AAAA 2001:db8::1", "target.example. 200 IN AAAA ::ffff:192.0.2.1"},
			addrs: []string{"2001:db8::1", "::ffff:192.0.2.1"}, ttl: 200},
		{name: "an address twice", answer: []string{"target.example. 300 IN A 192.0.2.1", "target.example. 300 IN A 192.0.2.2", "target.example. 100 IN A 192.0.2.1"},
			addrs: []string{"192.0.2.1", "192.0.2.2"}, ttl: 100},
		{name: "a chain", answer: []string{"target.example. 250 IN CNAME b.example.", "b.example. 300 IN CNAME c.example.", "c.example. 300 IN A 192.0.2.1"},
			addrs: []string{"192.0.2.1"}, end: "c.example.", links: 2, ttl: 250},
		{name: "a chain backwards", answer: []string{"c.example. 200 IN A 192.0.2.1", "b.example. 300 IN CNAME c.example.", "target.example. 250 IN CNAME b.example."},
			addrs: []string{"192.0.2.1"}, end: "c.example.", links: 2, ttl: 200},
		{name: "a chain without an end", answer: []string{"target.example. 250 IN CNAME b.example."}, end: "b.example.", links: 1, ttl: 250},
		{name: "upper case", answer: []string{"B.Example. 300 IN A 192.0.2.1", "TARGET.example. 250 IN CNAME b.EXAMPLE."},
			addrs: []string{"192.0.2.1"}, end: "b.example.", links: 1, ttl: 250},
		{name: "an escaped target", answer: []string{`target.example. 250 IN CNAME \098.example.`, "b.example. 300 IN A 192.0.2.1"},
			addrs: []string{"192.0.2.1"}, end: "b.example.", links: 1, ttl: 250},
		{name: "a DNAME record", answer: []string{"Example. 250 IN DNAME Sub.Example.net.", "target.sub.example.net. 300 IN A 192.0.2.1"},
			addrs: []string{"192.0.2.1"}, end: "target.sub.example.net.", links: 1, ttl: 250},
		{name: "a DNAME record and its CNAME record", answer: []string{"target.example. 0 IN CNAME target.example.net.", "target.example.net. 300 IN A 192.0.2.1", "example. 250 IN DNAME example.net."},
			addrs: []string{"192.0.2.1"}, end: "target.example.net.", links: 1, ttl: 250},
		{name: "a DNAME record and another CNAME record", answer: []string{"example. 250 IN DNAME example.net.", "target.example. 1 IN CNAME b.example.",
			"b.example. 1 IN A 203.0.113.66", "target.example.net. 300 IN A 192.0.2.1"}, addrs: []string{"192.0.2.1"}, end: "target.example.net.", links: 1, ttl: 250},
		{name: "a CNAME record to a name below a DNAME record", answer: []string{"target.example. 250 IN CNAME a.b.example.net.", "b.example.net. 240 IN DNAME .", "a. 300 IN A 192.0.2.1"},
			addrs: []string{"192.0.2.1"}, end: "a.", links: 2, ttl: 240},
		{name: "a DNAME record of the root", answer: []string{". 250 IN DNAME example.net.", "target.example.example.net. 300 IN A 192.0.2.1"},
			end: "target.example.example.net.", links: 1, ttl: 250, addrs: []string{"192.0.2.1"}},
		{name: "other DNAME records", answer: []string{"target.example. 1 IN DNAME example.net.", "get.example. 2 IN DNAME example.net.", "example. 3 CH DNAME example.net."}, ttl: math.MaxInt32},
		{name: "a DNAME record to the longest name", answer: []string{"example. 250 IN DNAME " + long(247)}, end: "target." + long(247), links: 1, ttl: 250},
		{name: "a DNAME record to a name that is too long", answer: []string{"example. 250 IN DNAME " + long(248)}, ttl: math.MaxInt32,
			failure: "malformed: DNAME record of example. leads to a name that is too long"},
		{name: "a loop through a DNAME record", answer: []string{"example. 250 IN DNAME EXAMPLE."}, ttl: math.MaxInt32,
			failure: "loop: target.example. leads back to itself"},
		{name: "TTL 0", answer: []string{"target.example. 0 IN A 192.0.2.1"}, addrs: []string{"192.0.2.1"}, ttl: 0},
		{name: "TTL 2^31", answer: []string{"target.example. 2147483648 IN CNAME b.example.", "b.example. 300 IN A 192.0.2.1"},
			addrs: []string{"192.0.2.1"}, end: "b.example.", links: 1, ttl: 0},
		{name: "other records", answer: []string{
			"target.example. 30 IN RRSIG A 13 2 300 20300101000000 20200101000000 1 example. c2ln",
			"elsewhere.example. 1 IN A 203.0.113.66",
			"target.example. 2 IN TXT unrelated",
			"target.example. 3 IN AAAA 2001:db8::1",
			"target.example. 4 CH A 203.0.113.67",
			"target.example. 5 CH CNAME elsewhere.example.",
			"other.example. 6 IN CNAME elsewhere.example.",
			"target.example. 280 IN A 192.0.2.1",
		}, addrs: []string{"192.0.2.1"}, ttl: 280},
		{name: "an address before a CNAME record", answer: []string{"target.example. 1 IN CNAME b.example.", "b.example. 1 IN A 203.0.113.66", "target.example. 300 IN A 192.0.2.1"},
			addrs: []string{"192.0.2.1"}, ttl: 300},
		{name: "the most links", answer: links(16), addrs: []string{"192.0.2.1"}, end: "l16.example.", links: 16, ttl: 300},
		{name: "too many links", answer: links(17), end: "l16.example.", links: 16, ttl: 300, failure: "loop: more than 16 links"},
		{name: "a loop", answer: []string{"target.example. 300 IN CNAME b.example.", "b.example. 300 IN CNAME TARGET.example."},
			end: "b.example.", links: 1, ttl: 300, failure: "loop: target.example. leads back to itself"},
		{name: "a loop of one", answer: []string{"target.example. 300 IN CNAME target.example."}, ttl: math.MaxInt32,
			failure: "loop: target.example. leads back to itself"},
		{name: "no address in the record", answer: []string{`target.example. 300 IN A \# 0`}, ttl: math.MaxInt32,
			failure: "malformed: A record of target.example. without an address"},
		{name: "no address in the second record", qtype: dns.TypeAAAA, answer: []string{"target.example. 300 IN AAAA 2001:db8::1", `target.example. 300 IN AAAA \# 0`},
			ttl: 300, failure: "malformed: AAAA record of target.example. without an address"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if tc.qtype == 0 {
				tc.qtype = dns.TypeA
			}
			if tc.end == "" {
				tc.end = "target.example."
			}
			answer := records(t, tc.answer...)
			before := fmt.Sprint(answer)
			c := lookup.NewChain("target.example.")
			addrs, err := c.Follow(answer, tc.qtype)
			if got := addresses(t, addrs, tc.qtype); !slices.Equal(got, tc.addrs) {
				t.Errorf("addresses %v, want %v", got, tc.addrs)
			}
			if c.End() != tc.end || c.Links() != tc.links || c.TTL() != tc.ttl {
				t.Errorf("ends at %s after %d links with TTL %d, want %s, %d, %d", c.End(), c.Links(), c.TTL(), tc.end, tc.links, tc.ttl)
			}
			failure := ""
			if err != nil {
				failure = err.Error()
				if f, ok := err.(*lookup.Failure); !ok || f.EDE != dns.ExtendedErrorCodeNoReachableAuthority {
					t.Errorf("%#v is not the failure of an unusable response", err)
				}
			}
			if failure != tc.failure {
				t.Errorf("error %q, want %q", failure, tc.failure)
			}
			if after := fmt.Sprint(answer); after != before {
				t.Errorf("the answer was changed from\n%s to\n%s", before, after)
			}
		})
	}
}

// The library unpacks a record with RDLENGTH 0 to one without data, as UPDATE needs it.
func TestChainFollowNoName(t *testing.T) {
	hdr := dns.RR_Header{Name: "target.example.", Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 300}
	above := dns.RR_Header{Name: "example.", Rrtype: dns.TypeDNAME, Class: dns.ClassINET, Ttl: 300}
	for want, rr := range map[string]dns.RR{
		"malformed: CNAME record of target.example. without a name": &dns.CNAME{Hdr: hdr},
		"malformed: DNAME record of example. without a name":        &dns.DNAME{Hdr: above},
	} {
		c := lookup.NewChain("target.example.")
		if addrs, err := c.Follow([]dns.RR{rr}, dns.TypeA); len(addrs) > 0 || err == nil || err.Error() != want {
			t.Errorf("%x, %v; want %s", addrs, err, want)
		}
	}
}

// records is upstream.RRs, but a record with the empty rdata of RFC 3597 is one without an address, as the library reads
// it from a message.
func records(t *testing.T, lines ...string) (rrs []dns.RR) {
	t.Helper()
	for _, line := range lines {
		text, empty := strings.CutSuffix(line, ` \# 0`)
		if !empty {
			rrs = append(rrs, upstream.RRs(line)...)
			continue
		}
		hdr := upstream.RRs(text)[0].Header()
		hdr.Rdlength = 0
		if hdr.Rrtype == dns.TypeA {
			rrs = append(rrs, &dns.A{Hdr: *hdr})
		} else {
			rrs = append(rrs, &dns.AAAA{Hdr: *hdr})
		}
	}
	return rrs
}

// A chain goes on from one answer to the next, and its TTL is the smallest of both.
func TestChainOfTwoAnswers(t *testing.T) {
	for _, ttls := range [][2]int{{100, 300}, {300, 100}} {
		c := lookup.NewChain("target.example.")
		addrs, err := c.Follow(upstream.RRs(fmt.Sprintf("target.example. %d IN CNAME b.example.", ttls[0])), dns.TypeA)
		if len(addrs) > 0 || err != nil || c.End() != "b.example." {
			t.Fatalf("%v, %v, ends at %s", addrs, err, c.End())
		}
		addrs, err = c.Follow(upstream.RRs(fmt.Sprintf("b.example. %d IN A 192.0.2.1", ttls[1])), dns.TypeA)
		if len(addrs) != 4 || err != nil || c.TTL() != 100 || c.Links() != 1 {
			t.Errorf("%v, %v, TTL %d, %d links", addrs, err, c.TTL(), c.Links())
		}
	}
	c := lookup.NewChain("a.example.")
	if _, err := c.Follow(upstream.RRs("a.example. 1 IN CNAME b.example."), dns.TypeA); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Follow(upstream.RRs("b.example. 1 IN CNAME a.example."), dns.TypeA); err == nil || lookup.AsFailure(err).Outcome != "loop" {
		t.Errorf("a loop through two answers: %v", err)
	}
}

// Aliases are links as CNAME records are, but have no TTL here.
func TestChainExtend(t *testing.T) {
	c := lookup.NewChain("l0.example.")
	for i := range lookup.MaxLinks {
		if err := c.Extend(fmt.Sprintf("l%d.example.", i)); err == nil || err.Error() != fmt.Sprintf("loop: l%d.example. leads back to itself", i) {
			t.Errorf("link to a name of the chain: %v", err)
		}
		name := fmt.Sprintf("l%d.example.", i+1)
		if err := c.Extend(name); err != nil {
			t.Fatal(err)
		}
		if c.End() != name || int(c.Links()) != i+1 || c.TTL() != math.MaxInt32 {
			t.Errorf("ends at %s after %d links, TTL %d", c.End(), c.Links(), c.TTL())
		}
	}
	err := c.Extend("l17.example.")
	if err == nil || err.Error() != lookup.TooLong().Error() || lookup.AsFailure(err).Outcome != "loop" {
		t.Errorf("link 17: %v", err)
	}
	if err := c.Extend("l3.example."); err == nil || err.Error() != "loop: l3.example. leads back to itself" {
		t.Errorf("link 17, back to a name of the chain: %v", err)
	}
	if c.End() != "l16.example." || c.Links() != lookup.MaxLinks {
		t.Errorf("the links that failed changed the chain: %s, %d", c.End(), c.Links())
	}
}

// A target has MaxRecords addresses at most; the TTL of the others counts.
func TestChainManyAddresses(t *testing.T) {
	for _, n := range []int{lookup.MaxRecords - 1, lookup.MaxRecords, lookup.MaxRecords + 1, 2 * lookup.MaxRecords} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			var answer []dns.RR
			for i := range n {
				text := fmt.Sprintf("target.example. %d IN A 192.0.%d.%d", 5000-i, i/256, i%256)
				if qtype == dns.TypeAAAA {
					text = fmt.Sprintf("target.example. %d IN AAAA 2001:db8::%x", 5000-i, i)
				}
				answer = append(answer, upstream.RRs(text)...)
			}
			c := lookup.NewChain("target.example.")
			addrs, err := c.Follow(answer, qtype)
			if got := len(addrs) / lookup.AddrLen(qtype); err != nil || got != min(n, lookup.MaxRecords) {
				t.Errorf("%d %s records: %d addresses, %v", n, dns.TypeToString[qtype], got, err)
			}
			if c.TTL() != uint32(5001-n) {
				t.Errorf("%d %s records: TTL %d", n, dns.TypeToString[qtype], c.TTL())
			}
			if cap(addrs) != len(addrs) {
				t.Errorf("%d %s records: room for %d octets, of which %d are used", n, dns.TypeToString[qtype], cap(addrs), len(addrs))
			}
		}
	}
}
