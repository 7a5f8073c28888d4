package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin/pkg/doh"
	"github.com/miekg/dns"
)

const (
	// attempt is the timeout of the servers in these tests.
	attempt = 2 * time.Second

	// busy is how much longer things may take because the machine has other work: less than another attempt.
	busy = 1800 * time.Millisecond

	// slack is how many goroutines and files come and go with requests that the tests make.
	slack = 8
)

// footprint is what a server takes.
type footprint struct{ goroutines, files, heap int }

func footprintOf(t *testing.T, server *process, page string) footprint {
	t.Helper()
	return footprint{goroutines(t, page, ""), files(t, server), heap(t, page)}
}

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %d kB", f.goroutines, f.files, f.heap>>10)
}

func (f footprint) plus(g footprint) footprint {
	return footprint{f.goroutines + g.goroutines, f.files + g.files, f.heap + g.heap}
}

func (f footprint) within(g footprint) bool {
	return f.goroutines <= g.goroutines && f.files <= g.files && f.heap <= g.heap
}

// checkSettles waits until server takes no more than most.
func checkSettles(t *testing.T, server *process, page string, before, most footprint) {
	t.Helper()
	var now footprint
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if now = footprintOf(t, server, page); now.within(most) || time.Now().After(deadline) {
			break
		}
	}
	t.Logf("%s before, %s after", before, now)
	if !now.within(most) {
		t.Errorf("%s after it all, want at most %s", now, most)
	}
}

// aliasLines returns n ALIAS records of owners and targets with numbers, the latter in zone.
func aliasLines(owner, zone string, n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "%s%d 86400 IN ALIAS %s%d.%s\n", owner, i, owner, i, zone)
	}
	return b.String()
}

// oneAddress answers every question for addresses with one.
func oneAddress(w dns.ResponseWriter, r *dns.Msg) { manyAddresses(1, 300)(w, r) }

// manyAddresses returns a handler that answers every question for addresses with n of them, or with as many as there is
// room for.
func manyAddresses(n int, ttl uint32) upstream.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = addressesOf(r.Question[0], min(n, room(r.Question[0])), ttl)
		send(w, m)
	}
}

// room returns how many addresses fit into the response to a question.
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

// send sends m, over UDP without records when there are too many for EDNS's 1232 octets.
func send(w dns.ResponseWriter, m *dns.Msg) {
	m.Compress = true
	if !upstream.IsTCP(w) && len(m.Answer) > 30 {
		m.Answer, m.Truncated = nil, true
	}
	w.WriteMsg(m)
}

// chainOf returns a handler that answers with a chain of n CNAME records and an address at its end: with all that is left
// of it, or one link at a time.
func chainOf(n int, whole bool) upstream.Handler {
	link := func(i int, target string) string {
		if i == 0 {
			return target
		}
		return fmt.Sprintf("l%d.%s", i, target)
	}
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m, target, i := new(dns.Msg).SetReply(r), r.Question[0].Name, 0
		if _, err := fmt.Sscanf(target, "l%d.", &i); err == nil {
			_, target, _ = strings.Cut(target, ".")
		}
		for first := true; i < n && (first || whole); first = false {
			m.Answer = append(m.Answer, cname(link(i, target), link(i+1, target)))
			i++
		}
		if whole || len(m.Answer) == 0 {
			q := dns.Question{Name: link(n, target), Qtype: r.Question[0].Qtype}
			m.Answer = append(m.Answer, addressesOf(q, 1, 300)...)
		}
		send(w, m)
	}
}

func cname(owner, target string) dns.RR {
	return &dns.CNAME{Hdr: dns.RR_Header{Name: owner, Rrtype: dns.TypeCNAME, Class: dns.ClassINET, Ttl: 300}, Target: target}
}

// endless returns a handler that answers every question with a CNAME record to a name that it has not told before.
func endless() upstream.Handler {
	var n atomic.Int64
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{cname(r.Question[0].Name, fmt.Sprintf("x%d.hostile.example.", n.Add(1)))}
		send(w, m)
	}
}

// babble answers with one response after the other, all to somebody else's queries.
func babble(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	for end := time.Now().Add(2 * attempt); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		m.Id++
		if m.Id != r.Id {
			w.WriteMsg(m)
		}
	}
}

// hostile is an upstream through which a hostile target is looked up, beside others.
type hostile struct {
	to    string        // as upstream has it
	env   []string      // of the server
	asked *atomic.Int32 // how many requests there were about hostile targets
	stuck func() int    // on how many of its connections a response is still being sent
}

// apart answers for targets in hosting.example, counts the questions for others and leaves them to h.
func apart(h upstream.Handler, asked *atomic.Int32) upstream.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if !dns.IsSubDomain("hostile.example.", r.Question[0].Name) {
			oneAddress(w, r)
			return
		}
		asked.Add(1)
		h(w, r)
	}
}

func overDNS(t *testing.T, h upstream.Handler) hostile {
	asked := new(atomic.Int32)
	up := upstream.New(t, apart(h, asked))
	return hostile{to: up.Addr, asked: asked, stuck: func() int { return 0 }}
}

// drip is how long a byte takes: a response of 500 addresses takes minutes.
const drip = 20 * time.Millisecond

func overDrippingTCP(t *testing.T, h upstream.Handler) hostile {
	asked := new(atomic.Int32)
	up, d := upstream.NewDripping(t, apart(h, asked), drip)
	return hostile{to: up.Addr, asked: asked, stuck: d.Open}
}

func overDrippingDoT(t *testing.T, h upstream.Handler) hostile {
	asked := new(atomic.Int32)
	var d *upstream.Dripper
	addr, cert := startDoTOn(t, apart(h, asked), func(l net.Listener) net.Listener {
		d = upstream.Drip(l, drip)
		return d
	})
	return hostile{to: "tls://" + addr, env: trusting(t, cert), asked: asked, stuck: d.Open}
}

// overDrippingDoH drips the body of the responses about hostile targets.
func overDrippingDoH(t *testing.T, _ upstream.Handler) hostile {
	asked, open := new(atomic.Int32), new(atomic.Int32)
	https := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, err := doh.RequestToMsg(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		q := m.Question[0]
		m.SetReply(m)
		w.Header().Set("Content-Type", doh.MimeType)
		if !dns.IsSubDomain("hostile.example.", q.Name) {
			m.Answer = addressesOf(q, 1, 300)
			wire, _ := m.Pack()
			w.Write(wire)
			return
		}
		asked.Add(1)
		open.Add(1)
		defer open.Add(-1)
		for r.Context().Err() == nil {
			w.Write([]byte{0})
			w.(http.Flusher).Flush()
			time.Sleep(drip)
		}
	}))
	https.EnableHTTP2 = true
	https.StartTLS()
	t.Cleanup(https.Close)
	return hostile{
		to: "https://" + https.Listener.Addr().String(), env: trusting(t, https.Certificate().Raw), asked: asked,
		stuck: func() int { return int(open.Load()) },
	}
}

// Whoever has a target may answer what he likes: it costs one attempt of bounded length and number of requests, and
// nobody else notices.
func TestHostileTarget(t *testing.T) {
	const (
		everything = dns.MaxMsgSize
		most       = 512 // addresses that are used
	)
	for _, test := range []struct {
		name      string
		start     func(t *testing.T, h upstream.Handler) hostile
		h         upstream.Handler
		addresses int // that clients get
		ttl       uint32
		requests  int32 // that one lookup costs
	}{
		{"500 addresses", overDNS, manyAddresses(500, 60), 500, 60, 2},
		{"largest response", overDNS, manyAddresses(everything, 60), most, 60, 2},
		{"TTL 0", overDNS, manyAddresses(1, 0), 1, 5, 1},
		{"TTL 2^31-1", overDNS, manyAddresses(1, 1<<31-1), 1, 3600, 1},
		{"TTL 2^31", overDNS, manyAddresses(1, 1<<31), 1, 5, 1}, // counts as 0
		{"TTL 2^32-1", overDNS, manyAddresses(1, 1<<32-1), 1, 5, 1},
		{"16 links at once", overDNS, chainOf(16, true), 1, 300, 1},
		{"17 links at once", overDNS, chainOf(17, true), 0, 0, 1},
		{"1000 links at once", overDNS, chainOf(1000, true), 0, 0, 2},
		{"16 links one by one", overDNS, chainOf(16, false), 1, 300, 17},
		{"17 links one by one", overDNS, chainOf(17, false), 0, 0, 17},
		{"links without end", overDNS, endless(), 0, 0, 17},
		{"slow links", overDNS, upstream.Late(attempt*2/7, chainOf(16, false)), 0, 0, 4}, // the fourth would come too late
		{"silence", overDNS, func(dns.ResponseWriter, *dns.Msg) {}, 0, 0, 1},
		{"responses to others", overDNS, babble, 0, 0, 1},
		{"dripping TCP", overDrippingTCP, manyAddresses(500, 60), 0, 0, 2},
		{"dripping DoT", overDrippingDoT, manyAddresses(500, 60), 0, 0, 1},
		{"dripping DoH", overDrippingDoH, nil, 0, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			const n = 6 // targets of either kind
			up := test.start(t, test.h)
			port, page := freePort(t), local(freePort(t))
			properties := fmt.Sprintf("timeout %s\nretries 0\ntls_servername example.com\nupstream %s", attempt, up.to)
			zone := zoneFile + aliasLines("good", "hosting.example.", n) + aliasLines("bad", "hostile.example.", n)
			server := startServer(t, port, zoneDir(t, port, zone, properties, fromFile+"\npprof "+page), "Corefile", up.env...)
			query(t, server.addr, "udp", "good0.example.org.", dns.TypeA)
			before := footprintOf(t, server, page)

			check := func(name string, qtype uint16) {
				began := time.Now()
				m, err := ask(server.addr, "tcp", name, qtype)
				if err != nil {
					t.Errorf("%s: %v", name, err)
					return
				}
				if took := time.Since(began); took > attempt+busy {
					t.Errorf("%s took %s", name, took)
				}
				target := dns.Question{Name: strings.Replace(name, "example.org.", "hostile.example.", 1), Qtype: qtype}
				checkMany(t, m, min(test.addresses, room(target)), test.ttl)
			}
			check("bad0.example.org.", dns.TypeA)
			if n := up.asked.Load(); n != test.requests {
				t.Errorf("%d requests for one lookup, want %d", n, test.requests)
			}
			m := query(t, server.addr, "udp", "bad0.example.org.", dns.TypeA) // a larger response would be an error
			if whole := len(m.Answer) == test.addresses; whole == m.Truncated {
				t.Errorf("%d of %d addresses over UDP, TC %t", len(m.Answer), test.addresses, m.Truncated)
			}

			var clients sync.WaitGroup
			for i := range n {
				clients.Go(func() { check(fmt.Sprintf("bad%d.example.org.", i), dns.TypeA) })
				clients.Go(func() { check(fmt.Sprintf("bad%d.example.org.", i), dns.TypeAAAA) })
			}
			for i := range n {
				clients.Go(func() { checkQuick(t, server, fmt.Sprintf("good%d.example.org.", i)) })
			}
			clients.Wait()

			// Connections to the upstream are kept until they have been idle for some 10 s.
			checkSettles(t, server, page, before, before.plus(footprint{slack, 3*n + slack, 8 << 20}))
			eventually(t, attempt+busy, "no connection is in use", func() bool { return up.stuck() == 0 })
			if size := len(server.log(t)); size > 8<<10 {
				t.Errorf("The log has %d bytes", size)
			}
		})
	}
}

// checkMany checks that m has n different addresses with this TTL, or, of a response that was full, as many less as fit
// beside EDNS. None is a failure.
func checkMany(t *testing.T, m *dns.Msg, n int, ttl uint32) {
	t.Helper()
	seen := make(map[string]bool)
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			seen[string(rr.A)] = true
		case *dns.AAAA:
			seen[string(rr.AAAA)] = true
		}
		if h := rr.Header(); h.Ttl > ttl || h.Ttl+2 < ttl {
			t.Errorf("TTL %d, want %d", h.Ttl, ttl)
			break
		}
	}
	if m.Rcode != dns.RcodeSuccess || m.Truncated || len(seen) != len(m.Answer) || len(seen) > n || len(seen) < n-n/1000 {
		t.Errorf("%s, TC %t, %d records with %d addresses, want %d", dns.RcodeToString[m.Rcode], m.Truncated, len(m.Answer), len(seen), n)
	}
	if n == 0 && (!isSOA(m.Ns) || m.Ns[0].Header().Ttl > 5) {
		t.Errorf("Not the end of a failure:\n%v", m)
	}
}

// checkQuick checks that name has its address, long before a timeout.
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

// An owner with a longer name than its target has a larger response. However many addresses the target has, those that are
// used fit, with EDNS, so that no TC bit leads nowhere over TCP.
func TestLargestAnswer(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, manyAddresses(dns.MaxMsgSize, 60))
	owner := strings.Repeat("long.", 40)
	server := serveZone(t, zoneFile+owner+"example.org. IN ALIAS t.example.\n", "timeout 5s\nupstream "+up.Addr, fromFile)
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		m := query(t, server.addr, "tcp", owner+"example.org.", qtype)
		if len(m.Answer) != 512 || m.Truncated {
			t.Errorf("%s: %d addresses, want 512; TC %t", dns.Type(qtype), len(m.Answer), m.Truncated)
		}
	}
}

// However many names and targets clients think of, and however much there is to each of them, memory is bounded by
// cache_size, and nothing else grows with them.
func TestMemory(t *testing.T) {
	t.Parallel()
	const (
		wildcard = "*.shop IN ALIAS app.hosting.example.\n"
		each     = 10 << 10 // bytes on the heap for what cache_size counts
	)
	// What the backend knows: each name leads to another, and what that has comes along.
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
		asked   int    // how many names are asked for
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

// askAgain asks for the A records of name, and once more when nothing comes: UDP loses messages.
func askAgain(addr, name string) (*dns.Msg, error) {
	m, err := ask(addr, "udp", name, dns.TypeA)
	if err != nil {
		m, err = ask(addr, "udp", name, dns.TypeA)
	}
	return m, err
}

// However many targets are cold, and silent, no more than max_concurrent lookups are under way. The others fail at once.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	const limit, n = 50, 2000
	up := upstream.New(t, nil)
	page := local(freePort(t))
	server := serveZone(t, zoneFile+aliasLines("n", "hosting.example.", n+1),
		fmt.Sprintf("timeout %s\nretries 0\nmax_concurrent %d\nupstream %s", attempt, limit, up.Addr), fromFile+"\npprof "+page)
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
			// A lookup has a goroutine of its own, one of the client and one for the exchange, which may outlive it.
			now := footprintOf(t, server, page)
			t.Logf("%s before, %s amid it", before, now)
			if most := before.plus(footprint{4*limit + slack, 2*limit + slack, 16 << 20}); !now.within(most) {
				t.Errorf("%s amid it, want at most %s", now, most)
			}
		}
	}
	clients.Wait()

	took := time.Since(began)
	most := limit * (1 + int(took/attempt)) // each has its place for a whole attempt
	if asked := up.AskedAll(); asked < limit || asked > most || int(waited.Load()) > most {
		t.Errorf("%d lookups, and %d clients waited for one, in %s: want at most %d", asked, waited.Load(), took, most)
	}
	t.Logf("%d lookups for %d clients in %s, %d of which waited", up.AskedAll(), n, took, waited.Load())
	checkSettles(t, server, page, before, before.plus(footprint{slack, slack, 16 << 20}))

	up.Set(oneAddress)
	checkQuick(t, server, fmt.Sprintf("n%d.example.org.", n))
}

// Clients that wait for a slow target are all answered at its end, and leave nothing behind. How many there may be is not
// bounded by the plugin: each costs a goroutine until then.
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

// Every type, class and operation gets a response, and none but A and AAAA of the Internet has addresses in it.
func TestQuestions(t *testing.T) {
	for _, test := range []struct{ name, plugins string }{{"alone", ""}, {"with transfer", "transfer {\nto *\n}"}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			testQuestions(t, test.plugins)
		})
	}
}

func testQuestions(t *testing.T, plugins string) {
	up := upstream.New(t, targets)
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n*.shop IN ALIAS app.hosting.example.\n",
		"upstream "+up.Addr, fromFile+"\n"+plugins)
	client := dns.Client{Timeout: 3 * time.Second}
	conn, err := dns.Dial("udp", server.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check := func(r *dns.Msg) *dns.Msg {
		m, _, err := client.ExchangeWithConn(r, conn)
		q := r.Question[0]
		if err != nil {
			t.Errorf("%s, %s: %v", &q, dns.OpcodeToString[r.Opcode], err)
			return new(dns.Msg)
		}
		want := 0
		if r.Opcode == dns.OpcodeQuery && q.Qclass == dns.ClassINET && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA) {
			want = 1
		}
		addresses := 0
		for _, rr := range m.Answer {
			if h := rr.Header(); h.Rrtype == dns.TypeA || h.Rrtype == dns.TypeAAAA {
				addresses++
			}
		}
		if addresses != want {
			t.Errorf("%s, %s: %d addresses in\n%v", &q, dns.OpcodeToString[r.Opcode], addresses, m)
		}
		return m
	}
	for _, name := range []string{"example.org.", "a.shop.example.org."} {
		rcodes := make(map[int]int)
		for qtype := range 1 << 16 {
			// All that have a meaning, and some of the others.
			if qtype > 300 && qtype < 1<<16-300 && qtype%101 > 0 {
				continue
			}
			rcodes[check(new(dns.Msg).SetQuestion(name, uint16(qtype))).Rcode]++
		}
		t.Logf("%s: response codes by type %v", name, rcodes)
		for _, qtype := range []uint16{dns.TypeA, dns.TypeANY, dns.TypeAXFR} {
			clear(rcodes)
			for _, qclass := range []uint16{0, 1, 2, 3, 4, 5, 254, 255, 256, 1<<16 - 1} {
				r := new(dns.Msg).SetQuestion(name, qtype)
				r.Question[0].Qclass = qclass
				rcodes[check(r).Rcode]++
			}
			t.Logf("%s %s: response codes by class %v", name, dns.Type(qtype), rcodes)
		}
		clear(rcodes)
		for opcode := range 16 {
			if opcode == dns.OpcodeNotify {
				continue // file drops what no primary of its own sends
			}
			r := new(dns.Msg).SetQuestion(name, dns.TypeA)
			r.Opcode = opcode
			rcodes[check(r).Rcode]++
		}
		t.Logf("%s: response codes by opcode %v", name, rcodes)
	}
}

// Whatever is wrong with a packet, the server lives, and has an answer for the next.
func TestBrokenPackets(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, targets)
	page := local(freePort(t))
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n*.shop IN ALIAS app.hosting.example.\n",
		"txt\nflatten all\nupstream "+up.Addr, fromFile+"\npprof "+page)
	checkQuick(t, server, "example.org.")
	before := footprintOf(t, server, page)

	rng := rand.New(rand.NewPCG(1, 2))
	conn, err := net.Dial("udp", server.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 5000 {
		conn.Write(brokenPacket(rng, 1000))
		if i%50 == 0 { // more at once would not fit into the buffer of the server's socket
			checkQuick(t, server, "example.org.")
		}
	}
	for i := range 300 {
		conn, err := net.Dial("tcp", server.addr)
		if err != nil {
			t.Fatal(err)
		}
		packet := brokenPacket(rng, 30_000)
		length := len(packet)
		if i%3 == 0 {
			length = rng.IntN(1 << 16) // promised, and never there
		}
		conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(length)), packet...))
		if i%2 == 0 {
			conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			conn.Read(make([]byte, 2))
		}
		conn.Close()
	}
	checkQuick(t, server, "example.org.")
	checkSettles(t, server, page, before, before.plus(footprint{slack, slack, 4 << 20}))
}

// brokenPacket returns a packet that no good client sends. option is how long an EDNS option may be.
func brokenPacket(rng *rand.Rand, option int) []byte {
	name := []string{"example.org.", "a.shop.example.org.", "www.example.org."}[rng.IntN(3)]
	r := new(dns.Msg).SetQuestion(name, []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT}[rng.IntN(3)])
	kind := rng.IntN(9)
	switch kind {
	case 0: // nothing that makes sense
		b := make([]byte, rng.IntN(600))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	case 1:
		r.Question = nil
	case 2:
		r.Question = append(r.Question, r.Question[0])
	case 3: // records where there are to be none
		r.Answer = addressesOf(r.Question[0], 1+rng.IntN(3), 60)
		r.Ns = addressesOf(r.Question[0], rng.IntN(3), 60)
	case 4: // large options, and an EDNS version that does not exist
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		opt.SetVersion(uint8(rng.IntN(3)))
		opt.Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: uint16(rng.IntN(20)), Data: make([]byte, rng.IntN(option))}}
		r.Extra = []dns.RR{opt, opt}[:1+rng.IntN(2)]
	}
	b, err := r.Pack()
	if err != nil {
		panic(err)
	}
	switch kind {
	case 5:
		return b[:rng.IntN(len(b))]
	case 6: // a name that goes on where it began, or at the end
		b[12], b[13] = 0xc0, []byte{12, byte(len(b) - 1), 0xff}[rng.IntN(3)]
	case 7: // numbers of records that are not there
		binary.BigEndian.PutUint16(b[4+2*rng.IntN(4):], uint16(rng.Uint32()))
	case 8:
		for range 1 + rng.IntN(4) {
			b[2+rng.IntN(len(b)-2)] = byte(rng.Uint32())
		}
	}
	return b
}

// Clients that connect and say nothing, or not all, or take no answers, keep nobody else from being answered. CoreDNS
// closes their connections after 10 seconds, but for those that take no answers: these stay as long as the client wants.
func TestIdleClients(t *testing.T) {
	t.Parallel()
	const n = 100 // of each kind
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "large.hosting.example." {
			manyAddresses(500, 300)(w, r)
			return
		}
		oneAddress(w, r)
	})
	page := local(freePort(t))
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\nlarge IN ALIAS large.hosting.example.\n",
		"timeout 5s\nupstream "+up.Addr, fromFile+"\npprof "+page)
	query(t, server.addr, "tcp", "example.org.", dns.TypeA)
	query(t, server.addr, "tcp", "large.example.org.", dns.TypeA)
	before := footprintOf(t, server, page)

	whole := onTCP(t, "example.org.")
	for _, said := range [][]byte{nil, whole[:1], whole[:20], whole} {
		for range n {
			conn, err := net.Dial("tcp", server.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write(said)
		}
	}
	deaf := make([]net.Conn, 3) // they ask for 12 MB, more than fits into the buffers of a connection
	for i := range deaf {
		conn, err := net.Dial("tcp", server.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		deaf[i] = conn
		conn.(*net.TCPConn).SetReadBuffer(4096)
		conn.Write(bytes.Repeat(onTCP(t, "large.example.org."), 1500))
	}
	t.Logf("%s before, %s with %d clients", before, footprintOf(t, server, page), 4*n+len(deaf))
	for range 10 {
		began := time.Now()
		for _, network := range []string{"udp", "tcp"} {
			query(t, server.addr, network, "example.org.", dns.TypeA)
		}
		if took := time.Since(began); took > busy {
			t.Errorf("Two queries took %s", took)
		}
	}
	began := time.Now()
	eventually(t, 15*time.Second, "the connections are closed", func() bool { return files(t, server) <= before.files+len(deaf)+slack })
	t.Logf("Closed after %s, but for %d", time.Since(began), goroutines(t, page, "dns.(*response).Write"))
	for _, conn := range deaf {
		conn.Close()
	}
	checkSettles(t, server, page, before, before.plus(footprint{slack, slack, 4 << 20}))
}

// onTCP returns a query for the A records of name as it is sent over TCP.
func onTCP(t *testing.T, name string) []byte {
	t.Helper()
	wire, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
}
