package alias

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/file"

	"github.com/miekg/dns"
)

func TestFlatten(t *testing.T) {
	up := fake.New(t, fake.Zone("target.example. 300 IN A "+v4))
	backend := func(t *testing.T) *file.File {
		return zoneFile(t, nil,
			"example.org. 60 IN CNAME target.example.",
			"www.example.org. 60 IN CNAME target.example.",
			"in.example.org. 60 IN CNAME host.example.org.",
			"host.example.org. 30 IN A 203.0.113.1",
			"*.w.example.org. 60 IN CNAME target.example.",
			"d.example.org. 60 IN DNAME example.",
			"gone.example.org. 60 IN CNAME gone.example.",
		)
	}
	soa := exampleSOA
	flat := func(name, rest string) queryTest {
		return queryTest{name: name, qtype: dns.TypeA, answer: []string{name + rest}}
	}
	cname := func(name string) queryTest { // file looks in this server for the target, and there is no server
		return queryTest{name: name, qtype: dns.TypeA, rcode: dns.RcodeServerFailure, answer: []string{name + " 60 IN CNAME target.example."}}
	}
	for _, tc := range []struct {
		zones, which string
		queries      []queryTest
	}{
		{"example.org", "", []queryTest{cname("example.org."), cname("www.example.org."), cname("x.w.example.org.")}},
		{"example.org", "flatten apex", []queryTest{
			flat("example.org.", " 60 IN A "+v4), cname("www.example.org."), cname("x.w.example.org."),
			{name: "example.org.", qtype: dns.TypeCNAME, answer: []string{"example.org. 60 IN CNAME target.example."}},
			{name: "example.org.", qtype: dns.TypeAAAA, ns: []string{soa}},
		}},
		{"org", "flatten apex", []queryTest{flat("example.org.", " 60 IN A "+v4), cname("www.example.org.")}}, // the backend's zone is below
		{"example.org", "flatten all", []queryTest{
			flat("example.org.", " 60 IN A "+v4), flat("www.example.org.", " 60 IN A "+v4), flat("x.w.example.org.", " 60 IN A "+v4),
			flat("in.example.org.", " 30 IN A 203.0.113.1"), flat("host.example.org.", " 30 IN A 203.0.113.1"),
			// The CNAME record of a DNAME record is not flattened. Its TTL is file's to choose.
			{name: "target.d.example.org.", qtype: dns.TypeA},
			{name: "gone.example.org.", qtype: dns.TypeA, ns: []string{soa}},
			{name: "www.example.org.", qtype: dns.TypeMX, rcode: dns.RcodeServerFailure, answer: []string{"www.example.org. 60 IN CNAME target.example."}},
		}},
	} {
		a, _ := newAlias(t, tc.zones, tc.which+"\nupstream "+up.Addr, backend(t))
		for _, q := range tc.queries {
			for _, turn := range []string{"first", "again"} {
				t.Run(strings.Join([]string{tc.zones, tc.which, q.name, dns.TypeToString[q.qtype], turn}, "/"), func(t *testing.T) {
					if q.name == "target.d.example.org." {
						m := query(t, a, q.name, q.qtype)
						if len(m.Answer) != 2 || m.Answer[0].Header().Rrtype != dns.TypeDNAME || m.Answer[1].Header().Rrtype != dns.TypeCNAME {
							t.Errorf("got %v", m)
						}
						return
					}
					q.check(t, a)
				})
			}
		}
	}
}

// etcd and similar plugins look up in this server where a CNAME record leads, and omit the record when they cannot.
func TestFlattenThroughServer(t *testing.T) {
	up := fake.New(t, good)
	var asked atomic.Int32
	next := plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg).SetReply(r)
		m.Authoritative = true
		if ctx.Value(dnsserver.Key{}) != nil && r.Question[0].Qtype == dns.TypeA {
			asked.Add(1)
			m.Answer = fake.RRs("example.org. 60 IN CNAME target.example.")
		} else {
			m.Ns = fake.RRs(exampleSOA)
		}
		w.WriteMsg(m)
		return dns.RcodeSuccess, nil
	})
	a, c := newAlias(t, "example.org", "flatten apex\nupstream "+up.Addr, next)
	ctx := context.WithValue(context.Background(), dnsserver.Key{}, new(dnsserver.Server))
	for i := range int32(3) {
		for range 10 {
			m := exchange(t, ctx, a, new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
			if got := text(m.Answer); len(got) != 1 || !strings.HasSuffix(got[0], " IN A "+v4) {
				t.Errorf("got %v", got)
			}
		}
		if n := asked.Load(); n != 1+i { // the first client's own query, then once a second
			t.Errorf("second %d: the backend was asked %d times", i, n)
		}
		c.Advance(time.Second)
	}
}

// When the target of a flattened CNAME record fails, the addresses that the backend sent with it are served.
func TestFlattenFallback(t *testing.T) {
	up := fake.New(t, fake.Rcode(dns.RcodeServerFailure))
	next := plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = fake.RRs("example.org. 60 IN CNAME target.example.", "target.example. 30 IN A "+v4,
			"target.example. 30 IN RRSIG A 13 2 30 20300101000000 20200101000000 1 example. c2ln")
		w.WriteMsg(m)
		return dns.RcodeSuccess, nil
	})
	a, _ := newAlias(t, "example.org", "flatten apex\nretries 0\nupstream "+up.Addr, next)
	queryTest{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 30 IN A " + v4}}.check(t, a)
}

// When a CNAME record of the zone leads to an alias, the response has the alias's addresses, and not those that it hides.
func TestCNAMEToAlias(t *testing.T) {
	up := fake.New(t, fake.Zone("target.example. 300 IN A "+v4, "example. 300 IN SOA ns.example. host.example. 1 2 3 4 60"))
	backend := zoneFile(t, nil,
		"example.org. 60 IN A 203.0.113.9",
		"www.example.org. 60 IN CNAME example.org.",
		"two.example.org. 60 IN CNAME www.example.org.",
		"tozone.example.org. 60 IN CNAME zone.example.org.",
		"zone.example.org. 50 IN ALIAS target.example.",
		"toplain.example.org. 60 IN CNAME plain.example.org.",
		"plain.example.org. 60 IN A 203.0.113.1",
		`escaped.example.org. 60 IN ALIAS p\.d.example.org.`,
		`p\.d.example.org. 60 IN CNAME q\046\100.example.org.`,
		`q\.d.example.org. 60 IN ALIAS target.example.`,
	)
	a, _ := newAlias(t, "example.org", "record @ target.example\nupstream "+up.Addr, backend)
	www := "www.example.org. 60 IN CNAME example.org."
	for _, tc := range []queryTest{
		{name: "www.example.org.", qtype: dns.TypeA, answer: []string{www, "example.org. 300 IN A " + v4}},
		{name: "www.example.org.", qtype: dns.TypeAAAA, answer: []string{www}, ns: []string{exampleSOA}},
		{name: "two.example.org.", qtype: dns.TypeA, answer: []string{"two.example.org. 60 IN CNAME www.example.org.", www, "example.org. 300 IN A " + v4}},
		{name: "tozone.example.org.", qtype: dns.TypeA, answer: []string{"tozone.example.org. 60 IN CNAME zone.example.org.", "zone.example.org. 50 IN A " + v4}},
		{name: "toplain.example.org.", qtype: dns.TypeA, answer: []string{"toplain.example.org. 60 IN CNAME plain.example.org.", "plain.example.org. 60 IN A 203.0.113.1"}},
		{name: "escaped.example.org.", qtype: dns.TypeA, answer: []string{"escaped.example.org. 60 IN A " + v4}},
	} {
		for _, turn := range []string{"first", "again"} {
			t.Run(tc.name+dns.TypeToString[tc.qtype]+"/"+turn, func(t *testing.T) { tc.check(t, a) })
		}
	}
}
