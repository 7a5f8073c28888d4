package upstream_test

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// withOPT returns a handler that answers a query with an OPT record one way, and one without another way; and the numbers of
// both.
func withOPT(with, without fake.Handler) (h fake.Handler, queries, plain *atomic.Int64) {
	queries, plain = new(atomic.Int64), new(atomic.Int64)
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Qtype == dns.TypeNS { // a health check
			good(w, r)
			return
		}
		if r.IsEdns0() != nil {
			queries.Add(1)
			with(w, r)
			return
		}
		plain.Add(1)
		without(w, r)
	}, queries, plain
}

// refusals are the ways in which upstreams say that they do not answer queries with an OPT record.
var refusals = map[string]fake.Handler{
	"FORMERR": fake.Rcode(dns.RcodeFormatError),
	"FORMERR with OPT": func(w dns.ResponseWriter, r *dns.Msg) {
		w.WriteMsg(new(dns.Msg).SetRcode(r, dns.RcodeFormatError).SetEdns0(512, false))
	},
	"FORMERR without question": respond(func(m *dns.Msg) { m.Rcode, m.Question, m.Answer = dns.RcodeFormatError, nil, nil }),
	"NOTIMP":                   fake.Rcode(dns.RcodeNotImplemented),
	"BADVERS":                  extended(dns.RcodeBadVers),
	"BADCOOKIE":                extended(dns.RcodeBadCookie),
	"NOERROR without question": respond(func(m *dns.Msg) { m.Question, m.Answer = nil, nil }),
}

// An upstream that refuses queries with EDNS is asked without, inside the same attempt, and without at once after that (RFC
// 6891, section 6.2.2).
func TestEDNSRefused(t *testing.T) {
	t.Parallel()
	for name, refusal := range refusals {
		h, queries, plain := withOPT(refusal, good)
		up := fake.New(t, h)
		us, reports := start(t, patient, up.Addr)
		for i := range 3 {
			if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 {
				t.Errorf("%s, lookup %d: %s", name, i, outcome)
			}
		}
		if queries.Load() != 1 || plain.Load() != 3 {
			t.Errorf("%s: %d queries with and %d without EDNS, want 1 and 3", name, queries.Load(), plain.Load())
		}
		if got := reports.outcomes(); !slices.Equal(got, []string{"success", "success", "success"}) {
			t.Errorf("%s: reports %v", name, got)
		}
		if code, _, _ := strings.Cut(name, " "); len(reports.warnings) != 1 || !strings.Contains(reports.warnings[0], up.Addr+" answers "+code+" to queries with EDNS") {
			t.Errorf("%s: warnings %q", name, reports.warnings)
		}
	}
}

// The same over TCP, where the response over UDP is truncated.
func TestEDNSRefusedOverTCP(t *testing.T) {
	t.Parallel()
	h, queries, plain := withOPT(overUDP(truncated, fake.Rcode(dns.RcodeFormatError)), overUDP(truncated, good))
	us, _ := start(t, patient, fake.New(t, h).Addr)
	if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 || queries.Load() != 2 || plain.Load() != 2 {
		t.Errorf("%v, %s after %d queries with and %d without EDNS", addrs, outcome, queries.Load(), plain.Load())
	}
}

// The same over the encrypted protocols.
func TestEDNSRefusedEncrypted(t *testing.T) {
	t.Parallel()
	for _, protocol := range encrypted {
		server, client, _ := certificate(t)
		h, queries, plain := withOPT(fake.Rcode(dns.RcodeFormatError), good)
		us, _, stop := startTLS(t, client, patient, protocol.scheme+protocol.start(t, server, h))
		for range 2 {
			if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 {
				t.Errorf("%s: %s", protocol.scheme, outcome)
			}
		}
		if queries.Load() != 1 || plain.Load() != 2 {
			t.Errorf("%s: %d queries with and %d without EDNS, want 1 and 2", protocol.scheme, queries.Load(), plain.Load())
		}
		stop()
	}
}

// An upstream that refuses a query either way says nothing about EDNS: the next query has an OPT record again.
func TestRefusedEitherWay(t *testing.T) {
	t.Parallel()
	for name, refusal := range refusals {
		h, queries, plain := withOPT(refusal, refusal)
		us, reports := start(t, patient, fake.New(t, h).Addr)
		for range 2 {
			if addrs, _ := resolve(t, us, question, 1); len(addrs) > 0 {
				t.Errorf("%s: %v", name, addrs)
			}
		}
		if queries.Load() != 2 || plain.Load() != 2 || len(reports.warnings) > 0 {
			t.Errorf("%s: %d queries with and %d without EDNS, want 2 and 2; warnings %q", name, queries.Load(), plain.Load(), reports.warnings)
		}
	}
}

// After a response that cannot be parsed, the upstream is asked without EDNS inside the same attempt, and with EDNS the next
// time.
func TestMalformedWithEDNS(t *testing.T) {
	t.Parallel()
	h, queries, plain := withOPT(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r).SetEdns0(1232, false)
		m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: 65001, Data: []byte{1}}}
		wire, _ := m.Pack()
		wire[len(wire)-2] = 9 // the length of the option
		w.Write(wire)
	}, good)
	us, reports := start(t, patient, fake.New(t, h).Addr)
	for i := range 3 {
		if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 {
			t.Errorf("lookup %d: %s", i, outcome)
		}
	}
	if queries.Load() < 3 || plain.Load() != 3 || len(reports.warnings) > 0 {
		t.Errorf("%d queries with and %d without EDNS, want 3 or more and 3; warnings %q", queries.Load(), plain.Load(), reports.warnings)
	}
}

// What an upstream says about the name is no reason to ask without EDNS.
func TestNoFallback(t *testing.T) {
	t.Parallel()
	for _, code := range []int{dns.RcodeServerFailure, dns.RcodeRefused, dns.RcodeNameError, dns.RcodeYXDomain} {
		h, queries, plain := withOPT(fake.Rcode(code), good)
		us, _ := start(t, patient, fake.New(t, h).Addr)
		resolve(t, us, question, 2)
		if plain.Load() > 0 || queries.Load() == 0 {
			t.Errorf("%s: %d queries with and %d without EDNS", dns.RcodeToString[code], queries.Load(), plain.Load())
		}
	}
}

// An upstream that drops queries with EDNS is asked without at the second attempt. After the third such lookup it is asked
// without at once.
func TestEDNSDropped(t *testing.T) {
	t.Parallel()
	h, queries, plain := withOPT(silent, good)
	us, _ := start(t, short, fake.New(t, h).Addr)
	for i := range 6 {
		began := time.Now()
		addrs, outcome := resolve(t, us, question, 2)
		if took := time.Since(began); len(addrs) != 1 || i < 3 && took < short || i >= 3 && took >= short {
			t.Errorf("lookup %d: %v, %s after %s", i, addrs, outcome, took)
		}
	}
	if queries.Load() != 3 || plain.Load() != 6 {
		t.Errorf("%d queries with and %d without EDNS, want 3 and 6", queries.Load(), plain.Load())
	}
}

// So it is for many lookups at a time, however each of them learns of it.
func TestEDNSDroppedForMany(t *testing.T) {
	t.Parallel()
	h, _, _ := withOPT(silent, numbered)
	us, _ := start(t, short, fake.New(t, h).Addr)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			time.Sleep(time.Duration(i) * time.Millisecond)
			q := lookup.Question{Name: fmt.Sprintf("%d.example.", i), Type: dns.TypeA}
			if addrs, outcome := resolve(t, us, q, 2); len(addrs) != 1 {
				t.Errorf("lookup %d: %s", i, outcome)
			}
		})
	}
	wg.Wait()
}

// Lookups of one attempt, which is what a client waits for when an answer is cached, get over it too: each second one.
func TestEDNSDroppedOneAttempt(t *testing.T) {
	t.Parallel()
	h, _, _ := withOPT(silent, good)
	us, _ := start(t, short, fake.New(t, h).Addr)
	var outcomes []string
	for range 8 {
		_, outcome := resolve(t, us, question, 1)
		outcomes = append(outcomes, outcome)
	}
	if want := []string{"timeout", "", "timeout", "", "timeout", "", "", ""}; !slices.Equal(outcomes, want) {
		t.Errorf("outcomes %q", outcomes)
	}
}

// A lost packet, and an upstream that was down, are no reason to go on without EDNS.
func TestEDNSAfterLoss(t *testing.T) {
	t.Parallel()
	var last atomic.Bool // whether the last query of a lookup had an OPT record
	note := func(h fake.Handler) fake.Handler {
		return func(w dns.ResponseWriter, r *dns.Msg) {
			if r.Question[0].Qtype != dns.TypeNS { // no health check
				last.Store(r.IsEdns0() != nil)
			}
			h(w, r)
		}
	}
	up := fake.New(t, note(good))
	us, _ := start(t, short, up.Addr)
	for range 10 {
		up.Set(nil)
		if _, outcome := resolve(t, us, question, 1); outcome != lookup.Timeout {
			t.Errorf("outcome %q", outcome)
		}
		up.Set(note(good))
		for range 2 {
			if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 {
				t.Errorf("%v, %s", addrs, outcome)
			}
		}
		if !last.Load() {
			t.Error("the second query after a lost one has no EDNS")
		}
	}
}

// Each upstream has a memory of its own.
func TestEDNSByUpstream(t *testing.T) {
	t.Parallel()
	old, _, plain := withOPT(fake.Rcode(dns.RcodeFormatError), good)
	new, queries, none := withOPT(good, good)
	_, to := several(t, old, new)
	us, _ := start(t, patient, to...)
	for range 6 {
		resolve(t, us, question, 1)
	}
	if plain.Load() != 3 || queries.Load() != 3 || none.Load() != 0 {
		t.Errorf("%d plain queries to the one, %d with and %d without EDNS to the other", plain.Load(), queries.Load(), none.Load())
	}
}

// A response to a query without EDNS has room for 512 octets: what is as long may have been cut.
func TestCutWithoutEDNS(t *testing.T) {
	t.Parallel()
	many := fake.Zone(manyRecords(40)...)
	uncut := func(w dns.ResponseWriter, r *dns.Msg) { // and without TC bit
		m := new(dns.Msg).SetReply(r)
		m.Answer, m.Compress = fake.RRs(manyRecords(29)...), true
		w.WriteMsg(m)
	}
	for name, udp := range map[string]fake.Handler{"truncated": many, "perhaps cut": uncut} {
		h, _, _ := withOPT(fake.Rcode(dns.RcodeFormatError), overUDP(udp, many))
		us, _ := start(t, patient, fake.New(t, h).Addr)
		if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 40 {
			t.Errorf("%s: %d addresses, %s", name, len(addrs), outcome)
		}
	}
}
