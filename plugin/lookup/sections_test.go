package lookup_test

import (
	"fmt"
	"math"
	"net/netip"
	"strings"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/race"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// longest is a name of 255 octets on the wire.
var longest = strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 61) + "."

func TestCanonical(t *testing.T) {
	for name, want := range map[string]string{
		".":                      ".",
		"example.org.":           "example.org.",
		"WWW.Example.ORG.":       "www.example.org.",
		"_a-1/2*.example.":       "_a-1/2*.example.",
		`\119ww.example.`:        "www.example.",
		`\087ww.example.`:        "www.example.",
		`\www.example.`:          "www.example.",
		`a\.b.example.`:          `a\.b.example.`,
		`a\046b.example.`:        `a\.b.example.`,
		`a\\b.example.`:          `a\\b.example.`,
		`\000\255.example.`:      `\000\255.example.`,
		"a b.example.":           `a\ b.example.`,
		`a\032b.example.`:        `a\ b.example.`,
		"a@b.example.":           `a\@b.example.`,
		`a\@b.example.`:          `a\@b.example.`,
		`(a;'b'").example.`:      `\(a\;\'b\'\"\).example.`,
		"Ü.example.":             `\195\156.example.`, // no letter, as names go
		`\195\156.example.`:      `\195\156.example.`,
		"\xff.example.":          `\255.example.`,
		"\u212a.example.":        `\226\132\170.example.`, // the sign for kelvin, which Unicode folds to k
		strings.ToUpper(longest): longest,
		`\097` + longest[1:]:     longest,
		`\097` + longest:         `\097` + longest, // too long, and thus no name
		`A\..`:                   `a\..`,
		`A\`:                     `a\`,
	} {
		got := lookup.Canonical(name)
		if got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
		if again := lookup.Canonical(got); again != got {
			t.Errorf("%s: %s at first, and then %s", name, got, again)
		}
	}
	if len(longest) != lookup.MaxName {
		t.Errorf("the longest name has %d characters", len(longest))
	}
}

// Whatever is a name has the spelling that it has in a message, in lower case: else a response would not match the query.
func FuzzCanonical(f *testing.F) {
	for _, seed := range []string{".", "Example.org.", `\119\.w.example.`, `a\`, longest, `\097` + longest[1:]} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got := lookup.Canonical(name)
		if again := lookup.Canonical(got); again != got {
			t.Errorf("%q: %q at first, and then %q", name, got, again)
		}
		buf := make([]byte, lookup.MaxName+1)
		n, err := dns.PackDomainName(name, buf, 0, nil, false)
		if err != nil || !dns.IsFqdn(name) {
			return
		}
		read, _, err := dns.UnpackDomainName(buf[:n], 0)
		if err != nil {
			t.Fatalf("%q: %v", name, err)
		}
		if want := strings.ToLower(read); got != want {
			t.Errorf("%q: %q, and in a message %q", name, got, want)
		}
	})
}

func TestSOAFor(t *testing.T) {
	rrs := upstream.RRs(
		"example.net. 1 IN SOA ns. h. 1 1 1 1 1",
		"sub.example. 2 IN NS ns.example.",
		"sub.example. 6 CH SOA ns. h. 1 1 1 1 1",
		"Sub.Example. 3 IN SOA ns. h. 1 1 1 1 1",
		"example. 4 IN SOA ns. h. 1 1 1 1 1")
	root := upstream.RRs(". 5 IN SOA ns. h. 1 1 1 1 1")
	for _, tc := range []struct {
		rrs  []dns.RR
		name string
		ttl  uint32 // of the SOA record; 0: none
	}{
		{rrs, "sub.example.", 3},
		{rrs, "a.b.SUB.example.", 3},
		{rrs, "example.", 4},
		{rrs, "www.example.", 4},
		{rrs, "anexample.", 0},
		{rrs, "org.", 0},
		{rrs, ".", 0},
		{rrs, "example.net.", 1},
		{root, "example.org.", 5},
		{root, ".", 5},
		{nil, "example.org.", 0},
	} {
		ttl := uint32(0)
		if soa := lookup.SOAFor(tc.rrs, tc.name); soa != nil {
			ttl = soa.Hdr.Ttl
		}
		if ttl != tc.ttl {
			t.Errorf("%s: the SOA record with TTL %d, want %d", tc.name, ttl, tc.ttl)
		}
	}
	if soa := lookup.SOAFor(rrs, "example."); dns.RR(soa) != rrs[4] {
		t.Error("the SOA record is not that of the section")
	}
	if !race.Enabled {
		if n := testing.AllocsPerRun(100, func() { lookup.SOAFor(rrs, "a.b.www.example.") }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

func TestCNAMEOf(t *testing.T) {
	rrs := upstream.RRs(
		"a.example. 1 IN A 192.0.2.1",
		"b.example. 2 CH CNAME x.example.",
		"B.example. 3 IN CNAME y.example.",
		"b.example. 4 IN CNAME z.example.")
	for name, want := range map[string]string{"b.example.": "y.example.", "b.EXAMPLE.": "y.example.", "a.example.": "", "y.example.": "", "example.": ""} {
		got := ""
		if cname := lookup.CNAMEOf(rrs, name); cname != nil {
			got = cname.Target
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
	if cname := lookup.CNAMEOf(rrs, "b.example."); dns.RR(cname) != rrs[2] {
		t.Error("the CNAME record is not that of the section")
	}
}

func TestHasType(t *testing.T) {
	rrs := upstream.RRs("a.example. 1 IN A 192.0.2.1", "a.example. 1 IN TXT x")
	for qtype, want := range map[uint16]bool{dns.TypeA: true, dns.TypeTXT: true, dns.TypeAAAA: false, dns.TypeNone: false} {
		if got := lookup.HasType(rrs, qtype); got != want {
			t.Errorf("%s: %v", dns.TypeToString[qtype], got)
		}
	}
	if lookup.HasType(nil, dns.TypeA) {
		t.Error("found in an empty section")
	}
}

func TestIsNodata(t *testing.T) {
	const soa = "example. 1 IN SOA ns. h. 1 1 1 1 1"
	for _, tc := range []struct {
		name   string
		change func(m *dns.Msg)
		want   bool
	}{
		{"NODATA", func(*dns.Msg) {}, true},
		{"without SOA record", func(m *dns.Msg) { m.Ns = nil }, true},
		{"not authoritative", func(m *dns.Msg) { m.Authoritative = false }, false},
		{"NXDOMAIN", func(m *dns.Msg) { m.Rcode = dns.RcodeNameError }, false},
		{"an answer", func(m *dns.Msg) { m.Answer = upstream.RRs("a.example. 1 IN A 192.0.2.1") }, false},
		{"referral", func(m *dns.Msg) { m.Ns = upstream.RRs("example. 1 IN NS ns.example.") }, false},
	} {
		m := &dns.Msg{Ns: upstream.RRs(soa)}
		m.Authoritative = true
		tc.change(m)
		if got := lookup.IsNodata(m); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestTTLOf(t *testing.T) {
	for ttl, want := range map[uint32]uint32{0: 0, 1: 1, 3600: 3600, math.MaxInt32: math.MaxInt32, 1 << 31: 0, math.MaxUint32: 0} {
		if got := lookup.TTLOf(&dns.A{Hdr: dns.RR_Header{Ttl: ttl}}); got != want {
			t.Errorf("%d: %d, want %d", ttl, got, want)
		}
	}
}

// The backend hands out its own SOA record: it stays as it is.
func TestWithSerial(t *testing.T) {
	soa := upstream.RRs("example. 300 IN SOA ns.example. h.example. 1 2 3 4 60")[0].(*dns.SOA)
	got := lookup.WithSerial(soa, 7)
	if want := upstream.RRs("example. 300 IN SOA ns.example. h.example. 7 2 3 4 60")[0]; got.String() != want.String() {
		t.Errorf("%v, want %v", got, want)
	}
	got.Hdr.Ttl = 1
	if soa.Serial != 1 || soa.Hdr.Ttl != 300 {
		t.Errorf("the record itself became %v", soa)
	}
}

func TestAddressTypes(t *testing.T) {
	for qtype, want := range map[uint16]int{dns.TypeA: 4, dns.TypeAAAA: 16, dns.TypeMX: 0, dns.TypeHTTPS: 0, dns.TypeANY: 0} {
		if got := lookup.IsAddress(qtype); got != (want > 0) {
			t.Errorf("%s: %v", dns.TypeToString[qtype], got)
		}
		if want > 0 && lookup.AddrLen(qtype) != want {
			t.Errorf("%s: %d octets", dns.TypeToString[qtype], lookup.AddrLen(qtype))
		}
	}
}

func TestSameAddrs(t *testing.T) {
	const a, b, c = "\xc0\x00\x02\x01", "\xc0\x00\x02\x02", "\xc0\x00\x02\x03"
	for _, tc := range []struct {
		one, other string
		qtype      uint16
		want       bool
	}{
		{"", "", dns.TypeA, true},
		{a, a, dns.TypeA, true},
		{a, b, dns.TypeA, false},
		{a, "", dns.TypeA, false},
		{a + b, b + a, dns.TypeA, true},
		{a + b + c, c + a + b, dns.TypeA, true},
		{a + b + c, c + a, dns.TypeA, false},
		{a + b, a + c, dns.TypeA, false},
		{a + b + a + c, a + c + a + b, dns.TypeAAAA, false}, // one IPv6 address each
		{a + a + a + a + b + b + b + b, b + b + b + b + a + a + a + a, dns.TypeAAAA, true},
	} {
		one, other := []byte(tc.one), []byte(tc.other)
		if got := lookup.Same(one, other, tc.qtype); got != tc.want {
			t.Errorf("%x and %x, %s: %v", one, other, dns.TypeToString[tc.qtype], got)
		}
		if string(one) != tc.one || string(other) != tc.other {
			t.Errorf("%x and %x were changed", tc.one, tc.other)
		}
	}
}

func TestAllowed(t *testing.T) {
	none := func(addr netip.Addr) bool { return addr.IsUnspecified() }
	const a, b, zero, zero6 = "\xc0\x00\x02\x01", "\xc0\x00\x02\x02", "\x00\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
	for _, tc := range []struct {
		addrs, want string
		qtype       uint16
	}{
		{"", "", dns.TypeA},
		{a + b, a + b, dns.TypeA},
		{zero, "", dns.TypeA},
		{zero + a + zero + b + zero, a + b, dns.TypeA},
		{zero6, "", dns.TypeAAAA},
		{zero6 + zero + a + a + b, zero + a + a + b, dns.TypeAAAA},
	} {
		addrs := []byte(tc.addrs)
		if got := lookup.Allowed(addrs, tc.qtype, none); string(got) != tc.want {
			t.Errorf("%x: %x, want %x", tc.addrs, got, tc.want)
		}
		if string(addrs) != tc.addrs {
			t.Errorf("%x was changed", tc.addrs)
		}
	}
}

func TestAddressRecords(t *testing.T) {
	for _, tc := range []struct {
		qtype uint16
		addrs string
		want  string
	}{
		{dns.TypeA, "", "[]"},
		{dns.TypeAAAA, "", "[]"},
		{dns.TypeA, "\xc0\x00\x02\x01", "[example.org.\t60\tIN\tA\t192.0.2.1]"},
		{dns.TypeA, "\xc0\x00\x02\x02\xc0\x00\x02\x01", "[example.org.\t60\tIN\tA\t192.0.2.2 example.org.\t60\tIN\tA\t192.0.2.1]"},
		{dns.TypeAAAA, "\x20\x01\x0d\xb8" + strings.Repeat("\x00", 11) + "\x01" + strings.Repeat("\x00", 15) + "\x01",
			"[example.org.\t60\tIN\tAAAA\t2001:db8::1 example.org.\t60\tIN\tAAAA\t::1]"},
	} {
		q := lookup.Question{Name: "example.org.", Type: tc.qtype}
		rrs := lookup.Records(q, 60, []byte(tc.addrs))
		if got := fmt.Sprint(rrs); got != tc.want {
			t.Errorf("%s: %q, want %q", q, got, tc.want)
		}
		if _, err := (&dns.Msg{Answer: rrs}).Pack(); err != nil {
			t.Errorf("%s: %v", q, err)
		}
	}
}

// The addresses are cached, and are in the responses to many clients; each client's records are its own.
func TestAddressRecordsAreClientsOwn(t *testing.T) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		addrs := make([]byte, 2*lookup.AddrLen(qtype))
		q := lookup.Question{Name: "example.org.", Type: qtype}
		rrs := lookup.Records(q, 60, addrs)
		other := fmt.Sprint(lookup.Records(q, 60, addrs))
		for _, rr := range rrs {
			rr.Header().Ttl, rr.Header().Name = 1, "other.example." // as rewrite does
			switch a := rr.(type) {
			case *dns.A:
				_ = append(a.A, 1)
			case *dns.AAAA:
				_ = append(a.AAAA, 1)
			}
			_ = append(rrs[:len(rrs):cap(rrs)], new(dns.RRSIG)) // as dnssec does
		}
		if got := fmt.Sprint(lookup.Records(q, 60, addrs)); got != other {
			t.Errorf("%s: %s, and before %s", q, got, other)
		}
		if race.Enabled {
			continue
		}
		if n := testing.AllocsPerRun(100, func() { lookup.Records(q, 60, addrs) }); n != 2 {
			t.Errorf("%s: %v allocations, want 2: the section, and the records", q, n)
		}
	}
}
