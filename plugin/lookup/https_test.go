package lookup_test

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// follow returns the HTTPS records that a chain from target.example finds in answer, as text, and the chain.
func follow(answer ...dns.RR) ([]string, *lookup.Chain, error) {
	c := lookup.NewChain("target.example.")
	data, err := c.Follow(answer, dns.TypeHTTPS)
	return lookup.Strings(data, dns.TypeHTTPS), c, err
}

func TestFollowHTTPS(t *testing.T) {
	for _, tc := range []struct {
		name   string
		answer []string
		want   []string
		end    string // target.example., unless it is stated
		ttl    uint32
		fails  string // the outcome
	}{
		{name: "no records"},
		{name: "the name of the record", answer: []string{"Target.Example. 60 IN HTTPS 1 . alpn=h2"}, want: []string{`1 . alpn="h2"`}, ttl: 60},
		{name: "the name of the record in full", answer: []string{"target.example. 60 IN HTTPS 1 Target.Example. alpn=h2"}, want: []string{`1 . alpn="h2"`}, ttl: 60},
		{name: "another name", answer: []string{"target.example. 60 IN HTTPS 1 SVC.example."}, want: []string{"1 svc.example."}, ttl: 60},
		{
			name: "two priorities, in the order received, each once",
			answer: []string{
				"target.example. 60 IN HTTPS 2 b.example.", "target.example. 30 IN HTTPS 1 a.example.", "target.example. 60 IN HTTPS 2 B.example.",
			},
			want: []string{"2 b.example.", "1 a.example."}, ttl: 30,
		},
		{
			name: "all parameters",
			answer: []string{`target.example. 60 IN HTTPS 16 . mandatory=alpn,port alpn="h3,h2" no-default-alpn port=8443 ipv4hint=192.0.2.1,192.0.2.2 ` +
				`ech="AAX+DQABAQ==" ipv6hint=2001:db8::1 dohpath=/q{?dns} key65280="a\\200b"`},
			want: []string{`16 . mandatory="alpn,port" alpn="h3,h2" no-default-alpn="" port="8443" ipv4hint="192.0.2.1,192.0.2.2" ` +
				`ech="AAX+DQABAQ==" ipv6hint="2001:db8::1" dohpath="/q{?dns}" key65280="a\\200b"`}, ttl: 60,
		},
		{
			name:   "records of others",
			answer: []string{"other.example. 60 IN HTTPS 1 .", "target.example. 60 CH HTTPS 1 .", "target.example. 60 IN SVCB 1 .", "target.example. 60 IN A 192.0.2.1"},
		},
		{
			name:   "behind a CNAME record",
			answer: []string{"end.example. 60 IN HTTPS 1 .", "target.example. 20 IN CNAME end.example."},
			want:   []string{"1 ."}, end: "end.example.", ttl: 20,
		},
		{
			name:   "behind AliasMode and a DNAME record",
			answer: []string{"a.tree.example. 60 IN HTTPS 1 .", "target.example. 20 IN HTTPS 0 a.old.example.", "old.example. 10 IN DNAME tree.example."},
			want:   []string{"1 a.tree.example."}, end: "a.tree.example.", ttl: 10,
		},
		{
			name:   "AliasMode wins over ServiceMode, and has no parameters",
			answer: []string{"target.example. 5 IN HTTPS 1 .", "target.example. 20 IN HTTPS 0 end.example. alpn=h2", "end.example. 60 IN HTTPS 1 ."},
			want:   []string{"1 end.example."}, end: "end.example.", ttl: 20,
		},
		{
			name:   "AliasMode wins over a CNAME record",
			answer: []string{"target.example. 20 IN CNAME other.example.", "target.example. 20 IN HTTPS 0 end.example."}, end: "end.example.", ttl: 20,
		},
		{
			name:   "two in AliasMode: the first in canonical order",
			answer: []string{"target.example. 20 IN HTTPS 0 b.example.", "target.example. 30 IN HTTPS 0 A.example."}, end: "a.example.", ttl: 30,
		},
		{name: "AliasMode without a service", answer: []string{"target.example. 20 IN HTTPS 0 .", "target.example. 20 IN HTTPS 1 ."}},
		{name: "AliasMode to itself", answer: []string{"target.example. 20 IN HTTPS 0 Target.example."}, fails: lookup.Loop},
		{
			name:   "a loop",
			answer: []string{"target.example. 20 IN HTTPS 0 b.example.", "b.example. 20 IN CNAME target.example."}, fails: lookup.Loop, end: "b.example.", ttl: 20,
		},
		{name: "16 links", answer: modes(16), want: []string{"1 l16.example."}, end: "l16.example.", ttl: 300},
		{name: "17 links", answer: modes(17), fails: lookup.Loop, end: "l16.example.", ttl: 300},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got, c, err := follow(upstream.RRs(tc.answer...)...)
			if fails := outcome(err); fails != tc.fails || !slices.Equal(got, tc.want) {
				t.Errorf("got %q, %v; want %q, %q", got, err, tc.want, tc.fails)
			}
			if tc.end == "" {
				tc.end = "target.example."
			}
			if ttl := c.TTL(); c.End() != tc.end || ttl != tc.ttl && !(tc.ttl == 0 && ttl > 1<<30) {
				t.Errorf("end %s, TTL %d", c.End(), ttl)
			}
		})
	}
}

// modes returns a chain of n HTTPS records in AliasMode, and one in ServiceMode at its end.
func modes(n int) []string {
	rrs := []string{fmt.Sprintf("l%d.example. 300 IN HTTPS 1 .", n)}
	from := "target.example."
	for i := range n {
		to := fmt.Sprintf("l%d.example.", i+1)
		rrs = append(rrs, from+" 300 IN HTTPS 0 "+to)
		from = to
	}
	return rrs
}

// outcome returns the outcome of a failure, or "".
func outcome(err error) string {
	var f *lookup.Failure
	if errors.As(err, &f) {
		return f.Outcome
	}
	return ""
}

// A record without RDATA, or with RDATA that cannot be packed, is malformed.
func TestFollowMalformedHTTPS(t *testing.T) {
	hdr := dns.RR_Header{Name: "target.example.", Rrtype: dns.TypeHTTPS, Class: dns.ClassINET, Ttl: 60}
	for name, rr := range map[string]dns.RR{
		"without RDATA":    &dns.HTTPS{SVCB: dns.SVCB{Hdr: hdr}},
		"a label too long": &dns.HTTPS{SVCB: dns.SVCB{Hdr: hdr, Priority: 1, Target: strings.Repeat("a", 64) + "."}},
		"a key twice":      &dns.HTTPS{SVCB: dns.SVCB{Hdr: hdr, Priority: 1, Target: ".", Value: []dns.SVCBKeyValue{new(dns.SVCBPort), new(dns.SVCBPort)}}},
		"ALPN of no octet": &dns.HTTPS{SVCB: dns.SVCB{Hdr: hdr, Priority: 1, Target: ".", Value: []dns.SVCBKeyValue{&dns.SVCBAlpn{Alpn: []string{""}}}}},
	} {
		if _, _, err := follow(rr); outcome(err) != "malformed" {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// serviceData returns the HTTPS records of target.example as data.
func serviceData(t testing.TB, rdata ...string) []byte {
	t.Helper()
	var rrs []string
	for _, r := range rdata {
		rrs = append(rrs, "target.example. 60 IN HTTPS "+r)
	}
	data, err := lookup.NewChain("target.example.").Follow(upstream.RRs(rrs...), dns.TypeHTTPS)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestAliasMode(t *testing.T) {
	for _, target := range []string{"target.example.", `a\.b\200.example.`, "."} {
		data := lookup.AliasMode(target)
		if got, want := lookup.Strings(data, dns.TypeHTTPS), []string{"0 " + target}; !slices.Equal(got, want) || !lookup.IsData(data, dns.TypeHTTPS) {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	if data := lookup.AliasMode(strings.Repeat("a", 64) + "."); data != nil {
		t.Errorf("got %x for what is no name", data)
	}
}

func TestWithoutHints(t *testing.T) {
	all := serviceData(t,
		"1 . mandatory=alpn,ipv4hint,ipv6hint alpn=h2 ipv4hint=192.0.2.1,192.0.2.2 ech=AAE= ipv6hint=2001:db8::1 key65280=x",
		"2 . mandatory=ipv4hint ipv4hint=192.0.2.3", "3 . alpn=h2")
	for _, tc := range []struct {
		name string
		drop []string // the hints with one of these
		want []string
	}{
		{"none", nil, lookup.Strings(all, dns.TypeHTTPS)},
		{"the first family", []string{"192.0.2.2"}, []string{
			`1 . mandatory="alpn,ipv6hint" alpn="h2" ech="AAE=" ipv6hint="2001:db8::1" key65280="x"`,
			`2 . mandatory="ipv4hint" ipv4hint="192.0.2.3"`, `3 . alpn="h2"`,
		}},
		{"both families", []string{"192.0.2.1", "2001:db8::1"}, []string{
			`1 . mandatory="alpn" alpn="h2" ech="AAE=" key65280="x"`,
			`2 . mandatory="ipv4hint" ipv4hint="192.0.2.3"`, `3 . alpn="h2"`,
		}},
		{"all", []string{"192.0.2.1", "192.0.2.3", "2001:db8::1"}, []string{
			`1 . mandatory="alpn" alpn="h2" ech="AAE=" key65280="x"`, "2 .", `3 . alpn="h2"`,
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			before := bytes.Clone(all)
			deny := func(addr netip.Addr) bool { return slices.Contains(tc.drop, addr.String()) }
			got := lookup.Allowed(all, dns.TypeHTTPS, deny)
			if s := lookup.Strings(got, dns.TypeHTTPS); !slices.Equal(s, tc.want) || !lookup.IsData(got, dns.TypeHTTPS) {
				t.Errorf("got %q, want %q", s, tc.want)
			}
			if !bytes.Equal(all, before) {
				t.Error("the data has changed")
			}
		})
	}
	same := serviceData(t, "1 . ipv4hint=192.0.2.1", "1 . ipv4hint=192.0.2.2")
	drop := func(uint16, []byte) bool { return true }
	if got := lookup.Strings(lookup.WithoutHints(same, drop), dns.TypeHTTPS); !slices.Equal(got, []string{"1 ."}) {
		t.Errorf("two records that are the same without their hints: %q", got)
	}
}

// The TargetName "." is written out for an owner with other addresses.
func TestWithTargetName(t *testing.T) {
	for _, tc := range []struct{ rdata, want []string }{
		{nil, nil},
		{[]string{"1 svc.example."}, []string{"1 svc.example."}},
		{[]string{"1 . alpn=h2 ech=AAE= key65280=x", "2 svc.example."}, []string{`1 app.example. alpn="h2" ech="AAE=" key65280="x"`, "2 svc.example."}},
		{[]string{"1 .", "1 app.example."}, []string{"1 app.example."}}, // and each record once
	} {
		data := serviceData(t, tc.rdata...)
		before := bytes.Clone(data)
		got := lookup.WithTargetName(data, "app.example.")
		if s := lookup.Strings(got, dns.TypeHTTPS); !slices.Equal(s, tc.want) || !lookup.IsData(got, dns.TypeHTTPS) {
			t.Errorf("%q: got %q, want %q", tc.rdata, s, tc.want)
		}
		if !bytes.Equal(data, before) {
			t.Error("the data has changed")
		}
	}
}

func TestIsData(t *testing.T) {
	one := serviceData(t, "1 . alpn=h2")
	rdata := one[2:]
	with := func(rdata []byte) []byte { return append([]byte{0, byte(len(rdata))}, rdata...) }
	for _, tc := range []struct {
		name  string
		data  []byte
		qtype uint16
		want  bool
	}{
		{"none", nil, dns.TypeHTTPS, true},
		{"one", one, dns.TypeHTTPS, true},
		{"two", slices.Concat(one, serviceData(t, "2 svc.example.")), dns.TypeHTTPS, true},
		{"AliasMode", lookup.AliasMode("target.example."), dns.TypeHTTPS, true},
		{"another type", one, dns.TypeTXT, false},
		{"an octet", []byte{0}, dns.TypeHTTPS, false},
		{"cut off", one[:len(one)-1], dns.TypeHTTPS, false},
		{"an octet more", append(bytes.Clone(one), 0), dns.TypeHTTPS, false},
		{"without RDATA", with(nil), dns.TypeHTTPS, false},
		{"without a TargetName", with(rdata[:2]), dns.TypeHTTPS, false},
		{"upper case", with(bytes.ToUpper(serviceData(t, "1 svc.example.")[2:])), dns.TypeHTTPS, false},
		{"a parameter cut off", with(rdata[:len(rdata)-1]), dns.TypeHTTPS, false},
		{"a key twice", with(slices.Concat(rdata, rdata[len(rdata)-7:])), dns.TypeHTTPS, false},
		{"addresses", make([]byte, 8), dns.TypeA, true},
		{"part of an address", make([]byte, 7), dns.TypeA, false},
		{"an IPv6 address", make([]byte, 16), dns.TypeAAAA, true},
	} {
		if got := lookup.IsData(tc.data, tc.qtype); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

// Records of HTTPS data belong to the caller, and come to the same data again.
func TestHTTPSRecords(t *testing.T) {
	data := serviceData(t, `1 . alpn="h2,h3" ipv4hint=192.0.2.1 ech=AAE= key65280=x`, "2 b.example.")
	before := bytes.Clone(data)
	q := lookup.Question{Name: "example.org.", Type: dns.TypeHTTPS}
	rrs := lookup.Records(q, 77, data)
	if lookup.Count(data, dns.TypeHTTPS) != 2 || len(rrs) != 2 {
		t.Fatalf("%d records: %v", lookup.Count(data, dns.TypeHTTPS), rrs)
	}
	for _, rr := range rrs {
		if h := rr.Header(); h.Name != "example.org." || h.Ttl != 77 || h.Class != dns.ClassINET {
			t.Errorf("header %v", h)
		}
		for _, p := range rr.(*dns.HTTPS).Value {
			switch p := p.(type) {
			case *dns.SVCBECHConfig:
				p.ECH[0] = 0xFF
			case *dns.SVCBIPv4Hint:
				p.Hint[0][0] = 0xFF
			case *dns.SVCBLocal:
				p.Data[0] = 0xFF
			}
		}
	}
	if !bytes.Equal(data, before) {
		t.Error("a change of a record is one of the data")
	}
	if got := lookup.Append(data, data[2:2+int(data[1])], dns.TypeHTTPS); len(got) != len(data) {
		t.Error("a record is there twice")
	}
	if other := slices.Concat(serviceData(t, "2 b.example."), data[:2+int(data[1])]); !lookup.Same(data, other, dns.TypeHTTPS) {
		t.Error("the order of the records counts")
	}
}

// Whatever the octets are, no function panics. Data that Follow makes of them has the form that IsData wants, and keeps it.
func FuzzHTTPS(f *testing.F) {
	for _, rdata := range []string{
		"0 .", "0 target.example.", "1 .", "65535 svc.example.", `1 . alpn="h3,h2" no-default-alpn port=8443`,
		"1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=192.0.2.1,192.0.2.2 ipv6hint=2001:db8::1", "1 . mandatory=ipv6hint ipv6hint=2001:db8::1",
		`1 . ech="AAX+DQABAQ==" dohpath=/q{?dns} ohttp key65280="a"`, `1 a\.b\000.example.`,
	} {
		rr := upstream.RRs("target.example. 60 IN HTTPS " + rdata)[0]
		buf := make([]byte, 512)
		off, err := dns.PackRR(rr, buf, 0, nil, false)
		if err != nil {
			f.Fatal(err)
		}
		packed := buf[len("target.example.")+1+10 : off]
		f.Add(packed)
		f.Add(packed[:len(packed)/2])
		f.Add(append([]byte{0, byte(len(packed))}, packed...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		all := func(uint16, []byte) bool { return true }
		q := lookup.Question{Name: "example.org.", Type: dns.TypeHTTPS}
		without := lookup.WithoutHints(b, all)
		if lookup.IsData(b, dns.TypeHTTPS) {
			if n := len(lookup.Records(q, 60, b)); n != lookup.Count(b, dns.TypeHTTPS) {
				t.Errorf("%d records of %d", n, lookup.Count(b, dns.TypeHTTPS))
			}
			if !lookup.IsData(without, dns.TypeHTTPS) {
				t.Errorf("%x without hints is %x", b, without)
			}
		}
		lookup.Records(q, 60, b)
		hdr := dns.RR_Header{Name: "target.example.", Rrtype: dns.TypeHTTPS, Class: dns.ClassINET, Ttl: 60, Rdlength: uint16(len(b))}
		rr, _, err := dns.UnpackRRWithHeader(hdr, b, 0)
		if err != nil || len(b) > 1<<16-1 {
			return
		}
		data, err := lookup.NewChain("target.example.").Follow([]dns.RR{rr}, dns.TypeHTTPS)
		if err != nil {
			return
		}
		if !lookup.IsData(data, dns.TypeHTTPS) || lookup.Count(data, dns.TypeHTTPS) > 1 {
			t.Errorf("%v gives %x", rr, data)
		}
		for _, again := range lookup.Records(q, 60, lookup.WithoutHints(data, all)) {
			for _, p := range again.(*dns.HTTPS).Value {
				if key := p.Key(); key == dns.SVCB_IPV4HINT || key == dns.SVCB_IPV6HINT {
					t.Errorf("without hints: %v", again)
				}
			}
		}
	})
}
