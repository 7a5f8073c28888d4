package alias

import (
	"context"
	"strings"
	"testing"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

func TestText(t *testing.T) {
	up := fake.New(t, good)
	long := strings.Repeat(strings.Repeat("a", 62)+".", 3) + strings.Repeat("b", 61)
	backend := zoneFile(t, nil,
		"example.org. 300 IN ALIAS target.example.",
		`example.org. 60 IN TXT "v=spf1 -all"`,
		`example.org. 60 IN TXT "second"`,
		"alone.example.org. 300 IN ALIAS target.example.",
		"mixed.example.org. 300 IN A 192.0.2.1",
		"mixed.example.org. 300 IN AAAA 2001:db8::9",
		"mixed.example.org. 300 IN ALIAS target.example.",
		"*.w.example.org. 300 IN ALIAS target.example.",
		`esc.example.org. 300 IN ALIAS a\.b\".example.`,
		"root.example.org. 300 IN ALIAS .",
		`plain.example.org. 60 IN TXT "plain"`,
		`rec.example.org. 60 IN TXT "rec"`,
		"cname.example.org. 60 IN CNAME plain.example.org.",
		"sub.example.org. 60 IN NS ns.sub.example.org.",
		`signed.example.org. 60 IN TXT "signed"`,
		"signed.example.org. 60 IN RRSIG TXT 13 3 60 20300101000000 20200101000000 1 example.org. c2ln",
		"signed.example.org. 60 IN ALIAS target.example.",
		"signed.example.org. 60 IN RRSIG TYPE65401 13 3 60 20300101000000 20200101000000 1 example.org. c2ln",
	)
	records := `
		record rec target.example 900
		record only target.example
		record long ` + long + `
		record *.rw target.example
		record cname target.example
		upstream ` + up.Addr
	on, _ := newAlias(t, "example.org", "txt\n"+records, backend)
	off, _ := newAlias(t, "example.org", records, backend)
	spf, second := `example.org. 60 IN TXT "v=spf1 -all"`, `example.org. 60 IN TXT "second"`
	nodata := []string{exampleSOA}
	for _, tc := range []struct {
		name    string
		on, off queryTest
	}{
		{"example.org.", queryTest{answer: []string{spf, second, `example.org. 60 IN TXT "ALIAS for target.example"`}}, queryTest{answer: []string{spf, second}}},
		{"alone.example.org.", queryTest{answer: []string{`alone.example.org. 300 IN TXT "ALIAS for target.example"`}}, queryTest{ns: nodata}},
		{"mixed.example.org.", queryTest{answer: []string{`mixed.example.org. 300 IN TXT "ALIAS for target.example"`}}, queryTest{ns: nodata}},
		{"x.w.example.org.", queryTest{answer: []string{`x.w.example.org. 300 IN TXT "ALIAS for target.example"`}}, queryTest{ns: nodata}},
		{"esc.example.org.", queryTest{answer: []string{`esc.example.org. 300 IN TXT "ALIAS for a\\.b\\\".example"`}}, queryTest{ns: nodata}},
		{"root.example.org.", queryTest{answer: []string{`root.example.org. 300 IN TXT "ALIAS for ."`}}, queryTest{ns: nodata}},
		{"plain.example.org.", queryTest{answer: []string{`plain.example.org. 60 IN TXT "plain"`}}, queryTest{answer: []string{`plain.example.org. 60 IN TXT "plain"`}}},
		{"rec.example.org.", queryTest{answer: []string{`rec.example.org. 60 IN TXT "rec"`, `rec.example.org. 60 IN TXT "ALIAS for target.example"`}},
			queryTest{answer: []string{`rec.example.org. 60 IN TXT "rec"`}}},
		{"only.example.org.", queryTest{answer: []string{`only.example.org. 3600 IN TXT "ALIAS for target.example"`}}, queryTest{ns: nodata}},
		{"long.example.org.", queryTest{answer: []string{`long.example.org. 3600 IN TXT "ALIAS for ` + long[:245] + `" "` + long[245:] + `"`}}, queryTest{ns: nodata}},
		{"x.rw.example.org.", queryTest{answer: []string{`x.rw.example.org. 3600 IN TXT "ALIAS for target.example"`}}, queryTest{ns: nodata}},
		{"none.example.org.", queryTest{rcode: dns.RcodeNameError, ns: nodata}, queryTest{rcode: dns.RcodeNameError, ns: nodata}},
	} {
		for turn, a := range map[string]*Alias{"on": on, "off": off} {
			q := map[string]queryTest{"on": tc.on, "off": tc.off}[turn]
			q.name, q.qtype = tc.name, dns.TypeTXT
			t.Run(tc.name+turn, func(t *testing.T) { q.check(t, a) })
		}
	}
	// It cannot stand beside a CNAME record, in a referral, or under signatures.
	for _, name := range []string{"cname.example.org.", "sub.example.org."} {
		if diff := cmp.Diff(text(query(t, off, name, dns.TypeTXT).Answer), text(query(t, on, name, dns.TypeTXT).Answer)); diff != "" {
			t.Errorf("%s (-off +on):\n%s", name, diff)
		}
	}
	for _, do := range []bool{false, true} {
		r := new(dns.Msg).SetQuestion("signed.example.org.", dns.TypeTXT)
		r.SetEdns0(1232, do)
		if got := text(exchange(t, context.Background(), on, r).Answer); strings.Contains(strings.Join(got, ""), "ALIAS") {
			t.Errorf("signed, DO %v: %v", do, got)
		}
	}
}
