package alias

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// respond returns a handler that changes the good response before it is sent.
func respond(change func(m *dns.Msg)) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = fake.RRs("target.example. 300 IN A " + v4)
		change(m)
		w.WriteMsg(m)
	}
}

// overUDP returns a handler that has one answer for UDP and one for TCP.
func overUDP(udp, tcp fake.Handler) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if fake.IsTCP(w) {
			tcp(w, r)
			return
		}
		udp(w, r)
	}
}

var truncated = respond(func(m *dns.Msg) { m.Truncated, m.Answer = true, nil })

// links returns a chain of n CNAME records from target.example, in steps of the given TTL, and the address at its end.
func links(n int) []string {
	rrs := []string{fmt.Sprintf("l%d.example. 300 IN A %s", n, v4)}
	for i := range n {
		from := fmt.Sprintf("l%d.example.", i)
		if i == 0 {
			from = "target.example."
		}
		rrs = append(rrs, fmt.Sprintf("%s 300 IN CNAME l%d.example.", from, i+1))
	}
	return rrs
}

// A row of the outcome table: what the upstream answers, and what comes of it.
var outcomes = []struct {
	name    string
	handler fake.Handler
	refuse  string // the ports that are closed: tcp or all

	outcome string // of the request, as the metrics have it
	ttl     uint32 // of the addresses
	addrs   int    // how many addresses; 0 with no failure: NODATA
	fails   bool
	ede     uint16 // when it fails and nothing is cached
	asks    int    // queries in one attempt; 0: not counted
}{
	{name: "addresses", handler: good, outcome: "success", addrs: 1, ttl: 300, asks: 1},
	{name: "chain in order", handler: fake.Zone("target.example. 250 IN CNAME b.example.", "b.example. 300 IN CNAME c.example.", "c.example. 300 IN A "+v4),
		outcome: "success", addrs: 1, ttl: 250, asks: 1},
	{name: "chain backwards", handler: fake.Answer("c.example. 200 IN A 192.0.2.7", "c.example. 210 IN A "+v4, "b.example. 300 IN CNAME c.example.", "target.example. 250 IN CNAME B.example."),
		outcome: "success", addrs: 2, ttl: 200, asks: 1},
	{name: "chain in two", handler: fake.Handler(func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "target.example." {
			fake.Answer("target.example. 100 IN CNAME b.example.")(w, r)
			return
		}
		fake.Zone("b.example. 300 IN A "+v4)(w, r)
	}), outcome: "success", addrs: 1, ttl: 100, asks: 2},
	{name: "chain of 16", handler: fake.Zone(links(16)...), outcome: "success", addrs: 1, ttl: 300, asks: 1},
	{name: "chain of 17", handler: fake.Zone(links(17)...), outcome: "loop", fails: true, ede: 22, asks: 1},
	{name: "loop", handler: fake.Answer("target.example. 300 IN CNAME b.example.", "b.example. 300 IN CNAME target.example."),
		outcome: "loop", fails: true, ede: 22, asks: 1},
	{name: "loop in two", handler: fake.Handler(func(w dns.ResponseWriter, r *dns.Msg) {
		other := map[string]string{"target.example.": "b.example.", "b.example.": "target.example."}[r.Question[0].Name]
		fake.Answer(r.Question[0].Name+" 300 IN CNAME "+other)(w, r)
	}), outcome: "loop", fails: true, ede: 22, asks: 2},
	{name: "odd order and others", handler: fake.Answer(
		"target.example. 300 IN RRSIG A 13 2 300 20300101000000 20200101000000 1 example. c2ln",
		"elsewhere.example. 1 IN A 203.0.113.66",
		"target.example. 300 IN TXT unrelated",
		"target.example. 300 IN AAAA "+v6,
		"target.example. 290 IN A 192.0.2.9",
		"target.example. 300 CH A 203.0.113.67",
		"target.example. 280 IN A "+v4,
		"target.example. 280 IN A 192.0.2.9"),
		outcome: "success", addrs: 2, ttl: 280, asks: 1},
	{name: "4 KB", handler: fake.Zone(manyRecords(256)...), outcome: "success", addrs: 256, ttl: 300, asks: 2},
	{name: "4 KB over UDP all the same", handler: fake.Handler(func(w dns.ResponseWriter, r *dns.Msg) {
		w.WriteMsg(&dns.Msg{MsgHdr: dns.MsgHdr{Id: r.Id, Response: true}, Question: r.Question, Answer: fake.RRs(manyRecords(256)...)})
	}), outcome: "success", addrs: 256, ttl: 300, asks: 2},
	{name: "truncated, then TCP", handler: overUDP(truncated, good), outcome: "success", addrs: 1, ttl: 300, asks: 2},

	{name: "TTL 0", handler: fake.Answer("target.example. 0 IN A " + v4), outcome: "success", addrs: 1, ttl: 5, asks: 1},
	{name: "TTL 2^31", handler: fake.Answer("target.example. 2147483648 IN A " + v4), outcome: "success", addrs: 1, ttl: 5, asks: 1},
	{name: "TTL a day", handler: fake.Answer("target.example. 86400 IN A " + v4), outcome: "success", addrs: 1, ttl: 3600, asks: 1},

	{name: "NODATA with SOA", handler: fake.Zone("target.example. 300 IN TXT x", "example. 900 IN SOA ns.example. h.example. 1 2 3 4 60"), outcome: "nodata", asks: 1},
	{name: "NODATA without SOA", handler: fake.Zone("target.example. 300 IN TXT x"), outcome: "nodata", asks: 1},
	{name: "NODATA behind a CNAME", handler: fake.Zone("target.example. 300 IN CNAME b.example.", "b.example. 300 IN TXT x", "example. 900 IN SOA ns.example. h.example. 1 2 3 4 60"), outcome: "nodata", asks: 1},
	{name: "NXDOMAIN", handler: fake.Zone("example. 900 IN SOA ns.example. h.example. 1 2 3 4 60"), outcome: "nxdomain", asks: 1},
	{name: "NXDOMAIN without SOA", handler: fake.Rcode(dns.RcodeNameError), outcome: "nxdomain", asks: 1},
	{name: "NXDOMAIN behind a CNAME", handler: fake.Zone("target.example. 300 IN CNAME b.example."), outcome: "nxdomain", asks: 1},

	{name: "timeout", handler: nil, outcome: "timeout", fails: true, ede: 23, asks: 1},
	{name: "too late", handler: fake.Late(testTimeout+100*time.Millisecond, good), outcome: "timeout", fails: true, ede: 23, asks: 1},
	{name: "closed port", refuse: "all", outcome: "network", fails: true, ede: 23},
	{name: "SERVFAIL", handler: fake.Rcode(dns.RcodeServerFailure), outcome: "servfail", fails: true, ede: 22, asks: 1},
	{name: "REFUSED", handler: fake.Rcode(dns.RcodeRefused), outcome: "refused", fails: true, ede: 22, asks: 1},
	{name: "FORMERR", handler: fake.Rcode(dns.RcodeFormatError), outcome: "formerr", fails: true, ede: 22, asks: 2},
	{name: "NOTIMP", handler: fake.Rcode(dns.RcodeNotImplemented), outcome: "notimp", fails: true, ede: 22, asks: 2},
	{name: "another code", handler: fake.Rcode(dns.RcodeYXDomain), outcome: "rcode", fails: true, ede: 22, asks: 1},
	{name: "referral", handler: respond(func(m *dns.Msg) { m.Answer, m.Ns = nil, fake.RRs("example. 300 IN NS ns.example.") }),
		outcome: "referral", fails: true, ede: 22, asks: 1},
	{name: "truncated and TCP refused", handler: truncated, refuse: "tcp", outcome: "network", fails: true, ede: 23, asks: 1},
	{name: "truncated and TCP silent", handler: overUDP(truncated, func(dns.ResponseWriter, *dns.Msg) {}), outcome: "timeout", fails: true, ede: 23, asks: 2},
	{name: "BADVERS", handler: fake.Handler(func(w dns.ResponseWriter, r *dns.Msg) {
		w.WriteMsg(new(dns.Msg).SetRcode(r, dns.RcodeBadVers).SetEdns0(1232, false))
	}), outcome: "rcode", fails: true, ede: 22, asks: 2},
	{name: "an address that is none", handler: fake.Zone("target.example. 300 IN A 0.0.0.0"), outcome: "denied", fails: true, ede: 17, asks: 1},
	{name: "an address that is none beside another", handler: fake.Zone("target.example. 300 IN A 0.0.0.0", "target.example. 300 IN A "+v4),
		outcome: "success", addrs: 1, ttl: 300, asks: 1},
	{name: "truncated over TCP too", handler: truncated, outcome: "malformed", fails: true, ede: 22, asks: 2},
	{name: "garbage", handler: fake.Raw(func(*dns.Msg) []byte { return []byte("\xff\xfegarbage without end\xc0\xc0\xc0") }), outcome: "timeout", fails: true, ede: 23, asks: 1},
	{name: "garbage with the ID", handler: fake.Raw(func(r *dns.Msg) []byte {
		return append(binary.BigEndian.AppendUint16(nil, r.Id), "\x81\x80\x00\x01\x00\x01\x00\x00\x00\x00\x3fgarbage"...)
	}), outcome: "malformed", fails: true, ede: 22},
	{name: "three bytes", handler: fake.Raw(func(r *dns.Msg) []byte { return []byte{byte(r.Id >> 8), byte(r.Id), 0x81} }), outcome: "timeout", fails: true, ede: 23, asks: 1},
	{name: "wrong ID", handler: respond(func(m *dns.Msg) { m.Id++ }), outcome: "timeout", fails: true, ede: 23, asks: 1},
	{name: "wrong name", handler: respond(func(m *dns.Msg) { m.Question[0].Name = "other.example." }), outcome: "mismatch", fails: true, ede: 22, asks: 1},
	{name: "wrong type", handler: respond(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }), outcome: "mismatch", fails: true, ede: 22, asks: 1},
	{name: "wrong class", handler: respond(func(m *dns.Msg) { m.Question[0].Qclass = dns.ClassCHAOS }), outcome: "mismatch", fails: true, ede: 22, asks: 1},
	{name: "no question", handler: respond(func(m *dns.Msg) { m.Question = nil }), outcome: "mismatch", fails: true, ede: 22, asks: 2},
	{name: "two questions", handler: respond(func(m *dns.Msg) { m.Question = append(m.Question, m.Question[0]) }), outcome: "mismatch", fails: true, ede: 22, asks: 1},
	{name: "no QR bit", handler: respond(func(m *dns.Msg) { m.Response = false }), outcome: "mismatch", fails: true, ede: 22, asks: 1},
	{name: "another opcode", handler: respond(func(m *dns.Msg) { m.Opcode = dns.OpcodeNotify }), outcome: "mismatch", fails: true, ede: 22, asks: 1},
	{name: "address record without an address", handler: respond(func(m *dns.Msg) {
		m.Answer = []dns.RR{&dns.RFC3597{Hdr: dns.RR_Header{Name: "target.example.", Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}}}
	}), outcome: "malformed", fails: true, ede: 22, asks: 1},
}

func manyRecords(n int) []string {
	var rrs []string
	for i := range n {
		rrs = append(rrs, "target.example. 300 IN A "+net.IPv4(192, 0, 2, byte(i)).String())
	}
	return rrs
}

const (
	testTimeout = 400 * time.Millisecond
	testRetries = 1
)

// outcomeAlias returns the plugin with upstream up, before a zone.
func outcomeAlias(t *testing.T, up *fake.Server, properties string, next plugin.Handler) (*Alias, *clock) {
	return newAlias(t, "example.org", fmt.Sprintf("record @ target.example\nupstream %s\ntimeout %s\nretries %d\n%s",
		up.Addr, testTimeout, testRetries, properties), next)
}

// shut closes ports.
func shut(up *fake.Server, ports string) {
	switch ports {
	case "tcp":
		up.StopTCP()
	case "all":
		up.Stop()
	}
}

// The left column of the table: nothing is cached.
func TestOutcomeNothingCached(t *testing.T) {
	for _, tc := range outcomes {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			up := fake.New(t, tc.handler)
			shut(up, tc.refuse)
			requests := upstreamRequests.WithLabelValues(up.Addr, tc.outcome)
			attempts := 1
			if tc.fails {
				attempts = 1 + testRetries
			}

			a, _ := outcomeAlias(t, up, "", zoneFile(t, nil))
			var m *dns.Msg
			began := time.Now()
			n := counted(t, requests, func() { m = query(t, a, "example.org.", dns.TypeA) })
			if n != float64(attempts) {
				t.Errorf("%v requests ended in %s, want %d", n, tc.outcome, attempts)
			}
			if got := up.AskedAll(); tc.asks > 0 && got != tc.asks*attempts {
				t.Errorf("the upstream was asked %d times, want %d", got, tc.asks*attempts)
			}
			if took, most := time.Since(began), time.Duration(attempts)*testTimeout+300*time.Millisecond; took > most {
				t.Errorf("took %s, more than %s", took, most)
			}

			if m.Rcode != dns.RcodeSuccess || !m.Authoritative {
				t.Errorf("header: %v", m.MsgHdr)
			}
			checkAddresses(t, m, tc.addrs, tc.ttl)
			switch {
			case tc.fails:
				wantText(t, "authority", m.Ns, "example.org. 5 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300")
				if diff := cmp.Diff([]uint16{tc.ede}, ede(m)); diff != "" {
					t.Errorf("EDE (-want +got):\n%s", diff)
				}
			case tc.addrs == 0:
				wantText(t, "authority", m.Ns, exampleSOA)
			}
			if !tc.fails && ede(m) != nil {
				t.Errorf("EDE %v with an answer", ede(m))
			}
		})
	}
}

// The right column: an expired answer is cached.
func TestOutcomeExpiredCached(t *testing.T) {
	for _, tc := range outcomes {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			up := fake.New(t, fake.Answer("target.example. 60 IN A 198.51.100.1"))
			a, c := outcomeAlias(t, up, "", zoneFile(t, nil))
			query(t, a, "example.org.", dns.TypeA)
			c.Advance(61 * time.Second)

			up.Set(tc.handler)
			shut(up, tc.refuse)
			before := up.AskedAll()
			var m *dns.Msg
			n := counted(t, upstreamRequests.WithLabelValues(up.Addr, tc.outcome), func() { m = query(t, a, "example.org.", dns.TypeA) })
			if n != 1 {
				t.Errorf("%v requests ended in %s, want one attempt", n, tc.outcome)
			}
			if got := up.AskedAll() - before; tc.asks > 0 && got != tc.asks {
				t.Errorf("the upstream was asked %d times, want %d", got, tc.asks)
			}
			if !tc.fails {
				checkAddresses(t, m, tc.addrs, tc.ttl)
				return
			}
			for range 2 { // after the attempt, and then at once
				wantText(t, "answer", m.Answer, "example.org. 30 IN A 198.51.100.1")
				if diff := cmp.Diff([]uint16{dns.ExtendedErrorCodeStaleAnswer}, ede(m)); diff != "" {
					t.Errorf("EDE (-want +got):\n%s", diff)
				}
				m = query(t, a, "example.org.", dns.TypeA)
			}
			if got := up.AskedAll() - before; tc.asks > 0 && got != tc.asks {
				t.Errorf("a target that is known to fail was asked again")
			}
		})
	}
}

// checkAddresses checks that m has n addresses of the right owner and TTL and nothing else in the answer.
func checkAddresses(t *testing.T, m *dns.Msg, n int, ttl uint32) {
	t.Helper()
	if len(m.Answer) != n {
		t.Errorf("%d addresses, want %d: %v", len(m.Answer), n, text(m.Answer))
	}
	for _, rr := range m.Answer {
		if h := rr.Header(); h.Name != "example.org." || h.Rrtype != dns.TypeA || h.Ttl != ttl {
			t.Errorf("answer %v, want TTL %d", rr, ttl)
		}
	}
}

// Without EDNS in the query there is no place for an Extended DNS Error.
func TestNoEDNS(t *testing.T) {
	up := fake.New(t, fake.Rcode(dns.RcodeServerFailure))
	a, _ := outcomeAlias(t, up, "", zoneFile(t, nil))
	m := exchange(t, context.Background(), a, new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
	if len(m.Extra) != 0 {
		t.Errorf("additional section: %v", m.Extra)
	}
}

// on_failure applies when there is nothing else to serve, not even addresses of the backend.
func TestOnFailure(t *testing.T) {
	own := "example.org. 3600 IN A 203.0.113.1"
	for _, tc := range []struct {
		properties string
		zone       []string
		status     status
		rcode      int
		answer     []string
	}{
		{"on_failure servfail", nil, failed, dns.RcodeServerFailure, nil},
		{"on_failure empty", nil, failed, dns.RcodeSuccess, nil},
		{"on_failure servfail", []string{own}, fallback, dns.RcodeSuccess, []string{own}},
		{"on_failure empty", []string{own}, fallback, dns.RcodeSuccess, []string{own}},
	} {
		t.Run(fmt.Sprint(tc.properties, tc.status), func(t *testing.T) {
			up := fake.New(t, fake.Rcode(dns.RcodeRefused))
			a, _ := outcomeAlias(t, up, tc.properties, zoneFile(t, nil, tc.zone...))
			var m *dns.Msg
			if n := counted(t, answered(tc.status), func() { m = query(t, a, "example.org.", dns.TypeA) }); n != 1 {
				t.Errorf("counted %v with status %s", n, tc.status)
			}
			if m.Rcode != tc.rcode {
				t.Errorf("rcode %s", dns.RcodeToString[m.Rcode])
			}
			wantText(t, "answer", m.Answer, tc.answer...)
			if diff := cmp.Diff([]uint16{dns.ExtendedErrorCodeNoReachableAuthority}, ede(m)); diff != "" {
				t.Errorf("EDE (-want +got):\n%s", diff)
			}
		})
	}
}

// wait waits until cond holds.
func wait(t testing.TB, most time.Duration, complaint string, cond func() bool) {
	t.Helper()
	for end := time.Now().Add(most); !cond(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal(complaint)
		}
	}
}

// A stop waits for the attempt in flight, and no further attempt is made.
func TestStopDuringLookup(t *testing.T) {
	up := fake.New(t, nil)
	a, _ := newAlias(t, "example.org", "record @ target.example\ntimeout 500ms\nretries 10\nupstream "+up.Addr, nil)
	answers := make(chan *dns.Msg)
	go func() { answers <- query(t, a, "example.org.", dns.TypeA) }()
	wait(t, time.Second, "no lookup", func() bool { return up.AskedAll() > 0 })
	began := time.Now()
	a.cache.stop()
	if m := <-answers; len(m.Answer) != 0 {
		t.Errorf("got %v", m)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("a query took %s to end", took)
	}
	if n := up.AskedAll(); n != 1 {
		t.Errorf("%d queries, want 1", n)
	}
	if n := a.cache.entries.Len(); n != 0 {
		t.Errorf("%d entries: the stop is cached as a failure of the target", n)
	}
}

// The client gets the answer that comes during a stop or a reload.
func TestAnswerDuringStop(t *testing.T) {
	stopping := make(chan struct{})
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		<-stopping
		good(w, r)
	})
	a, _ := outcomeAlias(t, up, "", nil)
	answers := make(chan *dns.Msg)
	go func() { answers <- query(t, a, "example.org.", dns.TypeA) }()
	wait(t, time.Second, "no lookup", func() bool { return up.AskedAll() > 0 })
	a.cache.cancel()
	close(stopping)
	wantText(t, "answer", (<-answers).Answer, "example.org. 300 IN A "+v4)
}

// What one query of a client costs the upstream at most: nothing is cached, each response has one more CNAME record, and
// each is truncated over UDP.
func TestMostRequests(t *testing.T) {
	var n atomic.Int64
	up := fake.New(t, overUDP(truncated, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = fake.RRs(fmt.Sprintf("%s 300 IN CNAME x%d.example.", r.Question[0].Name, n.Add(1)))
		w.WriteMsg(m)
	}))
	const retries = 2
	a, c := newAlias(t, "example.org", fmt.Sprintf("record * target.example\nretries %d\ntimeout 10s\nupstream %s", retries, up.Addr), nil)
	const most = (1 + retries) * (lookup.MaxLinks + 1) * 2
	for range 10 { // it backs off then
		query(t, a, "www.example.org.", dns.TypeA)
		c.Advance(minBackoff / 11)
	}
	if asked := up.AskedAll(); asked != most {
		t.Errorf("%d requests, want %d", asked, most)
	}
}

// When one of two upstreams fails at once, no answer is stale, although the lookup that a client waits for makes one attempt.
func TestOneOfTwoUpstreamsFails(t *testing.T) {
	for name, h := range map[string]fake.Handler{
		"SERVFAIL": fake.Rcode(dns.RcodeServerFailure),
		"REFUSED":  fake.Rcode(dns.RcodeRefused),
		"filtered": fake.Answer("target.example. 60 IN A 0.0.0.0"),
	} {
		well := fake.Answer("target.example. 60 IN A " + v4)
		bad, other := fake.New(t, well), fake.New(t, well)
		a, c := newAlias(t, "example.org", fmt.Sprintf("record @ target.example\nupstream %s %s", bad.Addr, other.Addr), nil)
		query(t, a, "example.org.", dns.TypeA)
		bad.Set(h)
		before := bad.AskedAll()
		for range 10 {
			c.Advance(61 * time.Second)
			miss.answers(t, a, "example.org.", v4)
		}
		if n := bad.AskedAll() - before; n != 5 {
			t.Errorf("%s: the upstream that fails was asked %d times in 10 lookups", name, n)
		}
	}
}
