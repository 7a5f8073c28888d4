//go:build linux

package test

import (
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

const (
	rulesFile      = "../deploy/prometheus/alias.rules.yaml"
	rulesTests     = "../deploy/prometheus/alias.rules.test.yaml"
	dashboardFile  = "../deploy/grafana/alias.json"
	monitoringPage = "../docs/monitoring.md"

	// scrapeInterval is that of Prometheus in the tests, and rateInterval the $__rate_interval that Grafana derives from it.
	scrapeInterval = time.Second
	rateInterval   = 4 * scrapeInterval
)

// The Corefile of the page starts a server with the metrics, and its commands for the Prometheus operator print an object with
// the rules.
func TestMonitoringPage(t *testing.T) {
	t.Parallel()
	promtool := need(t, "promtool")
	bs := blocks(read(t, monitoringPage))
	for _, b := range bs {
		switch {
		case b.language == "corefile":
			port, page := freePort(t), local(freePort(t))
			conf := filepath.Join(t.TempDir(), "Corefile")
			write(t, conf, onLoopback(strings.ReplaceAll(b.text, "127.0.0.1:9153", page), port))
			startServer(t, port, "..", conf)
			if series := metrics(t, page); len(series) == 0 || !slices.Contains(namesOf(series), "coredns_alias_cache_entries") {
				t.Errorf("The server has the metrics %v", namesOf(series))
			}
		case strings.Contains(b.text, "kind: PrometheusRule"):
			shell := exec.Command("sh", "-ec", strings.ReplaceAll(b.text, "kubectl apply -f -", "cat"))
			shell.Dir = ".."
			object, err := shell.Output()
			check(t, err)
			head, spec, found := strings.Cut(string(object), "\nspec:\n")
			if !found || head != "apiVersion: monitoring.coreos.com/v1\nkind: PrometheusRule\nmetadata:\n  name: alias" {
				t.Errorf("The object is\n%s", object)
			}
			rules := filepath.Join(t.TempDir(), "rules")
			write(t, rules, regexp.MustCompile(`(?m)^  `).ReplaceAllString(spec, ""))
			if out, err := exec.Command(promtool, "check", "rules", "--lint-fatal", rules).CombinedOutput(); err != nil {
				t.Errorf("%v\n%s", err, out)
			}
		}
	}
}

// late are the alerts for conditions that take longer than a test.
var late = []string{"AliasStaleAnswersOld"}

// While all is well no alert is pending or firing. With all faults at once, all alerts are. Each query of the dashboard returns
// a value for that time. The test is not parallel: on a machine that is busy with other tests, lookups would be slow while all is
// to be well.
func TestMonitoring(t *testing.T) {
	d := readDashboard(t)
	if !*update {
		checkRows(t, read(t, monitoringPage), scrapeHead, d.rows())
	}
	w := startWatched(t)

	w.calm(t)
	w.outage(t)
	w.badReload(t)

	w.checkNames(t, d)
	w.checkVariables(t, d)
	measured := w.checkQueries(t, d)
	if *update && !t.Failed() {
		writeScrape(t, d, measured)
	}
}

// watchedCorefile has two zones that are transferred, and one with persist on a small disk. One of the two is transferred without
// the aliases that fail, and may have one lookup in flight. Each zone has its own upstream, and so its own cache.
const watchedCorefile = `
example.org:PORT {
	bind 127.0.0.1
	alias {
		record @ app.hosting.example
		min_ttl 1s
		upstream UPSTREAM
	}
	transfer {
		to SECONDARY OTHER
	}
	file zone {
		reload 1s
	}
	prometheus PAGE
	reload 2s 1s
}
example.net:PORT {
	bind 127.0.0.1
	alias {
		record @ app.hosting.example
		min_ttl 1s
		max_concurrent 1
		transfer_on_failure omit
		upstream BUSY
	}
	transfer {
		to *
	}
	file zone {
		reload 1s
	}
	prometheus PAGE
}
example.com:PORT {
	bind 127.0.0.1
	alias {
		upstream HEALTHY
		persist DISK/answers
	}
	file others
	prometheus PAGE
}
`

// watched is a server that Prometheus scrapes, with its upstreams, a secondary and its disk.
type watched struct {
	*process
	page       string // address of its metrics
	prometheus string // address of Prometheus
	began      time.Time

	up, busy  *upstream.Server // of the zones that are transferred
	secondary *upstream.Server // one of the two of example.org
	disk      string
}

func startWatched(t *testing.T) *watched {
	t.Helper()
	program := need(t, "prometheus")
	secondary := func() *upstream.Server { return upstream.New(t, upstream.Rcode(dns.RcodeSuccess)) }
	hosted := hosting(3, oldAddresses...)
	w := &watched{page: local(freePort(t)), up: upstream.New(t, hosted), busy: upstream.New(t, hosted), secondary: secondary(), disk: smallDisk(t)}
	port, dir := freePort(t), t.TempDir()
	write(t, filepath.Join(dir, "zone"), transferredZone(1, ""))
	write(t, filepath.Join(dir, "others"), zoneFile+otherAliases())
	write(t, filepath.Join(dir, "Corefile"), strings.NewReplacer(
		"PORT", port, "PAGE", w.page, "UPSTREAM", w.up.Addr, "BUSY", w.busy.Addr, "HEALTHY", upstream.New(t, onlyOthers).Addr,
		"SECONDARY", w.secondary.Addr, "OTHER", secondary().Addr, "DISK", w.disk,
	).Replace(watchedCorefile))
	w.process = startServer(t, port, dir, "Corefile")
	w.prometheus = startPrometheus(t, program, w.page)
	w.began = time.Now()
	return w
}

// transferredZone returns the zone that is transferred, with further records.
func transferredZone(serial int, more string) string {
	return strings.Replace(zoneFile, "hostmaster 1 ", fmt.Sprintf("hostmaster %d ", serial), 1) + more
}

// others is how many names clients have to query until the small disk is full.
const others = 500

func otherName(i int) string { return fmt.Sprintf("other%d", i) }

func otherAliases() string {
	var zone strings.Builder
	for i := range others {
		fmt.Fprintf(&zone, "%s IN ALIAS %[1]s.hosting.example.\n", otherName(i))
	}
	return zone.String()
}

// calm has clients send queries while all is well, and checks that there are no alerts.
func (w *watched) calm(t *testing.T) {
	t.Helper()
	// For an MX or NS record, file looks up addresses in the zone, which it may be replacing at that moment.
	w.keepAsking(t, append(questions("example.org."), question{"example.org.", dns.TypeTXT})...)
	w.askOthers(t, 1)
	// Prometheus sees a counter for the first time when it is 1, and that is no increase: everything has to happen twice.
	for i, addresses := range [][]string{newAddresses, oldAddresses} {
		w.up.Set(hosting(3, addresses...))
		transfer(t, w.process, new(dns.Msg).SetAxfr("example.org."))
		transfer(t, w.process, new(dns.Msg).SetAxfr("example.net."))
		w.await(t, fmt.Sprintf(`sum(coredns_alias_address_changes_total) >= %d`, 2*(i+1)))
	}
	w.await(t, `increase(coredns_alias_address_changes_total[1m]) > 0`)
	w.await(t, `increase(coredns_alias_notifies_total{outcome="success"}[1m]) > 0`)
	w.await(t, `count_over_time(up[1m]) >= 8`)
	if alerts := w.ask(t, `count_over_time(ALERTS[1m])`); len(alerts) > 0 {
		t.Errorf("All is well, and there are alerts: %v", alerts)
	}
}

// outage causes all faults at once: one upstream and one secondary do not answer, the other upstream is slow, the disk is full,
// and the zones get an alias whose target is not cached. It waits until all alerts are pending or firing.
func (w *watched) outage(t *testing.T) {
	t.Helper()
	w.up.Set(nil)
	w.busy.Set(slowly)
	w.secondary.Set(nil)
	if err := os.WriteFile(filepath.Join(w.disk, "filler"), make([]byte, 256<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("The disk is not full: %v", err)
	}
	replaceFile(t, filepath.Join(w.Dir, "zone"), transferredZone(2, "new IN ALIAS new.hosting.example.\n"))
	w.askOthers(t, others)
	w.keepAsking(t, questions("new.example.org.")...)
	w.keepAsking(t, questions("example.net.", "new.example.net.")...)
	for zone, outcome := range map[string]string{"example.org.": "failure", "example.net.": "omitted"} {
		eventually(t, 10*time.Second, zone+" has its alias", func() bool {
			return w.logged(t, fmt.Sprintf("Successfully reloaded zone %q", zone)) > 0
		})
		eventually(t, 20*time.Second, "a transfer of "+zone+" is a "+outcome, func() bool {
			ask(w.addr, "tcp", zone, dns.TypeAXFR) // the metric has the outcome
			return metrics(t, w.page)[fmt.Sprintf(`coredns_alias_transfers_total{outcome=%q,zone=%q}`, outcome, zone)] > 0
		})
	}
	var missing []string
	defer func() {
		if t.Failed() {
			t.Logf("Neither pending nor firing: %v", missing)
		}
	}()
	eventually(t, 40*time.Second, "all alerts are pending or firing", func() bool {
		missing = w.inactive(t)
		return slices.Equal(missing, late)
	})
}

// inactive returns the alerts that are neither pending nor firing.
func (w *watched) inactive(t *testing.T) []string {
	t.Helper()
	var names []string
	for _, r := range w.rules(t) {
		if r.Health != "ok" {
			t.Fatalf("%s: %s", r.Name, r.LastError)
		}
		if r.State == "inactive" {
			names = append(names, r.Name)
		}
	}
	return names
}

// badReload gives reload a Corefile that it refuses, and waits until that is scraped.
func (w *watched) badReload(t *testing.T) {
	t.Helper()
	conf := filepath.Join(w.Dir, "Corefile")
	replaceFile(t, conf, strings.Replace(read(t, conf), "min_ttl 1s", "min_ttl soon", 1))
	w.await(t, `increase(coredns_reload_failed_total[10s]) > 0`)
}

// slowly answers late for app.hosting.example, with a TTL of a second. It does not answer for other targets.
func slowly(w dns.ResponseWriter, r *dns.Msg) {
	if r.Question[0].Name == "app.hosting.example." {
		upstream.Late(300*time.Millisecond, hosting(1, oldAddresses...))(w, r)
	}
}

// keepAsking has a client send the queries until the test ends.
func (w *watched) keepAsking(t *testing.T, qs ...question) {
	t.Helper()
	t.Cleanup(follow(w.addr, qs, func(question, *dns.Msg, error) {}))
}

// askOthers queries the first n names whose upstream always answers.
func (w *watched) askOthers(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		if m := query(t, w.addr, "udp", otherName(i)+".example.com.", dns.TypeA); len(m.Answer) != 1 {
			t.Fatalf("No address:\n%v", m)
		}
	}
}

// checkNames checks that the server exports each metric of the dashboard and the rules, and that the dashboard has all metrics of
// alias.
func (w *watched) checkNames(t *testing.T, d *dashboard) {
	t.Helper()
	var exprs []string
	for _, p := range d.charts() {
		for _, q := range p.Targets {
			exprs = append(exprs, q.Expr)
		}
	}
	shown := strings.Join(exprs, "\n")
	for _, v := range d.Templating.List {
		exprs = append(exprs, v.Query)
	}
	for _, r := range w.rules(t) {
		exprs = append(exprs, r.Query)
	}
	exported := namesOf(metrics(t, w.page))
	for _, name := range isMetric.FindAllString(strings.Join(exprs, "\n"), -1) {
		if !slices.Contains(exported, name) {
			t.Errorf("The server does not export %s", name)
		}
	}
	for _, name := range exported {
		name = strings.TrimSuffix(strings.TrimSuffix(name, "_sum"), "_count")
		if strings.HasPrefix(name, "coredns_alias_") && !strings.Contains(shown, name) {
			t.Errorf("The dashboard does not have %s", name)
		}
	}
}

// checkVariables checks which values the variables of the dashboard can have.
func (w *watched) checkVariables(t *testing.T, d *dashboard) {
	t.Helper()
	want := map[string][]string{"job": {"alias"}, "instance": {w.page}, "zone": {"example.com.", "example.net.", "example.org."}}
	for _, v := range d.Templating.List {
		m := regexp.MustCompile(`^label_values\((.+), (\w+)\)$`).FindStringSubmatch(asGrafana(v.Query))
		if m == nil {
			continue
		}
		var values []string
		w.api(t, "label/"+m[2]+"/values", url.Values{"match[]": {m[1]}}, &values)
		if !slices.Equal(values, want[v.Name]) {
			t.Errorf("Variable %s has the values %v, want %v", v.Name, values, want[v.Name])
		}
	}
}

// measurement is the result of a query over the time of the test.
type measurement struct {
	series  int
	highest float64
}

// checkQueries checks that each query of the dashboard had a value, and returns the results in the order of the dashboard.
func (w *watched) checkQueries(t *testing.T, d *dashboard) []measurement {
	t.Helper()
	seconds := func(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }
	time.Sleep(scrapeInterval + time.Second) // so that the last scrape is before the end of the range
	var ms []measurement
	for _, p := range d.charts() {
		for _, q := range p.Targets {
			var data struct{ Result []sampled }
			w.api(t, "query_range", url.Values{"query": {asGrafana(q.Expr)}, "start": {seconds(w.began)}, "end": {seconds(time.Now())}, "step": {"1"}}, &data)
			m := measurement{len(data.Result), highest(t, data.Result)}
			if m.highest <= 0 && !strings.Contains(q.Expr, "coredns_panics_total") {
				t.Errorf("%s: %s\nreturned %d series, and nothing above %v", p.Title, q.Expr, m.series, m.highest)
			}
			ms = append(ms, m)
		}
	}
	return ms
}

const scrapeHead = "| Panel | Query | Series | Highest value |\n| --- | --- | --- | --- |\n"

// inWords returns a value with its unit, which has the name that Grafana gives it.
func inWords(t *testing.T, value float64, unit string) string {
	t.Helper()
	switch unit {
	case "s":
		return time.Duration(value * float64(time.Second)).Round(10 * time.Microsecond).String()
	case "percentunit":
		return fmt.Sprintf("%.3g %%", 100*value)
	case "bytes":
		return fmt.Sprintf("%.0f MiB", value/(1<<20))
	case "reqps", "cps", "ops", "wps":
		return fmt.Sprintf("%.3g a second", value)
	case "cpm":
		return fmt.Sprintf("%.3g a minute", value)
	case "short", "none":
		return fmt.Sprintf("%.3g", value)
	}
	t.Fatalf("The test does not know the unit %s", unit)
	return ""
}

// writeScrape writes the table into the page, which ends with it.
func writeScrape(t *testing.T, d *dashboard, ms []measurement) {
	t.Helper()
	text, _, found := strings.Cut(read(t, monitoringPage), scrapeHead)
	if !found {
		t.Fatal("The page has no table")
	}
	text += scrapeHead
	rows, i := d.rows(), 0
	for _, p := range d.charts() {
		for range p.Targets {
			text += fmt.Sprintf("%s%d | %s |\n", rows[i], ms[i].series, inWords(t, ms[i].highest, p.FieldConfig.Defaults.Unit))
			i++
		}
	}
	check(t, os.WriteFile(monitoringPage, []byte(text), 0o644))
}
