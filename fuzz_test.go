package alias

import (
	"bytes"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// Whatever is in the block, it is taken and makes sense, or refused with file and line.
func FuzzCorefile(f *testing.F) {
	for _, seed := range []string{
		"record @ target.example\nrecord www target.example. 60\nrecord * a.b.c 1h\nupstream 192.0.2.1 tls://192.0.2.2%dns.example",
		"timeout 250ms\nretries 0\nmin_ttl 30\nmax_ttl 1h30m\nstale 0\nstale_ttl 10s\nupstream [::1]:53",
		"on_failure servfail\ncache_size 7\nmax_concurrent 9\ntls_servername resolver.example\nupstream https://192.0.2.5 quic://192.0.2.6",
		"record example.org. \"target.example\"\nrecord *.x.example.net y.example.org 0",
		"record @ \\.\nrecord \"\" a\nrecord . .\nrecord *. *.",
		"upstream 192.0.2.1:99999\nupstream %\nupstream []:53",
		"min_ttl 1h\nmax_ttl 1s",
		"persist alias.db\nflatten apex\ntxt\ntarget_from a/b\ntransfer_on_failure omit",
	} {
		f.Add("example.org example.net", seed)
		f.Add("example.org", seed)
		f.Add(".", seed)
	}
	f.Fuzz(func(t *testing.T, zones, properties string) {
		if strings.Contains(properties, "/") && !strings.Contains(properties, "://") {
			t.Skip("would read files")
		}
		cfg, err := parseBlock(strings.ReplaceAll(zones, "\n", " "), properties)
		if err != nil {
			if !strings.Contains(err.Error(), "Testfile:") {
				t.Errorf("error without file and line: %v", err)
			}
			return
		}
		if cfg == nil {
			t.Skip("no directive")
		}
		for owner, r := range cfg.records.all() {
			if !dns.IsFqdn(owner) || !dns.IsSubDomain(r.zone, owner) || owner == r.target {
				t.Errorf("owner %q in zone %q, target %q", owner, r.zone, r.target)
			}
			if found, _ := cfg.records.find(owner); found != r {
				t.Errorf("the record of %q is not found", owner)
			}
			for _, name := range []string{owner, r.target} {
				if _, err := dns.PackDomainName(name, make([]byte, 255), 0, nil, false); err != nil {
					t.Errorf("%q: %v", name, err)
				}
			}
		}
		if l := cfg.lifetime; l.min < 1 || l.min > l.max || l.max > math.MaxInt32 || len(cfg.resolvers) == 0 {
			t.Errorf("lifetime %+v, %d resolvers", l, len(cfg.resolvers))
		}
	})
}

// Whatever an upstream sends, it is refused or comes to addresses that it has at the end of the chain.
func FuzzResponse(f *testing.F) {
	q := question{"target.example.", dns.TypeA}
	seed := func(rcode int, answer, ns []string) {
		m := new(dns.Msg).SetQuestion(q.name, q.qtype)
		m.Response, m.Rcode, m.Compress = true, rcode, true
		m.Answer, m.Ns = fake.RRs(answer...), fake.RRs(ns...)
		m.SetEdns0(udpSize, false)
		b, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
		f.Add(b[:len(b)*2/3])
	}
	soa := []string{"example. 300 IN SOA ns.example. h.example. 1 2 3 4 60"}
	seed(dns.RcodeSuccess, []string{"target.example. 300 IN A 192.0.2.1", "target.example. 300 IN A 192.0.2.1"}, nil)
	seed(dns.RcodeSuccess, links(4), nil)
	seed(dns.RcodeSuccess, links(17), nil)
	seed(dns.RcodeSuccess, []string{"target.example. 300 IN CNAME b.example.", "b.example. 300 IN CNAME target.example."}, nil)
	seed(dns.RcodeSuccess, nil, soa)
	seed(dns.RcodeSuccess, nil, []string{"example. 300 IN NS ns.example."})
	seed(dns.RcodeNameError, []string{"target.example. 300 IN CNAME b.example."}, soa)
	seed(dns.RcodeServerFailure, nil, nil)
	f.Fuzz(func(t *testing.T, packet []byte) {
		m := new(dns.Msg)
		if m.Unpack(packet) != nil || check(m, q) != nil {
			return
		}
		c := newChain(q.name)
		o, done, err := c.read(m, q.qtype)
		label(m, o, done, err)
		switch {
		case err != nil:
			return
		case !done:
			if c.end() == q.name || len(o.addrs) > 0 {
				t.Errorf("not done at %s with %d addresses", c.end(), len(o.addrs)/4)
			}
			return
		case o.ttl > math.MaxInt32, len(c.names) > maxLinks+1:
			t.Errorf("TTL %d, %d names", o.ttl, len(c.names))
		}
		var seen []netip.Addr
		for ip := range slices.Chunk(o.addrs, 4) {
			addr, ok := netip.AddrFromSlice(ip)
			if !ok || slices.Contains(seen, addr) || !hasAddress(m, c.end(), ip) {
				t.Errorf("address %v of %s is not in %v", addr, c.end(), m)
			}
			seen = append(seen, addr)
		}
		answer := &dns.Msg{Answer: addressRecords(question{"example.org.", dns.TypeA}, o.ttl, o.addrs)}
		if _, err := answer.Pack(); err != nil {
			t.Error(err)
		}
	})
}

func hasAddress(m *dns.Msg, name string, ip []byte) bool {
	return slices.ContainsFunc(m.Answer, func(rr dns.RR) bool {
		a, ok := rr.(*dns.A)
		return ok && strings.EqualFold(a.Hdr.Name, name) && bytes.Equal(a.A.To4(), ip)
	})
}

// FuzzRecord restores a record of the file of persist: what is taken over is an answer to a question that can be asked, and
// goes back to the file as it was.
func FuzzRecord(f *testing.F) {
	m := newMemory(source{}, 10)
	for _, r := range []struct {
		q question
		e *entry
	}{
		{question{"app.hosting.example.", dns.TypeA}, &entry{outcome: outcome{addrs: []byte{192, 0, 2, 1}, ttl: 60}}},
		{question{"app.hosting.example.", dns.TypeAAAA}, &entry{outcome: outcome{addrs: make([]byte, 32), ttl: math.MaxUint32, links: maxLinks}}},
		{question{`a\.b\200.example.`, dns.TypeA}, &entry{}},
	} {
		r.e.stored = m.now()
		f.Add(recordKey(r.q), m.recordValue(r.e))
	}
	f.Add("", "")
	f.Fuzz(func(t *testing.T, key, value string) {
		m := newMemory(source{}, 10)
		now := time.Now()
		m.now = func() time.Time { return now }
		again := m.Restore(key, value)
		for q, e := range m.answers.All() {
			if _, ok := dns.IsDomainName(q.name); !ok || !isAddress(q.qtype) || len(e.addrs)%addrLen(q.qtype) != 0 || e.links > maxLinks {
				t.Errorf("%q is remembered: %v", q, e)
			}
			if now.Before(e.stored) {
				t.Errorf("%q is from the future: %v", q, e)
			}
			addressRecords(q, 1, e.addrs)
			if got := m.recordValue(e); recordKey(q) != key || !e.past && got != value {
				t.Errorf("%q=%q comes back as %q=%q", key, value, recordKey(q), got)
			}
		}
		if again != value && again != "" {
			t.Errorf("%q is replaced with %q", value, again)
		}
	})
}
