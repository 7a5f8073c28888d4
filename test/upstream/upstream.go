// Package upstream is a name server for tests that answers, or fails to, as it is told.
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

// Handler answers queries. It may write what it likes, several times, late or never.
type Handler = dns.HandlerFunc

// Server is a name server on a loopback address. All its methods may be called at any time.
type Server struct {
	Addr string // address and port, the same for UDP and TCP

	mu      sync.Mutex
	handler Handler
	asked   map[string]int
	udp     *dns.Server
	tcp     *dns.Server
}

// New starts a server, which is stopped when the test ends.
func New(t testing.TB, h Handler) *Server {
	t.Helper()
	return NewAt(t, "127.0.0.1", h)
}

// NewAt starts a server at this address of the machine.
func NewAt(t testing.TB, host string, h Handler) *Server {
	t.Helper()
	return start(t, host, h, func(l net.Listener) net.Listener { return l })
}

// NewDripping is New with a server whose large responses over TCP take pause for each byte. It returns their connections too.
func NewDripping(t testing.TB, h Handler, pause time.Duration) (*Server, *Dripper) {
	t.Helper()
	var d *Dripper
	s := start(t, "127.0.0.1", h, func(l net.Listener) net.Listener {
		d = Drip(l, pause)
		return d
	})
	return s, d
}

// start starts a server at host that takes its TCP connections from what wrap makes of the listener.
func start(t testing.TB, host string, h Handler, wrap func(net.Listener) net.Listener) *Server {
	t.Helper()
	s := &Server{handler: h, asked: make(map[string]int)}
	for range 10 {
		l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
		if err != nil {
			t.Fatal(err)
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		if err != nil { // somebody else has the port for UDP
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

// serve starts s and returns it when it serves.
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

// Set replaces the handler; nil is silence.
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

// Asked returns how often the question was asked.
func (s *Server) Asked(name string, qtype uint16) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.asked[key(name, qtype)]
}

// AskedAll returns how many questions were asked, not counting those that check the server's health.
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

// Dripper is a listener on whose connections each byte of a large message that is written takes its time.
type Dripper struct {
	net.Listener
	pause time.Duration
	open  atomic.Int32
}

// Drip returns a Dripper on l.
func Drip(l net.Listener, pause time.Duration) *Dripper { return &Dripper{Listener: l, pause: pause} }

// Open returns how many connections are being written to.
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

// Write implements net.Conn. It ends early when the peer does not listen any more.
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

// RRs parses records in presentation form, one a line. A mistake panics.
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

// Zone returns a handler that answers every question from records as a resolver does: with the CNAME chain from the
// name, the addresses at its end, and the code NXDOMAIN for a name that has no records. A record of type SOA goes
// with the negative answers.
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

// Answer returns a handler that answers every question with records, whatever it asks for.
func Answer(records ...string) Handler {
	rrs := RRs(records...)
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg)
		m.SetReply(r)
		m.Answer = rrs
		write(w, r, m)
	}
}

// Rcode returns a handler that answers every question with the code and nothing else.
func Rcode(rcode int) Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		w.WriteMsg(new(dns.Msg).SetRcode(r, rcode))
	}
}

// Late returns a handler that leaves it to h after d.
func Late(d time.Duration, h Handler) Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		time.Sleep(d)
		h(w, r)
	}
}

// Raw returns a handler that answers with the bytes that make returns for the query.
func Raw(make func(r *dns.Msg) []byte) Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) { w.Write(make(r)) }
}

// Lossy returns a handler that leaves it to h, on a network that loses this share of the queries and as large a share of
// the responses, the same ones each time for the same seed.
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

// Garbage returns a handler whose responses are noise: all of it, all but the ID, or all but the header and question.
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
		head[7] = 1 // an answer, says the header
		kind++
		noise := make([]byte, 100)
		for i := range noise {
			noise[i] = byte(random.Uint32())
		}
		wire := append(head[:[]int{0, 2, len(head)}[kind%3]], noise...)
		return wire
	})
}

// Elsewhere returns a handler that lets h answer, but over UDP from another port than that which was asked.
func Elsewhere(t testing.TB, h Handler) Handler {
	t.Helper()
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return func(w dns.ResponseWriter, r *dns.Msg) { h(spoofer{w, p}, r) }
}

// spoofer writes responses to the client of a query from a port of its own.
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

// write sends m as a resolver does: truncated over UDP when it is larger than the client takes.
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
