package test

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// metrics returns the values of the metrics page at addr, by name and labels as the page writes them.
func metrics(t *testing.T, addr string) map[string]float64 {
	t.Helper()
	_, body := get(t, "http://"+addr+"/metrics")
	series := make(map[string]float64)
	for line := range strings.Lines(body) {
		line = strings.TrimSpace(line)
		if i := strings.LastIndexByte(line, ' '); i > 0 && line[0] != '#' {
			series[line[:i]], _ = strconv.ParseFloat(line[i+1:], 64)
		}
	}
	return series
}

// Each kind of answer is counted, and log has its status. The plugin itself logs no line per query, be the answer fresh or stale.
func TestMetricsAndLog(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, changing("203.0.113.80"))
	port, page := freePort(t), local(freePort(t))
	server := serve(t, port, block("example.org", port, `
		record @ app.hosting.example
		record dead dead.hosting.example
		record own dead.hosting.example
		min_ttl 1s
		timeout 200ms
		retries 0
		upstream `+up.Addr, `
		metadata
		log . "{name} {type} {/alias/target} {/alias/status}"
		prometheus `+page))
	// Each query gets an answer of another status.
	a := func(name string) *dns.Msg { return query(t, server.addr, "udp", name, dns.TypeA) }
	const age = 1100 * time.Millisecond // more than the TTL

	a("dead.example.org.")
	a("own.example.org.")
	query(t, server.addr, "udp", "example.org.", dns.TypeAAAA)
	a("example.org.")
	checkQuiet(t, server, "example.org.")
	time.Sleep(age)
	up.Set(changing("203.0.113.90"))
	checkRecords(t, a("example.org.").Answer, "example.org. 1 IN A 203.0.113.90")
	time.Sleep(age)
	up.Set(nil)
	checkRecords(t, a("example.org.").Answer, "example.org. 30 IN A 203.0.113.90")
	checkQuiet(t, server, "example.org.")

	series := metrics(t, page)
	at := func(status string) string {
		return fmt.Sprintf(`coredns_alias_answers_total{server="dns://%s",status=%q,zone="example.org."}`, local(port), status)
	}
	requests := func(outcome string) string {
		return fmt.Sprintf(`coredns_alias_upstream_requests_total{outcome=%q,to=%q}`, outcome, up.Addr)
	}
	for name, least := range map[string]float64{
		at("hit"): 200, at("miss"): 1, at("stale"): 201, at("nodata"): 1, at("failure"): 1, at("fallback"): 1,
		requests("success"): 2, requests("nodata"): 1, requests("servfail"): 2, requests("timeout"): 1,
		fmt.Sprintf(`coredns_alias_upstream_request_duration_seconds_count{to=%q}`, up.Addr): 6,
		`coredns_alias_address_changes_total{zone="example.org."}`:                           1,
		`coredns_alias_refreshes_total{outcome="success"}`:                                   1,
		`coredns_alias_stale_age_seconds_count`:                                              201,
		`coredns_alias_cache_entries`:                                                        4,
	} {
		if got, ok := series[name]; !ok || got < least {
			t.Errorf("%s is %v, want at least %v", name, got, least)
		}
	}
	for _, line := range []string{
		"example.org. A app.hosting.example. miss",
		"example.org. A app.hosting.example. hit",
		"example.org. A app.hosting.example. stale",
		"example.org. AAAA app.hosting.example. nodata",
		"dead.example.org. A dead.hosting.example. failure",
		"own.example.org. A dead.hosting.example. fallback",
	} {
		if server.logged(t, "[INFO] "+line+"\n") == 0 {
			t.Errorf("No line %q in the log", line)
		}
	}
}

// The response is the same whether it is sent in wire form or, because of log, as a message. prometheus counts both.
func TestBothForms(t *testing.T) {
	t.Parallel()
	zone := upstream.Zone("app.hosting.example. 3600 IN A 203.0.113.80", "app.hosting.example. 3600 IN A 203.0.113.81")
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if strings.HasPrefix(r.Question[0].Name, "dead") {
			w.WriteMsg(new(dns.Msg).SetRcode(r, dns.RcodeRefused))
			return
		}
		zone(w, r)
	})
	var servers [2]*process
	var pages [2]string
	for i, plugins := range []string{"", "log\n"} {
		port := freePort(t)
		pages[i] = local(freePort(t))
		servers[i] = serve(t, port, block("example.org", port, `
			record @ app.hosting.example
			record dead dead.hosting.example
			on_failure servfail
			upstream `+up.Addr, plugins+"prometheus "+pages[i]))
	}
	for _, q := range []dns.Question{
		{Name: "example.org.", Qtype: dns.TypeA}, {Name: "eXAMPLE.org.", Qtype: dns.TypeA}, {Name: "example.org.", Qtype: dns.TypeAAAA},
		{Name: "example.org.", Qtype: dns.TypeMX}, {Name: "dead.example.org.", Qtype: dns.TypeA},
	} {
		for _, network := range []string{"udp", "tcp"} {
			var texts [2]string
			for i, server := range servers {
				m := query(t, server.addr, network, q.Name, q.Qtype)
				m.Id = 0
				texts[i] = strings.ToLower(regexp.MustCompile(`\t[0-9]+\tIN`).ReplaceAllString(m.String(), "\tTTL\tIN"))
			}
			if texts[0] != texts[1] {
				t.Errorf("%s over %s: in wire form\n%s\nas a message\n%s", q.Name, network, texts[0], texts[1])
			}
		}
	}
	count := func(page, rcode string) (n float64) {
		for name, value := range metrics(t, page) {
			if strings.HasPrefix(name, "coredns_dns_responses_total{") && strings.Contains(name, fmt.Sprintf(`rcode=%q`, rcode)) {
				n += value
			}
		}
		return n
	}
	for _, page := range pages {
		if ok, failed := count(page, "NOERROR"), count(page, "SERVFAIL"); ok != 8 || failed != 2 {
			t.Errorf("prometheus has counted %v responses with NOERROR and %v with SERVFAIL, want 8 and 2", ok, failed)
		}
	}
}

// changing returns a handler that answers with this address and a TTL of a second, and with SERVFAIL for the target dead.
func changing(address string) upstream.Handler {
	zone := upstream.Zone("app.hosting.example. 1 IN A " + address)
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "dead.hosting.example." {
			upstream.Rcode(dns.RcodeServerFailure)(w, r)
			return
		}
		zone(w, r)
	}
}

// checkQuiet checks that the plugin logs nothing for two hundred queries.
func checkQuiet(t *testing.T, server *process, name string) {
	t.Helper()
	before := server.logged(t, "plugin/alias")
	for range 200 {
		query(t, server.addr, "udp", name, dns.TypeA)
	}
	if lines := server.logged(t, "plugin/alias") - before; lines > 0 {
		t.Errorf("The plugin logged %d lines for 200 queries", lines)
	}
}
