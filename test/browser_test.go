package test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// webAddress is the address of the target's web server, which serves at another port than 443.
const webAddress = "127.0.0.80"

// Firefox, with its default settings for HTTPS records, takes the port of the web server from the HTTPS record that https
// copy gives the owner. Without https, it reaches the same web server only if the URL has the port.
//
// It does not run beside other tests: it takes both cores from them.
func TestBrowserUsesHTTPSRecords(t *testing.T) {
	firefox, certutil := need(t, "firefox-esr"), need(t, "certutil")
	if conn, err := net.Dial("tcp", net.JoinHostPort(webAddress, "443")); err == nil {
		conn.Close()
		lack(t, "another program serves at %s:443", webAddress)
	}
	ca := newAuthority(t)
	web := startWeb(t, ca)
	_, port, _ := net.SplitHostPort(web)
	resolver := startForBrowser(t, ca, port)

	copied, off := "https://copy.example/", "https://off.example/"
	withPort := "https://off.example:" + port + "/"
	got := browse(t, firefox, newProfile(t, certutil, ca, resolver), copied, off, withPort)
	for url, want := range map[string]string{
		copied:   "HTTP/2.0, Host copy.example, SNI copy.example",
		withPort: "HTTP/2.0, Host off.example:" + port + ", SNI off.example",
	} {
		if got[url] != want {
			t.Errorf("%s: the browser got %q, want %q", url, got[url], want)
		}
	}
	if !strings.Contains(got[off], "NetworkError") {
		t.Errorf("%s: the browser got %q, want a NetworkError", off, got[off])
	}
}

// startForBrowser starts a server that answers over HTTPS for two zones, and returns its URL. Both are aliases of the same
// target, whose web server is at webPort; one has https copy.
func startForBrowser(t *testing.T, ca *certificateAuthority, webPort string) (url string) {
	t.Helper()
	resolver := upstream.New(t, authority(
		"cdn.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 60",
		"web.cdn.example. 300 IN A "+webAddress,
		"web.cdn.example. 300 IN HTTPS 1 . alpn=h2 port="+webPort,
	)).Addr
	dir := t.TempDir()
	cert, key := ca.write(t, dir, "127.0.0.1")
	port, secure := freePort(t), freePort(t)
	var corefile strings.Builder
	for zone, property := range map[string]string{"copy.example": "https copy", "off.example": ""} {
		fmt.Fprintf(&corefile, `%[1]s:%[2]s https://%[1]s:%[3]s {
			bind 127.0.0.1
			tls %[4]s %[5]s
			alias {
				record @ web.cdn.example
				upstream %[6]s
				timeout 4s
				%[7]s
			}
			file zone %[1]s
			errors
		}
		`, zone, port, secure, cert, key, resolver, property)
	}
	write(t, filepath.Join(dir, "zone"), zoneFile)
	write(t, filepath.Join(dir, "Corefile"), corefile.String())
	server := startServer(t, port, dir, "Corefile")
	// Firefox caches failures, so it starts when the server has the answers.
	for zone, https := range map[string][]string{
		"copy.example.": {`copy.example. 300 IN HTTPS 1 . alpn="h2" port="` + webPort + `"`},
		"off.example.":  nil,
	} {
		checkRecords(t, query(t, server.addr, "udp", zone, dns.TypeA).Answer, zone+" 300 IN A "+webAddress)
		checkRecords(t, query(t, server.addr, "udp", zone, dns.TypeHTTPS).Answer, https...)
	}
	return "https://" + local(secure) + "/dns-query"
}

// startWeb starts a web server at webAddress for all names. A page is the protocol and the names of its request.
func startWeb(t *testing.T, ca *certificateAuthority) (addr string) {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(webAddress, "0"))
	check(t, err)
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Access-Control-Allow-Origin", "*")
		w.Header().Set("Cache-Control", "no-store")
		fmt.Fprintf(w, "%s, Host %s, SNI %s", r.Proto, r.Host, r.TLS.ServerName)
	}))
	s.Listener.Close()
	s.Listener, s.EnableHTTP2 = l, true
	// With a certificate of its own for each name, the browser cannot use the connection for one name for another.
	s.TLS = &tls.Config{GetCertificate: func(hello *tls.ClientHelloInfo) (*tls.Certificate, error) { return ca.issue(hello.ServerName) }}
	s.StartTLS()
	t.Cleanup(s.Close)
	return l.Addr().String()
}

// browserPage loads each URL, at most five times, and posts the page of each, or the error.
const browserPage = `<!DOCTYPE html><title>loads</title><script>
const load = async url => {
	let got
	for (let tries = 0; tries < 5; tries++) {
		try { return await (await fetch(url)).text() } catch (e) { got = String(e) }
		await new Promise(later => setTimeout(later, 200))
	}
	return got
}
const run = async urls => {
	const got = {}
	for (const url of urls) got[url] = await load(url)
	await fetch("/", {method: "POST", body: JSON.stringify(got)})
}
run(%s)
</script>`

// browse has Firefox load each URL in turn, and returns the page of each, or the error.
func browse(t *testing.T, firefox, profile string, urls ...string) map[string]string {
	t.Helper()
	list, err := json.Marshal(urls)
	check(t, err)
	posted := make(chan []byte, 1)
	start := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			fmt.Fprintf(w, browserPage, list)
		} else if body, err := io.ReadAll(r.Body); err == nil {
			select {
			case posted <- body:
			default: // has been posted
			}
		}
	}))
	t.Cleanup(start.Close)
	log := startFirefox(t, firefox, profile, start.URL)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var got map[string]string
	select {
	case body := <-posted:
		check(t, json.Unmarshal(body, &got))
	case <-ctx.Done():
		t.Fatalf("The browser did not load all pages in time. It logged\n%s", read(t, log))
	}
	return got
}

// startFirefox starts Firefox without a window, and returns the path of its log. It is killed when the test ends, with its
// child processes.
func startFirefox(t *testing.T, firefox, profile, url string) (log string) {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	check(t, err)
	defer out.Close()
	cmd := exec.Command(firefox, "--headless", "--new-instance", "--profile", profile, url)
	cmd.Env = append(os.Environ(), "HOME="+profile, "MOZ_CRASHREPORTER_DISABLE=1")
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	check(t, cmd.Start())
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		eventually(t, 10*time.Second, "all processes of the browser have ended", func() bool {
			return syscall.Kill(-cmd.Process.Pid, 0) == syscall.ESRCH
		})
	})
	return out.Name()
}

// newProfile returns the directory of a profile of Firefox that resolves all names at the DNS server with that URL, and
// trusts ca. The settings for HTTPS records are the defaults.
func newProfile(t *testing.T, certutil string, ca *certificateAuthority, resolver string) string {
	t.Helper()
	dir := t.TempDir()
	var prefs strings.Builder
	for name, value := range map[string]any{
		"network.trr.mode":          3, // this resolver and no other
		"network.trr.uri":           resolver,
		"network.trr.allow-rfc1918": true, // and loopback addresses
		// Without these two, some queries go to the system's resolver all the same.
		"network.captive-portal-service.enabled": false,
		"network.connectivity-service.enabled":   false,
	} {
		text, err := json.Marshal(value)
		check(t, err)
		fmt.Fprintf(&prefs, "user_pref(%q, %s);\n", name, text)
	}
	write(t, filepath.Join(dir, "user.js"), prefs.String())
	pem := filepath.Join(dir, "ca.pem")
	write(t, pem, string(ca.pem()))
	for _, args := range [][]string{{"-N", "--empty-password"}, {"-A", "-n", "test", "-t", "C,,", "-i", pem}} {
		if out, err := exec.Command(certutil, append(args, "-d", "sql:"+dir)...).CombinedOutput(); err != nil {
			t.Fatalf("certutil %s: %v\n%s", args, err, out)
		}
	}
	return dir
}

// certificateAuthority issues certificates for names and addresses, all with one key.
type certificateAuthority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *certificateAuthority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &certificateAuthority{cert, key}
}

// issue returns a certificate for a name or an IP address. It may be called concurrently.
func (ca *certificateAuthority) issue(host string) (*tls.Certificate, error) {
	serial, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: host}, NotBefore: ca.cert.NotBefore, NotAfter: ca.cert.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, ca.key.Public(), ca.key)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: ca.key}, nil
}

// pem returns the certificate of ca itself.
func (ca *certificateAuthority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.cert.Raw})
}

// write writes a certificate for host and its key into dir, and returns their paths.
func (ca *certificateAuthority) write(t *testing.T, dir, host string) (cert, key string) {
	t.Helper()
	c, err := ca.issue(host)
	check(t, err)
	der, err := x509.MarshalPKCS8PrivateKey(ca.key)
	check(t, err)
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	write(t, cert, string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]})))
	write(t, key, string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})))
	return cert, key
}
