package main

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/coredns/coredns/plugin/file"
	"github.com/google/go-cmp/cmp"
)

// head is the first two lines of most zones in these tests.
const head = "$TTL 300\n@ SOA ns.example.net. admin.example.net. 1 7200 1800 86400 300\n"

// counts is the last line of the output.
func counts(records, aliases, errors, warnings int) string {
	return fmt.Sprintf("zone example.org.: %d records, %d ALIAS, %d errors, %d warnings\n", records, aliases, errors, warnings)
}

// chained returns n ALIAS records in a chain, and an address at its end.
func chained(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "l%d ALIAS l%d.example.org.\n", i, i+1)
	}
	return b.String() + fmt.Sprintf("l%d A 192.0.2.1\n", n)
}

// branches returns n ALIAS records of a name, with different targets.
func branches(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "a ALIAS t%d.\n", i+1)
	}
	return b.String()
}

var zones = []struct {
	name, text string
	want       string // the output; with an error in it, the exit status is 1
}{
	{"clean", head + `@ NS ns.example.net.
@ ALIAS app.example.net.
www ANAME App.Example.net.
v4 ALIAS app.example.net.
v4 A 192.0.2.1
v6 AAAA 2001:db8::1
v6 ALIAS app.example.net.
*.w ALIAS v4.example.org.
sub NS ns.sub
ns.sub A 192.0.2.1
far ALIAS x.sub.example.org.
`, counts(12, 6, 0, 0)},
	{"as PowerDNS lists it", `$ORIGIN .
example.org	300	IN	SOA	ns1.example.net admin.example.org 1 7200 1800 86400 300
example.org	300	IN	NS	ns1.example.net.
example.org	300	IN	MX	10 mail.example.org.
example.org	300	IN	TXT	"hello world"
example.org	300	IN	ALIAS	app.Example.net.
mail.example.org	300	IN	A	192.0.2.1
shop.example.org	60	IN	ALIAS	shop.example.com.
*.w.example.org	300	IN	ALIAS	a.example.com.
www.example.org	300	IN	CNAME	example.org.
`, counts(9, 3, 0, 0)},
	{"CRLF", strings.ReplaceAll(head+"a ALIAS app\nb ALIAS (\n app.example.net.\n )\nc ALIAS c.example.org.", "\n", "\r\n"),
		`zone:3: error: ALIAS target 'app' is relative: write it in full and with a final dot, as 'app.the.zone.'
zone:7: error: 'c.example.org.' leads to itself: give it another target
` + counts(3, 2, 2, 0)},

	{"refused targets", head + `a ALIAS app
b ALIAS 192.0.2.1
c ALIAS a. b.
d ALIAS a..b.
e ALIAS
f ALIAS \# 2 c000
g ALIAS \# 0
`, `zone:3: error: ALIAS target 'app' is relative: write it in full and with a final dot, as 'app.the.zone.'
zone:4: error: ALIAS target '192.0.2.1' is an address: write an A or AAAA record instead
zone:5: error: ALIAS has 2 targets 'a. b.', and takes one
zone:6: error: ALIAS target 'a..b.' is not a domain name: dns: bad rdata
zone:7: error: cannot be read: unexpected newline
zone:8: error: cannot be read: ALIAS target is compressed
zone:9: error: the ALIAS of 'g.example.org.' has no target: give it one
` + counts(2, 1, 7, 0)},
	{"other records that are refused", head + `a A 192.0.2.300
b MX 10

bad..owner A 192.0.2.1
c XYZ
d( A 192.0.2.300 )
`, `zone:3: error: cannot be read: bad A A: "192.0.2.300"
zone:4: error: cannot be read: bad MX Mx
zone:6: error: cannot be read: bad owner name: "bad..owner"
zone:7: error: cannot be read: not a TTL: "XYZ"
zone:8: error: cannot be read: bad A A: "192.0.2.300"
` + counts(1, 0, 5, 0)},
	{"the owner of a refused record", head + `a ALIAS app
  CNAME a.example.org.
  A 192.0.2.300
  ALIAS app.example.net.
`, `zone:3: error: ALIAS target 'app' is relative: write it in full and with a final dot, as 'app.the.zone.'
zone:4: error: 'a.example.org.' leads to itself: give it another target
zone:5: error: cannot be read: bad A A: "192.0.2.300"
zone:6: error: 'a.example.org.' has an ALIAS to 'app.example.net.', and on line 4 a CNAME to 'a.example.org.': remove one of them
` + counts(3, 1, 4, 0)},
	{"lines of comments and parentheses", `; a comment (
$TTL 300

@ SOA ns.example.net. admin.example.net. ( 1 ; ) "
  7200 1800

  86400 300 )
  TXT "a ; ( 
b" ; "
; another
a\"b\; ALIAS ( ; (
  app.example.net. ;
)  ; (
c ALIAS ( c.example.org.

) ; the end
d ALIAS ( app

)`, `zone:14: error: 'c.example.org.' leads to itself: give it another target
zone:17: error: ALIAS target 'app' is relative: write it in full and with a final dot, as 'app.the.zone.'
` + counts(4, 2, 2, 0)},
	{"open quotes", head + "a ALIAS b\n\nb TXT \"open\nc ALIAS c\n",
		`zone:3: error: ALIAS target 'b' is relative: write it in full and with a final dot, as 'b.the.zone.'
zone:5: error: cannot be read: bad TXT Txt
` + counts(1, 0, 2, 0)},
	{"open parentheses", head + "b TXT ( open\nc ALIAS c\n", "zone:3: error: cannot be read: bad TXT Txt: \"unbalanced brace\"\n" + counts(1, 0, 1, 0)},
	{"not $ORIGIN", head + "$TTL x\na A 192.0.2.1\n$ORIGIN a..b\nb ALIAS c\n", `zone:3: error: cannot be read: expecting $TTL value, not this...: "x"
zone:5: error: cannot be read: bad origin name: "a..b"
zone:5: error: what is behind this line was not checked: correct it, and check the file again
` + counts(2, 0, 2+1, 0)},
	{"a quoted escape sequence", head + "a ALIAS \"\x1b[2J\n\"\n", "zone:3: error: ALIAS target '?[2J?' is relative: write it in full and with a final dot, as '?[2J?.the.zone.'\n" + counts(1, 0, 1, 0)},

	{"empty", "", "zone:1: error: CoreDNS refuses the zone: file \"zone\" has no SOA record for origin example.org.\n" + counts(0, 0, 1, 0)},
	{"no SOA", "a 60 A 192.0.2.1\nb 60 ALIAS a.example.org.\n", "zone:2: error: CoreDNS refuses the zone: file \"zone\" has no SOA record for origin example.org.\n" + counts(2, 1, 1, 0)},
	{"SOA of another zone", "$ORIGIN example.com.\n" + head + "a A 192.0.2.1\n",
		`zone:3: error: CoreDNS refuses the zone: file "zone" has SOA owner example.com. that does not match origin example.org.
zone:3: warning: 'example.com.' is outside of the zone 'example.org.', so its records are ignored: remove them, or correct the name
zone:4: warning: 'a.example.com.' is outside of the zone 'example.org.', so its records are ignored: remove them, or correct the name
` + counts(2, 0, 1, 2)},
	{"NSEC3", head + "a A 192.0.2.1\n@ NSEC3PARAM 1 0 0 -\nb A 192.0.2.1\n",
		"zone:4: error: CoreDNS refuses the zone: NSEC3 zone is not supported, dropping RR: example.org. for zone: example.org.\n" + counts(4, 0, 1, 0)},

	{"ALIAS and CNAME", head + "a CNAME b.example.net.\nA ALIAS c.example.net.\n",
		"zone:4: error: 'a.example.org.' has an ALIAS to 'c.example.net.', and on line 3 a CNAME to 'b.example.net.': remove one of them\n" + counts(3, 1, 1, 0)},
	{"to itself", head + "a TXT a\na ALIAS A.Example.ORG.\n", "zone:4: error: 'a.example.org.' leads to itself: give it another target\n" + counts(3, 1, 1, 0)},
	{"circle", head + `z ALIAS a.example.org.
a ALIAS B.example.org.
b CNAME C
c ALIAS a.example.org.
y ALIAS c.example.org.
`, "zone:3: error: 'z.example.org.' leads into a circle, z.example.org. -> a.example.org. -> b.example.org. -> c.example.org. -> a.example.org.: " +
		"give one of these names another target\n" + counts(6, 4, 1, 0)},
	{"circle of a wildcard", head + "*.w ALIAS x.y.w.example.org.\nb.v ALIAS c.b.v.example.org.\n*.v ALIAS d.b.v.example.org.\n",
		"zone:3: error: '*.w.example.org.' leads into a circle, *.w.example.org. -> x.y.w.example.org. -> x.y.w.example.org.: " +
			"give one of these names another target\n" + counts(4, 3, 1, 0)},
	{"no circle", head + "a ALIAS b.example.org.\nb ALIAS a.example.org.\nb A 192.0.2.1\nb AAAA 2001:db8::1\n",
		"zone:4: warning: the ALIAS of 'b.example.org.' to 'a.example.org.' is never used, for the name has both A and AAAA records: remove it, or these\n" +
			counts(5, 2, 0, 1)},
	{"16 links", head + chained(17), counts(19, 17, 0, 0)},
	{"17 links", head + chained(18), "zone:3: error: the target 'l1.example.org.' of 'l0.example.org.' has a chain of 17 links behind it, " +
		"up to 'l18.example.org.', and 16 is the most: give 'l0.example.org.' a target further on\n" + counts(20, 18, 1, 0)},

	{"several", head + "a ALIAS zz.\na ALIAS c.\na ALIAS b.\na ALIAS C.\n",
		"zone:6: warning: the ALIAS of 'a.example.org.' to 'c.' is there on line 4 already: remove one of them\n" + counts(5, 4, 0, 1)},
	{"16 targets", head + branches(16) + "a ALIAS T1.\n",
		"zone:19: warning: the ALIAS of 'a.example.org.' to 't1.' is there on line 3 already: remove one of them\n" + counts(18, 17, 0, 1)},
	{"18 targets", head + branches(18),
		"zone:19: warning: 'a.example.org.' has more than 16 ALIAS records: only the first 16 in canonical order are used; remove the others\n" + counts(19, 18, 0, 1)},
	{"several, without a circle", head + "a ALIAS b.example.org.\na ALIAS c.example.org.\nb ALIAS d.example.org.\nc ALIAS d.example.org.\n" +
		"d ALIAS app.\nd ALIAS app2.\n", counts(7, 6, 0, 0)},
	{"several, one to itself", head + "a ALIAS app.\na ALIAS a.example.org.\na ALIAS zz.\n",
		"zone:4: error: 'a.example.org.' leads to itself: give it another target\n" + counts(4, 3, 1, 0)},
	{"a circle behind the second of several", head + "a ALIAS app.\na ALIAS b.example.org.\nb ALIAS app.\nb ALIAS c.example.org.\nc CNAME b\nd ALIAS a.example.org.\n",
		"zone:4: error: 'a.example.org.' leads into a circle, a.example.org. -> b.example.org. -> c.example.org. -> b.example.org.: " +
			"give one of these names another target\n" + counts(7, 5, 1, 0)},
	{"two circles", head + "a ALIAS b.example.org.\na ALIAS c.example.org.\nb ALIAS a.example.org.\nc ALIAS c.example.org.\nc ALIAS d.example.org.\nd ALIAS c.example.org.\n",
		"zone:3: error: 'a.example.org.' leads into a circle, a.example.org. -> b.example.org. -> a.example.org.: give one of these names another target\n" +
			"zone:4: error: 'a.example.org.' leads into a circle, a.example.org. -> c.example.org. -> c.example.org.: give one of these names another target\n" +
			"zone:4: error: 'a.example.org.' leads into a circle, a.example.org. -> c.example.org. -> d.example.org. -> c.example.org.: give one of these names another target\n" +
			counts(7, 6, 3, 0)},
	{"a long chain and a circle", head + "a ALIAS a.example.org.\na ALIAS l0.example.org.\nb ALIAS l0.example.org.\n" + chained(17),
		"zone:3: error: 'a.example.org.' leads to itself: give it another target\n" +
			"zone:4: error: the target 'l0.example.org.' of 'a.example.org.' has a chain of 17 links behind it, up to 'l17.example.org.', " +
			"and 16 is the most: give 'a.example.org.' a target further on\n" + counts(22, 20, 2, 0)},
	{"the plugin counts anew behind several", head + chained(17) + "l17 ALIAS l18.example.org.\nl17 ALIAS m0.example.org.\n" +
		regexp.MustCompile(`\bl(\d)`).ReplaceAllString(chained(16), "m$1"), counts(38, 35, 0, 0)},
	{"never used", head + "a ALIAS b.\na A 192.0.2.1\nA AAAA 2001:db8::1\n",
		"zone:3: warning: the ALIAS of 'a.example.org.' to 'b.' is never used, for the name has both A and AAAA records: remove it, or these\n" + counts(4, 1, 0, 1)},
	{"delegated", head + "sub NS ns.example.net.\nsub ALIAS b.\nx.y.SUB ALIAS c.\n",
		`zone:4: warning: the ALIAS of 'sub.example.org.' to 'b.' is never used, for 'sub.example.org.' is delegated by the NS record on line 3: remove one of them
zone:5: warning: the ALIAS of 'x.y.sub.example.org.' to 'c.' is never used, for 'sub.example.org.' is delegated by the NS record on line 3: remove one of them
` + counts(4, 2, 0, 2)},
	{"signed", head + "@ RRSIG SOA 13 2 300 20300101000000 20200101000000 1 example.org. c2ln\na ALIAS b.\nb ALIAS b.\n",
		"zone:4: warning: the zone is signed already (RRSIG on line 3), which cannot cover the addresses of 'a.example.org.' as they change: " +
			"take the zone unsigned, and add dnssec to the server block\n" + counts(4, 2, 0, 1)},
	{"signed without ALIAS", head + "@ RRSIG SOA 13 2 300 20300101000000 20200101000000 1 example.org. c2ln\n", counts(2, 0, 0, 0)},
	{"outside", head + "example.com. ALIAS a.example.org.\nexample.com. A 192.0.2.1\na ALIAS example.com.\n",
		"zone:3: warning: 'example.com.' is outside of the zone 'example.org.', so its records are ignored: remove them, or correct the name\n" + counts(4, 2, 0, 1)},

	{"$INCLUDE", head + `$INCLUDE good inc
a ALIAS a.example.org.
$INCLUDE bad
$INCLUDE missing

$INCLUDE .
b ALIAS b.example.org.`, `zone:3: error: 'self.inc.example.org.' leads to itself: give it another target
zone:4: error: 'a.example.org.' leads to itself: give it another target
zone:5: error: in the file 'bad', line 3: ALIAS target 'app' is relative: write it in full and with a final dot, as 'app.the.zone.'
zone:6: error: cannot be read: failed to open ` + "`missing': open missing: no such file or directory: \"missing\"" + `
zone:8: error: read .: is a directory
zone:9: error: 'b.example.org.' leads to itself: give it another target
` + counts(5, 3, 6, 0)},
	{"$GENERATE", head + `; from 1
$GENERATE 1-2 a$ ALIAS a$.example.org.
$GENERATE 1-3 b$ ALIAS app.example.net.

$GENERATE 254-256 c$ A 192.0.2.$
$GENERATE 1-2 d$ ALIAS app
$GENERATE 2-1 e$ A 192.0.2.$
f ALIAS f.example.org.
`, `zone:4: error: 'a1.example.org.' leads to itself: give it another target
zone:4: error: 'a2.example.org.' leads to itself: give it another target
zone:7: error: cannot be read: bad A A: "192.0.2.256"
zone:8: error: ALIAS target 'app' is relative: write it in full and with a final dot, as 'app.the.zone.'
zone:9: error: cannot be read: bad range in $GENERATE range: "2-1"
zone:10: error: 'f.example.org.' leads to itself: give it another target
` + counts(7, 6, 6, 0)},
}

func TestZones(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "good", "a A 192.0.2.1\nself ALIAS self.inc.example.org.\n")
	write(t, "bad", "a A 192.0.2.1\n\nb ALIAS app\nc ALIAS app\n")
	for _, tc := range zones {
		t.Run(tc.name, func(t *testing.T) {
			write(t, "zone", tc.text)
			var stdout, stderr bytes.Buffer
			status := run([]string{"Example.ORG", "zone"}, &stdout, &stderr)
			if diff := cmp.Diff(tc.want, stdout.String()+stderr.String()); diff != "" {
				t.Errorf("-want +got:\n%s", diff)
			}
			want := 0
			if strings.Contains(tc.want, ": error: ") {
				want = 1
			}
			if status != want {
				t.Errorf("exit status %d, want %d", status, want)
			}
		})
	}
}

func write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestUsage(t *testing.T) {
	t.Chdir(t.TempDir())
	write(t, "zone", head)
	for _, tc := range []struct {
		args   string
		status int
		want   string // on stderr
	}{
		{"example.org zone", 0, ""},
		{". zone", 0, ""},
		{"-h", 0, usage},
		{"", 2, usage},
		{"example.org", 2, usage},
		{"example.org zone zone", 2, usage},
		{"a..b zone", 2, usage},
		{"-x example.org zone", 2, "flag provided but not defined: -x\n" + usage},
		{"example.org missing", 1, "alias-checkzone: open missing: no such file or directory\n"},
		{"example.org .", 1, "alias-checkzone: read .: is a directory\n"},
	} {
		var stdout, stderr bytes.Buffer
		if status := run(strings.Fields(tc.args), &stdout, &stderr); status != tc.status || stderr.String() != tc.want {
			t.Errorf("%s: exit status %d, %q, want %d, %q", tc.args, status, &stderr, tc.status, tc.want)
		}
	}
}

// Reading ends also if every record of a file is refused.
func TestManyRefused(t *testing.T) {
	z := newZone("example.org.", "zone")
	z.read(strings.Repeat("a 60 ALIAS app\n", 2*maxRefused))
	if want := maxRefused + 2; len(z.findings) != want {
		t.Errorf("%d findings, want %d", len(z.findings), want)
	}
}

// For any file, each finding is one line of output and has the number of a line of the file. If there is no error, CoreDNS
// loads the zone.
func FuzzCheck(f *testing.F) {
	for _, z := range zones {
		f.Add(z.text)
	}
	directives := regexp.MustCompile(`(?is)\$INCLUDE|\$GENERATE.*\d{4}|(\$GENERATE.*){4}`)
	finding := regexp.MustCompile(`^zone:(\d+): (error|warning): .*\S.*$`)
	f.Fuzz(func(t *testing.T, text string) {
		if directives.MatchString(text) {
			t.Skip("reads files, or takes long")
		}
		z := newZone("example.org.", "zone")
		z.read(text)
		z.check()
		var out bytes.Buffer
		status := z.print(&out)
		lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
		for _, line := range lines[:len(lines)-1] {
			if !finding.MatchString(line) {
				t.Errorf("%q", line)
			}
		}
		for _, f := range z.findings {
			if f.line < 1 || f.line > 1+strings.Count(text, "\n") {
				t.Errorf("%+v is not in the file", f)
			}
		}
		if _, err := file.Parse(strings.NewReader(text), "example.org.", "zone", -1); err != nil && status == 0 {
			t.Errorf("no error, but %v", err)
		}
	})
}

// The zones in examples have no errors and no warnings, and the README has the command that checks one.
func TestExamples(t *testing.T) {
	readme, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	shown := regexp.MustCompile(`(?m)^go run ./cmd/alias-checkzone (\S+) (\S+)$`).FindStringSubmatch(string(readme))
	if shown == nil {
		t.Fatal("The README has no command")
	}
	for zone, file := range map[string]string{
		shown[1]: shown[2], "hosting.example": "examples/hosting.example.zone", "cdn.example": "examples/cdn.example.zone",
	} {
		var out strings.Builder
		if status := run([]string{zone, "../../" + file}, &out, &out); status != 0 || strings.Contains(out.String(), "warning:") {
			t.Errorf("%s: status %d\n%s", file, status, &out)
		}
	}
}
