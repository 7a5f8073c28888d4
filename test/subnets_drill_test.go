//go:build linux

package test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

const (
	// subnetNoise is how long a hostile client asks when subnetsVariable is not set.
	subnetNoise = 8 * time.Second

	subnetAliases   = 400
	subnetCacheSize = 2000 // half of it is for everybody: more than both families of all aliases need
)

// A hostile client asks with random client subnets, about one alias or about many. The cache stays within its size, the
// answers for everybody stay in it, and other clients get their answers as quickly as before, with the option and without.
func TestSubnetsDrill(t *testing.T) {
	for name, owner := range map[string]func(i int) string{
		"one alias":    func(int) string { return "example.org." },
		"many aliases": func(i int) string { return fmt.Sprintf("a%d.example.org.", i%subnetAliases) },
	} {
		t.Run(name, func(t *testing.T) { drillSubnets(t, owner) })
	}
}

func drillSubnets(t *testing.T, owner func(i int) string) {
	h := &upstream.ByNetwork{TTL: 3600}
	h.Scope(24)
	up, port, page := upstream.New(t, h.ServeDNS), freePort(t), local(freePort(t))
	var records strings.Builder
	for i := range subnetAliases {
		fmt.Fprintf(&records, "record a%d app%d.hosting.example\n", i, i)
	}
	server := serve(t, port, block("example.org", port, fmt.Sprintf("record @ app.hosting.example\n%scache_size %d\nclient_subnet\nupstream %s",
		&records, subnetCacheSize, up.Addr), "prometheus "+page))
	eventually(t, 30*time.Second, "all aliases are looked up", func() bool {
		return metrics(t, page)["coredns_alias_cache_entries"] == 2*(subnetAliases+1)
	})

	before := askWithSubnets(t, server.addr, 3*time.Second)
	h.Asked()
	stop := make(chan struct{})
	var sent atomic.Int64
	var hostile sync.WaitGroup
	total, full := fullNoise(t)
	for range 4 {
		hostile.Go(func() { noiseOf(t, server.addr, owner, &sent, total, stop) })
	}
	during := askWithSubnets(t, server.addr, subnetNoise)
	if !full {
		close(stop)
	}
	hostile.Wait()

	for what, shots := range map[string][2][]shot{"without the option": {before.without, during.without}, "with the option": {before.with, during.with}} {
		was, is, control := p99(shots[0]), p99(shots[1]), p99(during.control)
		t.Logf("p99 %s: %s before, %s during the noise, that of the control queries %s", what, was, is, control)
		if limit := max(was, control)*6/5 + growth; is > limit {
			t.Errorf("p99 %s is %s, and was %s. The slowest took %s", what, is, was, slowest(shots[1], 12))
		}
	}
	everybody := 0
	for _, q := range h.Asked() {
		if !q.IsValid() {
			everybody++
		}
	}
	if everybody > 0 {
		t.Errorf("%d lookups for everybody: their answers were not in the cache", everybody)
	}
	eventually(t, 10*time.Second, "the cache is within its size", func() bool {
		return metrics(t, page)["coredns_alias_cache_entries"] <= subnetCacheSize
	})
	up.Set(nil) // and the answers for everybody are there still
	for i := range subnetAliases {
		m := query(t, server.addr, "udp", fmt.Sprintf("a%d.example.org.", i), dns.TypeA)
		if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A[3] != upstream.Everybody || extendedError(m) != -1 {
			t.Fatalf("alias %d: %v", i, m)
		}
	}
	t.Logf("%d hostile queries, %v cache entries, %v queries without room", sent.Load(), metrics(t, page)["coredns_alias_cache_entries"],
		metrics(t, page)[`coredns_alias_client_subnet_capped_total{zone="example.org."}`])
}

// subnetsVariable is the environment variable with the number of hostile queries of TestSubnetsDrill. If it is set, the
// server is built without the race detector.
const subnetsVariable = "ALIAS_SUBNETS"

// fullNoise returns how many queries the hostile client makes, if that is said.
func fullNoise(t *testing.T) (n int64, full bool) {
	t.Helper()
	v := os.Getenv(subnetsVariable)
	if v == "" {
		return 1 << 62, false
	}
	n, err := strconv.ParseInt(v, 10, 64)
	check(t, err)
	return n, true
}

// noiseOf asks with random subnets, one query after the other, until stop is closed or so many were sent in all.
func noiseOf(t *testing.T, addr string, owner func(i int) string, sent *atomic.Int64, total int64, stop chan struct{}) {
	conn, err := dns.Dial("udp", addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close()
	client := dns.Client{Timeout: 2 * time.Second}
	for {
		select {
		case <-stop:
			return
		default:
		}
		n := sent.Add(1)
		if n > total {
			sent.Add(-1)
			return
		}
		r := new(dns.Msg).SetQuestion(owner(int(n)), dns.TypeA)
		client.ExchangeWithConn(upstream.WithSubnet(r, randomSubnet()), conn) // some are lost
	}
}

// randomSubnet returns any IPv4 or IPv6 prefix, of any length.
func randomSubnet() netip.Prefix {
	var octets [16]byte
	for i := range octets {
		octets[i] = byte(rand.Uint32()) // #nosec G404 G115 -- noise
	}
	if rand.IntN(2) == 0 { // #nosec G404
		p, _ := netip.AddrFrom16(octets).Prefix(1 + rand.IntN(128)) // #nosec G404
		return p
	}
	p, _ := netip.AddrFrom4([4]byte(octets[:4])).Prefix(1 + rand.IntN(32)) // #nosec G404
	return p
}

// good has the queries of clients who are not hostile, and control queries, which need neither resolver nor cache.
type good struct{ with, without, control []shot }

// askWithSubnets sends queries for the addresses of example.org, 50 a second with a client subnet, one of ten, and 50
// without; and 50 control queries.
func askWithSubnets(t *testing.T, addr string, d time.Duration) good {
	t.Helper()
	const rate = 150
	shots := make([]shot, int(d.Seconds()*rate))
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	var all sync.WaitGroup
	for i := range shots {
		conn, err := dns.Dial("udp", addr)
		check(t, err)
		r := new(dns.Msg).SetQuestion("example.org.", []uint16{dns.TypeA, dns.TypeA, dns.TypeMX}[i%3])
		if r.SetEdns0(1232, false); i%3 == 0 {
			upstream.WithSubnet(r, goodSubnet(i))
		}
		all.Go(func() {
			defer conn.Close()
			shots[i] = shootQuery(conn, r)
		})
		<-tick.C
	}
	all.Wait()
	var g good
	for i, s := range shots {
		if s.err != nil || len(s.m.Answer) != 1 {
			t.Errorf("query %d after %s: %v\n%v", i, s.took, s.err, s.m)
			continue
		}
		everybody := upstream.AddressFor(netip.Prefix{}, dns.TypeA).String()
		switch i % 3 {
		case 0: // one that was asked before the noise has its own answer, unless that was evicted
			own := upstream.AddressFor(goodSubnet(i), dns.TypeA).String()
			if got := s.m.Answer[0].(*dns.A).A.String(); got != own && got != everybody {
				t.Errorf("%s got %s", goodSubnet(i), got)
			}
			g.with = append(g.with, s)
		case 1:
			if got := s.m.Answer[0].(*dns.A).A.String(); got != everybody {
				t.Errorf("without the option: %s", got)
			}
			g.without = append(g.without, s)
		default:
			g.control = append(g.control, s)
		}
	}
	return g
}

func goodSubnet(i int) netip.Prefix {
	return netip.PrefixFrom(netip.AddrFrom4([4]byte{198, 51, byte(i / 3 % 10), 0}), 24) // #nosec G115 -- an octet
}
