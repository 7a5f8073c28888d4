package alias

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// network returns the network with that prefix, and everybody for "".
func network(text string) lookup.Network {
	if text == "" {
		return lookup.Network{}
	}
	p := netip.MustParsePrefix(text)
	return lookup.NetworkOf(p.Addr(), p.Bits())
}

// networkResolver stands for upstreams that answer by network.
type networkResolver struct {
	mu    sync.Mutex
	scope int           // of the answers; of those for IPv6 networks 32 more, unless it is 0
	fails bool          // all lookups
	delay time.Duration // of each
	asked []string
}

// resolve is a resolveFunc. The data of an answer is an address for the network that it is for.
func (r *networkResolver) resolve(ctx context.Context, q lookup.Question, _ int) (o lookup.Outcome, err error) {
	r.mu.Lock()
	scope, fails, delay := r.scope, r.fails, r.delay
	r.asked = append(r.asked, networkName(q.Net))
	r.mu.Unlock()
	select {
	case <-time.After(delay):
	case <-ctx.Done():
		return o, lookup.NetworkFailure(lookup.Canceled, ctx.Err())
	}
	if fails {
		return o, errDown
	}
	o = lookup.Outcome{TTL: 300}
	var net netip.Prefix
	if !q.Net.IsEverybody() {
		if scope > 0 && q.Net.Prefix().Addr().Is6() {
			scope += 32
		}
		cut := q.Net.Cut(scope)
		o.Scope, net = uint8(cut.Bits()), cut.Prefix() // #nosec G115 -- at most 128
	}
	o.Data = fake.AddressFor(net, q.Type).AsSlice()
	return o, nil
}

func networkName(n lookup.Network) string {
	if n.IsEverybody() {
		return "everybody"
	}
	return n.String()
}

func (r *networkResolver) set(scope int, fails bool, delay time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.scope, r.fails, r.delay = scope, fails, delay
}

// lookups returns the networks that were looked up since it was called last.
func (r *networkResolver) lookups() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.asked
	r.asked = nil
	return asked
}

// withNetworks is inBubble with client_subnet, and an upstream that answers by network.
func withNetworks(t *testing.T, properties string, f func(t *testing.T, a *Alias, r *networkResolver)) {
	t.Helper()
	inBubble(t, "client_subnet\n"+properties, func(t *testing.T, a *Alias, _ *fakeResolver) {
		r := &networkResolver{scope: 24}
		a.cache.resolve = r.resolve
		a.cache.entries = answers.New(answers.Size{Everybody: 1000, Networks: 5000}, time.Now)
		f(t, a, r)
	})
}

// networkStep is a wait, a query, and what is expected of it.
type networkStep struct {
	after   time.Duration // since the last step
	scope   int           // of the upstream from here on, unless it is 0; -1 stands for 0
	state   string        // "down" or "up" from here on
	from    string        // the client's network, or ""
	status  string
	want    string // the network whose address the client gets, "" that for everybody, "none" none
	ttl     uint32 // 0: not looked at
	lookups string // since the last step, the background ones included
}

func runNetworks(t *testing.T, a *Alias, r *networkResolver, steps []networkStep) {
	t.Helper()
	scope, down := 24, false
	for i, s := range steps {
		time.Sleep(s.after)
		if s.scope != 0 {
			scope = max(s.scope, 0)
		}
		if s.state != "" {
			down = s.state == "down"
		}
		r.set(scope, down, 0)
		q := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
		q.SetEdns0(1232, false)
		if s.from != "" {
			fake.WithSubnet(q, prefix(s.from))
		}
		ctx, statusOf := withStatus()
		m := exchange(t, ctx, a, q)
		synctest.Wait()
		want := ""
		if s.want != "none" {
			want = fake.AddressFor(prefix(s.want), dns.TypeA).String()
		}
		lookups := fmt.Sprint(r.lookups())
		if got := firstAddress(m); got != want || statusOf() != s.status || lookups != s.lookups {
			t.Fatalf("step %d: %s %s, lookups %s; want %s %s, lookups %s", i, statusOf(), got, lookups, s.status, want, s.lookups)
		}
		if s.ttl != 0 && m.Answer[0].Header().Ttl != s.ttl {
			t.Fatalf("step %d: TTL %d, want %d", i, m.Answer[0].Header().Ttl, s.ttl)
		}
		if isStale := len(ede(m)) == 1 && ede(m)[0] == dns.ExtendedErrorCodeStaleAnswer; isStale != (s.status == "stale") {
			t.Fatalf("step %d: %s with EDE %v", i, s.status, ede(m))
		}
	}
}

// Fresh, prefetch, stale and back-off are per network; a network without an answer gets that for everybody when its lookup fails.
func TestNetworksInTime(t *testing.T) {
	const s, a, b, c = time.Second, "192.0.2.0/24", "198.51.100.0/24", "2001:db8:100::/56"
	for name, steps := range map[string][]networkStep{
		"each has its own": {
			{from: a, status: "miss", want: a, ttl: 300, lookups: "[" + a + "]"},
			{after: 100 * s, from: b, status: "miss", want: b, ttl: 300, lookups: "[" + b + "]"},
			{from: a, status: "hit", want: a, ttl: 200, lookups: "[]"},
			{from: "", status: "miss", want: "", ttl: 300, lookups: "[everybody]"},
			{after: 175 * s, from: a, status: "hit", want: a, ttl: 25, lookups: "[" + a + "]"}, // prefetch
			{from: a, status: "hit", want: a, ttl: 300, lookups: "[]"},
			{from: b, status: "hit", want: b, ttl: 125, lookups: "[]"},
		},
		"each has its own last answer in an outage": {
			{from: a, status: "miss", want: a, lookups: "[" + a + "]"},
			{from: b, status: "miss", want: b, lookups: "[" + b + "]"},
			{after: 301 * s, state: "down", from: a, status: "stale", want: a, ttl: 30, lookups: "[" + a + "]"},
			{from: a, status: "stale", want: a, lookups: "[]"}, // backing off
			{from: b, status: "stale", want: b, lookups: "[" + b + "]"},
			{after: 5 * s, from: a, status: "stale", want: a, lookups: "[" + a + "]"}, // in the background
			{state: "up", after: 10 * s, from: a, status: "stale", want: a, lookups: "[" + a + "]"},
			{from: a, status: "hit", want: a, ttl: 300, lookups: "[]"},
		},
		"the fresh answer for everybody when there is no own": {
			{from: "", status: "miss", want: "", lookups: "[everybody]"},
			{state: "down", after: 100 * s, from: a, status: "hit", want: "", ttl: 200, lookups: "[" + a + "]"},
			{from: b, status: "hit", want: "", ttl: 200, lookups: "[]"}, // lookups for networks back off
			{from: c, status: "hit", want: "", lookups: "[]"},
			{after: 6 * s, from: b, status: "hit", want: "", lookups: "[" + b + "]"}, // and then nobody waits
			{from: c, status: "hit", want: "", lookups: "[]"},
			{state: "up", after: 10 * s, from: c, status: "hit", want: "", lookups: "[" + c + "]"},
			{from: c, status: "hit", want: c, lookups: "[]"},
			{from: a, status: "miss", want: a, lookups: "[" + a + "]"},
		},
		"the stale answer for everybody when there is no own": {
			{from: "", status: "miss", want: "", lookups: "[everybody]"},
			{state: "down", after: 301 * s, from: a, status: "stale", want: "", ttl: 30, lookups: "[" + a + " everybody]"},
			{from: b, status: "stale", want: "", lookups: "[]"},
			{from: "", status: "stale", want: "", lookups: "[]"},
			{state: "up", after: 6 * s, from: "", status: "stale", want: "", lookups: "[everybody]"},
			{from: "", status: "hit", want: "", lookups: "[]"},
			{from: b, status: "hit", want: "", lookups: "[" + b + "]"}, // in the background, as lookups for networks failed
			{from: b, status: "hit", want: b, lookups: "[]"},
		},
		"a failure when there is none at all": {
			{state: "down", from: a, status: "failure", want: "none", lookups: "[" + a + " everybody]"},
			{from: b, status: "failure", want: "none", lookups: "[]"},
			{state: "up", after: 6 * s, from: b, status: "miss", want: b, lookups: "[" + b + "]"},
		},
		"the answer for everybody is looked up after a failure for a network": {
			{state: "down", from: a, status: "failure", want: "none", lookups: "[" + a + " everybody]"},
			{state: "up", after: 5 * s, from: "", status: "miss", want: "", lookups: "[everybody]"},
		},
		"scope 0 is for everybody": {
			{scope: -1, from: a, status: "miss", want: "0.0.0.0/0", lookups: "[" + a + "]"},
			{from: b, status: "hit", want: "0.0.0.0/0", lookups: "[]"},
			{from: c, status: "hit", want: "0.0.0.0/0", lookups: "[]"},
			{from: "", status: "hit", want: "0.0.0.0/0", lookups: "[]"},
			{after: 275 * s, from: b, status: "hit", want: "0.0.0.0/0", lookups: "[" + b + "]"}, // prefetch
			{from: "", status: "hit", want: "0.0.0.0/0", ttl: 300, lookups: "[]"},
		},
		"from a network to a smaller one": {
			{scope: 16, from: "192.0.2.0/24", status: "miss", want: "192.0.0.0/16", lookups: "[192.0.2.0/24]"},
			{from: "192.0.3.0/24", status: "hit", want: "192.0.0.0/16", lookups: "[]"},
			{scope: 24, after: 275 * s, from: "192.0.2.0/24", status: "hit", want: "192.0.0.0/16", ttl: 25, lookups: "[192.0.2.0/24]"}, // prefetch
			{from: "192.0.2.0/24", status: "hit", want: "192.0.2.0/24", ttl: 300, lookups: "[]"},
			{after: 26 * s, from: "192.0.3.0/24", status: "miss", want: "192.0.3.0/24", lookups: "[192.0.3.0/24]"},
			{from: "192.0.4.0/24", status: "miss", want: "192.0.4.0/24", lookups: "[192.0.4.0/24]"},
			{from: "192.0.3.0/24", status: "hit", want: "192.0.3.0/24", lookups: "[]"},
			{state: "down", from: "192.0.5.0/24", status: "stale", want: "192.0.0.0/16", lookups: "[192.0.5.0/24]"}, // the last good answer
		},
		"from a network to a larger one": {
			{from: "192.0.2.0/24", status: "miss", want: "192.0.2.0/24", lookups: "[192.0.2.0/24]"},
			{from: "192.0.3.0/24", status: "miss", want: "192.0.3.0/24", lookups: "[192.0.3.0/24]"},
			{scope: 16, after: 301 * s, from: "192.0.2.0/24", status: "miss", want: "192.0.0.0/16", lookups: "[192.0.2.0/24]"},
			{from: "192.0.2.0/24", status: "hit", want: "192.0.0.0/16", lookups: "[]"},
			{from: "192.0.4.0/24", status: "hit", want: "192.0.0.0/16", lookups: "[]"},
			{from: "192.0.3.0/24", status: "miss", want: "192.0.0.0/16", lookups: "[192.0.3.0/24]"}, // it had its own until here
			{scope: -1, after: 301 * s, from: "192.0.2.0/24", status: "miss", want: "0.0.0.0/0", lookups: "[192.0.2.0/24]"},
			{from: "192.0.4.0/24", status: "hit", want: "0.0.0.0/0", lookups: "[]"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			withNetworks(t, "retries 0", func(t *testing.T, a *Alias, r *networkResolver) { runNetworks(t, a, r, steps) })
		})
	}
}

// All clients of one network wait for one lookup, and those of another for another.
func TestOneLookupPerNetwork(t *testing.T) {
	withNetworks(t, "", func(t *testing.T, a *Alias, r *networkResolver) {
		r.set(24, false, 400*time.Millisecond)
		var clients sync.WaitGroup
		nets := []string{"", "192.0.2.0/24", "192.0.3.0/24", "2001:db8:100::/56"}
		for i := range 1000 {
			clients.Go(func() {
				from := nets[i%len(nets)]
				q := target.For(network(from))
				e, _, status := a.cache.get(q, lookup.NoLimit, exampleZone, nil)
				if want := fake.AddressFor(prefix(from), dns.TypeA).AsSlice(); status != miss || string(e.Data) != string(want) {
					t.Errorf("%s: %s %v", from, status, e.Data)
				}
			})
		}
		clients.Wait()
		if asked := r.lookups(); len(asked) != len(nets) {
			t.Errorf("lookups %v", asked)
		}
	})
}

// No client gets the answer for a network that it is not in, whatever changes meanwhile.
func TestNoAnswerOfAnotherNetwork(t *testing.T) {
	withNetworks(t, "min_ttl 1s\nmax_ttl 2s", func(t *testing.T, a *Alias, r *networkResolver) {
		var clients sync.WaitGroup
		for worker := range 50 {
			clients.Go(func() {
				random := rand.New(rand.NewPCG(uint64(worker), 2)) // #nosec G404 G115 -- no secret
				for range 300 {
					time.Sleep(time.Duration(random.IntN(200)) * time.Millisecond)
					if random.IntN(20) == 0 {
						r.set([]int{0, 8, 16, 20, 24}[random.IntN(5)], random.IntN(4) == 0, time.Duration(random.IntN(300))*time.Millisecond)
					}
					addr := netip.AddrFrom4([4]byte{192, byte(random.IntN(3)), byte(random.IntN(40)), 0}) // #nosec G115
					net := lookup.NetworkOf(addr, []int{16, 20, 24, 24, 24}[random.IntN(5)])
					q := target.For(net)
					e, _, status := a.cache.get(q, lookup.NoLimit, exampleZone, nil)
					if status == failed {
						continue
					}
					of := fake.AddressFor(net.Cut(int(e.Scope)).Prefix(), dns.TypeA)
					everybody := fake.AddressFor(netip.Prefix{}, dns.TypeA)
					if got, _ := netip.AddrFromSlice(e.Data); got != of && got != everybody || int(e.Scope) > net.Bits() {
						t.Errorf("%s: %s got %s with scope %d", status, net, got, e.Scope)
					}
				}
			})
		}
		clients.Wait()
	})
}

// cappedQueries returns how many queries found no room for their network.
func cappedQueries() float64 {
	return testutil.ToFloat64(networksCapped.WithLabelValues("example.org."))
}

// fill stores answers for as many networks as may be.
func fill(t *testing.T, a *Alias) {
	t.Helper()
	for i := range answers.MaxNetworks {
		n := lookup.NetworkOf(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24) // #nosec G115 -- octets
		if _, _, status := a.cache.get(target.For(n), lookup.NoLimit, exampleZone, nil); status != miss {
			t.Fatalf("network %d: %s", i, status)
		}
	}
}

// When there are answers for as many networks as may be, further clients get that for everybody, which is looked up for
// them if need be; and an expired answer makes room.
func TestCappedNetworks(t *testing.T) {
	const further = "192.0.2.0/24"
	withNetworks(t, "retries 0", func(t *testing.T, a *Alias, r *networkResolver) {
		fill(t, a)
		r.lookups()
		before := cappedQueries()
		runNetworks(t, a, r, []networkStep{
			{from: further, status: "miss", want: "", lookups: "[everybody]"},
			{from: further, status: "hit", want: "", lookups: "[]"},
		})
		if n := cappedQueries() - before; n != 2 {
			t.Errorf("%v queries count as capped", n)
		}
		runNetworks(t, a, r, []networkStep{{after: 301 * time.Second, from: further, status: "miss", want: further, lookups: "[" + further + "]"}})
		if n := a.cache.entries.Len(); n != answers.MaxNetworks+1 {
			t.Errorf("%d entries", n)
		}
	})
}

// When the networks are capped and the upstream's scope gets longer, the answers for the larger networks make room.
func TestCappedNetworksGetSmaller(t *testing.T) {
	withNetworks(t, "retries 0", func(t *testing.T, a *Alias, r *networkResolver) {
		r.set(16, false, 0)
		a.cache.get(target.For(network("192.0.2.0/24")), lookup.NoLimit, exampleZone, nil) // for the /16
		time.Sleep(299 * time.Second)
		r.set(24, false, 0)
		for i := range answers.MaxNetworks - 1 {
			n := lookup.NetworkOf(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24) // #nosec G115 -- octets
			a.cache.get(target.For(n), lookup.NoLimit, exampleZone, nil)
		}
		time.Sleep(2 * time.Second)
		r.lookups()
		runNetworks(t, a, r, []networkStep{
			{from: "192.0.2.0/24", status: "miss", want: "192.0.2.0/24", lookups: "[192.0.2.0/24]"},
			{from: "192.0.3.0/24", status: "miss", want: "192.0.3.0/24", lookups: "[192.0.3.0/24]"}, // there is room for it now
			{from: "192.0.3.0/24", status: "hit", want: "192.0.3.0/24", lookups: "[]"},
		})
	})
}

// So many lookups for networks of one question are in flight at most. Further clients get the answer for everybody, after a
// lookup if need be.
func TestManyNetworksAtOnce(t *testing.T) {
	withNetworks(t, "retries 0", func(t *testing.T, a *Alias, r *networkResolver) {
		r.set(24, false, 400*time.Millisecond)
		var clients sync.WaitGroup
		var mu sync.Mutex
		own, everybody := 0, 0
		for i := range 10 * networkLookups {
			clients.Go(func() {
				n := lookup.NetworkOf(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24) // #nosec G115 -- octets
				e, _, status := a.cache.get(target.For(n), lookup.NoLimit, exampleZone, nil)
				mu.Lock()
				defer mu.Unlock()
				switch addr, _ := netip.AddrFromSlice(e.Data); {
				case status == miss && addr == fake.AddressFor(n.Prefix(), dns.TypeA):
					own++
				case status == miss && addr == fake.AddressFor(netip.Prefix{}, dns.TypeA):
					everybody++
				default:
					t.Errorf("%s %s", status, addr)
				}
			})
		}
		clients.Wait()
		if own != networkLookups || everybody != 9*networkLookups {
			t.Errorf("%d clients got their own answer, %d that for everybody", own, everybody)
		}
		if n := len(r.lookups()); n != networkLookups+1 {
			t.Errorf("%d lookups", n)
		}
		if len(a.cache.networks) != 0 || len(a.cache.inFlight) != 0 {
			t.Errorf("%d and %d lookups are in flight still", len(a.cache.networks), len(a.cache.inFlight))
		}
	})
}

// A change of the addresses with scope 0 counts once, though it is stored twice.
func TestChangeForAllNetworks(t *testing.T) {
	withNetworks(t, "", func(t *testing.T, a *Alias, r *networkResolver) {
		r.set(0, false, 0)
		q := target.For(network("192.0.2.0/24"))
		a.cache.get(q, lookup.NoLimit, exampleZone, nil)
		a.cache.resolve = func(context.Context, lookup.Question, int) (lookup.Outcome, error) {
			return lookup.Outcome{Data: addrs2, TTL: 300}, nil
		}
		time.Sleep(301 * time.Second)
		changes := counted(t, addressChanges.WithLabelValues("example.org."), func() { a.cache.get(q, lookup.NoLimit, exampleZone, nil) })
		if changes != 1 {
			t.Errorf("%v changes", changes)
		}
	})
}

// While lookups fail, clients of further networks take nothing from those that have an answer, at the cap or below it.
func TestOutageAtTheCap(t *testing.T) {
	withNetworks(t, "retries 0", func(t *testing.T, a *Alias, r *networkResolver) {
		ask := func(i int) string {
			q := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
			q.SetEdns0(1232, false)
			fake.WithSubnet(q, netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}), 24))
			m := exchange(t, context.Background(), a, q)
			synctest.Wait()
			return firstAddress(m)
		}
		last := make([]string, answers.MaxNetworks)
		for i := range last {
			last[i] = ask(i)
		}
		time.Sleep(time.Hour)
		r.set(24, true, 0)
		for i := range 300 {
			ask(answers.MaxNetworks + i)
			time.Sleep(10 * time.Second) // and so back-offs end
		}
		for i, want := range last {
			if got := ask(i); got != want {
				t.Fatalf("network %d: %s, want %s", i, got, want)
			}
		}
	})
}
