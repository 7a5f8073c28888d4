package alias

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
)

// fakeResolver stands for the upstreams.
type fakeResolver struct {
	mu    sync.Mutex
	out   lookup.Outcome
	err   error
	asked []lookup.Question
	tries []int         // the attempts allowed, per lookup
	delay time.Duration // of each lookup
}

func (r *fakeResolver) resolve(ctx context.Context, q lookup.Question, attempts int) (lookup.Outcome, error) {
	r.mu.Lock()
	r.asked = append(r.asked, q)
	r.tries = append(r.tries, attempts)
	out, err, delay := r.out, r.err, r.delay
	r.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return lookup.Outcome{}, lookup.NetworkFailure(lookup.Canceled, ctx.Err())
	}
	return out, err
}

// say sets the outcome of the next lookups.
func (r *fakeResolver) say(out lookup.Outcome, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.out, r.err = out, err
}

func (r *fakeResolver) lookups() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked)
}

var (
	addrs1  = []byte{192, 0, 2, 1}
	addrs2  = []byte{192, 0, 2, 2}
	errDown = lookup.Unusable("servfail", nil)
	target  = question("target.example.", dns.TypeA)
)

// inBubble runs f with a plugin whose clock, timers and upstream are the test's own.
func inBubble(t *testing.T, properties string, f func(t *testing.T, a *Alias, r *fakeResolver)) {
	t.Helper()
	cfg, err := parseBlock("example.org", "record @ target.example\nupstream 127.0.0.1\n"+properties)
	if err != nil {
		t.Fatal(err)
	}
	a := cfg.build()
	a.backend.Next = zoneFile(t, nil)
	synctest.Test(t, func(t *testing.T) {
		r := &fakeResolver{out: lookup.Outcome{Data: addrs1, TTL: 300}}
		a.cache = cfg.buildCache(r.resolve)
		a.cache.entries = answers.New(answers.Size{Everybody: cfg.size}, time.Now)
		defer a.cache.stop()
		f(t, a, r)
	})
}

// step is a wait, a query for the A records of the alias, and what is expected of it.
type step struct {
	after   time.Duration   // since the last step
	say     *lookup.Outcome // what the upstream says from here on
	fail    bool            // the upstream fails from here on
	status  string
	ttl     uint32
	addr    string
	lookups int // since the start, the background ones included
}

func run(t *testing.T, a *Alias, r *fakeResolver, steps []step) {
	t.Helper()
	for i, s := range steps {
		time.Sleep(s.after)
		switch {
		case s.fail:
			r.say(lookup.Outcome{}, errDown)
		case s.say != nil:
			r.say(*s.say, nil)
		}
		status, ttl, addr := ask(t, a)
		synctest.Wait()
		got := step{status: status, ttl: ttl, addr: addr, lookups: r.lookups()}
		want := step{status: s.status, ttl: s.ttl, addr: s.addr, lookups: s.lookups}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(step{})); diff != "" {
			t.Fatalf("step %d (-want +got):\n%s", i, diff)
		}
	}
}

// ask queries the A records and returns the status, the TTL of the addresses or of the SOA record, and the addresses.
func ask(t *testing.T, a *Alias) (status string, ttl uint32, addrs string) {
	t.Helper()
	r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	ctx, statusOf := withStatus()
	m := exchange(t, ctx, a, r)
	var ips []string
	for _, rr := range m.Answer {
		ttl = rr.Header().Ttl
		ips = append(ips, rr.(*dns.A).A.String())
	}
	for _, rr := range m.Ns {
		ttl = rr.Header().Ttl
	}
	return statusOf(), ttl, strings.Join(ips, " ")
}

func TestTiming(t *testing.T) {
	const s = time.Second
	is := func(addrs []byte, ttl uint32) *lookup.Outcome { return &lookup.Outcome{Data: addrs, TTL: ttl} }
	for name, tc := range map[string]struct {
		properties string
		steps      []step
	}{
		"counting down": {"", []step{
			{status: "miss", ttl: 300, addr: "192.0.2.1", lookups: 1},
			{status: "hit", ttl: 300, addr: "192.0.2.1", lookups: 1},
			{after: s - 1, status: "hit", ttl: 300, addr: "192.0.2.1", lookups: 1},
			{after: 1, status: "hit", ttl: 299, addr: "192.0.2.1", lookups: 1},
			{after: 100 * s, status: "hit", ttl: 199, addr: "192.0.2.1", lookups: 1},
		}},
		"TTL below min_ttl": {"min_ttl 20s", []step{
			{say: is(addrs1, 1), status: "miss", ttl: 20, addr: "192.0.2.1", lookups: 1},
			{after: 15 * s, status: "hit", ttl: 5, addr: "192.0.2.1", lookups: 1},
		}},
		"TTL above max_ttl": {"max_ttl 100s", []step{
			{say: is(addrs1, 86400), status: "miss", ttl: 100, addr: "192.0.2.1", lookups: 1},
			{after: 100 * s, say: is(addrs2, 86400), status: "miss", ttl: 100, addr: "192.0.2.2", lookups: 2},
		}},
		"refresh when a tenth is left": {"", []step{
			{status: "miss", ttl: 300, addr: "192.0.2.1", lookups: 1},
			{after: 269 * s, status: "hit", ttl: 31, addr: "192.0.2.1", lookups: 1},
			{after: s, say: is(addrs2, 300), status: "hit", ttl: 30, addr: "192.0.2.1", lookups: 2},
			{after: s, status: "hit", ttl: 299, addr: "192.0.2.2", lookups: 2},
		}},
		"refresh when a second is left": {"", []step{
			{say: is(addrs1, 5), status: "miss", ttl: 5, addr: "192.0.2.1", lookups: 1},
			{after: 3 * s, status: "hit", ttl: 2, addr: "192.0.2.1", lookups: 1},
			{after: s, status: "hit", ttl: 1, addr: "192.0.2.1", lookups: 2},
			{after: s, status: "hit", ttl: 4, addr: "192.0.2.1", lookups: 2},
		}},
		"refresh that fails": {"", []step{
			{say: is(addrs1, 10), status: "miss", ttl: 10, addr: "192.0.2.1", lookups: 1},
			{after: 9 * s, fail: true, status: "hit", ttl: 1, addr: "192.0.2.1", lookups: 2},
			{after: s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 2}, // known to fail: at once
			{after: 3999 * time.Millisecond, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 2},
			{after: time.Millisecond, say: is(addrs2, 10), status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 3},
			{after: s, status: "hit", ttl: 9, addr: "192.0.2.2", lookups: 3},
		}},
		"back-off with a stale answer": {"", []step{
			{say: is(addrs1, 5), status: "miss", ttl: 5, addr: "192.0.2.1", lookups: 1},
			{after: 6 * s, fail: true, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 2},
			{after: 5 * s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 3},
			{after: 9 * s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 3},
			{after: s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 4},
			{after: 19 * s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 4},
			{after: s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 5},
			{after: 40 * s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 6},
			{after: 59 * s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 6},
			{after: s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 7},
			{after: 60 * s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 8},
			{after: 60 * s, say: is(addrs1, 5), status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 9},
			{after: s, status: "hit", ttl: 4, addr: "192.0.2.1", lookups: 9},
		}},
		"back-off with nothing": {"", []step{
			{fail: true, status: "failure", ttl: 5, lookups: 1},
			{after: 4 * s, status: "failure", ttl: 5, lookups: 1},
			{after: s, status: "failure", ttl: 5, lookups: 2},
			{after: 9 * s, status: "failure", ttl: 5, lookups: 2},
			{after: s, say: is(addrs1, 60), status: "miss", ttl: 60, addr: "192.0.2.1", lookups: 3},
		}},
		"the back-off starts anew": {"", []step{
			{fail: true, status: "failure", ttl: 5, lookups: 1},
			{after: 5 * s, status: "failure", ttl: 5, lookups: 2},
			{after: 10 * s, say: is(addrs1, 5), status: "miss", ttl: 5, addr: "192.0.2.1", lookups: 3},
			{after: 6 * s, fail: true, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 4},
			{after: 5 * s, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 5},
		}},
		"NODATA": {"", []step{
			{say: is(nil, 60), status: "nodata", ttl: 3600, lookups: 1},
			{after: 53 * s, status: "nodata", ttl: 3600, lookups: 1},
			{after: s, say: is(addrs1, 60), status: "nodata", ttl: 3600, lookups: 2},
			{after: s, status: "hit", ttl: 59, addr: "192.0.2.1", lookups: 2},
		}},
		"NODATA replaces addresses, and they replace it": {"", []step{
			{status: "miss", ttl: 300, addr: "192.0.2.1", lookups: 1},
			{after: 301 * s, say: is(nil, 30), status: "nodata", ttl: 3600, lookups: 2},
			{after: 31 * s, say: is(addrs2, 60), status: "miss", ttl: 60, addr: "192.0.2.2", lookups: 3},
		}},
		"NODATA goes stale too": {"", []step{
			{say: is(nil, 30), status: "nodata", ttl: 3600, lookups: 1},
			{after: 31 * s, fail: true, status: "stale", ttl: 30, lookups: 2},
		}},
		"stale window": {"stale 1m\nstale_ttl 7s", []step{
			{say: is(addrs1, 10), status: "miss", ttl: 10, addr: "192.0.2.1", lookups: 1},
			{after: 11 * s, fail: true, status: "stale", ttl: 7, addr: "192.0.2.1", lookups: 2},
			{after: 58 * s, status: "stale", ttl: 7, addr: "192.0.2.1", lookups: 3},
			{after: s, status: "failure", ttl: 5, lookups: 3},
			{after: 10 * s, status: "failure", ttl: 5, lookups: 4},
		}},
		"stale 0": {"stale 0", []step{
			{say: is(addrs1, 10), status: "miss", ttl: 10, addr: "192.0.2.1", lookups: 1},
			{after: 10 * s, fail: true, status: "failure", ttl: 5, lookups: 2},
		}},
		"no time is long enough": {"stale 8760h", []step{
			{say: is(addrs1, 10), status: "miss", ttl: 10, addr: "192.0.2.1", lookups: 1},
			{after: 8000 * time.Hour, fail: true, status: "stale", ttl: 30, addr: "192.0.2.1", lookups: 2},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, tc.properties, func(t *testing.T, a *Alias, r *fakeResolver) { run(t, a, r, tc.steps) })
		})
	}
}

// The TTL of a record caps that of the answer, within min_ttl and max_ttl, and counts down like any other; another
// record with the same target has its own.
func TestRecordTTL(t *testing.T) {
	up := fake.New(t, good)
	a, c := newAlias(t, "example.org", `
		record low target.example 2
		record mid target.example 60s
		record high target.example 2h
		record none target.example
		max_ttl 100s
		upstream `+up.Addr, nil)
	want := func(ttls map[string]uint32) {
		t.Helper()
		for name, ttl := range ttls {
			m := query(t, a, name+".example.org.", dns.TypeA)
			if len(m.Answer) != 1 || m.Answer[0].Header().Ttl != ttl {
				t.Errorf("%s: want TTL %d, got %v", name, ttl, text(m.Answer))
			}
		}
	}
	want(map[string]uint32{"low": 5, "mid": 60, "high": 100, "none": 100})
	c.Advance(3 * time.Second)
	want(map[string]uint32{"low": 2, "mid": 57, "high": 97, "none": 97})
}

// A popular name never waits, however slow its upstream is inside the timeout.
func TestPopularNameNeverWaits(t *testing.T) {
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		r.delay = 450 * time.Millisecond
		r.say(lookup.Outcome{Data: addrs1, TTL: 5}, nil)
		ask(t, a)
		for range 60 * 50 {
			time.Sleep(20 * time.Millisecond)
			began := time.Now()
			if status, _, _ := ask(t, a); status != "hit" || time.Since(began) > 0 {
				t.Fatalf("%s after %s", status, time.Since(began))
			}
		}
	})
}

// Only another set of addresses is a change: neither their order nor the TTL count.
func TestAddressChanges(t *testing.T) {
	two := []byte{192, 0, 2, 1, 192, 0, 2, 2}
	owt := []byte{192, 0, 2, 2, 192, 0, 2, 1}
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		changes := addressChanges.WithLabelValues("example.org.")
		for i, tc := range []struct {
			out  lookup.Outcome
			err  error
			want float64
		}{
			{out: lookup.Outcome{Data: two, TTL: 60}}, // the first answer is no change
			{out: lookup.Outcome{Data: owt, TTL: 50}},
			{out: lookup.Outcome{Data: addrs1, TTL: 60}, want: 1},
			{err: errDown},
			{out: lookup.Outcome{Data: addrs1, TTL: 60}},
			{out: lookup.Outcome{Data: nil, TTL: 60}, want: 1},
			{out: lookup.Outcome{Data: addrs1, TTL: 60}, want: 1},
		} {
			r.say(tc.out, tc.err)
			if got := counted(t, changes, func() { ask(t, a) }); got != tc.want {
				t.Errorf("step %d: %v changes, want %v", i, got, tc.want)
			}
			time.Sleep(2 * time.Minute)
		}
	})
}

// The log says when a target that failed has no records afterwards: clients still get no addresses.
func TestAnswersAgain(t *testing.T) {
	out := logged(t)
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		for _, tc := range []struct {
			data []byte
			want string
		}{
			{addrs1, "Target target.example. A answers again\n"},
			{nil, "Target target.example. A answers again, without records\n"},
		} {
			r.say(lookup.Outcome{}, errDown)
			ask(t, a)
			time.Sleep(maxBackoff)
			r.say(lookup.Outcome{Data: tc.data, TTL: 5}, nil)
			ask(t, a)
			synctest.Wait() // after the stale answer, it is looked up in the background
			if !strings.Contains(out.String(), tc.want) {
				t.Errorf("No message %q in the log:\n%s", tc.want, out)
			}
			time.Sleep(time.Minute)
		}
	})
}

// When a resolver fails, all targets fail; the log has a bounded number of messages about them.
func TestMessagesAreBounded(t *testing.T) {
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		logged := 0
		logf := func(string, ...any) { logged++ }
		for range 10 * maxMessages {
			a.cache.log.limited(logf, "")
		}
		if logged != maxMessages || a.cache.log.suppressed.Load() != 9*maxMessages {
			t.Errorf("%d logged, %d suppressed", logged, a.cache.log.suppressed.Load())
		}
		time.Sleep(time.Second)
		a.cache.log.limited(logf, "")
		if logged != maxMessages+1 || a.cache.log.suppressed.Load() != 0 {
			t.Errorf("a second later: %d logged, %d suppressed", logged, a.cache.log.suppressed.Load())
		}
	})
}

func TestStaleAge(t *testing.T) {
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		ask(t, a)
		r.say(lookup.Outcome{}, errDown)
		time.Sleep(300*time.Second + 90*time.Second)
		before := sum(t, staleAge)
		ask(t, a)
		if got := sum(t, staleAge) - before; got != 90 {
			t.Errorf("age %v, want 90", got)
		}
	})
}

// sum returns the sum of what a histogram observed.
func sum(t *testing.T, h prometheus.Histogram) float64 {
	t.Helper()
	var m dto.Metric
	if err := h.Write(&m); err != nil {
		t.Fatal(err)
	}
	return m.GetHistogram().GetSampleSum()
}

// While the resolver fails, a flood of queries for other targets does not evict the last answers for popular names. Each
// popular name is queried once a second.
func TestPopularNamesSurviveFlood(t *testing.T) {
	const popular = 10
	for _, tc := range []struct {
		name   string
		before int // other targets, per second, while the resolver works
		after  int // and when it fails
	}{
		{"first targets of all", 0, 300},
		{"flood out of the blue", 0, 1000},
		{"flood into a full cache", 10, 1000},
		{"flood that has gone on for a while", 1000, 1000},
	} {
		t.Run(tc.name, func(t *testing.T) {
			logged(t)
			inBubble(t, "cache_size 200", func(t *testing.T, a *Alias, r *fakeResolver) {
				others, lost := 0, make(map[int]int)
				get := func(format string, i int) *answers.Entry {
					e, _, _ := a.cache.get(question(fmt.Sprintf(format, i), dns.TypeA), lookup.NoLimit, exampleZone, nil)
					return e
				}
				seconds := func(n, perSecond int) {
					for range n {
						for range perSecond {
							get("t%d.example.", others)
							others++
						}
						for i := range popular {
							if len(get("popular%d.example.", i).Data) == 0 {
								lost[i]++
							}
						}
						time.Sleep(time.Second)
					}
				}
				seconds(30, tc.before)
				r.say(lookup.Outcome{}, errDown)
				time.Sleep(300 * time.Second) // the TTL runs out
				seconds(20, tc.after)
				if len(lost) > 0 {
					t.Errorf("%d of %d popular names had no answer at times: %v", len(lost), popular, lost)
				}
			})
		})
	}
}

// A target whose addresses change with each lookup costs one lookup in min_ttl, and its messages in the log are few and
// short, however many addresses it has.
func TestChangingTarget(t *testing.T) {
	out := logged(t)
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		const n = 2300 // AAAA records fit into a response
		addrs := make([]byte, 16*n)
		rand.NewChaCha8([32]byte{}).Read(addrs)
		const seconds = 30
		for i := range seconds {
			addrs = slices.Clone(addrs)
			addrs[0] = byte(i)
			r.say(lookup.Outcome{Data: addrs, TTL: 0}, nil)
			for j := range 10 { // ten targets of one kind
				a.cache.get(question(fmt.Sprintf("t%d.example.", j), dns.TypeAAAA), lookup.NoLimit, exampleZone, nil)
			}
			synctest.Wait()
			time.Sleep(time.Second)
		}
		const most = 10 * (seconds/4 + 1) // each of ten when one second of five is left
		if n := r.lookups(); n > most {
			t.Errorf("%d lookups in %d seconds, want at most %d", n, seconds, most)
		}
		if lines := strings.Count(out.String(), "\n"); lines > maxMessages+seconds*messagesPerSecond {
			t.Errorf("%d lines", lines)
		}
		t.Logf("%d lookups, %d lines, %d kB", r.lookups(), strings.Count(out.String(), "\n"), out.Len()>>10)
		for line := range strings.Lines(out.String()) {
			if len(line) > 2000 {
				t.Fatalf("A line of %d bytes: %.200s...", len(line), line)
			}
		}
	})
}

// A target that has addresses now and none a moment later is looked up as rarely as any with this TTL.
func TestFlappingTarget(t *testing.T) {
	logged(t)
	inBubble(t, "", func(t *testing.T, a *Alias, r *fakeResolver) {
		const seconds = 600
		for i := range seconds {
			r.say(lookup.Outcome{TTL: 5}, nil)
			if i%3 == 0 {
				r.say(lookup.Outcome{Data: addrs1, TTL: 0}, nil)
			}
			if status, _, _ := ask(t, a); status == "failure" || status == "stale" {
				t.Fatalf("second %d: %s", i, status)
			}
			synctest.Wait()
			time.Sleep(time.Second)
		}
		if n, most := r.lookups(), seconds/4+1; n > most { // when one second of five is left
			t.Errorf("%d lookups in %d seconds, want at most %d", n, seconds, most)
		}
	})
}
