package upstream_test

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// checked returns how often the upstream's health was checked.
func checked(up *fake.Server) int { return up.Asked(".", dns.TypeNS) }

// An upstream that fails its health checks is passed over, and asked again when it passes one. Health checks come one
// after the other: at the fourth, three have failed.
func TestHealthChecks(t *testing.T) {
	t.Parallel()
	bad, ok := fake.New(t, nil), fake.New(t, good)
	us, _ := start(t, short, bad.Addr, ok.Addr)
	resolve(t, us, question, 1)
	resolve(t, us, question, 1)
	wait(t, 20*time.Second, "an upstream that does not answer is not checked", func() bool { return checked(bad) >= 4 })
	before := bad.AskedAll()
	for range 4 {
		if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 {
			t.Errorf("with one upstream down: %v, %s", addrs, outcome)
		}
	}
	if n := bad.AskedAll() - before; n != 0 {
		t.Errorf("an upstream that is down was asked %d times", n)
	}
	if n := checked(ok); n != 0 {
		t.Errorf("an upstream that answers was checked %d times", n)
	}
	bad.Set(good)
	wait(t, 20*time.Second, "an upstream that answers again is still down", func() bool {
		resolve(t, us, question, 1)
		return bad.AskedAll() > before
	})
}

// When all upstreams are down, they are asked all the same.
func TestAllDown(t *testing.T) {
	t.Parallel()
	first, second := fake.New(t, nil), fake.New(t, nil)
	us, _ := start(t, short, first.Addr, second.Addr)
	resolve(t, us, question, 2)
	wait(t, 20*time.Second, "upstreams that do not answer are not checked", func() bool { return checked(first) >= 4 && checked(second) >= 4 })
	before := first.AskedAll() + second.AskedAll()
	if _, outcome := resolve(t, us, question, 2); outcome != lookup.Timeout {
		t.Errorf("outcome %q", outcome)
	}
	if n := first.AskedAll() + second.AskedAll() - before; n != 2 || first.AskedAll() != second.AskedAll() {
		t.Errorf("%d queries, want one for each upstream", n)
	}
}

// A response, whatever it says, shows that the upstream is there.
func TestNoHealthCheckAfterResponse(t *testing.T) {
	t.Parallel()
	up := fake.New(t, fake.Rcode(dns.RcodeServerFailure))
	us, _ := start(t, patient, up.Addr)
	resolve(t, us, question, 3)
	time.Sleep(50 * time.Millisecond)
	if n := checked(up); n != 0 {
		t.Errorf("%d health checks", n)
	}
}

// A connection that the upstream has closed while it was idle costs no attempt.
func TestIdleConnectionClosed(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{}, 1)
	up := fake.New(t, overUDP(truncated, func(w dns.ResponseWriter, r *dns.Msg) {
		good(w, r)
		w.Close()
		closed <- struct{}{}
	}))
	us, reports := start(t, patient, up.Addr)
	for i := range 3 {
		if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 {
			t.Fatalf("lookup %d: %s", i, outcome)
		}
		<-closed
	}
	if got := reports.outcomes(); !slices.Equal(got, []string{"success", "success", "success"}) {
		t.Errorf("reports %v", got)
	}
	if n := up.AskedAll(); n != 6 {
		t.Errorf("%d queries, want 3 over UDP and 3 over TCP", n)
	}
}

// A connection is used again while the upstream keeps it.
func TestConnectionReused(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	clients := make(map[string]int)
	up := fake.New(t, overUDP(truncated, func(w dns.ResponseWriter, r *dns.Msg) {
		mu.Lock()
		defer mu.Unlock()
		clients[w.RemoteAddr().String()]++
		good(w, r)
	}))
	us, _ := start(t, patient, up.Addr)
	for range 3 {
		resolve(t, us, question, 1)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(clients) != 1 {
		t.Errorf("3 lookups over the connections %v", clients)
	}
}

// A response with the wrong ID may come first: somebody else has sent it.
func TestSpoofedThenRight(t *testing.T) {
	t.Parallel()
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		spoof := new(dns.Msg).SetReply(r)
		spoof.Id++
		spoof.Answer = fake.RRs("target.example. 300 IN A 203.0.113.66")
		w.WriteMsg(spoof)
		good(w, r)
	})
	us, _ := start(t, patient, up.Addr)
	if addrs, outcome := resolve(t, us, question, 1); !slices.Equal(addrs, []string{"192.0.2.1"}) {
		t.Errorf("%v, %s", addrs, outcome)
	}
}

// What a lookup costs the upstream at most: another CNAME record in each response, and each response truncated over UDP.
func TestMostRequests(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	up := fake.New(t, overUDP(truncated, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = fake.RRs(fmt.Sprintf("%s 300 IN CNAME x%d.example.", r.Question[0].Name, n.Add(1)))
		w.WriteMsg(m)
	}))
	us, _ := start(t, 10*time.Second, up.Addr)
	const attempts = 3
	if _, outcome := resolve(t, us, question, attempts); outcome != "loop" {
		t.Errorf("outcome %q", outcome)
	}
	if asked, most := up.AskedAll(), attempts*(lookup.MaxLinks+1)*2; asked != most {
		t.Errorf("%d queries, want %d", asked, most)
	}
}

// All requests of an attempt share its deadline.
func TestDeadlineOfChain(t *testing.T) {
	t.Parallel()
	var n atomic.Int64
	up := fake.New(t, fake.Late(short*2/5, func(w dns.ResponseWriter, r *dns.Msg) {
		fake.Answer(fmt.Sprintf("%s 300 IN CNAME x%d.example.", r.Question[0].Name, n.Add(1)))(w, r)
	}))
	us, reports := start(t, short, up.Addr)
	began := time.Now()
	if _, outcome := resolve(t, us, question, 1); outcome != lookup.Timeout {
		t.Errorf("outcome %q", outcome)
	}
	if took := time.Since(began); took > short+slack {
		t.Errorf("took %s", took)
	}
	if got := reports.outcomes(); len(got) > 3 || got[0] != "cname" || got[len(got)-1] != "timeout" {
		t.Errorf("reports %v", got)
	}
}

// An attempt ends at its deadline while its exchange over TCP goes on; Stop waits for that.
func TestDeadlineOverTCP(t *testing.T) {
	t.Parallel()
	up, dripper := fake.NewDripping(t, fake.Zone(manyRecords(256)...), 10*time.Millisecond) // 40 s
	us, _, stop := startTLS(t, nil, short, up.Addr)
	defer stop()
	began := time.Now()
	if _, outcome := resolve(t, us, question, 1); outcome != lookup.Timeout {
		t.Errorf("outcome %q", outcome)
	}
	if took := time.Since(began); took < short || took > short+slack {
		t.Errorf("took %s, want %s", took, short)
	}
	stop()
	if took := time.Since(began); took > 2*short+slack {
		t.Errorf("stopped after %s", took)
	}
	wait(t, 5*time.Second, "the connection is still open", func() bool { return dripper.Open() == 0 })
}

// The time that is reported is that of the request, a second query over TCP included.
func TestReportedTime(t *testing.T) {
	t.Parallel()
	const late = 100 * time.Millisecond
	up := fake.New(t, overUDP(fake.Late(late, truncated), fake.Late(late, good)))
	us, reports := start(t, patient, up.Addr)
	began := time.Now()
	resolve(t, us, question, 1)
	took := time.Since(began)
	if got := reports.all(); len(got) != 1 || got[0].to != up.Addr || got[0].took < 2*late || got[0].took > took {
		t.Errorf("reports %v, and the lookup took %s", got, took)
	}
}

// The end of the server cuts a lookup short: no attempt follows, and the upstream is not suspected.
func TestStopDuringLookup(t *testing.T) {
	t.Parallel()
	up := fake.New(t, nil)
	us, reports, stop := startTLS(t, nil, short, up.Addr)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	failed := make(chan error)
	began := time.Now()
	go func() {
		_, err := us.Resolve(ctx, question, 10)
		failed <- err
	}()
	wait(t, 5*time.Second, "no lookup", func() bool { return up.AskedAll() > 0 })
	cancel()
	checkFailure(t, failure(t, <-failed), lookup.Canceled, dns.ExtendedErrorCodeNetworkError, "")
	if took := time.Since(began); took > short+slack {
		t.Errorf("the lookup took %s to end", took)
	}
	stop()
	if got := reports.outcomes(); up.AskedAll() != 1 || !slices.Equal(got, []string{"canceled"}) {
		t.Errorf("%d queries, reports %v", up.AskedAll(), got)
	}
	time.Sleep(50 * time.Millisecond)
	if n := checked(up); n != 0 {
		t.Errorf("%d health checks", n)
	}
}

// Over TCP, a lookup that is cut short ends at once. Stop waits for the exchange, which nobody waits for any more.
func TestStopDuringExchange(t *testing.T) {
	t.Parallel()
	const timeout = 2 * time.Second
	tcp := make(chan struct{})
	up := fake.New(t, overUDP(truncated, func(dns.ResponseWriter, *dns.Msg) { close(tcp) }))
	us, _, stop := startTLS(t, nil, timeout, up.Addr)
	defer stop()
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		<-tcp
		cancel()
	}()
	began := time.Now()
	_, err := us.Resolve(ctx, question, 10)
	if f := failure(t, err); f.Outcome != lookup.Canceled {
		t.Errorf("failure %v", f)
	}
	if took := time.Since(began); took > timeout/2 {
		t.Errorf("the lookup took %s to end", took)
	}
	stop()
	if took := time.Since(began); took < timeout || took > timeout+slack {
		t.Errorf("stopped after %s, want %s", took, timeout)
	}
}

// A response that comes after the end of the server has begun is of use to the client that waits for it.
func TestResponseAfterCancel(t *testing.T) {
	t.Parallel()
	canceled := make(chan struct{})
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		<-canceled
		good(w, r)
	})
	us, _ := start(t, patient, up.Addr)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		for up.AskedAll() == 0 {
			time.Sleep(time.Millisecond)
		}
		cancel()
		close(canceled)
	}()
	if o, err := us.Resolve(ctx, question, 1); err != nil || len(o.Data) != 4 {
		t.Errorf("%v, %v", o, err)
	}
	if _, err := us.Resolve(ctx, question, 3); failure(t, err).Outcome != lookup.Canceled || up.AskedAll() != 1 {
		t.Errorf("a lookup after the end: %v, and %d queries in all", err, up.AskedAll())
	}
}

// Lookups at the same time get each their own response.
func TestConcurrentLookups(t *testing.T) {
	t.Parallel()
	up := fake.New(t, overUDP(truncatedFor("odd"), numbered))
	us, _ := start(t, patient, up.Addr)
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			name := fmt.Sprintf("%d.%s.example.", i, []string{"even", "odd"}[i%2])
			addrs, outcome := resolve(t, us, lookup.Question{Name: name, Type: dns.TypeA}, 1)
			if want := net.IPv4(192, 0, 2, byte(i)).String(); len(addrs) != 1 || addrs[0] != want {
				t.Errorf("%s: %v %s, want %s", name, addrs, outcome, want)
			}
		})
	}
	wg.Wait()
}

// numbered answers with the address whose last octet is the first label.
func numbered(w dns.ResponseWriter, r *dns.Msg) {
	name := r.Question[0].Name
	fake.Answer(name+" 300 IN A 192.0.2."+dns.SplitDomainName(name)[0])(w, r)
}

// truncatedFor returns a handler that truncates the responses for names with that second label.
func truncatedFor(label string) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if dns.SplitDomainName(r.Question[0].Name)[1] == label {
			truncated(w, r)
			return
		}
		numbered(w, r)
	}
}
