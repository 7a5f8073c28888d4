package test

import (
	"encoding/binary"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

const (
	// attempt is the timeout of the servers in these tests.
	attempt = 2 * time.Second

	// busy is how much longer a query may take on a busy machine: less than another attempt.
	busy = 1800 * time.Millisecond
)

// aliasLines returns n ALIAS records. Their owners and targets have numbers, and the targets are in zone.
func aliasLines(owner, zone string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s%d 86400 IN ALIAS %s%d.%s\n", owner, i, owner, i, zone)
	}
	return b.String()
}

// oneAddress answers every query for A or AAAA with one address.
func oneAddress(w dns.ResponseWriter, r *dns.Msg) { manyAddresses(1, 300)(w, r) }

// manyAddresses returns a handler that answers every query for A or AAAA with n addresses, or with as many as fit into a
// message.
func manyAddresses(n int, ttl uint32) upstream.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = addressesOf(r.Question[0], min(n, room(r.Question[0])), ttl)
		send(w, m)
	}
}

// room returns how many addresses fit into the response to a query.
func room(q dns.Question) int {
	size := 12 + net.IPv4len // owner, type, class, TTL and length
	if q.Qtype == dns.TypeAAAA {
		size = 12 + net.IPv6len
	}
	m := dns.Msg{Question: []dns.Question{q}}
	return (dns.MaxMsgSize - m.Len()) / size
}

func addressesOf(q dns.Question, n int, ttl uint32) []dns.RR {
	rrs := make([]dns.RR, n)
	for i := range rrs {
		hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
		ip := make(net.IP, net.IPv6len)
		binary.BigEndian.PutUint32(ip, 0x20010db8)
		binary.BigEndian.PutUint32(ip[12:], uint32(i))
		if q.Qtype == dns.TypeA {
			rrs[i] = &dns.A{Hdr: hdr, A: net.IPv4(198, 18, byte(i>>8), byte(i))}
		} else {
			rrs[i] = &dns.AAAA{Hdr: hdr, AAAA: ip}
		}
	}
	return rrs
}

// send sends m. Over UDP, a response of more than 30 records, which would not fit into 1232 octets, is truncated.
func send(w dns.ResponseWriter, m *dns.Msg) {
	m.Compress = true
	if !upstream.IsTCP(w) && len(m.Answer) > 30 {
		m.Answer, m.Truncated = nil, true
	}
	w.WriteMsg(m)
}

func cname(owner, target string) dns.RR {
	return &dns.CNAME{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 300}, Target: target}
}

// checkQuick checks that name is answered with one address, long before a timeout.
func checkQuick(t *testing.T, server *process, name string) {
	t.Helper()
	began := time.Now()
	m, err := ask(server.addr, "udp", name, dns.TypeA)
	if err != nil || len(m.Answer) != 1 {
		t.Errorf("%s: %v\n%v", name, err, m)
	}
	if took := time.Since(began); took > attempt/2 {
		t.Errorf("%s took %s", name, took)
	}
}

// Memory is bounded by cache_size, however many names clients query, and however large the answers are. Nothing else grows
// with the queries.
func TestMemory(t *testing.T) {
	t.Parallel()
	const (
		wildcard = "*.shop IN ALIAS app.hosting.example.\n"
		each     = 10 << 10 // bytes on the heap for one of cache_size
	)
	// The backend answers each name with a CNAME record, and over TCP with the addresses of its target too.
	renaming := func(h upstream.Handler) upstream.Handler {
		return func(w dns.ResponseWriter, r *dns.Msg) {
			q := r.Question[0]
			if !dns.IsSubDomain("example.org.", q.Name) {
				h(w, r)
				return
			}
			m, target := new(dns.Msg).SetReply(r), "t"+q.Name+"hosting.example."
			m.Answer = []dns.RR{cname(q.Name, target)}
			if upstream.IsTCP(w) {
				q.Name = target
				m.Answer = append(m.Answer, addressesOf(q, 500, 300)...)
			}
			send(w, m)
		}
	}
	for _, test := range []struct {
		name    string
		zone    string
		h       upstream.Handler
		size    int    // cache_size
		asked   int    // how many names are queried
		owner   string // format of these names
		network string
		answers int // how many records each of them has at least
	}{
		{"names that do not exist", "", oneAddress, 200, 2000, "n%d.example.org.", "udp", 0},
		{"many targets", aliasLines("n", "hosting.example.", 20_000), oneAddress, 1000, 5000, "n%d.example.org.", "udp", 1},
		{"large targets", aliasLines("n", "hosting.example.", 500), manyAddresses(500, 300), 200, 500, "n%d.example.org.", "udp", 1},
		{"names with a large target", wildcard, manyAddresses(500, 300), 200, 500, "n%d.shop.example.org.", "udp", 1},
		{"names that lead to others", "forward", renaming(oneAddress), 200, 2000, "n%d.example.org.", "udp", 1},
		{"names that lead to others, large", "forward", renaming(manyAddresses(500, 300)), 200, 400, "n%d.example.org.", "tcp", 500},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			up := upstream.New(t, test.h)
			page, backend, properties := local(freePort(t)), fromFile, ""
			if test.zone == "forward" {
				test.zone, backend, properties = "", "forward . "+up.Addr, "flatten all"
			}
			properties += fmt.Sprintf("\ncache_size %d\ntimeout 5s\nupstream %s", test.size, up.Addr)
			server := serveZone(t, zoneFile+test.zone, properties, backend+"\npprof "+page)
			query(t, server.addr, "udp", "own.example.org.", dns.TypeA)
			before := footprintOf(t, server, page)

			client := dns.Client{Net: test.network, Timeout: 10 * time.Second}
			sweep(t, server.addr, test.network, 0, test.asked, func(conn *dns.Conn, i int, qtype uint16) error {
				m, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(fmt.Sprintf(test.owner, i), qtype), conn)
				if err == nil && len(m.Answer) < test.answers {
					err = fmt.Errorf("got %v", m)
				}
				return err
			})
			after := footprintOf(t, server, page)
			t.Logf("%d bytes for each of cache_size", (after.heap-before.heap)/test.size)
			checkSettles(t, server, page, before, before.plus(footprint{slack, 16 + slack, test.size*each + 1<<20}))
		})
	}
}

// askAgain asks for the A records of name, and once more if there is no response: UDP loses messages.
func askAgain(addr, name string) (*dns.Msg, error) {
	m, err := ask(addr, "udp", name, dns.TypeA)
	if err != nil {
		m, err = ask(addr, "udp", name, dns.TypeA)
	}
	return m, err
}

// With many targets that are not cached, and an upstream that does not answer, no more than max_concurrent lookups are in
// flight. The other queries get the response to a failure at once.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	const limit, n = 50, 2000
	up := upstream.New(t, nil)
	page := local(freePort(t))
	server := serveZone(t, zoneFile+aliasLines("n", "hosting.example.", n+1),
		fmt.Sprintf("timeout %s\nretries 0\nmax_concurrent %[2]d\nper_zone %[2]d\nupstream %s", attempt, limit, up.Addr), fromFile+"\npprof "+page)
	query(t, server.addr, "udp", "own.example.org.", dns.TypeA)
	before := footprintOf(t, server, page)

	began := time.Now()
	var waited atomic.Int32
	var clients sync.WaitGroup
	for i := range n {
		clients.Go(func() {
			asked := time.Now()
			m, err := askAgain(server.addr, fmt.Sprintf("n%d.example.org.", i))
			if err != nil || m.Rcode != dns.RcodeSuccess || !isSOA(m.Ns) || extendedError(m) != int(dns.ExtendedErrorCodeNetworkError) {
				t.Errorf("Query %d: %v\n%v", i, err, m)
			}
			if time.Since(asked) > attempt/2 {
				waited.Add(1)
			}
		})
		time.Sleep(time.Millisecond) // more at once would not fit into the buffer of the server's socket
		if i == n/2 {
			// A lookup takes three goroutines: its own, that of the query, and that of the exchange, which may outlive it.
			now := footprintOf(t, server, page)
			t.Logf("%s before, %s in the middle", before, now)
			if most := before.plus(footprint{4*limit + slack, 2*limit + slack, 16 << 20}); !now.within(most) {
				t.Errorf("%s in the middle, want at most %s", now, most)
			}
		}
	}
	clients.Wait()

	took := time.Since(began)
	most := limit * (1 + int(took/attempt)) // each lookup counts for a whole attempt
	if asked := up.AskedAll(); asked < limit || asked > most || int(waited.Load()) > most {
		t.Errorf("%d lookups, and %d clients waited for one, in %s: want at most %d", asked, waited.Load(), took, most)
	}
	t.Logf("%d lookups for %d clients in %s, %d of which waited", up.AskedAll(), n, took, waited.Load())
	checkSettles(t, server, page, before, before.plus(footprint{slack, slack, 16 << 20}))

	up.Set(oneAddress)
	checkQuick(t, server, fmt.Sprintf("n%d.example.org.", n))
}

// All clients that wait for a slow target are answered when its lookup finishes, and leave no goroutines and files behind.
// The plugin does not bound how many wait: each takes a goroutine until then.
func TestWaitingClients(t *testing.T) {
	t.Parallel()
	const n = 1000
	hold := make(chan struct{})
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		<-hold
		oneAddress(w, r)
	})
	page := local(freePort(t))
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n", "timeout 10s\nretries 0\nupstream "+up.Addr,
		fromFile+"\npprof "+page)
	query(t, server.addr, "udp", "own.example.org.", dns.TypeA)
	before := footprintOf(t, server, page)
	var clients sync.WaitGroup
	for range n {
		clients.Go(func() {
			if m, err := askAgain(server.addr, "example.org."); err != nil || len(m.Answer) != 1 {
				t.Errorf("%v\n%v", err, m)
			}
		})
		time.Sleep(time.Millisecond) // more at once would not fit into the buffer of the server's socket
	}
	t.Logf("%s before, %s while clients wait", before, footprintOf(t, server, page))
	close(hold)
	clients.Wait()
	checkSettles(t, server, page, before, before.plus(footprint{slack, slack, 4 << 20}))
}

// However many names below a wildcard clients query, the target is looked up once, and memory is bounded.
func TestFlood(t *testing.T) {
	up := upstream.New(t, upstream.Zone(
		"app.hosting.example. 300 IN A 203.0.113.80",
		"app.hosting.example. 300 IN AAAA 2001:db8:80::80",
	))
	page := local(freePort(t))
	server := serveZone(t, zoneFile+"*.shop IN ALIAS app.hosting.example.\n", "cache_size 1000\nupstream "+up.Addr,
		fromFile+"\npprof "+page)
	const half = 25_000
	flood(t, server.addr, 0, half)
	before := heap(t, page)
	flood(t, server.addr, half, 2*half)
	after := heap(t, page)
	t.Logf("%d kB on the heap after half of the queries, %d kB after all", before>>10, after>>10)
	if after > before+1<<20 {
		t.Errorf("%d more names take %d kB", half, (after-before)>>10)
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if n := up.Asked("app.hosting.example.", qtype); n != 1 {
			t.Errorf("The upstream got %d queries for %s", n, dns.Type(qtype))
		}
	}
}

// flood queries the names with the numbers from begin to end, each once.
func flood(t *testing.T, addr string, begin, end int) {
	t.Helper()
	sweep(t, addr, "udp", begin, end, func(conn *dns.Conn, i int, qtype uint16) error {
		return askAddress(conn, fmt.Sprintf("n%d.shop.example.org.", i), qtype)
	})
}

// sweep has eight clients ask about the numbers from begin to end, each once, for A and AAAA in turn.
func sweep(t *testing.T, addr, network string, begin, end int, ask func(conn *dns.Conn, i int, qtype uint16) error) {
	t.Helper()
	const clients = 8
	var all sync.WaitGroup
	for client := range clients {
		all.Go(func() {
			conn, err := dns.Dial(network, addr)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			for i := begin + client; i < end; i += clients {
				if err := ask(conn, i, []uint16{dns.TypeA, dns.TypeAAAA}[i/clients%2]); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
}

// askAddress queries name over conn, and returns an error unless the answer is an address.
func askAddress(conn *dns.Conn, name string, qtype uint16) error {
	client := dns.Client{Timeout: 5 * time.Second}
	m, _, err := client.ExchangeWithConn(new(dns.Msg).SetQuestion(name, qtype), conn)
	if err == nil && (len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != qtype || m.Answer[0].Header().Name != name) {
		err = fmt.Errorf("not an address:\n%v", m)
	}
	return err
}
