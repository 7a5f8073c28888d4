package upstream_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/upstream"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// several starts an upstream for each handler.
func several(t *testing.T, hs ...fake.Handler) (ups []*fake.Server, to []string) {
	t.Helper()
	for _, h := range hs {
		up := fake.New(t, h)
		ups, to = append(ups, up), append(to, up.Addr)
	}
	return ups, to
}

// inEachTurn resolves the question in one attempt as often as there are upstreams, so that each of them is the first once.
func inEachTurn(t *testing.T, us *upstream.Upstreams, n int, check func(addrs []string, outcome string, took time.Duration)) {
	t.Helper()
	for range n {
		began := time.Now()
		addrs, outcome := resolve(t, us, question, 1)
		check(addrs, outcome, time.Since(began))
	}
}

// The attempts of a lookup, and the lookups, go to the upstreams in turn.
func TestInTurn(t *testing.T) {
	t.Parallel()
	ups, to := several(t, nil, nil, nil)
	us, reports := start(t, short, to...)
	if _, outcome := resolve(t, us, question, 3); outcome != lookup.Timeout {
		t.Errorf("outcome %q", outcome)
	}
	for i, up := range ups {
		if n := up.AskedAll(); n != 1 {
			t.Errorf("upstream %d got %d of 3 attempts", i, n)
		}
		up.Set(good)
	}
	for range 6 {
		resolve(t, us, question, 3)
	}
	for i, up := range ups {
		if n := up.AskedAll(); n != 1+2 {
			t.Errorf("upstream %d got %d of 6 lookups", i, n-1)
		}
	}
	counts := make(map[string]int)
	for _, r := range reports.all() {
		counts[r.to+r.outcome]++
	}
	for _, up := range ups {
		if counts[up.Addr+"timeout"] != 1 || counts[up.Addr+"success"] != 2 {
			t.Errorf("reports %v", counts)
		}
	}
}

// One slow upstream of two: the attempt after it goes to the other.
func TestOneSlowOfTwo(t *testing.T) {
	t.Parallel()
	slow, fast := fake.New(t, nil), fake.New(t, good)
	for _, order := range [][]string{{slow.Addr, fast.Addr}, {fast.Addr, slow.Addr}} {
		us, _ := start(t, short, order...)
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if addrs, outcome := resolve(t, us, lookup.Question{Name: "target.example.", Type: qtype}, 2); len(addrs) != 1 {
				t.Errorf("%s: %v, %s", dns.TypeToString[qtype], addrs, outcome)
			}
		}
	}
}

// One upstream of two that fails at once, in any way, costs no attempt.
func TestOneFailsOfTwo(t *testing.T) {
	t.Parallel()
	for name, bad := range map[string]fake.Handler{
		"SERVFAIL":  fake.Rcode(dns.RcodeServerFailure),
		"REFUSED":   fake.Rcode(dns.RcodeRefused),
		"FORMERR":   fake.Rcode(dns.RcodeFormatError),
		"mismatch":  respond(func(m *dns.Msg) { m.Question[0].Qtype = dns.TypeMX }),
		"referral":  respond(func(m *dns.Msg) { m.Answer, m.Ns = nil, fake.RRs("example. 300 IN NS ns.example.") }),
		"truncated": truncated,
		"filtered":  fake.Answer("target.example. 300 IN A 0.0.0.0"),
		"cut chain": byName(map[string]fake.Handler{
			"target.example.": fake.Answer("target.example. 300 IN CNAME b.example."),
			"b.example.":      fake.Rcode(dns.RcodeServerFailure),
		}),
	} {
		_, to := several(t, bad, good)
		us, _ := start(t, patient, to...)
		inEachTurn(t, us, 2, func(addrs []string, outcome string, _ time.Duration) {
			if !slices.Equal(addrs, []string{"192.0.2.1"}) {
				t.Errorf("%s: %v, %s", name, addrs, outcome)
			}
		})
	}
}

// A closed port is a failure like any other, before the health checks have noticed it.
func TestOnePortClosedOfTwo(t *testing.T) {
	t.Parallel()
	ups, to := several(t, good, good)
	ups[0].Stop()
	us, _ := start(t, patient, to...)
	inEachTurn(t, us, 2, func(addrs []string, outcome string, _ time.Duration) {
		if len(addrs) != 1 {
			t.Errorf("%v, %s", addrs, outcome)
		}
	})
}

// An attempt that fails late ends: what is left of its time may be too short for another upstream.
func TestLateFailure(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	ups, to := several(t, fake.Late(timeout/4, fake.Rcode(dns.RcodeServerFailure)), good)
	us, _ := start(t, timeout, to...)
	failures := 0
	inEachTurn(t, us, 2, func(_ []string, outcome string, _ time.Duration) {
		if outcome == "servfail" {
			failures++
		}
	})
	if failures != 1 || ups[1].AskedAll() != 1 {
		t.Errorf("%d of 2 attempts failed, and the other upstream was asked %d times", failures, ups[1].AskedAll())
	}
}

// All upstreams of an attempt share its deadline, and each is asked at most once.
func TestDeadlineOfUpstreams(t *testing.T) {
	t.Parallel()
	ups, to := several(t, fake.Rcode(dns.RcodeServerFailure), fake.Rcode(dns.RcodeRefused), nil)
	us, _ := start(t, short, to...)
	inEachTurn(t, us, 3, func(_ []string, outcome string, took time.Duration) {
		if outcome != lookup.Timeout || took > short+slack {
			t.Errorf("%s after %s", outcome, took)
		}
	})
	for i, want := range []int{2, 2, 3} {
		if n := ups[i].AskedAll(); n < want-1 || n > want {
			t.Errorf("upstream %d was asked %d times in 3 attempts", i, n)
		}
	}
}

// When all fail at once, the failure is that of the last.
func TestAllFail(t *testing.T) {
	t.Parallel()
	ups, to := several(t, fake.Rcode(dns.RcodeServerFailure), fake.Rcode(dns.RcodeServerFailure))
	us, _ := start(t, patient, to...)
	if _, outcome := resolve(t, us, question, 3); outcome != "servfail" {
		t.Errorf("outcome %q", outcome)
	}
	for i, up := range ups {
		if n := up.AskedAll(); n != 3 {
			t.Errorf("upstream %d was asked %d times in 3 attempts", i, n)
		}
	}
}

// An upstream that is down is passed over: an attempt does not ask the next one twice in its place.
func TestDownIsPassedOver(t *testing.T) {
	t.Parallel()
	ups, to := several(t, nil, good)
	us, _ := start(t, short, to...)
	resolve(t, us, question, 1)
	resolve(t, us, question, 1)
	wait(t, 20*time.Second, "an upstream that does not answer is not checked", func() bool { return checked(ups[0]) >= 4 })
	ups[1].Set(fake.Rcode(dns.RcodeServerFailure))
	before := ups[1].AskedAll()
	inEachTurn(t, us, 2, func(_ []string, outcome string, _ time.Duration) {
		if outcome != "servfail" {
			t.Errorf("outcome %q", outcome)
		}
	})
	if n := ups[1].AskedAll() - before; n != 2 {
		t.Errorf("the other upstream was asked %d times in 2 attempts", n)
	}
}

// A chain that loops is the fault of the target: no other upstream is asked for it in the same attempt.
func TestLoopIsNotOfUpstream(t *testing.T) {
	t.Parallel()
	loop := fake.Answer("target.example. 300 IN CNAME target.example.")
	ups, to := several(t, loop, loop)
	us, _ := start(t, patient, to...)
	if _, err := us.Resolve(context.Background(), question, 1); failure(t, err).Outcome != lookup.Loop {
		t.Errorf("error %v", err)
	}
	if n := ups[0].AskedAll() + ups[1].AskedAll(); n != 1 {
		t.Errorf("%d queries", n)
	}
}
