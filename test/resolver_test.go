package test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin/pkg/doh"
	"github.com/miekg/dns"
)

// internet is the records that the resolvers find below example.: a chain of three links through three zones, a target with
// addresses of one family, and no target gone. The addresses at the end of the chain have signatures, which are not valid.
var internet = []string{
	"hosting.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
	"app.hosting.example. 300 IN CNAME router.network.example.",
	"v4.hosting.example. 300 IN A 203.0.113.4",
	"network.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
	"router.network.example. 45 IN CNAME edge.network.example.",
	"edge.network.example. 300 IN CNAME node.cdn.example.",
	"cdn.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
	"node.cdn.example. 120 IN A 203.0.113.80",
	"node.cdn.example. 120 IN A 203.0.113.81",
	"node.cdn.example. 120 IN RRSIG A 8 3 120 20380101000000 20200101000000 1 cdn.example. c2lnbmF0dXJl",
	"node.cdn.example. 120 IN AAAA 2001:db8:80::80",
	"node.cdn.example. 120 IN RRSIG AAAA 8 3 120 20380101000000 20200101000000 1 cdn.example. c2lnbmF0dXJl",
}

// authority returns a handler that answers as the authoritative server of the zones whose SOA records are in records. It does
// not follow CNAME records: the resolver does.
func authority(records ...string) upstream.Handler {
	rrs := upstream.RRs(records...)
	return func(w dns.ResponseWriter, r *dns.Msg) {
		q := r.Question[0]
		m := new(dns.Msg).SetReply(r)
		m.Authoritative = true
		m.Rcode = dns.RcodeNameError
		for _, rr := range rrs {
			h := rr.Header()
			if dns.IsSubDomain(q.Name, h.Name) {
				m.Rcode = dns.RcodeSuccess
			}
			sig, signature := rr.(*dns.RRSIG)
			if strings.EqualFold(q.Name, h.Name) &&
				(h.Rrtype == q.Qtype || h.Rrtype == dns.TypeCNAME || signature && sig.TypeCovered == q.Qtype) {
				m.Answer = append(m.Answer, rr)
			}
			if h.Rrtype == dns.TypeSOA && dns.IsSubDomain(h.Name, q.Name) {
				m.Ns = []dns.RR{rr}
			}
		}
		if len(m.Answer) > 0 {
			m.Ns = nil
		}
		w.WriteMsg(m)
	}
}

func TestUnbound(t *testing.T)  { testResolver(t, startUnbound) }
func TestRecursor(t *testing.T) { testResolver(t, startRecursor) }

func testResolver(t *testing.T, start func(t *testing.T, addr string) *process) {
	t.Parallel()
	resolver := start(t, upstream.New(t, authority(internet...)).Addr)
	port := freePort(t)
	server := serve(t, port, block("example.org", port, `
		record @ app.hosting.example
		record v4only v4.hosting.example
		record lost gone.hosting.example
		timeout 2s
		upstream `+resolver.addr, ""))

	soa := []string{"example.org. 300 IN SOA ns1.example.org. hostmaster.example.org. 1 7200 3600 1209600 300"}
	for _, test := range []struct {
		name   string
		qtype  uint16
		answer []string
		ns     []string
	}{
		{"example.org.", dns.TypeA, []string{"example.org. 45 IN A 203.0.113.80", "example.org. 45 IN A 203.0.113.81"}, nil},
		{"example.org.", dns.TypeAAAA, []string{"example.org. 45 IN AAAA 2001:db8:80::80"}, nil},
		{"v4only.example.org.", dns.TypeA, []string{"v4only.example.org. 300 IN A 203.0.113.4"}, nil},
		{"v4only.example.org.", dns.TypeAAAA, nil, soa},
		{"lost.example.org.", dns.TypeA, nil, soa},
		{"lost.example.org.", dns.TypeAAAA, nil, soa},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(test.name+dns.TypeToString[test.qtype]+"/"+network, func(t *testing.T) {
				m := query(t, server.addr, network, test.name, test.qtype)
				if m.Rcode != dns.RcodeSuccess || !m.Authoritative {
					t.Errorf("Got %s, AA %t", dns.RcodeToString[m.Rcode], m.Authoritative)
				}
				checkRecords(t, m.Answer, test.answer...)
				checkRecords(t, m.Ns, test.ns...)
			})
		}
	}
}

// The resolver is stopped: it has its port, and does not answer. Clients get stale answers, and only the first query after
// the TTL has run out may wait.
func TestFrozenResolver(t *testing.T) {
	resolver := startUnbound(t, upstream.New(t, authority(
		"hosting.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
		"app.hosting.example. 1 IN A 203.0.113.80",
		"app.hosting.example. 1 IN AAAA 2001:db8:80::80",
	)).Addr)
	port := freePort(t)
	server := serve(t, port, block("example.org", port, `
		record @ app.hosting.example
		min_ttl 1s
		timeout 500ms
		upstream `+resolver.addr, ""))

	for _, s := range barrage(t, server.addr, "example.org.", time.Second) {
		if !s.fresh() {
			t.Fatalf("Not a fresh answer before the resolver is stopped:\n%v", s.m)
		}
	}
	time.Sleep(1100 * time.Millisecond) // the TTL runs out
	resolver.signal(t, syscall.SIGSTOP)
	t.Cleanup(func() { resolver.Process.Signal(syscall.SIGCONT) })

	frozen := barrage(t, server.addr, "example.org.", 15*time.Second)
	t.Logf("Frozen: %d queries, the slowest took %v", len(frozen), slowest(frozen, 6))
	checkFrozen(t, frozen)

	resolver.signal(t, syscall.SIGCONT)
	thawed := time.Now()
	back := make(map[uint16]time.Duration)
	var recovery []shot
	for len(back) < 2 {
		// The first lookup failed, and so did the second, 5 s later. The third is 10 s after that.
		if time.Since(thawed) > 20*time.Second {
			t.Fatalf("No fresh answers %s after the resolver works again", time.Since(thawed))
		}
		shots := barrage(t, server.addr, "example.org.", time.Second)
		recovery = append(recovery, shots...)
		for _, s := range shots {
			if _, known := back[s.qtype]; !known && s.fresh() {
				back[s.qtype] = s.asked.Add(s.took).Sub(thawed)
			}
		}
	}
	t.Logf("Thawed: fresh A after %s and AAAA after %s; of %d queries the slowest took %v",
		back[dns.TypeA], back[dns.TypeAAAA], len(recovery), slowest(recovery, 6))
}

// checkFrozen checks that all answers are stale, and that at most one client for each type has waited.
func checkFrozen(t *testing.T, shots []shot) {
	t.Helper()
	waited := make(map[uint16]int)
	for _, s := range shots {
		if !s.stale() {
			t.Fatalf("Not a stale answer:\n%v", s.m)
		}
		if s.took > 250*time.Millisecond {
			waited[s.qtype]++
		}
		if s.took > 700*time.Millisecond {
			t.Errorf("A query took %s", s.took)
		}
	}
	for qtype, n := range waited {
		if n > 1 {
			t.Errorf("%d queries for %s took more than 250 ms", n, dns.TypeToString[qtype])
		}
	}
}

// A response over TLS is used only if the system trusts the certificate, and it is for the right name.
func TestDoT(t *testing.T) { testEncrypted(t, "tls://", startDoT) }
func TestDoH(t *testing.T) { testEncrypted(t, "https://", startDoH) }
func TestDoQ(t *testing.T) { testEncrypted(t, "quic://", startDoQ) }

func testEncrypted(t *testing.T, scheme string, start func(t *testing.T, h upstream.Handler) (addr string, cert []byte)) {
	t.Parallel()
	addr, cert := start(t, upstream.Zone("app.hosting.example. 60 IN A 203.0.113.80"))
	trusted := trusting(t, cert)
	addresses := []string{"example.org. 60 IN A 203.0.113.80"}
	for _, test := range []struct {
		name, servername string
		env              []string
		answer           []string
	}{
		{"trusted", "example.com", trusted, addresses},
		{"wrong name", "example.net", trusted, nil},
		{"distrusted", "example.com", nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			port := freePort(t)
			server := serveEnv(t, port, test.env, block("example.org", port, fmt.Sprintf(`
				record @ app.hosting.example
				timeout 2s
				retries 0
				tls_servername %s
				upstream %s%s`, test.servername, scheme, addr), ""))
			for _, network := range []string{"udp", "tcp"} {
				checkRecords(t, query(t, server.addr, network, "example.org.", dns.TypeA).Answer, test.answer...)
			}
		})
	}
}

// trusting returns the environment in which a server trusts cert.
func trusting(t *testing.T, cert []byte) []string {
	t.Helper()
	roots := filepath.Join(t.TempDir(), "roots.pem")
	write(t, roots, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	return []string{"SSL_CERT_FILE=" + roots}
}

// startDoT starts a server of DNS over TLS with a certificate for example.com.
func startDoT(t *testing.T, h upstream.Handler) (addr string, cert []byte) {
	t.Helper()
	return startDoTOn(t, h, func(l net.Listener) net.Listener { return l })
}

// startDoTOn is startDoT with connections from the listener that wrap returns.
func startDoTOn(t *testing.T, h upstream.Handler, wrap func(net.Listener) net.Listener) (addr string, cert []byte) {
	t.Helper()
	https := httptest.NewTLSServer(nil) // has a certificate
	defer https.Close()
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: https.TLS.Certificates})
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan struct{})
	s := &dns.Server{Listener: wrap(l), Handler: h, NotifyStartedFunc: func() { close(started) }}
	go s.ActivateAndServe()
	<-started
	t.Cleanup(func() { s.Shutdown() })
	return l.Addr().String(), https.Certificate().Raw
}

// startDoH starts a server of DNS over HTTPS (RFC 8484) with a certificate for example.com.
func startDoH(t *testing.T, h upstream.Handler) (addr string, cert []byte) {
	t.Helper()
	behind := upstream.New(t, h)
	https := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		m, err := doh.RequestToMsg(r)
		if err == nil {
			m, err = dns.Exchange(m, behind.Addr)
		}
		var wire []byte
		if err == nil {
			wire, err = m.Pack()
		}
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		w.Header().Set("Content-Type", doh.MimeType)
		w.Write(wire)
	}))
	https.EnableHTTP2 = true
	https.StartTLS()
	t.Cleanup(https.Close)
	return https.Listener.Addr().String(), https.Certificate().Raw
}

// startDoQ starts CoreDNS as a server of DNS over QUIC (RFC 9250), with a certificate for example.com.
func startDoQ(t *testing.T, h upstream.Handler) (addr string, cert []byte) {
	t.Helper()
	https := httptest.NewTLSServer(nil) // has a certificate
	defer https.Close()
	key, err := x509.MarshalPKCS8PrivateKey(https.TLS.Certificates[0].PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert = https.Certificate().Raw
	dir, port, plain := t.TempDir(), freePort(t), freePort(t)
	write(t, filepath.Join(dir, "cert.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert})))
	write(t, filepath.Join(dir, "key.pem"), string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})))
	behind := upstream.New(t, h)
	write(t, filepath.Join(dir, "Corefile"), fmt.Sprintf(`
		quic://.:%s .:%s {
			bind 127.0.0.1
			tls cert.pem key.pem
			forward . %s
		}`, port, plain, behind.Addr))
	startServer(t, plain, dir, "Corefile")
	return local(port), cert
}
