package backend_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/rdata"

	"github.com/coredns/coredns/plugin"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// A query looks like that of a client, and has the EDNS that an ALIAS record and its signatures take.
func TestQuery(t *testing.T) {
	var got *dns.Msg
	b := newBackend(t, plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		got = r
		return 0, w.WriteMsg(new(dns.Msg).SetReply(r))
	}), nil)
	for _, qtype := range []uint16{dns.TypeA, dns.TypeSOA, rdata.TypeALIAS} {
		r := b.Query("www.example.org.", qtype)
		if r.Msg == nil || r.TimedOut || r.Unable || r.Wildcard != "" {
			t.Errorf("type %d: %+v", qtype, r)
		}
		want := dns.Question{Name: "www.example.org.", Qtype: qtype, Qclass: dns.ClassINET}
		if len(got.Question) != 1 || got.Question[0] != want || !got.RecursionDesired {
			t.Errorf("type %d: the backend got %v", qtype, got)
		}
		if opt := got.IsEdns0(); (opt != nil && opt.Do()) != (qtype == rdata.TypeALIAS) {
			t.Errorf("type %d: the backend got EDNS %v", qtype, opt)
		}
	}
}

func TestQueryZone(t *testing.T) {
	b := newBackend(t, zone(t, "www.example.org. 60 IN A 192.0.2.1", "*.w.example.org. 60 IN A 192.0.2.2"), nil)
	r := b.Query("x.w.example.org.", dns.TypeA)
	if diff := cmp.Diff([]string{"x.w.example.org. 60 IN A 192.0.2.2"}, text(r.Msg.Answer)); diff != "" || r.Wildcard != "*.w.example.org." {
		t.Errorf("wildcard %q, records (-want +got):\n%s", r.Wildcard, diff)
	}
	if r := b.Query("www.example.org.", dns.TypeA); r.Wildcard != "" || !r.Own() {
		t.Errorf("got %+v", r)
	}
}

// Without next plugins there is no data.
func TestNoBackend(t *testing.T) {
	b := newBackend(t, nil, nil)
	b.Next = nil
	q := a("example.org.")
	if r := b.Query(q.Name, q.Type); r.Msg != nil || r.TimedOut || r.Unable {
		t.Errorf("got %+v", r)
	}
	if got := b.Answer(q); got.Msg != nil || got.Alias != nil || b.SOA(q) != nil || b.Alias(q, true) != nil {
		t.Errorf("got %+v", got)
	}
}

// inBubble returns f as a test with a clock of its own, which moves when all wait for it.
func inBubble(f func(*testing.T)) func(*testing.T) {
	return func(t *testing.T) { synctest.Test(t, f) }
}

// A backend that is stuck or broken keeps nobody waiting for longer than the timeout.
func TestBadBackend(t *testing.T) {
	var stuck chan struct{}
	for name, tc := range map[string]struct {
		next             plugin.HandlerFunc
		timedOut, unable bool
		msg              bool
	}{
		"stuck": {next: func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { <-stuck; return 0, nil }, timedOut: true},
		"waits for the context": {timedOut: true, next: func(ctx context.Context, _ dns.ResponseWriter, _ *dns.Msg) (int, error) {
			<-ctx.Done()
			return dns.RcodeServerFailure, nil
		}},
		"panics": {next: func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { panic("backend") }},
		"silent": {next: func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { return dns.RcodeServerFailure, nil }, unable: true},
		"fails": {next: func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) {
			return dns.RcodeServerFailure, errors.New("broken")
		}},
		"refuses": {next: func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { return dns.RcodeRefused, nil }},
		"no message": {next: func(_ context.Context, w dns.ResponseWriter, _ *dns.Msg) (int, error) {
			return dns.RcodeSuccess, w.WriteMsg(nil)
		}},
		"empty message": {msg: true, next: func(_ context.Context, w dns.ResponseWriter, _ *dns.Msg) (int, error) {
			return dns.RcodeSuccess, w.WriteMsg(new(dns.Msg))
		}},
	} {
		t.Run(name, inBubble(func(t *testing.T) {
			stuck = make(chan struct{})
			defer close(stuck)
			b := newBackend(t, tc.next, func(cfg *backend.Config) { cfg.Timeout, cfg.Flatten = 50*time.Millisecond, backend.FlattenAll })
			began := time.Now()
			r := b.Query("example.org.", dns.TypeA)
			if r.TimedOut != tc.timedOut || r.Unable != tc.unable || (r.Msg != nil) != tc.msg {
				t.Errorf("got %+v", r)
			}
			if took := time.Since(began); took > 0 != tc.timedOut || took > 50*time.Millisecond {
				t.Errorf("took %s", took)
			}
			for _, qtype := range []uint16{dns.TypeA, dns.TypeTXT, dns.TypeSOA, rdata.TypeALIAS} {
				q := a("example.org.")
				q.Type = qtype
				got := b.Answer(q)
				if got.TimedOut != tc.timedOut || got.Alias != nil || b.SOA(q) != nil || got.Own() || got.Exists("example.org.") {
					t.Errorf("%s: %+v", q, got)
				}
				if addrs, _ := got.Addresses(q); len(addrs) > 0 {
					t.Errorf("%s: addresses %v", q, addrs)
				}
			}
		}))
	}
}

// A backend that is stuck, whatever its context says, has a bounded number of queries.
func TestStuckBackend(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	next := plugin.HandlerFunc(func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) { <-stuck; return 0, nil })
	b := newBackend(t, next, func(cfg *backend.Config) { cfg.Timeout = time.Millisecond; cfg.Concurrent = 8 })
	before := runtime.NumGoroutine()
	for i := range 100 {
		if got := b.Answer(a(fmt.Sprintf("n%d.example.org.", i))); !got.TimedOut {
			t.Errorf("query %d: %+v", i, got)
		}
	}
	if n := runtime.NumGoroutine() - before; n > 10 {
		t.Errorf("%d goroutines wait for the backend", n)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if n := len(b.queries); n != 8 {
		t.Errorf("the backend has %d queries", n)
	}
}

// Once the backend answers again, there is room for queries again.
func TestBackendRecovers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, zone(t, "www.example.org. 60 IN A 192.0.2.1"), func(cfg *backend.Config) {
			cfg.Timeout, cfg.Concurrent = 100*time.Millisecond, 1
		})
		for _, tc := range []struct {
			delay    time.Duration
			timedOut bool
		}{{99 * time.Millisecond, false}, {time.Second, true}, {0, true}, {0, false}, {0, false}} {
			b.delay = tc.delay
			began := time.Now()
			if r := b.Query("www.example.org.", dns.TypeA); r.TimedOut != tc.timedOut || (r.Msg == nil) != tc.timedOut {
				t.Errorf("delay %s: %+v", tc.delay, r)
			}
			if took := time.Since(began); took > 100*time.Millisecond {
				t.Errorf("delay %s: took %s", tc.delay, took)
			}
			if tc.delay == 0 && tc.timedOut {
				time.Sleep(time.Second) // the query that was stuck ends
			}
			synctest.Wait()
		}
	})
}

// A backend that does not answer in time does not take an alias away.
func TestSlowBackend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBackend(t, zone(t, "example.org. 60 IN ALIAS target.example."), func(cfg *backend.Config) { cfg.Timeout = 100 * time.Millisecond })
		q := a("example.org.")
		if got := b.Answer(q); got.Alias == nil {
			t.Fatalf("got %+v", got)
		}
		b.asked(t, "at first", "example.org. A", "example.org. ALIAS")
		b.delay = 200 * time.Millisecond
		for i := range 3 {
			b.advance(time.Second)
			if got := b.Answer(q); targetOf(got.Alias) != "target.example." || got.Msg == nil {
				t.Errorf("second %d: %+v", i, got)
			}
			if al := b.Alias(q, false); targetOf(al) != "target.example." {
				t.Errorf("second %d: alias %+v", i, al)
			}
			b.asked(t, "a second later", "example.org. A")
		}
		time.Sleep(time.Second)
	})
}

// A backend that answers at once that there are no addresses, and not in time whether there is an alias: the answer says
// so, and is tried again in a second.
func TestLateAlias(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		z := zone(t, "example.org. 60 IN ALIAS target.example.")
		b := newBackend(t, plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			if r.Question[0].Qtype == rdata.TypeALIAS {
				<-ctx.Done()
			}
			return z.ServeDNS(ctx, w, r)
		}), func(cfg *backend.Config) { cfg.Timeout = 50 * time.Millisecond })
		q := a("example.org.")
		for range 2 {
			if got := b.Answer(q); !got.TimedOut || got.Alias != nil || got.Msg == nil {
				t.Errorf("got %+v", got)
			}
		}
		b.asked(t, "late", "example.org. A", "example.org. ALIAS")
		b.become(z)
		b.advance(time.Second)
		if got := b.Answer(q); got.TimedOut || targetOf(got.Alias) != "target.example." {
			t.Errorf("got %+v", got)
		}
	})
}
