package test

import (
	"fmt"
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

// chainOf returns a handler that answers with a chain of n CNAME records and an address at its end: with the whole rest of
// the chain, or with one link per response.
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

// endless returns a handler that answers every query with a CNAME record to a new name.
func endless() upstream.Handler {
	var n atomic.Int64
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{cname(r.Question[0].Name, fmt.Sprintf("x%d.hostile.example.", n.Add(1)))}
		send(w, m)
	}
}

// babble sends one response after the other, none with the ID of the query.
func babble(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	for end := time.Now().Add(2 * attempt); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		m.Id++
		if m.Id != r.Id {
			w.WriteMsg(m)
		}
	}
}

// hostile is an upstream that answers hostile targets in one way, and all others well.
type hostile struct {
	to    string        // the value of the property upstream
	env   []string      // of the server
	asked *atomic.Int32 // how many requests there were about hostile targets
	stuck func() int    // on how many of its connections a response is still being sent
}

// apart answers queries for targets outside of hostile.example. It counts the others, and calls h for them.
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

// drip is the pause after each byte, with which a response of 500 addresses takes minutes.
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

// overDrippingDoH sends the body of responses about hostile targets byte by byte, and never ends it.
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

// The operator of a target may answer anything: a lookup takes one attempt, which is bounded in time and in requests, and
// the answers for other targets come as before.
func TestHostileTarget(t *testing.T) {
	const (
		everything = dns.MaxMsgSize
		most       = 512 // addresses of a target that the plugin uses
	)
	for _, test := range []struct {
		name      string
		start     func(t *testing.T, h upstream.Handler) hostile
		h         upstream.Handler
		addresses int // in the answers
		ttl       uint32
		requests  int32 // for one lookup
	}{
		{"500 addresses", overDNS, manyAddresses(500, 60), 500, 60, 2},
		{"largest response", overDNS, manyAddresses(everything, 60), most, 60, 2},
		{"TTL 0", overDNS, manyAddresses(1, 0), 1, 5, 1},
		{"TTL 2^31-1", overDNS, manyAddresses(1, 1<<31-1), 1, 3600, 1},
		{"TTL 2^31", overDNS, manyAddresses(1, 1<<31), 1, 5, 1}, // is taken for 0 (RFC 2181, section 8)
		{"TTL 2^32-1", overDNS, manyAddresses(1, 1<<32-1), 1, 5, 1},
		{"16 links at once", overDNS, chainOf(16, true), 1, 300, 1},
		{"17 links at once", overDNS, chainOf(17, true), 0, 0, 1},
		{"1000 links at once", overDNS, chainOf(1000, true), 0, 0, 2},
		{"16 links one by one", overDNS, chainOf(16, false), 1, 300, 17},
		{"17 links one by one", overDNS, chainOf(17, false), 0, 0, 17},
		{"links without end", overDNS, endless(), 0, 0, 17},
		{"slow links", overDNS, upstream.Late(attempt*2/7, chainOf(16, false)), 0, 0, 4}, // the fourth response would be too late
		{"silence", overDNS, func(dns.ResponseWriter, *dns.Msg) {}, 0, 0, 1},
		{"responses to others", overDNS, babble, 0, 0, 1},
		{"dripping TCP", overDrippingTCP, manyAddresses(500, 60), 0, 0, 2},
		{"dripping DoT", overDrippingDoT, manyAddresses(500, 60), 0, 0, 1},
		{"dripping DoH", overDrippingDoH, nil, 0, 0, 1},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			const n = 6 // targets of each kind
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
			m := query(t, server.addr, "udp", "bad0.example.org.", dns.TypeA) // fails if the response is larger than 1232 octets
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

			// Connections to the upstream stay open until they have been idle for about 10 s.
			checkSettles(t, server, page, before, before.plus(footprint{slack, 3*n + slack, 8 << 20}))
			eventually(t, attempt+busy, "no connection is in use", func() bool { return up.stuck() == 0 })
			if size := len(server.log(t)); size > 8<<10 {
				t.Errorf("The log has %d bytes", size)
			}
		})
	}
}

// checkMany checks that m has n different addresses with this TTL, or up to one in a thousand less, which makes room for
// EDNS in a full response. With n = 0 the lookup must have failed.
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
		t.Errorf("Not the response to a failed lookup:\n%v", m)
	}
}

// An owner with a longer name than its target gets a larger response. The addresses that the plugin uses fit into it, with
// EDNS, however many the target has: a response over TCP must not be truncated.
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
