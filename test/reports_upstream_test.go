package test

import (
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// before returns a handler that writes these octets, which noise makes of the query, and then answers with h.
func before(noise func(r *dns.Msg) []byte, h upstream.Handler) upstream.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if !upstream.IsTCP(w) {
			w.Write(noise(r))
		}
		h(w, r)
	}
}

// packed returns the octets of a response to r that change has changed.
func packed(r *dns.Msg, change func(m *dns.Msg)) []byte {
	m := new(dns.Msg).SetReply(r)
	change(m)
	wire, err := m.Pack()
	if err != nil {
		panic(err)
	}
	return wire
}

// Responses of resolvers that other programs have failed with, or have cached for too long. See reports_test.go.
func TestReportedResponses(t *testing.T) {
	t.Parallel()
	soa := "hosting.example. 30 IN SOA ns1 hostmaster 1 7200 3600 1209600 30"
	good := upstream.Zone("app.hosting.example. 60 IN A 203.0.113.80", soa)
	stale := func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		m.Answer = upstream.RRs("app.hosting.example. 0 IN A 203.0.113.80")
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = append(m.IsEdns0().Option, &dns.EDNS0_EDE{InfoCode: dns.ExtendedErrorCodeStaleAnswer})
		w.WriteMsg(m)
	}
	var asked atomic.Int32
	late := func(w dns.ResponseWriter, r *dns.Msg) { // the end of the chain resolves only with a query of its own
		if asked.Add(1); strings.HasPrefix(r.Question[0].Name, "app.") {
			upstream.Answer("app.hosting.example. 60 IN CNAME edge.cdn.example.")(w, r)
			return
		}
		upstream.Answer("edge.cdn.example. 60 IN A 203.0.113.80")(w, r)
	}
	nosuchEnd := func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetRcode(r, dns.RcodeNameError)
		m.Answer = upstream.RRs("app.hosting.example. 60 IN CNAME edge.hosting.example.")
		m.Ns = upstream.RRs(soa)
		w.WriteMsg(m)
	}
	untruncated := func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		for i := range 100 {
			m.Answer = append(m.Answer, upstream.RRs(fmt.Sprintf("app.hosting.example. 60 IN A 203.0.113.%d", i+1))...)
		}
		m.SetEdns0(4096, false)
		w.WriteMsg(m)
	}
	var hundred []string
	for i := range 100 {
		hundred = append(hundred, fmt.Sprintf("example.org. 60 IN A 203.0.113.%d", i+1))
	}
	app := []string{"example.org. 60 IN A 203.0.113.80"}
	for _, test := range []struct {
		name   string
		h      upstream.Handler
		answer []string
		failed bool
	}{
		{"three octets first", before(func(*dns.Msg) []byte { return []byte{1, 2, 3} }, good), app, false},
		{"another ID, cut off, first", before(func(r *dns.Msg) []byte {
			wire := packed(r, func(m *dns.Msg) { m.Id++ })
			return wire[:len(wire)-3]
		}, good), app, false},
		{"another class", upstream.Raw(func(r *dns.Msg) []byte {
			return packed(r, func(m *dns.Msg) {
				m.Question[0].Qclass = dns.ClassCHAOS
				m.Answer = upstream.RRs("app.hosting.example. 60 CH A 203.0.113.66", "app.hosting.example. 60 IN A 203.0.113.66")
			})
		}), nil, true},
		{"a chain without its end", late, app, false},
		{"a chain to a name that does not exist", nosuchEnd, nil, false},
		{"NODATA without SOA", upstream.Answer(), nil, false},
		{"100 addresses over UDP, not truncated", untruncated, hundred, false},
		{"a stale answer with TTL 0", stale, []string{"example.org. 5 IN A 203.0.113.80"}, false},
		{"TTL with the first bit set", upstream.Answer("app.hosting.example. 2147483648 IN A 203.0.113.80"),
			[]string{"example.org. 5 IN A 203.0.113.80"}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n", "upstream "+upstream.New(t, test.h).Addr, fromFile)
			m := query(t, server.addr, "tcp", "example.org.", dns.TypeA)
			checkRecords(t, m.Answer, test.answer...)
			if m.Rcode != dns.RcodeSuccess || len(test.answer) == 0 && !isSOA(m.Ns) {
				t.Errorf("Got %v", m)
			}
			if got := extendedError(m); (got != -1) != test.failed {
				t.Errorf("The response has EDE %d", got)
			}
		})
	}
}

// A target without addresses of a family is looked up once, and not for each query.
func TestReportedNegative(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, reported)
	server := serveZone(t, zoneFile+"@ IN ALIAS v4.hosting.example.\n", "upstream "+up.Addr, fromFile)
	for range 5 {
		if m := query(t, server.addr, "udp", "example.org.", dns.TypeAAAA); m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || !isSOA(m.Ns) {
			t.Errorf("Got %v", m)
		}
	}
	if n := up.Asked("v4.hosting.example.", dns.TypeAAAA); n != 1 {
		t.Errorf("%d lookups, want one", n)
	}
}

// An upstream to which there is no connection costs one request for each attempt, and does not keep the client waiting.
func TestReportedNoConnection(t *testing.T) {
	t.Parallel()
	port, page := freePort(t), local(freePort(t))
	closed := local(freePort(t))
	server := serve(t, port, block("example.org", port, "retries 2\nupstream "+closed, "prometheus "+page),
		block("example.net", port, "record @ app.hosting.example\nretries 2\ntimeout 5s\nupstream "+closed, ""))
	began := time.Now()
	m := query(t, server.addr, "udp", "example.net.", dns.TypeA)
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("The response took %s", took)
	}
	if got := extendedError(m); got != int(dns.ExtendedErrorCodeNetworkError) {
		t.Errorf("EDE %d, want %d", got, dns.ExtendedErrorCodeNetworkError)
	}
	_, metrics := get(t, "http://"+page+"/metrics")
	want := fmt.Sprintf(`coredns_alias_upstream_requests_total{outcome="network",to=%q} `, closed)
	for l := range strings.Lines(metrics) {
		if n, ok := strings.CutPrefix(l, want); ok && n != "6\n" { // A and AAAA
			t.Errorf("%s requests, want 6", strings.TrimSpace(n))
		}
	}
	if !strings.Contains(metrics, want) {
		t.Errorf("The metrics do not have %q", want)
	}
}

// The process ends when SIGTERM comes during a reload, and lookups are in flight.
func TestReportedStopInReload(t *testing.T) {
	t.Parallel()
	port := freePort(t)
	up := upstream.New(t, nil)
	corefile := block("example.org", port, "record @ app.hosting.example\ntimeout 1s\nupstream "+up.Addr, "")
	server := serve(t, port, corefile)
	for i := range 20 {
		go ask(server.addr, "udp", fmt.Sprintf("n%d.example.org.", i), dns.TypeA)
		go ask(server.addr, "udp", "example.org.", dns.TypeAAAA)
	}
	eventually(t, 5*time.Second, "a lookup is in flight", func() bool { return up.AskedAll() > 0 })
	server.configure(t, corefile+"# changed\n", syscall.SIGUSR1)
	began := time.Now()
	server.signal(t, syscall.SIGTERM)
	<-server.done
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("The end took %s", took)
	}
}

// reportedRecords are properties with two records.
const reportedRecords = "record rec app.hosting.example\nrecord gone gone.hosting.example\nupstream "

// Other plugins in the server block that have failed, or have let answers through. See reports_test.go.
func TestReportedPlugins(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, reported)
	app, gone := addresses("rec.example.org. 60 IN A 203.0.113.80"), nodata
	refused := reply{rcode: dns.RcodeRefused}
	for _, test := range []struct {
		name, plugins string
		view          string // of a server block for the same zone, or ""
		want          map[string]reply
	}{
		{"an EDNS option that rewrite sets and reverts", "rewrite edns0 local set 0xffee abcd revert", "", map[string]reply{
			"rec.example.org. A": app, "gone.example.org. A": gone, "nothing.example.org. A": nxdomain}},
		{"names that rewrite changes", "rewrite name exact old.example.org rec.example.org\nrewrite name exact away.example.org gone.example.org", "",
			map[string]reply{"old.example.org. A": addresses("old.example.org. 60 IN A 203.0.113.80"), "away.example.org. A": gone}},
		{"rewrite of a response code", "rewrite rcode exact example.org NXDOMAIN NOERROR", "", map[string]reply{"rec.example.org. A": app}},
		{"acl before cache", "acl {\nblock type AAAA net 127.0.0.1/32\n}\ncache", "", map[string]reply{
			"rec.example.org. A": app, "rec.example.org. AAAA": refused}},
		{"several sockets", "multisocket 3", "", map[string]reply{"rec.example.org. A": app, "gone.example.org. A": gone}},
		{"two views of a zone", "", "view one {\nexpr name() == 'rec.example.org.' && type() == 'A'\n}", map[string]reply{
			"rec.example.org. A":    addresses("rec.example.org. 60 IN A 203.0.113.4"),
			"rec.example.org. AAAA": addresses("rec.example.org. 60 IN AAAA 2001:db8:80::80")}},
		{"template without AAAA", "template IN AAAA example.org {\nmatch ^rec\\.example\\.org\\.$\nrcode NOERROR\nauthority \"example.org. 60 IN SOA ns1.example.org. h.example.org. 1 2 3 4 60\"\n}", "",
			map[string]reply{"rec.example.org. A": app, "rec.example.org. AAAA": nodata}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			var blocks []string
			if test.view != "" {
				blocks = append(blocks, block("example.org", port, "record rec v4.hosting.example\nupstream "+up.Addr, test.view))
			}
			blocks = append(blocks, block("example.org", port, reportedRecords+up.Addr, test.plugins))
			checkReplies(t, serve(t, port, blocks...), test.want)
		})
	}
}

// With fallthrough, names that the zone of file does not have go to the next plugin, and names of aliases do not.
func TestReportedFallthrough(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, upstream.Zone("app.hosting.example. 60 IN A 203.0.113.80", "other.example.org. 60 IN A 203.0.113.9",
		"b.rec.example.org. 60 IN A 203.0.113.10"))
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n", "record a.b.rec app.hosting.example\nupstream "+up.Addr,
		"file db.example.org {\nfallthrough\n}\nforward . "+up.Addr)
	checkReplies(t, server, map[string]reply{
		"example.org. A":         addresses("example.org. 60 IN A 203.0.113.80"),
		"a.b.rec.example.org. A": addresses("a.b.rec.example.org. 60 IN A 203.0.113.80"),
		"other.example.org. A":   addresses("other.example.org. 60 IN A 203.0.113.9"),
		"b.rec.example.org. A":   addresses("b.rec.example.org. 60 IN A 203.0.113.10"),
		"own.example.org. A":     addresses("own.example.org. 300 IN A 192.0.2.80"),
	})
}

// A client that does not ask for recursion, as a resolver does, gets the addresses; a query of another class gets none. The
// subnet of a client does not get to the upstream.
func TestReportedQueries(t *testing.T) {
	t.Parallel()
	var options atomic.Int32
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if opt := r.IsEdns0(); opt != nil && r.Question[0].Name != "." {
			options.Add(int32(len(opt.Option)))
		}
		reported(w, r)
	})
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n", "upstream "+up.Addr, fromFile)
	r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	r.RecursionDesired = false
	r.SetEdns0(1232, false)
	r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{
		Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(198, 51, 100, 0),
	}}
	m, err := dns.Exchange(r, server.addr)
	check(t, err)
	checkRecords(t, m.Answer, "example.org. 60 IN A 203.0.113.80")
	if !m.Authoritative || m.RecursionAvailable {
		t.Errorf("AA %t, RA %t", m.Authoritative, m.RecursionAvailable)
	}
	if n := options.Load(); n != 0 {
		t.Errorf("The upstream got %d EDNS options", n)
	}
	for _, class := range []uint16{dns.ClassCHAOS, dns.ClassHESIOD, dns.ClassNONE, dns.ClassANY} {
		r.Question[0].Qclass = class
		if m, err = dns.Exchange(r, server.addr); err != nil || len(m.Answer) > 0 || m.Rcode != dns.RcodeRefused {
			t.Errorf("Class %s: %v, %v", dns.Class(class), m, err)
		}
	}
}

// An alias whose target is in another zone of the server block is signed by the zone of the alias.
func TestReportedSigner(t *testing.T) {
	t.Parallel()
	port, dir := freePort(t), t.TempDir()
	write(t, filepath.Join(dir, "org"), zoneFile+"@ IN ALIAS www.example.net.\nwww IN CNAME www.example.net.\n")
	write(t, filepath.Join(dir, "net"), zoneFile+"www IN A 192.0.2.90\n")
	newKey(t, "example.org.", filepath.Join(dir, "korg"))
	newKey(t, "example.net.", filepath.Join(dir, "knet"))
	write(t, filepath.Join(dir, "Corefile"), fmt.Sprintf(`example.org:%s example.net:%[1]s {
		bind 127.0.0.1
		alias
		dnssec {
			key file korg knet
		}
		file org example.org
		file net example.net
	}`, port))
	server := startServer(t, port, dir, "Corefile")
	for name, want := range map[string]string{
		"example.org.":     "example.org. by example.org.",
		"www.example.org.": "www.example.net. by example.net., www.example.org. by example.org.",
	} {
		var got []string
		for _, rr := range query(t, server.addr, "tcp", name, dns.TypeA).Answer {
			if sig, ok := rr.(*dns.RRSIG); ok {
				got = append(got, sig.Hdr.Name+" by "+sig.SignerName)
			}
		}
		slices.Sort(got)
		got = slices.Compact(got) // there is one of each key
		if got := strings.Join(got, ", "); got != want {
			t.Errorf("%s: got signatures of %s, want %s", name, got, want)
		}
	}
}

// NOTIFY goes to a target with a zone, which addresses of a link need.
func TestReportedScopedSecondary(t *testing.T) {
	t.Parallel()
	var notified atomic.Int32
	conn, err := net.ListenPacket("udp", "[::1%lo]:0")
	if err != nil {
		lack(t, "no IPv6 on this machine: %v", err)
	}
	started := make(chan struct{})
	s := &dns.Server{PacketConn: conn, NotifyStartedFunc: func() { close(started) }, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		notified.Add(1)
		w.WriteMsg(new(dns.Msg).SetReply(r))
	})}
	go s.ActivateAndServe()
	<-started
	t.Cleanup(func() { s.Shutdown() })
	_, at, err := net.SplitHostPort(conn.LocalAddr().String())
	check(t, err)
	dir, port := t.TempDir(), freePort(t)
	write(t, filepath.Join(dir, "zone"), zoneFile+"@ IN ALIAS app.hosting.example.\n")
	write(t, filepath.Join(dir, "Corefile"), block("example.org", port, "upstream "+upstream.New(t, reported).Addr,
		"transfer {\nto [::1%lo]:"+at+"\n}"))
	startServer(t, port, dir, "Corefile")
	eventually(t, 10*time.Second, "the secondary is notified", func() bool { return notified.Load() > 1 })
}
