package test

import (
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// writtenAfter is how long an answer may be in the cache before it is in the file.
const writtenAfter = time.Second

// stop ends p with SIGTERM, so that p can write its answers.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	<-p.done
}

// question is a name and a type.
type question struct {
	name  string
	qtype uint16
}

func (q question) String() string { return q.name + " " + dns.TypeToString[q.qtype] }

// questions returns the questions for A and AAAA of names.
func questions(names ...string) []question {
	var qs []question
	for _, name := range names {
		for _, qtype := range families {
			qs = append(qs, question{name, qtype})
		}
	}
	return qs
}

// numbered returns the address that stands for a number.
func numbered(n int, qtype uint16) string {
	a, b, c := byte(n>>16), byte(n>>8), byte(n)
	if qtype == dns.TypeA {
		return netip.AddrFrom4([4]byte{10, a, b, c}).String()
	}
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 13: a, 14: b, 15: c}).String()
}

// number returns the number that the address in m stands for. The answer must be one address and nothing else.
func number(m *dns.Msg) (n int, ok bool) {
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
		return 0, false
	}
	var ip []byte
	switch rr := m.Answer[0].(type) {
	case *dns.A:
		ip = rr.A.To4()
	case *dns.AAAA:
		ip = rr.AAAA
	default:
		return 0, false
	}
	last := ip[len(ip)-3:]
	return int(last[0])<<16 | int(last[1])<<8 | int(last[2]), true
}

// follow has a client send qs as queries, over and over, until stop is called. It calls see with each response, or the error.
func follow(addr string, qs []question, see func(q question, m *dns.Msg, err error)) (stop func()) {
	end := make(chan struct{})
	var client sync.WaitGroup
	client.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			case <-time.After(5 * time.Millisecond):
			}
			q := qs[i%len(qs)]
			m, err := ask(addr, "udp", q.name, q.qtype)
			see(q, m, err)
		}
	})
	return func() {
		close(end)
		client.Wait()
	}
}

// checkNoWarnings checks that the log has no warnings and errors but those about targets.
func checkNoWarnings(t *testing.T, server *process) {
	t.Helper()
	for line := range strings.Lines(server.log(t)) {
		warning := strings.Contains(line, "[WARNING]") || strings.Contains(line, "[ERROR]")
		if warning && !strings.Contains(line, "plugin/alias: Target ") && !strings.Contains(line, "more messages about targets were suppressed") {
			t.Errorf("The log has: %s", line)
		}
	}
}

// hosted returns a handler for targets below hosting.example: the TTL of long outlasts any test, that of short is a second,
// and gone does not exist.
func hosted(n int) upstream.Handler {
	return upstream.Zone(
		"hosting.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 300",
		"long.hosting.example. 600 IN A "+numbered(n, dns.TypeA),
		"long.hosting.example. 600 IN AAAA "+numbered(n, dns.TypeAAAA),
		"short.hosting.example. 1 IN A "+numbered(n, dns.TypeA),
		"short.hosting.example. 1 IN AAAA "+numbered(n, dns.TypeAAAA))
}

// hostedRecords are the records for these targets, and properties with which lookups fail quickly.
const hostedRecords = `
	record long long.hosting.example
	record short short.hosting.example
	record gone gone.hosting.example
	min_ttl 1s
	timeout 1s
	retries 0
	`

// checkFresh checks that the answers for owner have this number and are fresh.
func checkFresh(t *testing.T, server *process, owner string, want int) {
	t.Helper()
	checkNumber(t, server, owner, want, -1)
}

// checkStale checks that the answers for owner have this number and are stale.
func checkStale(t *testing.T, server *process, owner string, want int) {
	t.Helper()
	checkNumber(t, server, owner, want, int(dns.ExtendedErrorCodeStaleAnswer))
}

func checkNumber(t *testing.T, server *process, owner string, want, code int) {
	t.Helper()
	for _, q := range questions(owner) {
		m := query(t, server.addr, "udp", q.name, q.qtype)
		n, ok := number(m)
		if !ok || n != want || extendedError(m) != code || (m.Answer[0].Header().Ttl == 30) != (code != -1) {
			t.Errorf("%s: want the number %d and the extended error %d, got\n%v", q, want, code, m)
		}
	}
}

// awaitNumber waits until the answers for owner have this number.
func awaitNumber(t *testing.T, server *process, owner string, want int) {
	t.Helper()
	for _, q := range questions(owner) {
		eventually(t, 15*time.Second, fmt.Sprintf("%s has the number %d", q, want), func() bool {
			n, ok := number(query(t, server.addr, "udp", q.name, q.qtype))
			return ok && n == want
		})
	}
}

// checkUnasked checks that the upstream gets no query for target while f runs.
func checkUnasked(t *testing.T, up *upstream.Server, target string, f func()) {
	t.Helper()
	asked := func() int { return up.Asked(target, dns.TypeA) + up.Asked(target, dns.TypeAAAA) }
	before := asked()
	f()
	if n := asked() - before; n > 0 {
		t.Errorf("The upstream got %d queries for %s", n, target)
	}
}

// A server that ends with SIGTERM writes its answers. The next one has them, with what is left of their TTLs.
func TestRestart(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosted(1))
	port := freePort(t)
	server := serve(t, port, block("example.org", port, hostedRecords+"persist answers\nupstream "+up.Addr, ""))
	awaitNumber(t, server, "long.example.org.", 1)
	awaitNumber(t, server, "short.example.org.", 1)
	query(t, server.addr, "udp", "gone.example.org.", dns.TypeA)
	query(t, server.addr, "udp", "gone.example.org.", dns.TypeAAAA)
	time.Sleep(1100 * time.Millisecond) // the short TTL runs out
	up.Set(hosted(2))
	awaitNumber(t, server, "short.example.org.", 2)
	server.stop(t)
	up.Set(nil)
	ended := time.Now()

	server = server.restart(t)
	checkUnasked(t, up, "long.hosting.example.", func() {
		checkFresh(t, server, "long.example.org.", 1)
		if ttl := query(t, server.addr, "udp", "long.example.org.", dns.TypeA).Answer[0].Header().Ttl; ttl >= 600 || ttl < 580 {
			t.Errorf("The TTL is %d after the restart", ttl)
		}
	})
	checkUnasked(t, up, "gone.hosting.example.", func() {
		if m := query(t, server.addr, "udp", "gone.example.org.", dns.TypeA); extendedError(m) != -1 || len(m.Ns) != 1 {
			t.Errorf("Not a negative answer:\n%v", m)
		}
	})
	time.Sleep(time.Until(ended.Add(1100 * time.Millisecond)))
	checkStale(t, server, "short.example.org.", 2)
	checkNoWarnings(t, server)

	up.Set(hosted(3))
	awaitNumber(t, server, "short.example.org.", 3)
	checkFresh(t, server, "long.example.org.", 1)
}

// Server blocks with the same upstreams share the answers in a file. Those with other upstreams do not, though they look up
// the same names.
func TestSharedFile(t *testing.T) {
	t.Parallel()
	one, two := upstream.New(t, hosted(1)), upstream.New(t, hosted(2))
	silent := upstream.New(t, nil)
	port := freePort(t)
	properties := func(addr string) string { return hostedRecords + "persist answers\nupstream " + addr }
	server := serve(t, port,
		block("example.org", port, properties(one.Addr), ""),
		block("example.net", port, "record other short.hosting.example\nmin_ttl 1s\npersist ./answers\nupstream "+one.Addr, ""),
		block("example.com", port, properties(two.Addr), ""),
		block("example.edu", port, properties(silent.Addr), ""))
	check := func(want func(t *testing.T, server *process, owner string, want int)) {
		t.Helper()
		want(t, server, "short.example.org.", 1)
		want(t, server, "other.example.net.", 1)
		want(t, server, "short.example.com.", 2)
		for _, q := range questions("short.example.edu.", "long.example.edu.") {
			if m := query(t, server.addr, "udp", q.name, q.qtype); len(m.Answer) > 0 {
				t.Errorf("A block whose resolver has never answered has an address:\n%v", m)
			}
		}
	}
	check(awaitNumber)
	awaitNumber(t, server, "long.example.org.", 1)
	awaitNumber(t, server, "long.example.com.", 2)
	one.Set(nil)
	two.Set(nil)
	for _, end := range []func(*process, *testing.T){(*process).stop, (*process).kill} {
		time.Sleep(writtenAfter + 2*hiccup)
		end(server, t)
		server = server.restart(t)
		check(checkStale)
		checkFresh(t, server, "long.example.org.", 1)
		checkFresh(t, server, "long.example.com.", 2)
		checkNoWarnings(t, server)
	}
}

// A server with answers for all its records in the file is ready, also if the upstream does not answer.
func TestReadyAfterRestart(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosted(1))
	port, page := freePort(t), local(freePort(t))
	server := serve(t, port, block("example.org", port, "record short short.hosting.example\nmin_ttl 1s\ntimeout 5s\npersist answers\nupstream "+up.Addr,
		"ready "+page))
	awaitNumber(t, server, "short.example.org.", 1)
	server.stop(t)
	up.Set(nil)
	time.Sleep(1100 * time.Millisecond) // the TTL runs out

	server.restart(t)
	eventually(t, 3*time.Second, "the server is ready, sooner than a lookup can fail", func() bool {
		code, _ := get(t, "http://"+page+"/ready")
		return code == http.StatusOK
	})
}
