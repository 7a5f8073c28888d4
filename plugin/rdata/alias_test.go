package rdata

import (
	"bytes"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// refusals collects what Refused is told during a test.
func refusals(t testing.TB) *[]string {
	var reasons []string
	Refused = func(reason error) { reasons = append(reasons, reason.Error()) }
	t.Cleanup(func() { Refused = nil })
	return &reasons
}

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
		{text: `TYPE65401 \# 2 c000`}, // told by the parser
		{text: `TYPE65401 \# 4 03617070`},
		{text: `TYPE65401 \# 0`},
	} {
		*reasons = nil
		rr, err := dns.NewRR("example.org. 300 IN " + tc.text)
		if tc.target == "" {
			if err == nil && rr.String() != "example.org.\t300\tIN\tALIAS\t" {
				t.Errorf("%s: was read as %v", tc.text, rr)
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
		if got := Of(rr); got == nil || got.Target != tc.target {
			t.Errorf("%s: target %v, want %s", tc.text, got, tc.target)
		}
		if got, want := rr.String(), "example.org.\t300\tIN\tALIAS\t"+tc.target; got != want {
			t.Errorf("%s: reads %q, want %q", tc.text, got, want)
		}
	}
}

// The line of a record that is refused comes from the library.
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
		// The owner's name is there to be pointed at.
		m := &dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Compress: true, Answer: []dns.RR{rr, dns.Copy(rr)}}
		wire, err := m.Pack()
		if err != nil {
			t.Errorf("%s: %v", target, err)
			continue
		}
		if !bytes.Contains(wire, Of(rr).wire(t)) {
			t.Errorf("%s: is compressed in %x", target, wire)
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
			if a := Of(rr); a == nil || a.Target != target {
				t.Errorf("%s: came back as %v", target, rr)
			}
		}
	}
}

func (a *ALIAS) wire(t testing.TB) []byte {
	t.Helper()
	buf := make([]byte, a.Len())
	if n, err := a.Pack(buf); err != nil || n != len(buf) {
		t.Fatalf("%s: packed %d octets of %d: %v", a.Target, n, len(buf), err)
	}
	return buf
}

func TestUnpackRefuses(t *testing.T) {
	long := bytes.Repeat([]byte("\x3f"+strings.Repeat("a", 63)), 5)
	for _, tc := range []struct {
		name, rdata string
		want        error
	}{
		{"a pointer", "\xc0\x00", errCompressed},
		{"a label and a pointer", "\x01a\xc0\x0c", errCompressed},
		{"a reserved label type", "\x41a\x00", errCompressed},
		{"nothing", "", errCut},
		{"no end", "\x01a", errCut},
		{"a cut label", "\x05a", errCut},
		{"a name too long", string(long), errCut},
	} {
		if _, err := new(ALIAS).Unpack([]byte(tc.rdata)); err != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, err, tc.want)
		}
	}
}

// The library compares the end of the name with that of the RDATA.
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
	sorted := []string{".", "a.", "A.b.", "a.c.", "b.a.", "aa."} // by the length of a label first, as on the wire
	for i, a := range sorted {
		for j, b := range sorted {
			want := min(max(i-j, -1), 1)
			if got := (&ALIAS{a}).Compare(&ALIAS{strings.ToUpper(b)}); got != want {
				t.Errorf("%s and %s: %d, want %d", a, b, got, want)
			}
		}
	}
	if !slices.IsSortedFunc([]*ALIAS{{"x."}, {"X."}}, (*ALIAS).Compare) {
		t.Error("The case of letters counts")
	}
}

func TestCopy(t *testing.T) {
	rr, err := dns.NewRR("example.org. 300 IN ALIAS a.")
	if err != nil {
		t.Fatal(err)
	}
	twin := dns.Copy(rr)
	Of(rr).Target = "b."
	if got := Of(twin).Target; got != "a." {
		t.Errorf("The copy has changed to %s", got)
	}
	if err := new(ALIAS).Copy(nil); err == nil {
		t.Error("Copied to nothing")
	}
	if Of(nil) != nil || Of(&dns.A{}) != nil || Of(&dns.PrivateRR{}) != nil {
		t.Error("Took another record for an ALIAS")
	}
}

// What is unpacked packs to the same octets, and reads the same when it is written and parsed, unless it looks like an
// address.
func FuzzUnpack(f *testing.F) {
	for _, seed := range []string{"\x00", "\x03app\x07example\x03net\x00", "\x01a\xc0\x00", "\x3f", "\x02\x00\xff\x00", "\x01.\x00", "\x41a\x00", "\x010\x010\x010\x010\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, buf []byte) {
		var a ALIAS
		n, err := a.Unpack(buf)
		if err != nil {
			return
		}
		if wire := a.wire(t); !bytes.Equal(wire, buf[:n]) {
			t.Fatalf("%x became %x", buf[:n], wire)
		}
		rr, err := dns.NewRR(". 60 IN ALIAS " + a.String())
		if _, address := netip.ParseAddr(strings.TrimSuffix(a.Target, ".")); address == nil {
			return
		}
		if err != nil || *Of(rr) != a || Of(rr).Compare(&a) != 0 {
			t.Fatalf("%q became %v: %v", a, rr, err)
		}
	})
}

// What is parsed packs, and reads the same afterwards.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"app.example.net.", "@", ".", `\097\.b.example.net.`, `\# 5 0361707000`, "192.0.2.1.", "a..", `a\`, longest} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		var a, b ALIAS
		if a.Parse([]string{text}) != nil {
			return
		}
		wire := a.wire(t)
		if n, err := b.Unpack(wire); err != nil || n != len(wire) || a != b {
			t.Fatalf("%q: %q became %q: %v", text, a, b, err)
		}
	})
}
