package main

import (
	"context"
	"math/rand/v2"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	shortestTTL  = 5 // seconds; of the answers that expire
	ordinaryTTL  = 3600
	dripTTL      = 60
	resolverTime = 10 * time.Millisecond // until a target answers, as over a network
	dripPause    = 5 * time.Millisecond  // between two octets
)

// The domains of the targets of noisy aliases.
const (
	wellDomain = ".well.example."
	deadDomain = ".dead.example."
	dripDomain = ".drip.example."
)

// tenantsResolver answers for all targets.
type tenantsResolver struct {
	mu    sync.Mutex
	known map[dns.Question]bool // the targets that have answered once, and fail from then on
}

// serveTenants runs a resolver over UDP and TCP until ctx ends.
func serveTenants(ctx context.Context, addr string) error {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	r := &tenantsResolver{known: make(map[dns.Question]bool)}
	datagrams := &dns.Server{PacketConn: conn, Handler: r}
	streams := &dns.Server{Listener: drippingListener{listener}, Handler: r}
	stop := context.AfterFunc(ctx, func() {
		datagrams.Shutdown()
		streams.Shutdown()
	})
	defer stop()
	go streams.ActivateAndServe()
	return datagrams.ActivateAndServe()
}

// ServeDNS implements dns.Handler.
func (r *tenantsResolver) ServeDNS(w dns.ResponseWriter, query *dns.Msg) {
	q, m := query.Question[0], new(dns.Msg).SetReply(query)
	_, overTCP := w.RemoteAddr().(*net.TCPAddr)
	switch {
	case strings.HasSuffix(q.Name, deadDomain):
		return
	case strings.HasSuffix(q.Name, dripDomain):
		r.drip(w, m, overTCP)
		return
	case q.Name == ".": // a health check
		w.WriteMsg(m)
		return
	}
	time.Sleep(resolverTime)
	switch q.Name[0] {
	case 's':
		if r.fails(q) {
			m.Rcode = dns.RcodeServerFailure
		} else {
			m.Answer = []dns.RR{tenantsAddress(q, shortestTTL)}
		}
	case 'e':
		m.Answer = []dns.RR{tenantsAddress(q, shortestTTL)}
	default:
		m.Answer = []dns.RR{tenantsAddress(q, ordinaryTTL)}
	}
	w.WriteMsg(m)
}

// fails reports whether q was asked before.
func (r *tenantsResolver) fails(q dns.Question) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	before := r.known[q]
	r.known[q] = true
	return before
}

// drip answers as a resolver does for a domain whose name servers drip: late, often after the timeout of 500 ms, and a third of the time
// with a truncated response.
func (r *tenantsResolver) drip(w dns.ResponseWriter, m *dns.Msg, overTCP bool) {
	if !overTCP {
		time.Sleep(400*time.Millisecond + rand.N(300*time.Millisecond)) // #nosec G404 -- any time
		m.Truncated = rand.IntN(3) == 0                                 // #nosec G404 -- any of them
	}
	if !m.Truncated {
		m.Answer = []dns.RR{tenantsAddress(m.Question[0], dripTTL)}
	}
	w.WriteMsg(m)
}

// drippingListener is a listener whose connections write each octet of a response by itself. Only targets that drip have truncated
// responses, so only for them a query comes over TCP.
type drippingListener struct{ net.Listener }

func (l drippingListener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	return drippingConn{conn}, err
}

type drippingConn struct{ net.Conn }

func (c drippingConn) Write(b []byte) (n int, err error) {
	for n = range b {
		if _, err := c.Conn.Write(b[n : n+1]); err != nil {
			return n, err
		}
		time.Sleep(dripPause)
	}
	return len(b), nil
}

// tenantsAddress returns the address record that answers q.
func tenantsAddress(q dns.Question, ttl uint32) dns.RR {
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	if q.Qtype == dns.TypeAAAA {
		return &dns.AAAA{Hdr: hdr, AAAA: net.ParseIP(hostedAddress6)}
	}
	return &dns.A{Hdr: hdr, A: net.ParseIP(hostedAddress).To4()}
}
