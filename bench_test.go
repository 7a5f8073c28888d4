package alias

import (
	"context"
	"fmt"
	"net"
	"runtime"
	"runtime/metrics"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	dnscache "github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/plugin/transfer"

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

// BenchmarkTransfer transfers a zone of 100,000 records, of which 10,000 names are aliases of 500 targets, and the same
// zone with the addresses as records. Beside the time there is the peak of the memory in use, without the zone itself.
func BenchmarkTransfer(b *testing.B) {
	const records, aliases, targets = 100_000, 10_000, 500
	var upstream, plain, aliased []string
	for i := range targets {
		upstream = append(upstream, fmt.Sprintf("t%d.example. 3600 IN A 192.0.2.%d", i, i%250),
			fmt.Sprintf("t%d.example. 3600 IN AAAA 2001:db8::%x", i, i+1))
	}
	for i := range records - aliases {
		mx := fmt.Sprintf("n%d.example.org. 3600 IN MX 10 mail.example.org.", i)
		plain, aliased = append(plain, mx), append(aliased, mx)
	}
	for i := range aliases {
		owner, target := fmt.Sprintf("a%d.example.org. 3600 IN ", i), i%targets
		plain = append(plain, fmt.Sprintf("%sA 192.0.2.%d", owner, target%250), fmt.Sprintf("%sAAAA 2001:db8::%x", owner, target+1))
		aliased = append(aliased, fmt.Sprintf("%sALIAS t%d.example.", owner, target))
	}
	up := fake.New(b, fake.Zone(upstream...))
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(b, 7, aliased...))
	a, _ := newPrimaryAlias(b, "upstream "+up.Addr, backend)
	file := &zoneBackend{}
	file.zone.Store(zoneWith(b, 7, plain...))

	for _, bc := range []struct {
		name string
		t    transfer.Transferer
	}{{"alias", a}, {"file", file}} {
		b.Run(bc.name, func(b *testing.B) {
			transferAll(b, bc.t, records+aliases+2)
			runtime.GC()
			before, peak := heapInUse(), uint64(0)
			b.ReportAllocs()
			for b.Loop() {
				peak = max(peak, transferAll(b, bc.t, records+aliases+2))
			}
			b.ReportMetric(float64(peak-min(peak, before))/(1<<20), "peak-MiB")
		})
	}
}

// transferAll takes a transfer of so many records, and returns the most memory that was in use.
func transferAll(b *testing.B, t transfer.Transferer, records int) (peak uint64) {
	out, err := t.Transfer("example.org.", 0)
	if err != nil {
		b.Fatal(err)
	}
	n, batches := 0, 0
	for rrs := range out {
		n += len(rrs)
		if batches++; batches%1000 == 0 {
			peak = max(peak, heapInUse())
		}
	}
	if n != records {
		b.Fatalf("%d records, want %d", n, records)
	}
	return peak
}

// heapInUse returns how many bytes are in use on the heap, garbage included.
func heapInUse() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

// raceEnabled is set in builds with the race detector.
var raceEnabled bool

// sink is a client over UDP that does not look at what it gets.
type sink struct{ test.ResponseWriter }

var sinkAddr net.Addr = &net.UDPAddr{IP: loopback, Port: 40000}

func (*sink) RemoteAddr() net.Addr { return sinkAddr }

// The fresh path allocates the records and the message, or nothing when it leaves in wire form.
func TestFreshPathAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", "record @ target.example\nrecord none none.example\nrecord *.w target.example\n"+
		"record in host\nupstream "+up.Addr,
		zoneFile(t, nil, "zone.example.org. 60 IN ALIAS target.example.", "host.example.org. 60 IN A 192.0.2.3"))
	for _, name := range []string{"example.org.", "none.example.org.", "x.w.example.org.", "zone.example.org.", "in.example.org."} {
		r, w := new(dns.Msg).SetQuestion(name, dns.TypeA), new(sink)
		ctx := context.Background()
		a.ServeDNS(ctx, w, r)
		if n := testing.AllocsPerRun(1000, func() { a.ServeDNS(ctx, w, r) }); n > 4 {
			t.Errorf("%s: %v allocations of a message", name, n)
		}
		plain := context.WithValue(ctx, dnsserver.Key{}, &dnsserver.Server{Addr: "dns://:53"})
		a.packs = true
		if n := testing.AllocsPerRun(1000, func() { a.ServeDNS(plain, w, r) }); n > 4 {
			t.Errorf("%s: %v allocations", name, n)
		} else {
			t.Logf("%s: %v allocations", name, n)
		}
		a.packs = false
	}
}
