package alias

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"runtime"
	"runtime/metrics"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/race"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	dnscache "github.com/coredns/coredns/plugin/cache"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
)

// BenchmarkServeDNS is the way from a query to its answer: alias with answers of each kind, with the response in wire form as
// it is for a client, and then as a message that goes through other plugins; CoreDNS's file with the addresses as records
// of the zone, and CoreDNS's cache in front of it. All but those in wire form are for the server to pack.
func BenchmarkServeDNS(b *testing.B) {
	up := fake.New(b, fake.Zone("target.example. 3600 IN A 192.0.2.1", "target.example. 3600 IN A 192.0.2.2",
		"t1.example. 3600 IN A 192.0.2.1", "t2.example. 3600 IN A 192.0.2.2", "t3.example. 3600 IN A 192.0.2.3", "t4.example. 3600 IN A 192.0.2.4",
		"t5.example. 3600 IN A 192.0.2.5", "v6.example. 3600 IN AAAA 2001:db8::1", "example. 300 IN SOA ns.example. h.example. 1 2 3 4 300"))
	backend := zoneFile(b, nil, "www.example.org. 60 IN ALIAS target.example.", "host.example.org. 60 IN A 192.0.2.1")
	a, _ := newAlias(b, "example.org", "record @ target.example\nrecord v6 v6.example\nrecord *.w target.example\nrecord in host.example.org\n"+
		"record stale stale.example\nrecord two t1.example t2.example\nrecord five t1.example t2.example t3.example t4.example t5.example\n"+
		"failover over t1.example t2.example\nupstream "+up.Addr, backend)
	now := time.Now()
	a.cache.now = func() time.Time { return now } // that of an operating system costs the same for all
	past := a.cache.now().Add(-time.Hour)
	a.cache.entries.Update(question("stale.example.", dns.TypeA), 0, func(*answers.Entry) *answers.Entry {
		e := answers.NewEntry(lookup.Outcome{Data: []byte{192, 0, 2, 1}, TTL: 60}, past)
		return e.Fail(answers.Backoff{Failures: 1, Retry: past.Add(24 * time.Hour), Cause: errDown})
	})
	static := zoneFile(b, nil, "example.org. 3600 IN A 192.0.2.1", "example.org. 3600 IN A 192.0.2.2")
	before := dnscache.New()
	before.Zones, before.Next = []string{"example.org."}, static

	for _, bc := range []struct{ name, owner string }{
		{"fresh", "example.org."}, {"wildcard", "x.w.example.org."}, {"zone", "www.example.org."}, {"inside", "in.example.org."},
		{"negative", "v6.example.org."}, {"stale", "stale.example.org."}, {"two", "two.example.org."}, {"five", "five.example.org."},
		{"failover", "over.example.org."},
	} {
		a.wireForm = true
		b.Run("wire/"+bc.name, func(b *testing.B) { serve(b, a, bc.owner) })
		a.wireForm = false
		b.Run("message/"+bc.name, func(b *testing.B) { serve(b, a, bc.owner) })
	}
	b.Run("file", func(b *testing.B) { serve(b, static, "example.org.") })
	b.Run("cache", func(b *testing.B) { serve(b, before, "example.org.") })
}

// BenchmarkServeDNSParallel is the fresh answer for many clients at once.
func BenchmarkServeDNSParallel(b *testing.B) {
	up := fake.New(b, good)
	a, _ := newAlias(b, "example.org", "record @ target.example\nupstream "+up.Addr, nil)
	a.cache.now = time.Now
	a.wireForm = true
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		r, w := new(dns.Msg).SetQuestion("example.org.", dns.TypeA), new(sink)
		for pb.Next() {
			a.ServeDNS(overPlainDNS, w, r)
		}
	})
}

// BenchmarkCold looks each name up, through a resolver on loopback.
func BenchmarkCold(b *testing.B) {
	up := fake.New(b, fake.Handler(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{&dns.A{Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}, A: net.IP{192, 0, 2, 1}}}
		w.WriteMsg(m)
	}))
	a, _ := newAlias(b, "example.org", "target_from test/target\nupstream "+up.Addr, nil)
	a.cache.now = time.Now
	r, w := new(dns.Msg).SetQuestion("example.org.", dns.TypeA), &recorder{}
	i := 0
	ctx := metadata.ContextWithMetadata(context.Background())
	metadata.SetValueFunc(ctx, "test/target", func() string { return fmt.Sprintf("t%d.example.", i) })
	b.ReportAllocs()
	for b.Loop() {
		i++
		a.ServeDNS(ctx, w, r)
	}
	if len(w.m.Answer) != 1 {
		b.Fatalf("got %v", w.m)
	}
}

// BenchmarkCorefile parses a block of 10,000 records, and finds them.
func BenchmarkCorefile(b *testing.B) {
	const n = 10_000
	var block strings.Builder
	block.WriteString("upstream 192.0.2.1\n")
	owners := make([]string, n)
	for i := range n {
		fmt.Fprintf(&block, "record c%d t%d.example\n", i, i/10)
		owners[i] = fmt.Sprintf("c%d.example.org.", i)
	}
	b.Run("parse", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := parseBlock("example.org", block.String()); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/n, "ns/record")
	})
	b.Run("find", func(b *testing.B) {
		cfg, err := parseBlock("example.org", block.String())
		if err != nil {
			b.Fatal(err)
		}
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if r, _ := cfg.records.Find(owners[i%n]); r.Alias == nil {
				b.Fatal(owners[i%n])
			}
		}
	})
}

// overPlainDNS is the context of queries to a server of plain DNS.
var overPlainDNS = context.WithValue(context.Background(), dnsserver.Key{}, &dnsserver.Server{Addr: "dns://:53"})

// serve queries h for the A records of owner.
func serve(b *testing.B, h plugin.Handler, owner string) {
	r, w := new(dns.Msg).SetQuestion(owner, dns.TypeA), new(sink)
	h.ServeDNS(overPlainDNS, w, r)
	b.ReportAllocs()
	for b.Loop() {
		h.ServeDNS(overPlainDNS, w, r)
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

// sink is a client over UDP that ignores responses.
type sink struct{ test.ResponseWriter }

var sinkAddr net.Addr = &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}

func (*sink) RemoteAddr() net.Addr { return sinkAddr }

// The fresh path allocates the records and the message, or nothing in wire form.
func TestFreshPathAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", "record @ target.example\nrecord none none.example\nrecord *.w target.example\n"+
		"record in host.example.org\nupstream "+up.Addr,
		zoneFile(t, nil, "zone.example.org. 60 IN ALIAS target.example.", "host.example.org. 60 IN A 192.0.2.3"))
	for owner, most := range map[string]struct{ wire, message float64 }{
		"example.org.":      {0, 3},
		"none.example.org.": {2, 3}, // the SOA record
		"x.w.example.org.":  {0, 3},
		"zone.example.org.": {0, 3},
		"in.example.org.":   {2, 5}, // the zone's own data, which is not cached
	} {
		r, w := new(dns.Msg).SetQuestion(owner, dns.TypeA), new(sink)
		a.ServeDNS(overPlainDNS, w, r)
		if n := testing.AllocsPerRun(1000, func() { a.ServeDNS(overPlainDNS, w, r) }); n > most.message {
			t.Errorf("%s: %v allocations of a message", owner, n)
		}
		a.wireForm = true
		if n := testing.AllocsPerRun(1000, func() { a.ServeDNS(overPlainDNS, w, r) }); n > most.wire {
			t.Errorf("%s: %v allocations in wire form", owner, n)
		}
		a.wireForm = false
	}
}

// BenchmarkSubnet is a fresh answer in wire form to queries with EDNS: without client_subnet, with it for queries that have
// no option, and for queries with the option, of one network and of as many as there may be answers for.
func BenchmarkSubnet(b *testing.B) {
	for _, bc := range []struct {
		name, property string
		networks       int
	}{{"off", "", 0}, {"no option", "client_subnet", 0}, {"one network", "client_subnet", 1}, {"networks", "client_subnet", answers.MaxNetworks}} {
		b.Run(bc.name, func(b *testing.B) {
			h := &fake.ByNetwork{TTL: 3600}
			h.Scope(24)
			a, _ := newAlias(b, "example.org", "record @ target.example\n"+bc.property+"\nupstream "+fake.New(b, h.ServeDNS).Addr, nil)
			now := time.Now()
			a.cache.now = func() time.Time { return now }
			a.wireForm = true
			queries := make([]*dns.Msg, max(bc.networks, 1))
			w := new(sink)
			for i := range queries {
				queries[i] = new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
				queries[i].SetEdns0(1232, false)
				if bc.networks > 0 {
					addr := netip.AddrFrom4([4]byte{10, byte(i >> 8), byte(i), 0}) // #nosec G115 -- octets
					fake.WithSubnet(queries[i], netip.PrefixFrom(addr, 24))
				}
				a.ServeDNS(overPlainDNS, w, queries[i])
			}
			b.ReportAllocs()
			b.ResetTimer()
			for i := 0; b.Loop(); i++ {
				a.ServeDNS(overPlainDNS, w, queries[i%len(queries)])
			}
		})
	}
}
