package upstream_test

import (
	"context"
	"slices"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// spoilt answers with an HTTPS record that has the RDATA, in hexadecimal.
func spoilt(rdata string) fake.Handler {
	return fake.Raw(func(r *dns.Msg) []byte {
		m := new(dns.Msg).SetReply(r)
		m.Answer = []dns.RR{&dns.RFC3597{
			Hdr: dns.RR_Header{Name: r.Question[0].Name, Rrtype: dns.TypeHTTPS, Class: dns.ClassINET, Ttl: 60}, Rdata: rdata,
		}}
		b, err := m.Pack()
		if err != nil {
			panic(err)
		}
		return b
	})
}

// What responses to HTTPS queries lead to.
func TestHTTPSResponses(t *testing.T) {
	service := "end.example. 300 IN HTTPS 1 . alpn=h2"
	for _, tc := range []struct {
		name    string
		handler fake.Handler

		reports []string
		records []string // none: a negative answer, or a failure
		ttl     uint32
		links   uint8
		ede     uint16 // of the failure; 0: no failure
		detail  string
	}{
		{name: "ServiceMode", handler: fake.Answer("target.example. 60 IN HTTPS 1 . alpn=h2"), reports: []string{"success"},
			records: []string{`1 . alpn="h2"`}, ttl: 60},
		{name: "a chain in one response", handler: fake.Answer("target.example. 50 IN CNAME mode.example.", "mode.example. 40 IN HTTPS 0 end.example.", service),
			reports: []string{"success"}, records: []string{`1 end.example. alpn="h2"`}, ttl: 40, links: 2},
		{name: "a chain over several requests", handler: byName(map[string]fake.Handler{
			"target.example.": fake.Answer("target.example. 50 IN CNAME mode.example."),
			"mode.example.":   fake.Answer("mode.example. 40 IN HTTPS 0 more.example."),
			"more.example.":   fake.Answer("more.example. 30 IN HTTPS 0 end.example."),
			"end.example.":    fake.Answer(service),
		}), reports: []string{"cname", "cname", "cname", "success"}, records: []string{`1 end.example. alpn="h2"`}, ttl: 30, links: 3},
		{name: "a loop over several requests", handler: byName(map[string]fake.Handler{
			"target.example.": fake.Answer("target.example. 50 IN HTTPS 0 mode.example."),
			"mode.example.":   fake.Answer("mode.example. 40 IN CNAME target.example."),
		}), reports: []string{"cname", "loop"}, ede: 22, detail: "target.example. leads back to itself"},
		{name: "AliasMode to a name without records", handler: byName(map[string]fake.Handler{
			"target.example.": fake.Answer("target.example. 50 IN HTTPS 0 end.example."),
			"end.example.":    empty(dns.RcodeSuccess, dns.ExtendedErrorCodeOther),
		}), reports: []string{"cname", "nodata"}, ttl: 30},
		{name: "AliasMode to a name that does not exist", handler: byName(map[string]fake.Handler{
			"target.example.": fake.Answer("target.example. 50 IN HTTPS 0 end.example."),
		}), reports: []string{"cname", "nxdomain"}, ttl: 30},
		{name: "no service", handler: fake.Answer("target.example. 50 IN HTTPS 0 ."), reports: []string{"nodata"}, ttl: 30},
		{name: "hints that are denied", handler: fake.Answer(
			"target.example. 60 IN HTTPS 1 . mandatory=alpn,ipv4hint alpn=h2 ipv4hint=192.0.2.1,0.0.0.0 ipv6hint=2001:db8::1",
			"target.example. 60 IN HTTPS 2 . ipv4hint=192.0.2.1 ipv6hint=::"),
			reports: []string{"success"}, ttl: 60,
			records: []string{`1 . mandatory="alpn" alpn="h2" ipv6hint="2001:db8::1"`, `2 . ipv4hint="192.0.2.1"`}},
		{name: "no RDATA", handler: spoilt(""), reports: []string{"malformed"}, ede: 22, detail: "no TargetName"},
		{name: "a name that is cut off", handler: spoilt("0001" + "0361"), reports: []string{"malformed"}, ede: 22, detail: "HTTPS.Target"},
		{name: "a value that is cut off", handler: spoilt("0001" + "00" + "00010003" + "02"), reports: []string{"malformed"}, ede: 22, detail: "overflow"},
		{name: "a hint of three octets", handler: spoilt("0001" + "00" + "00040003" + "c00002"), reports: []string{"malformed"}, ede: 22, detail: "ipv4hint"},
		{name: "keys in the wrong order", handler: spoilt("0001" + "00" + "00030002" + "01bb" + "00020000"), reports: []string{"malformed"}, ede: 22, detail: "order"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := fake.New(t, tc.handler)
			us, reports := start(t, patient, up.Addr)
			q := lookup.Question{Name: "target.example.", Type: dns.TypeHTTPS}
			o, err := us.Resolve(context.Background(), q, 1)
			if got := reports.outcomes(); !slices.Equal(got, tc.reports) {
				t.Errorf("reports %v, want %v", got, tc.reports)
			}
			if got := lookup.Strings(o.Data, q.Type); !slices.Equal(got, tc.records) || o.TTL != tc.ttl || o.Links != tc.links {
				t.Errorf("got %q, TTL %d, %d links", got, o.TTL, o.Links)
			}
			switch {
			case err == nil && tc.ede > 0:
				t.Fatal("no failure")
			case err != nil:
				checkFailure(t, failure(t, err), tc.reports[len(tc.reports)-1], tc.ede, tc.detail)
			}
		})
	}
}

// A response whose HTTPS records are malformed is no reason to serve none: another upstream answers.
func TestMalformedHTTPSThenAnother(t *testing.T) {
	bad, well := fake.New(t, spoilt("0001")), fake.New(t, fake.Answer("target.example. 60 IN HTTPS 1 ."))
	us, _ := start(t, patient, bad.Addr, well.Addr)
	for range 3 {
		o, err := us.Resolve(context.Background(), lookup.Question{Name: "target.example.", Type: dns.TypeHTTPS}, 2)
		if err != nil || lookup.Count(o.Data, dns.TypeHTTPS) != 1 {
			t.Errorf("got %x, %v", o.Data, err)
		}
	}
}
