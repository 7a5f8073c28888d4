package rdata_test

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/alias/plugin/rdata"

	"github.com/miekg/dns"
)

// refusals collects the reasons that Refused is called with during a test.
func refusals(t testing.TB) *[]string {
	var reasons []string
	rdata.Refused = func(reason error) { reasons = append(reasons, reason.Error()) }
	t.Cleanup(func() { rdata.Refused = nil })
	return &reasons
}

// longest is a name of 255 octets.
var longest = strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 61) + "."

func TestParse(t *testing.T) {
	reasons := refusals(t)
	for _, tc := range []struct {
		text   string
		target string // "": the record is refused
		reason string
	}{
		{text: "ALIAS app.example.net.", target: "app.example.net."},
		{text: "alias App.Example.NET.", target: "App.Example.NET."},
		{text: "ANAME app.example.net.", target: "app.example.net."},
		{text: "TYPE65401 app.example.net.", target: "app.example.net."},
		{text: `TYPE65401 \# 5 0361707000`, target: "app."},
		{text: `ALIAS \# 5 0361707000`, target: "app."},
		{text: "ALIAS ( ; why\n app.example.net. )", target: "app.example.net."},
		{text: `ALIAS \097\.b.example.net.`, target: `a\.b.example.net.`},
		{text: `ALIAS \000\ x.example.net.`, target: `\000\ x.example.net.`},
		{text: "ALIAS .", target: "."},
		{text: "ALIAS " + longest, target: longest},

		{text: "ALIAS app", reason: "ALIAS target 'app' is relative: write it in full and with a final dot, as 'app.the.zone.'"},
		{text: "ALIAS app.example.net", reason: "ALIAS target 'app.example.net' is relative: write it in full and with a final dot, as 'app.example.net.'"},
		{text: `ALIAS app\.`, reason: `ALIAS target 'app\.' is relative: write it in full and with a final dot, as 'app\..'`},
		{text: "ALIAS @", reason: "ALIAS target '@' is relative: write it in full and with a final dot, as 'the.zone.'"},
		{text: "ALIAS 192.0.2.1", reason: "ALIAS target '192.0.2.1' is an address: write an A or AAAA record instead"},
		{text: "ALIAS 2001:db8::1", reason: "ALIAS target '2001:db8::1' is an address: write an A or AAAA record instead"},
		{text: "ALIAS \"a\nb\tc\"", reason: "ALIAS target 'a?b?c' is relative: write it in full and with a final dot, as 'a?b?c.the.zone.'"},
		{text: "ALIAS a. b.", reason: "ALIAS has 2 targets 'a. b.', and takes one"},
		{text: "ALIAS ; none", reason: "ALIAS has 0 targets '', and takes one"},
		{text: "ALIAS a..b.", reason: "ALIAS target 'a..b.' is not a domain name: dns: bad rdata"},
		{text: "ALIAS " + strings.Repeat("a", 64) + ".", reason: "ALIAS target '" + strings.Repeat("a", 64) + ".' is not a domain name: dns: bad rdata"},
		{text: "ALIAS b" + longest, reason: "ALIAS target 'b" + longest + "' is not a domain name: dns: bad rdata"},
		{text: `TYPE65401 \# 2 c000`}, // the parser reports these
		{text: `TYPE65401 \# 4 03617070`},
		{text: `TYPE65401 \# 0`},
	} {
		*reasons = nil
		rr, err := dns.NewRR("example.org. 300 IN " + tc.text)
		if tc.target == "" {
			if err == nil && rr.String() != "example.org.\t300\tIN\tALIAS\t" {
				t.Errorf("%s: parsed as %v", tc.text, rr)
			}
			if got := strings.Join(*reasons, "\n"); got != tc.reason {
				t.Errorf("%s: refused for\n\t%s\nwant\n\t%s", tc.text, got, tc.reason)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", tc.text, err)
			continue
		}
		if got := rdata.Of(rr); got == nil || got.Target != tc.target {
			t.Errorf("%s: target %v, want %s", tc.text, got, tc.target)
		}
		if got, want := rr.String(), "example.org.\t300\tIN\tALIAS\t"+tc.target; got != want {
			t.Errorf("%s: written as %q, want %q", tc.text, got, want)
		}
	}
}

// For a refused record, the error of the DNS library has the line.
func TestRefusedLine(t *testing.T) {
	refusals(t)
	zp := dns.NewZoneParser(strings.NewReader("@ 60 IN ALIAS a.\nwww 60 IN ALIAS b\n"), "example.org.", "zone")
	for _, ok := zp.Next(); ok; _, ok = zp.Next() {
	}
	if err := zp.Err(); err == nil || !strings.Contains(err.Error(), "at line: 2") {
		t.Errorf("The error %v does not name line 2", err)
	}
}

func TestWire(t *testing.T) {
	for _, target := range []string{".", "app.example.net.", "App.example.NET.", `a\.b.example.net.`, `\000\255.`, longest} {
		rr, err := dns.NewRR("app.example.net. 300 IN ALIAS " + target)
		if err != nil {
			t.Fatal(err)
		}
		// A compression pointer could point to the owner's name.
		m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Compress: true, Answer: []dns.RR{rr, dns.Copy(rr)}}
		wire, err := m.Pack()
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		if !bytes.Contains(wire, wireOf(t, rdata.Of(rr))) {
			t.Errorf("%s: compressed in %x", target, wire)
		}
		if m.Len() < len(wire) {
			t.Errorf("%s: Len is %d, the message has %d octets", target, m.Len(), len(wire))
		}
		var got dns.Msg
		if err := got.Unpack(wire); err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		for _, rr := range got.Answer {
			if a := rdata.Of(rr); a == nil || a.Target != target {
				t.Errorf("%s: unpacked as %v", target, rr)
			}
		}
	}
}

// wireOf returns a as Pack writes it.
func wireOf(t testing.TB, a *rdata.ALIAS) []byte {
	t.Helper()
	buf := make([]byte, a.Len())
	if n, err := a.Pack(buf); err != nil || n != len(buf) {
		t.Fatalf("%s: packed %d octets of %d: %v", a.Target, n, len(buf), err)
	}
	return buf
}

func TestUnpackRefuses(t *testing.T) {
	const compressed, cut = "ALIAS target is compressed", "ALIAS target ends early"
	long := bytes.Repeat([]byte("\x3f"+strings.Repeat("a", 63)), 5)
	for _, tc := range []struct {
		name, rdata string
		want        string
	}{
		{"a pointer", "\xc0\x00", compressed},
		{"a label and a pointer", "\x01a\xc0\x0c", compressed},
		{"a reserved label type", "\x41a\x00", compressed},
		{"nothing", "", cut},
		{"no end", "\x01a", cut},
		{"a cut label", "\x05a", cut},
		{"a name too long", string(long), cut},
	} {
		if _, err := new(rdata.ALIAS).Unpack([]byte(tc.rdata)); err == nil || err.Error() != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// The DNS library compares the length of the name with that of the RDATA.
func TestUnpackLength(t *testing.T) {
	head := "\x00\xff\x79\x00\x01\x00\x00\x00\x3c" // . TYPE65401 IN 60
	for _, tc := range []struct {
		rdata string
		ok    bool
	}{
		{"\x00\x05\x03app\x00", true},
		{"\x00\x04\x03app\x00", false},
		{"\x00\x06\x03app\x00\x00", false},
		{"\x00\x05\x03ap", false},
	} {
		if rr, _, err := dns.UnpackRR([]byte(head+tc.rdata), 0); (err == nil) != tc.ok {
			t.Errorf("%q: %v, %v", tc.rdata, rr, err)
		}
	}
}

func TestCompare(t *testing.T) {
	sorted := []string{".", "a.", "A.b.", "a.c.", "b.a.", "aa."} // by the length of a label first, as in wire form
	for i, a := range sorted {
		for j, b := range sorted {
			want := min(max(i-j, -1), 1)
			if got := (&rdata.ALIAS{Target: a}).Compare(&rdata.ALIAS{Target: strings.ToUpper(b)}); got != want {
				t.Errorf("%s and %s: %d, want %d", a, b, got, want)
			}
		}
	}
	if !slices.IsSortedFunc([]*rdata.ALIAS{{Target: "x."}, {Target: "X."}}, (*rdata.ALIAS).Compare) {
		t.Error("The case of letters counts")
	}
}

func TestCopy(t *testing.T) {
	rr, err := dns.NewRR("example.org. 300 IN ALIAS a.")
	if err != nil {
		t.Fatal(err)
	}
	twin := dns.Copy(rr)
	rdata.Of(rr).Target = "b."
	if got := rdata.Of(twin).Target; got != "a." {
		t.Errorf("The copy has changed to %s", got)
	}
	if err := new(rdata.ALIAS).Copy(nil); err == nil {
		t.Error("Copied to nil")
	}
	if rdata.Of(nil) != nil || rdata.Of(&dns.A{}) != nil || rdata.Of(&dns.PrivateRR{}) != nil {
		t.Error("Took another record for an ALIAS")
	}
}

// RDATA that unpacks is packed to the same octets. Written and parsed it is the same again, unless it looks like an
// address, which Parse refuses.
func FuzzUnpack(f *testing.F) {
	for _, seed := range []string{"\x00", "\x03app\x07example\x03net\x00", "\x01a\xc0\x00", "\x3f", "\x02\x00\xff\x00", "\x01.\x00", "\x41a\x00", "\x010\x010\x010\x010\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, buf []byte) {
		var a rdata.ALIAS
		n, err := a.Unpack(buf)
		if err != nil {
			return
		}
		if wire := wireOf(t, &a); !bytes.Equal(wire, buf[:n]) {
			t.Fatalf("%x became %x", buf[:n], wire)
		}
		rr, err := dns.NewRR(". 60 IN ALIAS " + a.String())
		if _, address := netip.ParseAddr(strings.TrimSuffix(a.Target, ".")); address == nil {
			return
		}
		if err != nil || *rdata.Of(rr) != a || rdata.Of(rr).Compare(&a) != 0 {
			t.Fatalf("%q became %v: %v", a, rr, err)
		}
	})
}

// A target that parses can be packed, and is the same after unpacking.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"app.example.net.", "@", ".", `\097\.b.example.net.`, `\# 5 0361707000`, "192.0.2.1.", "a..", `a\`, longest} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var a, b rdata.ALIAS
		if a.Parse([]string{text}) != nil {
			return
		}
		wire := wireOf(t, &a)
		if n, err := b.Unpack(wire); err != nil || n != len(wire) || a != b {
			t.Fatalf("%q: %q became %q: %v", text, a, b, err)
		}
	})
}
