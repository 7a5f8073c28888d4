// Package upstream is a name server whose answers, and failures to answer, a test programs. It knows nothing of alias.
package upstream

import (
	"math/rand/v2"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// Handler answers a query. It may write any response, several times, late or never. It is called concurrently.
type Handler = dns.HandlerFunc

// Server is a name server, on a loopback address unless NewAt started it. Its methods may be called concurrently, and after
// Stop.
type Server struct {
	Addr string // address and port, the same for UDP and TCP

	mu      sync.Mutex
	handler Handler
	asked   map[string]int
	udp     *dns.Server
	tcp     *dns.Server
}

// New starts a server on a free port of 127.0.0.1. It is stopped when the test ends. A nil handler does not answer.
func New(t testing.TB, h Handler) *Server {
	t.Helper()
	return NewAt(t, "127.0.0.1", h)
}

// NewAt is New at another address of this machine.
func NewAt(t testing.TB, host string, h Handler) *Server {
	t.Helper()
	return start(t, host, h, func(l net.Listener) net.Listener { return l })
}

// NewDripping is New with a server whose large responses over TCP take pause for each byte. The Dripper knows the
// connections.
func NewDripping(t testing.TB, h Handler, pause time.Duration) (*Server, *Dripper) {
	t.Helper()
	var d *Dripper
	s := start(t, "127.0.0.1", h, func(l net.Listener) net.Listener {
		d = Drip(l, pause)
		return d
	})
	return s, d
}

// start starts a server at host. Its TCP connections come from the listener that wrap returns.
func start(t testing.TB, host string, h Handler, wrap func(net.Listener) net.Listener) *Server {
	t.Helper()
	s := &Server{handler: h, asked: make(map[string]int)}
	for range 10 {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil { // the port is taken for UDP
			l.Close()
			continue
		}
		s.Addr = l.Addr().String()
		s.tcp = serve(&dns.Server{Listener: wrap(l), Handler: dns.HandlerFunc(s.serveDNS)})
		s.udp = serve(&dns.Server{PacketConn: p, Handler: dns.HandlerFunc(s.serveDNS)})
		t.Cleanup(s.Stop)
		return s
	}
	t.Fatal("found no port that is free for both UDP and TCP")
	return nil
}

// serve starts s, and returns it when it accepts queries.
func serve(s *dns.Server) *dns.Server {
	started := make(chan struct{})
	s.NotifyStartedFunc = func() { close(started) }
	go s.ActivateAndServe()
	<-started
	return s
}

func (s *Server) serveDNS(w dns.ResponseWriter, r *dns.Msg) {
	s.mu.Lock()
	h := s.handler
	if len(r.Question) == 1 {
		s.asked[key(r.Question[0].Name, r.Question[0].Qtype)]++
	}
	s.mu.Unlock()
	if h != nil {
		h(w, r)
	}
}

// Set replaces the handler. With nil, the server does not answer.
func (s *Server) Set(h Handler) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.handler = h
}

// StopTCP closes the TCP port.
func (s *Server) StopTCP() { s.tcp.Shutdown() }

// Stop closes the ports. It may be called more than once.
func (s *Server) Stop() {
	s.tcp.Shutdown()
	s.udp.Shutdown()
}

// Asked returns how many queries there were for name and qtype.
func (s *Server) Asked(name string, qtype uint16) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[key(name, qtype)]
}

// AskedAll returns how many queries there were, without the health checks.
func (s *Server) AskedAll() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for question, count := range s.asked {
		if question != key(".", dns.TypeNS) {
			n += count
		}
	}
	return n
}

func key(name string, qtype uint16) string {
	return strings.ToLower(name) + "/" + strconv.Itoa(int(qtype))
}

// Dripper is a listener. Each byte of a large message that is written to one of its connections takes a pause.
type Dripper struct {
	net.Listener
	pause time.Duration
	open  atomic.Int32
}

// Drip returns a Dripper that takes its connections from l.
func Drip(l net.Listener, pause time.Duration) *Dripper { return &Dripper{Listener: l, pause: pause} }

// Open returns on how many connections a large message is being written.
func (d *Dripper) Open() int { return int(d.open.Load()) }

// Accept implements net.Listener.
func (d *Dripper) Accept() (net.Conn, error) {
	conn, err := d.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &drippingConn{conn, d}, nil
}

type drippingConn struct {
	net.Conn
	d *Dripper
}

// Write implements net.Conn. It ends early when the peer has closed the connection.
func (c *drippingConn) Write(b []byte) (int, error) {
	if len(b) <= dns.MinMsgSize {
		return c.Conn.Write(b)
	}
	c.d.open.Add(1)
	defer c.d.open.Add(-1)
	for i := range b {
		if _, err := c.Conn.Write(b[i : i+1]); err != nil {
			return i, err
		}
		time.Sleep(c.d.pause)
	}
	return len(b), nil
}

// IsTCP reports whether the query of w came over TCP.
func IsTCP(w dns.ResponseWriter) bool {
	_, ok := w.RemoteAddr().(*net.TCPAddr)
	return ok
}

// RRs parses records in presentation form, one per argument. It panics if one is wrong.
func RRs(lines ...string) []dns.RR {
	rrs := make([]dns.RR, 0, len(lines))
	for _, l := range lines {
		rr, err := dns.NewRR(l)
		if err != nil {
			panic(err)
		}
		rrs = append(rrs, rr)
	}
	return rrs
}

// Zone returns a handler that answers every query from records as a resolver does: with the CNAME chain from the name and
// the records at its end, or with NXDOMAIN if that name has no records. A negative answer has the SOA record of its zone,
// if records has one.
func Zone(records ...string) Handler {
	rrs := RRs(records...)
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.RecursionAvailable = true
		name, exists := r.Question[0].Name, false
		for range 32 {
			next := ""
			exists = false
			for _, rr := range rrs {
				if !strings.EqualFold(rr.Header().Name, name) {
					continue
				}
				exists = true
				cname, isCNAME := rr.(*dns.CNAME)
				if isCNAME {
					next = cname.Target
				}
				if isCNAME || rr.Header().Rrtype == r.Question[0].Qtype {
					m.Answer = append(m.Answer, rr)
				}
			}
			if next == "" {
				break
			}
			name = next
		}
		if !exists {
			m.Rcode = dns.RcodeNameError
		}
		if n := len(m.Answer); n == 0 || m.Answer[n-1].Header().Rrtype == dns.TypeCNAME {
			for _, rr := range rrs {
				if rr.Header().Rrtype == dns.TypeSOA && dns.IsSubDomain(rr.Header().Name, name) {
					m.Ns = append(m.Ns, rr)
				}
			}
		}
		write(w, r, m)
	}
}

// Answer returns a handler that answers every query with records, whatever its question.
func Answer(records ...string) Handler {
	rrs := RRs(records...)
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.Answer = rrs
		write(w, r, m)
	}
}

// Rcode returns a handler that answers every query with a response code and no records.
func Rcode(rcode int) Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		w.WriteMsg(new(dns.Msg).SetRcode(r, rcode))
	}
}

// Late returns a handler that waits for d, and then calls h.
func Late(d time.Duration, h Handler) Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		time.Sleep(d)
		h(w, r)
	}
}

// Raw returns a handler that answers with the octets that make returns for the query.
func Raw(make func(r *dns.Msg) []byte) Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) { w.Write(make(r)) }
}

// Lossy returns a handler that calls h, as on a network that loses this share of the queries and the same share of the
// responses. With the same seed the same ones are lost.
func Lossy(share float64, seed uint64, h Handler) Handler {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 0)) // #nosec G404 -- which packets are lost is no secret
	return func(w dns.ResponseWriter, r *dns.Msg) {
		mu.Lock()
		query, response := random.Float64(), random.Float64()
		mu.Unlock()
		if query >= share && response >= share {
			h(w, r)
		}
	}
}

// Garbage returns a handler whose responses are noise, in turn as a whole, after the ID, or after header and question.
func Garbage() Handler {
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(1, 0)) // #nosec G404 -- noise
	kind := 0
	return Raw(func(r *dns.Msg) []byte {
		mu.Lock()
		defer mu.Unlock()
		head, err := new(dns.Msg).SetReply(r).Pack()
		if err != nil {
			panic(err)
		}
		head[7] = 1 // ANCOUNT: one answer
		kind++
		noise := make([]byte, 100)
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		wire := append(head[:[]int{0, 2, len(head)}[kind%3]], noise...)
		return wire
	})
}

// Elsewhere returns a handler that calls h, and sends the responses over UDP from another port than the query went to.
func Elsewhere(t testing.TB, h Handler) Handler {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return func(w dns.ResponseWriter, r *dns.Msg) { h(spoofer{w, p}, r) }
}

// spoofer writes responses to the client from a port of its own.
type spoofer struct {
	dns.ResponseWriter
	from net.PacketConn
}

func (s spoofer) WriteMsg(m *dns.Msg) error {
	wire, err := m.Pack()
	if err == nil {
		_, err = s.from.WriteTo(wire, s.RemoteAddr())
	}
	return err
}

// write sends m as a resolver does: over UDP truncated to the size that the client accepts.
func write(w dns.ResponseWriter, r, m *dns.Msg) {
	size := dns.MaxMsgSize
	if !IsTCP(w) {
		size = dns.MinMsgSize
		if opt := r.IsEdns0(); opt != nil {
			size = int(opt.UDPSize())
		}
	}
	m.Truncate(size)
	w.WriteMsg(m)
}
