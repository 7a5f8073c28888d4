package test

import (
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// combinedZone has aliases of its own.
const combinedZone = zoneFile + `
@      60 IN ALIAS target.example.
v4     60 IN ALIAS v4only.example.
*.shop 60 IN ALIAS target.example.
`

// response is the records of an answer without their TTL, or the response code, or NODATA.
type response string

func responseOf(m *dns.Msg) response {
	if len(m.Answer) == 0 {
		if m.Rcode == dns.RcodeSuccess {
			return "NODATA"
		}
		return response(dns.RcodeToString[m.Rcode])
	}
	var rrs []string
	for _, rr := range m.Answer {
		h := rr.Header()
		rrs = append(rrs, strings.TrimPrefix(rr.String(), h.Name+"\t"+strings.Fields(rr.String())[1]+"\tIN\t"))
	}
	slices.Sort(rrs)
	return response(strings.ReplaceAll(strings.Join(rrs, ", "), "\t", " "))
}

// With other plugins in the server block the answers are right too, with several clients at once. The server is built with the
// race detector.
func TestCombinations(t *testing.T) {
	up := upstream.New(t, upstream.Zone(
		"target.example. 300 IN A 192.0.2.1", "target.example. 300 IN A 192.0.2.2", "target.example. 300 IN AAAA 2001:db8::1",
		"v4only.example. 300 IN A 192.0.2.4",
	))
	both := response("A 192.0.2.1, A 192.0.2.2")
	plain := map[string]response{
		"example.org. A":          both,
		"example.org. AAAA":       "AAAA 2001:db8::1",
		"example.org. MX":         "MX 10 mail.example.org.",
		"rec.example.org. A":      both,
		"rec.example.org. MX":     "NODATA",
		"x.shop.example.org. A":   both,
		"y.shop.example.org. TXT": "NODATA",
		"v4.example.org. A":       "A 192.0.2.4",
		"v4.example.org. AAAA":    "NODATA",
		"own.example.org. A":      "A 192.0.2.80",
		"own.example.org. AAAA":   "NODATA",
		"none.example.org. A":     "NXDOMAIN",
	}
	for _, tc := range []struct {
		name       string
		properties string
		plugins    string
		other      map[string]response // that differ from plain
		logged     string
	}{
		{name: "nothing"},
		{name: "cache", plugins: "cache"},
		{name: "loadbalance", plugins: "loadbalance"},
		{name: "rewrite", plugins: "rewrite name exact old.example.org example.org answer auto",
			other: map[string]response{"old.example.org. A": both, "old.example.org. MX": "MX 10 mail.old.example.org."}},
		{name: "rewrite ttl", plugins: "rewrite ttl regex (.*) 7"},
		{name: "minimal", plugins: "minimal"},
		{name: "any", plugins: "any", other: map[string]response{"example.org. ANY": `HINFO "ANY obsoleted" "See RFC 8482"`}},
		{name: "acl", plugins: "acl {\nblock type AAAA net 127.0.0.0/8\n}", other: map[string]response{
			"example.org. AAAA": "REFUSED", "v4.example.org. AAAA": "REFUSED", "own.example.org. AAAA": "REFUSED"}},
		{name: "view", plugins: "view plain {\nexpr type() != 'AAAA'\n}", other: map[string]response{
			"example.org. AAAA": "REFUSED", "v4.example.org. AAAA": "REFUSED", "own.example.org. AAAA": "REFUSED"}},
		{name: "dns64", plugins: "dns64 {\nallow_ipv4\n}", other: map[string]response{
			"v4.example.org. AAAA": "AAAA 64:ff9b::c000:204", "own.example.org. AAAA": "AAAA 64:ff9b::c000:250"}},
		{name: "log", plugins: "metadata\nlog . \"ALIAS {name} {type} {/alias/target} {/alias/status}\"",
			logged: "ALIAS example.org. A target.example. hit"},
		{name: "txt", properties: "txt", other: map[string]response{
			"y.shop.example.org. TXT": `TXT "ALIAS for target.example"`, "example.org. TXT": `TXT "ALIAS for target.example"`}},
		{name: "all", properties: "txt\nflatten all",
			plugins: "metadata\nlog . \"ALIAS {name} {type} {/alias/target} {/alias/status}\"\ncache\nloadbalance\nminimal\nany\n" +
				"rewrite name exact old.example.org example.org answer auto\ndns64 {\nallow_ipv4\n}\nacl {\nblock type HINFO\n}",
			other: map[string]response{
				"old.example.org. A": both, "v4.example.org. AAAA": "AAAA 64:ff9b::c000:204", "own.example.org. AAAA": "AAAA 64:ff9b::c000:250",
				"y.shop.example.org. TXT": `TXT "ALIAS for target.example"`, "example.org. HINFO": "REFUSED",
			},
			logged: "ALIAS v4.example.org. A v4only.example. miss"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			want := maps.Clone(plain)
			maps.Copy(want, tc.other)
			dir, port := t.TempDir(), freePort(t)
			write(t, filepath.Join(dir, "zone"), combinedZone)
			write(t, filepath.Join(dir, "Corefile"), block("example.org", port,
				"record rec target.example\n"+tc.properties+"\nupstream "+up.Addr, tc.plugins))
			p := startServer(t, port, dir, "Corefile")
			var clients sync.WaitGroup
			for range 4 {
				clients.Go(func() {
					for range 5 {
						checkResponses(t, p, want)
					}
				})
			}
			clients.Wait()
			if p.logged(t, tc.logged) == 0 {
				t.Errorf("The log does not have %q", tc.logged)
			}
		})
	}
}

// checkResponses queries each "name type" over UDP, and compares the responses.
func checkResponses(t *testing.T, p *process, want map[string]response) {
	for q, want := range want {
		name, qtype, _ := strings.Cut(q, " ")
		m, err := ask(p.addr, "udp", name, dns.StringToType[qtype])
		if err != nil {
			t.Errorf("%s: %v", q, err)
			continue
		}
		if got := responseOf(m); got != want {
			t.Errorf("%s: got %s, want %s", q, got, want)
		}
	}
}
