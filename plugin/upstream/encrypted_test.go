package upstream_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/pkg/doh"
	"github.com/coredns/coredns/plugin/test"

	"github.com/miekg/dns"
)

// handshakes are the handshakes that a server completed: the names that its clients asked for, and how many resumed a session.
type handshakes struct {
	mu      sync.Mutex
	names   []string
	resumed int
}

func (h *handshakes) verify(cs tls.ConnectionState) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.names = append(h.names, cs.ServerName)
	if cs.DidResume {
		h.resumed++
	}
	return nil
}

func (h *handshakes) get() (names []string, resumed int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.names), h.resumed
}

// certificate returns the configuration of a server with a certificate for example.com and *.example.com, that of a
// client that trusts it, and the handshakes of the server.
func certificate(t *testing.T) (server, client *tls.Config, shakes *handshakes) {
	t.Helper()
	https := httptest.NewTLSServer(nil) // only for its certificate
	defer https.Close()
	shakes, roots := new(handshakes), x509.NewCertPool()
	roots.AddCert(https.Certificate())
	return &tls.Config{Certificates: https.TLS.Certificates, VerifyConnection: shakes.verify},
		&tls.Config{RootCAs: roots, ServerName: "example.com"}, shakes
}

// startDoT starts a server of DNS over TLS.
func startDoT(t *testing.T, cfg *tls.Config, h fake.Handler) (addr string) {
	t.Helper()
	l, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	s := &dns.Server{Listener: l, Handler: h, NotifyStartedFunc: func() { close(started) }}
	go s.ActivateAndServe()
	<-started
	t.Cleanup(func() { s.Shutdown() })
	return l.Addr().String()
}

// startDoH starts a server of DNS over HTTPS (RFC 8484).
func startDoH(t *testing.T, cfg *tls.Config, h fake.Handler) (addr string) {
	t.Helper()
	https := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Host != r.TLS.ServerName {
			t.Errorf("the request is for host %q, and the handshake was for %q", r.Host, r.TLS.ServerName)
		}
		m, err := doh.RequestToMsg(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		rec := dnstest.NewRecorder(&test.ResponseWriter{})
		h(rec, m)
		if rec.Msg == nil {
			http.Error(w, "502 Bad Gateway", http.StatusBadGateway)
			return
		}
		wire, err := rec.Msg.Pack()
		if err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Type", doh.MimeType)
		w.Write(wire)
	}))
	https.EnableHTTP2, https.TLS = true, cfg
	https.Config.ErrorLog = log.New(io.Discard, "", 0) // failed handshakes are what some tests are about
	https.StartTLS()
	t.Cleanup(https.Close)
	return https.Listener.Addr().String()
}

// startDoQ starts a server of DNS over QUIC (RFC 9250), which is CoreDNS.
func startDoQ(t *testing.T, cfg *tls.Config, h fake.Handler) (addr string) {
	t.Helper()
	block := &dnsserver.Config{Zone: ".", TLSConfig: cfg}
	block.AddPlugin(func(plugin.Handler) plugin.Handler {
		return plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			h(w, r)
			return dns.RcodeSuccess, nil
		})
	})
	s, err := dnsserver.NewServerQUIC("quic://127.0.0.1:0", []*dnsserver.Config{block})
	if err != nil {
		t.Fatal(err)
	}
	p, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan struct{})
	go func() {
		defer close(served)
		s.ServePacket(p)
	}()
	t.Cleanup(func() {
		s.Stop()
		p.Close()
		<-served
	})
	return p.LocalAddr().String()
}

var encrypted = []struct {
	scheme string
	start  func(*testing.T, *tls.Config, fake.Handler) string
}{
	{"tls://", startDoT},
	{"https://", startDoH},
	{"quic://", startDoQ},
}

// A lookup over each protocol asks for the right name, and trusts only the certificate that has it.
func TestEncrypted(t *testing.T) {
	for _, protocol := range encrypted {
		t.Run(protocol.scheme, func(t *testing.T) {
			t.Parallel()
			server, client, shakes := certificate(t)
			addr := protocol.start(t, server, good)
			host, port, err := net.SplitHostPort(addr)
			if err != nil {
				t.Fatal(err)
			}
			for _, tc := range []struct {
				name    string
				to      string
				client  *tls.Config
				asks    string // the name in the handshake
				outcome string // of the failure, or ""
			}{
				{"the name for all", addr, client, "example.com", ""},
				{"its own name", host + "%a.example.com:" + port, client, "a.example.com", ""},
				{"another name", host + "%example.net:" + port, client, "", "network"},
				{"distrusted", addr, &tls.Config{ServerName: "example.com"}, "", "network"},
			} {
				t.Run(tc.name, func(t *testing.T) {
					before, _ := shakes.get()
					us, reports, stop := startTLS(t, tc.client, patient, protocol.scheme+tc.to)
					defer stop()
					for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
						o, err := us.Resolve(context.Background(), lookup.Question{Name: "target.example.", Type: qtype}, 1)
						if tc.outcome != "" {
							if f := failure(t, err); f.Outcome != tc.outcome || f.EDE != dns.ExtendedErrorCodeNetworkError || f.Detail == nil {
								t.Errorf("failure %v", f)
							}
						} else if err != nil || len(o.Data) != lookup.AddrLen(qtype) {
							t.Errorf("%v, %v", o, err)
						}
					}
					if names, _ := shakes.get(); tc.asks != "" && !slices.Equal(names[len(before):], []string{tc.asks}) {
						t.Errorf("handshakes for %v, want one for %s", names[len(before):], tc.asks)
					}
					if got := reports.all(); len(got) != 2 || got[0].to != addr {
						t.Errorf("reports %v, want two of %s", got, addr)
					}
					if tc.client.ServerName != "example.com" || tc.client.ClientSessionCache != nil {
						t.Error("the configuration was changed")
					}
				})
			}
		})
	}
}

// The deadline holds for the encrypted protocols too, and so does the end of the server.
func TestEncryptedSilent(t *testing.T) {
	for _, protocol := range encrypted {
		t.Run(protocol.scheme, func(t *testing.T) {
			t.Parallel()
			asked, release := make(chan struct{}, 10), make(chan struct{})
			server, client, _ := certificate(t)
			addr := protocol.start(t, server, func(dns.ResponseWriter, *dns.Msg) {
				asked <- struct{}{}
				<-release
			})
			defer close(release)
			const timeout = 2 * short
			us, _, stop := startTLS(t, client, timeout, protocol.scheme+addr)
			defer stop()
			began := time.Now()
			if _, outcome := resolve(t, us, question, 1); outcome != lookup.Timeout {
				t.Errorf("outcome %q", outcome)
			}
			if took := time.Since(began); took > timeout+slack {
				t.Errorf("took %s", took)
			}
			for len(asked) > 0 {
				<-asked
			}
			ctx, cancel := context.WithCancel(context.Background())
			go func() {
				<-asked
				cancel()
			}()
			if _, err := us.Resolve(ctx, question, 10); failure(t, err).Outcome != lookup.Canceled {
				t.Errorf("cut short: %v", err)
			}
		})
	}
}

// A new connection resumes the session of the one before: the handshake is shorter.
func TestSessionResumed(t *testing.T) {
	t.Parallel()
	server, client, shakes := certificate(t)
	closed := make(chan struct{}, 1)
	addr := startDoT(t, server, func(w dns.ResponseWriter, r *dns.Msg) {
		good(w, r)
		w.Close()
		closed <- struct{}{}
	})
	us, _, stop := startTLS(t, client, patient, "tls://"+addr)
	defer stop()
	for range 3 {
		if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 {
			t.Fatal(outcome)
		}
		<-closed
	}
	if names, resumed := shakes.get(); len(names) != 3 || resumed != 2 {
		t.Errorf("%d handshakes, of which %d resume a session, want 3 and 2", len(names), resumed)
	}
}

// Over TLS there is no other protocol to go to.
func TestTruncatedOverTLS(t *testing.T) {
	t.Parallel()
	server, client, _ := certificate(t)
	us, reports, stop := startTLS(t, client, patient, "tls://"+startDoT(t, server, truncated))
	defer stop()
	_, err := us.Resolve(context.Background(), question, 1)
	checkFailure(t, failure(t, err), "malformed", dns.ExtendedErrorCodeNoReachableAuthority, "truncated over TCP")
	if got := reports.outcomes(); !slices.Equal(got, []string{"malformed"}) {
		t.Errorf("reports %v", got)
	}
}

// An error of the HTTP server has no message that can be used.
func TestBadGateway(t *testing.T) {
	t.Parallel()
	server, client, _ := certificate(t)
	us, _, stop := startTLS(t, client, patient, "https://"+startDoH(t, server, silent))
	defer stop()
	_, err := us.Resolve(context.Background(), question, 1)
	checkFailure(t, failure(t, err), "malformed", dns.ExtendedErrorCodeNoReachableAuthority, "dns:")
}

// A panic in an exchange, which has a goroutine of its own, is a failure of the lookup, and does not end the server.
func TestPanicInExchange(t *testing.T) {
	t.Parallel()
	server, client, _ := certificate(t)
	var again atomic.Bool // for the health check that follows
	client.VerifyConnection = func(tls.ConnectionState) error {
		if !again.Swap(true) {
			panic("in the handshake")
		}
		return nil
	}
	us, _, stop := startTLS(t, client, patient, "tls://"+startDoT(t, server, good))
	defer stop()
	_, err := us.Resolve(context.Background(), question, 1)
	checkFailure(t, failure(t, err), "error", dns.ExtendedErrorCodeNoReachableAuthority, "panic: in the handshake")
}

// resetter is a listener whose connections the test can reset.
type resetter struct {
	net.Listener
	mu    sync.Mutex
	conns []*net.TCPConn
}

// Accept implements net.Listener.
func (l *resetter) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.conns = append(l.conns, conn.(*net.TCPConn))
	return conn, nil
}

func (l *resetter) reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, conn := range l.conns {
		conn.SetLinger(0)
		conn.Close()
	}
	l.conns = nil
}

// Idle connections that the upstream has reset, as it does when it is restarted, cost no attempt.
func TestIdleConnectionReset(t *testing.T) {
	t.Parallel()
	server, client, _ := certificate(t)
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &resetter{Listener: tcp}
	s := &dns.Server{Listener: tls.NewListener(l, server), Handler: fake.Late(50*time.Millisecond, good)}
	go s.ActivateAndServe()
	t.Cleanup(func() { s.Shutdown() })
	us, _, stop := startTLS(t, client, patient, "tls://"+tcp.Addr().String())
	defer stop()
	for range 3 {
		var lookups sync.WaitGroup
		for range 3 {
			lookups.Go(func() {
				if addrs, outcome := resolve(t, us, question, 1); len(addrs) != 1 {
					t.Errorf("%v, %s", addrs, outcome)
				}
			})
		}
		lookups.Wait()
		l.reset()
		time.Sleep(10 * time.Millisecond) // the resets arrive
	}
}
