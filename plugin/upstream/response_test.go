package upstream_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

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

// byName returns a handler for each name that is asked for.
func byName(handlers map[string]fake.Handler) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if h := handlers[r.Question[0].Name]; h != nil {
			h(w, r)
			return
		}
		fake.Rcode(dns.RcodeNameError)(w, r)
	}
}

func manyRecords(n int) []string {
	var rrs []string
	for i := range n {
		rrs = append(rrs, "target.example. 300 IN A "+net.IPv4(192, 0, 2, byte(i)).String())
	}
	return rrs
}

// compressed answers over UDP with 70 records in less octets than the buffer of the query has.
func compressed(opt bool) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer, m.Compress = fake.RRs(manyRecords(70)...), true
		if opt {
			m.SetEdns0(1232, false)
		}
		w.WriteMsg(m)
	}
}

// extended answers with a code that takes an OPT record.
func extended(code int) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		w.WriteMsg(new(dns.Msg).SetRcode(r, code).SetEdns0(1232, false))
	}
}

// empty answers without records, and with an Extended DNS Error.
func empty(code int, info uint16) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetRcode(r, code).SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: info})
		w.WriteMsg(m)
	}
}

const exampleSOA = "example. 900 IN SOA ns.example. h.example. 1 2 3 4 60"

// What each kind of response, or none, leads to.
func TestResponses(t *testing.T) {
	for _, tc := range []struct {
		name    string
		handler fake.Handler
		refuse  string // the ports that are closed: tcp or all
		timeout time.Duration

		reports []string // of one attempt
		addrs   int      // 0 without failure: a negative answer
		ttl     uint32
		links   uint8
		ede     uint16 // of the failure; 0: no failure
		detail  string // of the failure, or ""
		asks    int    // queries in one attempt; 0: not counted
	}{
		{name: "addresses", handler: good, reports: []string{"success"}, addrs: 1, ttl: 300, asks: 1},
		{name: "chain in order", handler: fake.Zone("target.example. 250 IN CNAME b.example.", "b.example. 300 IN CNAME c.example.", "c.example. 300 IN A 192.0.2.1"),
			reports: []string{"success"}, addrs: 1, ttl: 250, links: 2, asks: 1},
		{name: "chain backwards", handler: fake.Answer("c.example. 200 IN A 192.0.2.7", "c.example. 210 IN A 192.0.2.1", "b.example. 300 IN CNAME c.example.", "target.example. 250 IN CNAME B.example."),
			reports: []string{"success"}, addrs: 2, ttl: 200, links: 2, asks: 1},
		{name: "chain in two", handler: byName(map[string]fake.Handler{
			"target.example.": fake.Answer("target.example. 100 IN CNAME b.example."),
			"b.example.":      fake.Answer("b.example. 300 IN A 192.0.2.1"),
		}), reports: []string{"cname", "success"}, addrs: 1, ttl: 100, links: 1, asks: 2},
		{name: "chain in two through an escaped name", handler: byName(map[string]fake.Handler{
			"target.example.":      fake.Answer(`target.example. 100 IN CNAME \066\.\195\156.example.`),
			`b\.\195\156.example.`: fake.Answer(`B\.\195\156.example. 300 IN A 192.0.2.1`),
		}), reports: []string{"cname", "success"}, addrs: 1, ttl: 100, links: 1, asks: 2},
		{name: "chain in two that fails", handler: byName(map[string]fake.Handler{
			"target.example.": fake.Answer("target.example. 100 IN CNAME b.example."),
			"b.example.":      fake.Rcode(dns.RcodeServerFailure),
		}), reports: []string{"cname", "servfail"}, ede: 22, asks: 2},
		{name: "chain of 16", handler: fake.Zone(links(16)...), reports: []string{"success"}, addrs: 1, ttl: 300, links: 16, asks: 1},
		{name: "chain of 17", handler: fake.Zone(links(17)...), reports: []string{"loop"}, ede: 22, detail: "more than 16 links", asks: 1},
		{name: "loop", handler: fake.Answer("target.example. 300 IN CNAME b.example.", "b.example. 300 IN CNAME target.example."),
			reports: []string{"loop"}, ede: 22, detail: "target.example. leads back to itself", asks: 1},
		{name: "loop in two", handler: byName(map[string]fake.Handler{
			"target.example.": fake.Answer("target.example. 300 IN CNAME b.example."),
			"b.example.":      fake.Answer("b.example. 300 IN CNAME target.example."),
		}), reports: []string{"cname", "loop"}, ede: 22, detail: "target.example. leads back to itself", asks: 2},
		{name: "odd order and others", handler: fake.Answer(
			"target.example. 300 IN RRSIG A 13 2 300 20300101000000 20200101000000 1 example. c2ln",
			"elsewhere.example. 1 IN A 203.0.113.66",
			"target.example. 300 IN TXT unrelated",
			"target.example. 300 IN AAAA 2001:db8::1",
			"target.example. 290 IN A 192.0.2.9",
			"target.example. 300 CH A 203.0.113.67",
			"target.example. 280 IN A 192.0.2.1",
			"target.example. 280 IN A 192.0.2.9"),
			reports: []string{"success"}, addrs: 2, ttl: 280, asks: 1},
		{name: "other case", handler: respond(func(m *dns.Msg) { // 0x20
			m.Question[0].Name, m.Answer[0].Header().Name = "tArGeT.eXaMpLe.", "TaRgEt.ExAmPlE."
		}), reports: []string{"success"}, addrs: 1, ttl: 300, asks: 1},
		{name: "4 KB", handler: fake.Zone(manyRecords(256)...), reports: []string{"success"}, addrs: 256, ttl: 300, asks: 2},
		{name: "4 KB over UDP all the same", handler: fake.Handler(func(w dns.ResponseWriter, r *dns.Msg) {
			w.WriteMsg(&dns.Msg{MsgHdr: dns.MsgHdr{Id: r.Id, Response: true}, Question: r.Question, Answer: fake.RRs(manyRecords(256)...)})
		}), reports: []string{"success"}, addrs: 256, ttl: 300, asks: 2},
		{name: "large over UDP", handler: compressed(true), reports: []string{"success"}, addrs: 70, ttl: 300, asks: 1},
		{name: "large over UDP, and perhaps cut", handler: compressed(false), reports: []string{"success"}, addrs: 70, ttl: 300, asks: 2},
		{name: "perhaps cut, and TCP refused", handler: compressed(false), refuse: "tcp", reports: []string{"success"}, addrs: 70, ttl: 300, asks: 1},
		{name: "truncated, then TCP", handler: overUDP(truncated, good), reports: []string{"success"}, addrs: 1, ttl: 300, asks: 2},

		{name: "TTL 0", handler: fake.Answer("target.example. 0 IN A 192.0.2.1"), reports: []string{"success"}, addrs: 1, ttl: 0, asks: 1},
		{name: "TTL 2^31", handler: fake.Answer("target.example. 2147483648 IN A 192.0.2.1"), reports: []string{"success"}, addrs: 1, ttl: 0, asks: 1},
		{name: "TTL a day", handler: fake.Answer("target.example. 86400 IN A 192.0.2.1"), reports: []string{"success"}, addrs: 1, ttl: 86400, asks: 1},

		{name: "NODATA with SOA", handler: fake.Zone("target.example. 300 IN TXT x", exampleSOA), reports: []string{"nodata"}, ttl: 60, asks: 1},
		{name: "NODATA without SOA", handler: fake.Zone("target.example. 300 IN TXT x"), reports: []string{"nodata"}, ttl: 30, asks: 1},
		{name: "NODATA with NS and SOA", handler: respond(func(m *dns.Msg) { m.Answer, m.Ns = nil, fake.RRs("example. 300 IN NS ns.example.", exampleSOA) }),
			reports: []string{"nodata"}, ttl: 60, asks: 1},
		{name: "NODATA with the SOA of another zone", handler: respond(func(m *dns.Msg) { m.Answer, m.Ns = nil, fake.RRs("example.net. 900 IN SOA a. b. 1 2 3 4 60") }),
			reports: []string{"nodata"}, ttl: 30, asks: 1},
		{name: "NODATA behind a CNAME", handler: fake.Zone("target.example. 300 IN CNAME b.example.", "b.example. 300 IN TXT x", exampleSOA), reports: []string{"nodata"}, ttl: 60, asks: 1},
		{name: "NODATA behind a CNAME without SOA", handler: fake.Zone("target.example. 300 IN CNAME b.example.", "b.example. 300 IN TXT x"),
			reports: []string{"cname", "nodata"}, ttl: 30, asks: 2},
		{name: "NXDOMAIN", handler: fake.Zone(exampleSOA), reports: []string{"nxdomain"}, ttl: 60, asks: 1},
		{name: "NXDOMAIN without SOA", handler: fake.Rcode(dns.RcodeNameError), reports: []string{"nxdomain"}, ttl: 30, asks: 1},
		{name: "NXDOMAIN behind a CNAME", handler: fake.Zone("target.example. 300 IN CNAME b.example."), reports: []string{"nxdomain"}, ttl: 30, asks: 1},
		{name: "NXDOMAIN with addresses", handler: respond(func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }), reports: []string{"nxdomain"}, ttl: 30, asks: 1},

		{name: "an address that is none", handler: fake.Zone("target.example. 300 IN A 0.0.0.0"), reports: []string{"denied"}, ede: 17, detail: "no address but 0.0.0.0", asks: 1},
		{name: "an address that is none, behind a CNAME", handler: fake.Zone("target.example. 300 IN CNAME b.example.", "b.example. 300 IN A 0.0.0.0"),
			reports: []string{"denied"}, ede: 17, detail: "no address but 0.0.0.0", asks: 1},
		{name: "an address that is none beside others", handler: fake.Zone("target.example. 300 IN A 192.0.2.1", "target.example. 300 IN A 0.0.0.0", "target.example. 300 IN A 192.0.2.2"),
			reports: []string{"success"}, addrs: 2, ttl: 300, asks: 1},

		{name: "timeout", handler: nil, timeout: short, reports: []string{"timeout"}, ede: 23, asks: 1},
		{name: "too late", handler: fake.Late(short+100*time.Millisecond, good), timeout: short, reports: []string{"timeout"}, ede: 23, asks: 1},
		{name: "closed port", refuse: "all", reports: []string{"network"}, ede: 23, detail: "refused"},
		{name: "SERVFAIL", handler: fake.Rcode(dns.RcodeServerFailure), reports: []string{"servfail"}, ede: 22, asks: 1},
		{name: "no records, for a failure of the resolver", handler: empty(dns.RcodeSuccess, dns.ExtendedErrorCodeNetworkError), reports: []string{"servfail"}, ede: 22, detail: "no records", asks: 1},
		{name: "no records, for another failure of the resolver", handler: empty(dns.RcodeSuccess, dns.ExtendedErrorCodeNoReachableAuthority), reports: []string{"servfail"}, ede: 22, detail: "no records", asks: 1},
		{name: "NODATA with an EDE that is no failure", handler: empty(dns.RcodeSuccess, dns.ExtendedErrorCodeStaleAnswer), reports: []string{"nodata"}, ttl: 30, asks: 1},
		{name: "addresses with an EDE", handler: respond(func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeNetworkError})
		}), reports: []string{"success"}, addrs: 1, ttl: 300, asks: 1},
		{name: "REFUSED", handler: fake.Rcode(dns.RcodeRefused), reports: []string{"refused"}, ede: 22, asks: 1},
		{name: "FORMERR", handler: fake.Rcode(dns.RcodeFormatError), reports: []string{"formerr"}, ede: 22, asks: 2},
		{name: "NOTIMP", handler: fake.Rcode(dns.RcodeNotImplemented), reports: []string{"notimp"}, ede: 22, asks: 2},
		{name: "another code", handler: fake.Rcode(dns.RcodeYXDomain), reports: []string{"rcode"}, ede: 22, detail: "YXDOMAIN", asks: 1},
		{name: "an unknown code", handler: fake.Rcode(13), reports: []string{"rcode"}, ede: 22, detail: "RCODE13", asks: 1},
		{name: "BADVERS", handler: extended(dns.RcodeBadVers), reports: []string{"rcode"}, ede: 22, detail: "rcode: BADVERS", asks: 2},
		{name: "BADCOOKIE", handler: extended(dns.RcodeBadCookie), reports: []string{"rcode"}, ede: 22, detail: "rcode: BADCOOKIE", asks: 2},
		{name: "referral", handler: respond(func(m *dns.Msg) { m.Answer, m.Ns = nil, fake.RRs("example. 300 IN NS ns.example.") }),
			reports: []string{"referral"}, ede: 22, asks: 1},
		{name: "truncated and TCP refused", handler: truncated, refuse: "tcp", reports: []string{"network"}, ede: 23, detail: "truncated over UDP, and over TCP: ", asks: 1},
		{name: "truncated and TCP silent", handler: overUDP(truncated, silent), timeout: short, reports: []string{"timeout"}, ede: 23, asks: 2},
		{name: "truncated over TCP too", handler: truncated, reports: []string{"malformed"}, ede: 22, detail: "truncated over TCP", asks: 2},
		{name: "garbage", handler: fake.Raw(func(*dns.Msg) []byte { return []byte("\xff\xfegarbage without end\xc0\xc0\xc0") }),
			timeout: short, reports: []string{"timeout"}, ede: 23, asks: 1},
		{name: "garbage with the ID", handler: fake.Raw(func(r *dns.Msg) []byte {
			return append(binary.BigEndian.AppendUint16(nil, r.Id), "\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x3fgarbage"...)
		}), reports: []string{"malformed"}, ede: 22, detail: "dns:"},
		{name: "three bytes", handler: fake.Raw(func(r *dns.Msg) []byte { return []byte{byte(r.Id >> 8), byte(r.Id), 0x81} }),
			timeout: short, reports: []string{"timeout"}, ede: 23, asks: 1},
		{name: "wrong ID", handler: respond(func(m *dns.Msg) { m.Id++ }), timeout: short, reports: []string{"timeout"}, ede: 23, asks: 1},
		{name: "from another port", handler: fake.Elsewhere(t, good), timeout: short, reports: []string{"timeout"}, ede: 23, asks: 1},
		{name: "wrong name", handler: respond(func(m *dns.Msg) { m.Question[0].Name = "other.example." }), reports: []string{"mismatch"}, ede: 22, detail: "another question", asks: 1},
		{name: "wrong type", handler: respond(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }), reports: []string{"mismatch"}, ede: 22, detail: "another question", asks: 1},
		{name: "wrong class", handler: respond(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), reports: []string{"mismatch"}, ede: 22, detail: "another question", asks: 1},
		{name: "no question", handler: respond(func(m *dns.Msg) { m.Question = nil }), reports: []string{"mismatch"}, ede: 22, detail: "another question", asks: 2},
		{name: "two questions", handler: respond(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), reports: []string{"mismatch"}, ede: 22, detail: "another question", asks: 1},
		{name: "no QR bit", handler: respond(func(m *dns.Msg) { m.Response = false }), reports: []string{"mismatch"}, ede: 22, detail: "not a response", asks: 1},
		{name: "another opcode", handler: respond(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), reports: []string{"mismatch"}, ede: 22, detail: "not a response", asks: 1},
		{name: "OPT record in the answer section", handler: respond(func(m *dns.Msg) { m.Answer = append(m.Answer, new(dns.Msg).SetEdns0(1232, false).Extra...) }),
			reports: []string{"malformed"}, ede: 22, detail: "outside the additional section", asks: 1},
		{name: "NODATA with a count of answers that is too high", handler: fake.Raw(func(r *dns.Msg) []byte {
			m := new(dns.Msg).SetReply(r).SetEdns0(1232, false)
			m.Ns = fake.RRs(exampleSOA)
			wire, _ := m.Pack()
			wire[7]++ // ANCOUNT
			return wire
		}), reports: []string{"malformed"}, ede: 22, detail: "outside the additional section", asks: 1},
		{name: "NODATA with a SOA record without data", handler: respond(func(m *dns.Msg) {
			m.Answer, m.Ns = nil, []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "example.", Rrtype: dns.TypeSOA, Class: dns.ClassINET, Ttl: 60}}}
		}), reports: []string{"malformed"}, ede: 22, detail: "SOA record without data", asks: 1},
		{name: "NODATA with a SOA record of another class", handler: respond(func(m *dns.Msg) { m.Answer, m.Ns = nil, fake.RRs("example. 900 CH SOA a. b. 1 2 3 4 60") }),
			reports: []string{"nodata"}, ttl: 30, asks: 1},
		{name: "CNAME record without a name", handler: respond(func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "target.example.", Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 60}}}
		}), reports: []string{"malformed"}, ede: 22, detail: "without a name", asks: 1},
		{name: "DNAME record without a CNAME record", handler: fake.Answer("example. 200 IN DNAME example.net.", "target.example.net. 300 IN A 192.0.2.1"),
			reports: []string{"success"}, addrs: 1, ttl: 200, links: 1, asks: 1},
		{name: "address record without an address", handler: respond(func(m *dns.Msg) {
			m.Answer = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "target.example.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}}}
		}), reports: []string{"malformed"}, ede: 22, detail: "without an address", asks: 1},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			up := fake.New(t, tc.handler)
			switch tc.refuse {
			case "tcp":
				up.StopTCP()
			case "all":
				up.Stop()
			}
			timeout := patient
			if tc.timeout > 0 {
				timeout = tc.timeout
			}
			us, reports := start(t, timeout, up.Addr)
			attempts := 1
			if tc.ede > 0 {
				attempts = 2
			}

			began := time.Now()
			o, err := us.Resolve(context.Background(), question, 2)
			if took, most := time.Since(began), time.Duration(attempts)*timeout+slack; took > most {
				t.Errorf("took %s, more than %s", took, most)
			}
			if got, want := reports.outcomes(), slices.Repeat(tc.reports, attempts); !slices.Equal(got, want) {
				t.Errorf("reports %v, want %v", got, want)
			}
			if got := up.AskedAll(); tc.asks > 0 && got != tc.asks*attempts {
				t.Errorf("the upstream was asked %d times, want %d", got, tc.asks*attempts)
			}
			if len(o.Data) != 4*tc.addrs || o.TTL != tc.ttl || o.Links != tc.links {
				t.Errorf("%d octets of addresses, TTL %d, %d links; want %d, %d, %d", len(o.Data), o.TTL, o.Links, 4*tc.addrs, tc.ttl, tc.links)
			}
			switch {
			case err == nil && tc.ede > 0:
				t.Fatal("no failure")
			case err != nil:
				checkFailure(t, failure(t, err), tc.reports[len(tc.reports)-1], tc.ede, tc.detail)
			}
		})
	}
}

func checkFailure(t *testing.T, f *lookup.Failure, outcome string, ede uint16, detail string) {
	t.Helper()
	if f.Outcome != outcome || f.EDE != ede {
		t.Errorf("failure %v with EDE %d, want %s with %d", f, f.EDE, outcome, ede)
	}
	if (f.Detail == nil) != (detail == "") || !strings.Contains(f.Error(), detail) {
		t.Errorf("failure %v, want the detail %q", f, detail)
	}
}

// RFC 2308, section 5, within bounds.
func TestNegativeTTL(t *testing.T) {
	for soa, want := range map[string]uint32{
		"":                                           30,
		"example. 900 IN SOA a. b. 1 2 3 4 60":       60,
		"example. 40 IN SOA a. b. 1 2 3 4 60":        40,
		"example. 900 IN SOA a. b. 1 2 3 4 0":        5,
		"example. 900 IN SOA a. b. 1 2 3 4 5":        5,
		"example. 900 IN SOA a. b. 1 2 3 4 300":      300,
		"example. 86400 IN SOA a. b. 1 2 3 4 86400":  300,
		"example. 4294967295 IN SOA a. b. 1 2 3 4 9": 5,
		"example.net. 900 IN SOA a. b. 1 2 3 4 60":   30,
	} {
		for _, code := range []int{dns.RcodeSuccess, dns.RcodeNameError} {
			up := fake.New(t, respond(func(m *dns.Msg) {
				m.Rcode, m.Answer = code, nil
				if soa != "" {
					m.Ns = fake.RRs(soa)
				}
			}))
			us, _ := start(t, patient, up.Addr)
			o, err := us.Resolve(context.Background(), question, 1)
			if err != nil || len(o.Data) > 0 || o.TTL != want {
				t.Errorf("%s, %s: %v, %v; want TTL %d", dns.RcodeToString[code], soa, o, err, want)
			}
		}
	}
}

// The query asks for recursion and for no more than gets through without fragments, over both protocols.
func TestQuery(t *testing.T) {
	queries := make(chan *dns.Msg, 2)
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		queries <- r
		overUDP(truncated, good)(w, r)
	})
	us, _ := start(t, patient, up.Addr)
	if addrs, outcome := resolve(t, us, lookup.Question{Name: "target.example.", Type: dns.TypeAAAA}, 1); !slices.Equal(addrs, []string{"2001:db8::1"}) {
		t.Errorf("%v, %s", addrs, outcome)
	}
	for _, proto := range []string{"udp", "tcp"} {
		r := <-queries
		want := dns.Question{Name: "target.example.", Qtype: dns.TypeAAAA, Qclass: dns.ClassINET}
		if len(r.Question) != 1 || r.Question[0] != want || !r.RecursionDesired || r.Response || r.Opcode != dns.OpcodeQuery {
			t.Errorf("%s: %v", proto, r)
		}
		if opt := r.IsEdns0(); opt == nil || opt.UDPSize() != 1232 || opt.Do() || len(r.Extra) != 1 {
			t.Errorf("%s: EDNS %v", proto, r.Extra)
		}
	}
}
