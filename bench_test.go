package alias

import (
	"context"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin"
	dnscache "github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/test"

	"github.com/miekg/dns"
)

// BenchmarkServeDNS answers the question for two addresses from memory: alias with a fresh answer, CoreDNS's file
// with the addresses as records of the zone, and CoreDNS's cache in front of it.
func BenchmarkServeDNS(b *testing.B) {
	up := fake.New(b, fake.Zone("target.example. 3600 IN A 192.0.2.1", "target.example. 3600 IN A 192.0.2.2"))
	a, _ := newAlias(b, "example.org", "record @ target.example\nupstream "+up.Addr, nil)
	a.cache.now = time.Now
	static := zoneFile(b, nil, "example.org. 3600 IN A 192.0.2.1", "example.org. 3600 IN A 192.0.2.2")
	c := dnscache.New()
	c.Zones, c.Next = []string{"example.org."}, static

	for _, bc := range []struct {
		name string
		h    plugin.Handler
	}{{"alias", a}, {"file", static}, {"cache", c}} {
		b.Run(bc.name, func(b *testing.B) { serve(b, bc.h, 2) })
	}
}

// BenchmarkServeDNSParallel is the same from many clients at once.
func BenchmarkServeDNSParallel(b *testing.B) {
	up := fake.New(b, good)
	a, _ := newAlias(b, "example.org", "record @ target.example\nupstream "+up.Addr, nil)
	a.cache.now = time.Now
	serve(b, a, 1)
	b.RunParallel(func(pb *testing.PB) {
		r, w := new(dns.Msg).SetQuestion("example.org.", dns.TypeA), &test.ResponseWriter{}
		for pb.Next() {
			a.ServeDNS(context.Background(), w, r)
		}
	})
}

// serve asks h for the A records of example.org, of which there are n.
func serve(b *testing.B, h plugin.Handler, n int) {
	r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	if m := exchange(b, context.Background(), h, r); len(m.Answer) != n {
		b.Fatalf("got %v", m)
	}
	ctx, w := context.Background(), &test.ResponseWriter{}
	b.ReportAllocs()
	for b.Loop() {
		h.ServeDNS(ctx, w, r)
	}
}

// raceEnabled is set in builds with the race detector.
var raceEnabled bool

// The fresh path allocates the message and nothing else.
func TestFreshPathAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", "record @ target.example\nrecord none none.example\nrecord *.w target.example\nupstream "+up.Addr,
		zoneFile(t, nil, "zone.example.org. 60 IN ALIAS target.example."))
	for _, name := range []string{"example.org.", "none.example.org.", "x.w.example.org.", "zone.example.org."} {
		r, w := new(dns.Msg).SetQuestion(name, dns.TypeA), &test.ResponseWriter{}
		ctx := context.Background()
		a.ServeDNS(ctx, w, r)
		if n := testing.AllocsPerRun(1000, func() { a.ServeDNS(ctx, w, r) }); n > 1 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}
