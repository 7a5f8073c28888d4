package upstream_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/upstream"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

// TestMain checks that no goroutine is left. A health check in flight ends by itself when its upstream has stopped.
func TestMain(m *testing.M) { goleak.VerifyTestMain(settled{m}) }

type settled struct{ m *testing.M }

func (s settled) Run() int {
	code := s.m.Run()
	for end := time.Now().Add(5 * time.Second); goleak.Find() != nil && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	return code
}

const (
	patient = 5 * time.Second        // the timeout where a response comes
	short   = 300 * time.Millisecond // the timeout where none comes
	slack   = 500 * time.Millisecond // what a busy machine takes
)

var question = lookup.Question{Name: "target.example.", Type: dns.TypeA}

// good is an upstream where all is well.
var good = fake.Zone("target.example. 300 IN A 192.0.2.1", "target.example. 300 IN AAAA 2001:db8::1")

// truncated answers that there is more.
var truncated = respond(func(m *dns.Msg) { m.Truncated, m.Answer = true, nil })

// respond returns a handler that changes the good response before it is sent.
func respond(change func(m *dns.Msg)) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = fake.RRs("target.example. 300 IN A 192.0.2.1")
		change(m)
		w.WriteMsg(m)
	}
}

// overUDP returns a handler that answers one way over UDP and another way over TCP.
func overUDP(udp, tcp fake.Handler) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if fake.IsTCP(w) {
			tcp(w, r)
			return
		}
		udp(w, r)
	}
}

func silent(dns.ResponseWriter, *dns.Msg) {}

// report is one call of a Reporter.
type report struct {
	to, outcome string
	took        time.Duration
}

// reports collects the calls of Reporters, and the warnings.
type reports struct {
	mu       sync.Mutex
	list     []report
	warnings []string
}

func (rs *reports) warn(format string, args ...any) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.warnings = append(rs.warnings, fmt.Sprintf(format, args...))
}

func (rs *reports) reporter(to string) upstream.Reporter {
	return func(outcome string, took time.Duration) {
		rs.mu.Lock()
		defer rs.mu.Unlock()
		rs.list = append(rs.list, report{to, outcome, took})
	}
}

func (rs *reports) all() []report {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	return slices.Clone(rs.list)
}

func (rs *reports) outcomes() (outcomes []string) {
	for _, r := range rs.all() {
		outcomes = append(outcomes, r.outcome)
	}
	return outcomes
}

// start returns Upstreams with that timeout for upstreams as the operator writes them, and what they report. They are
// stopped when the test ends.
func start(t testing.TB, timeout time.Duration, to ...string) (*upstream.Upstreams, *reports) {
	t.Helper()
	us, rs, stop := startTLS(t, nil, timeout, to...)
	t.Cleanup(stop)
	return us, rs
}

// startTLS is start with a configuration for the encrypted protocols, or nil. The test calls stop, which may be called
// twice.
func startTLS(t testing.TB, cfg *tls.Config, timeout time.Duration, to ...string) (us *upstream.Upstreams, rs *reports, stop func()) {
	t.Helper()
	addrs, err := upstream.ParseAddresses(to)
	if err != nil {
		t.Fatal(err)
	}
	if cfg == nil {
		cfg = new(tls.Config)
	}
	rs = new(reports)
	us = upstream.New(upstream.Config{Addresses: addrs, TLS: cfg, Timeout: timeout, Reporter: rs.reporter, Deny: netip.Addr.IsUnspecified, Warn: rs.warn})
	us.Start()
	return us, rs, sync.OnceFunc(us.Stop)
}

// resolve looks question up and returns the addresses, or the outcome of the failure.
func resolve(t testing.TB, us *upstream.Upstreams, q lookup.Question, attempts int) (addrs []string, outcome string) {
	t.Helper()
	o, err := us.Resolve(context.Background(), q, attempts)
	if err != nil {
		if len(o.Data) > 0 || o.TTL != 0 || o.Links != 0 {
			t.Errorf("%v beside the failure %v", o, err)
		}
		return nil, failure(t, err).Outcome
	}
	for ip := range slices.Chunk(o.Data, lookup.AddrLen(q.Type)) {
		addr, ok := netip.AddrFromSlice(ip)
		if !ok {
			t.Fatalf("%d octets of addresses", len(o.Data))
		}
		addrs = append(addrs, addr.String())
	}
	return addrs, ""
}

// failure returns err, which is a failure and not merely wraps one.
func failure(t testing.TB, err error) *lookup.Failure {
	t.Helper()
	f, ok := err.(*lookup.Failure)
	if !ok {
		t.Fatalf("the error %v is a %T", err, err)
	}
	return f
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
