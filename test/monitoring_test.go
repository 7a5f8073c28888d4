//go:build linux

package test

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"net/http"
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

	// scrapeInterval is that of the Prometheus in the tests, and rateInterval what Grafana makes of it.
	scrapeInterval = time.Second
	rateInterval   = 4 * scrapeInterval
)

// dashboard is the part of Grafana's model that matters here.
type dashboard struct {
	UID           string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type, Query string
			Datasource        datasource
		}
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               datasource
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct{ RefID, Expr, LegendFormat, Format string }
	FieldConfig              struct{ Defaults struct{ Unit string } }
}

type datasource struct{ Type, UID string }

func readDashboard(t *testing.T) *dashboard {
	t.Helper()
	d := new(dashboard)
	check(t, json.Unmarshal([]byte(read(t, dashboardFile)), d))
	return d
}

// charts returns the panels but for those that are headings.
func (d *dashboard) charts() []panel {
	return slices.DeleteFunc(slices.Clone(d.Panels), func(p panel) bool { return p.Type == "row" })
}

// The dashboard is one that Grafana takes, and that tells who reads it what it shows.
func TestDashboard(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	if d.UID == "" || d.SchemaVersion < 36 { // before that, data sources had no uid
		t.Errorf("The dashboard has uid %q and schemaVersion %d", d.UID, d.SchemaVersion)
	}
	prometheus := datasource{"prometheus", "${datasource}"}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
		if v.Type == "query" && v.Datasource != prometheus {
			t.Errorf("Variable %s comes from %v", v.Name, v.Datasource)
		}
	}
	if want := []string{"datasource", "job", "instance", "zone"}; !slices.Equal(names, want) {
		t.Errorf("The variables are %v, want %v", names, want)
	}
	ids, titles, taken := make(map[int]bool), make(map[string]bool), make(map[[2]int]string)
	for _, p := range d.Panels {
		if p.Title == "" || titles[p.Title] || p.ID == 0 || ids[p.ID] {
			t.Errorf("Panel %d %q lacks an id or a title of its own", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		p.checkPlace(t, taken)
	}
	for _, p := range d.charts() {
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource != prometheus || len(p.Targets) == 0 {
			t.Errorf("%s lacks a description, a unit, the data source of the variable, or queries", p.Title)
		}
		p.checkQueries(t)
	}
}

// checkPlace checks that p is inside of the grid, and takes no place that another panel has.
func (p panel) checkPlace(t *testing.T, taken map[[2]int]string) {
	t.Helper()
	g := p.GridPos
	if g.X < 0 || g.Y < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
		t.Errorf("%s is at %+v", p.Title, g)
	}
	for x := g.X; x < g.X+g.W; x++ {
		for y := g.Y; y < g.Y+g.H; y++ {
			if other := taken[[2]int{x, y}]; other != "" {
				t.Fatalf("%s lies over %s", p.Title, other)
			}
			taken[[2]int{x, y}] = p.Title
		}
	}
}

// checkQueries checks that the queries of p follow the variables, and that a legend tells their lines apart.
func (p panel) checkQueries(t *testing.T) {
	t.Helper()
	refs := make(map[string]bool)
	for _, q := range p.Targets {
		if q.RefID == "" || refs[q.RefID] {
			t.Errorf("%s: query %q has no refId of its own", p.Title, q.Expr)
		}
		refs[q.RefID] = true
		if q.LegendFormat == "" && q.Format != "table" {
			t.Errorf("%s: query %q has no legend", p.Title, q.Expr)
		}
		for _, selector := range regexp.MustCompile(`(\w+)(\{[^}]*\})?`).FindAllStringSubmatch(q.Expr, -1) {
			if isMetric.MatchString(selector[1]) && !strings.HasPrefix(selector[2], `{job=~"$job", instance=~"$instance"`) {
				t.Errorf("%s: %s does not follow the variables", p.Title, selector[0])
			}
		}
		if strings.Contains(q.Expr, "rate(") && !strings.Contains(q.Expr, "[$__rate_interval]") {
			t.Errorf("%s: %s has a window of its own", p.Title, q.Expr)
		}
	}
}

// isMetric tells the names of metrics in an expression from its other words.
var isMetric = regexp.MustCompile(`\b(coredns|process|go)_[a-z_]+`)

// Each alert has its unit tests, is in the page, and says where to read on.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool := need(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "--lint=all", "--lint-fatal", rulesFile}, {"test", "rules", rulesTests}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	rules, tests, page := read(t, rulesFile), read(t, rulesTests), read(t, monitoringPage)
	known := anchors(read(t, "../docs/troubleshooting.md"))
	alert := regexp.MustCompile(`(?s)- alert: (\w+)\n.*?severity: (\w+)\n.*?runbook_url: \S+/docs/troubleshooting\.md(#[a-z-]+)\n`)
	alerts := alert.FindAllStringSubmatch(rules, -1)
	if n := strings.Count(rules, "- alert: "); n == 0 || n != len(alerts) {
		t.Fatalf("Found %d of %d alerts", len(alerts), n)
	}
	var rows []string
	for _, a := range alerts {
		name, severity, anchor := a[1], a[2], a[3]
		if !slices.Contains(known, anchor) {
			t.Errorf("%s: troubleshooting.md has no %s", name, anchor)
		}
		for what, alerts := range map[string]string{"no alert": ` \[\]`, "an alert": `( &\w+)?\n +- exp_labels: `} {
			if !regexp.MustCompile(`alertname: ` + name + `\n +exp_alerts:` + alerts).MatchString(tests) {
				t.Errorf("%s has no test that expects %s", name, what)
			}
		}
		rows = append(rows, fmt.Sprintf("| [`%s`](troubleshooting.md%s) | %s | ", name, anchor, severity))
	}
	checkRows(t, page, "| Alert | Severity | What it means |\n| --- | --- | --- |\n", rows)
}

// checkRows checks that the table below head has rows that begin like this.
func checkRows(t *testing.T, page, head string, beginnings []string) {
	t.Helper()
	_, table, found := strings.Cut(page, head)
	if !found {
		t.Fatalf("The page has no table %s", head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(strings.TrimSpace(table), "\n")
	if len(rows) != len(beginnings) {
		t.Errorf("The table has %d rows, want %d", len(rows), len(beginnings))
	}
	for i, row := range rows[:min(len(rows), len(beginnings))] {
		if !strings.HasPrefix(row, beginnings[i]) {
			t.Errorf("The table has\n\t%s\nwant\n\t%s", row, beginnings[i])
		}
	}
}

// The Corefile of the page starts a server whose metrics are there, and its commands for the Prometheus operator make an object
// with the rules.
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

// namesOf returns the names of time series, sorted.
func namesOf(series map[string]float64) []string {
	names := make(map[string]bool)
	for s := range series {
		name, _, _ := strings.Cut(s, "{")
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// late are the alerts for what takes longer than a test.
var late = []string{"AliasStaleAnswersOld"}

// While all is well there is no alert. When all goes wrong there are all of them. Each query of the dashboard returns what
// happened meanwhile. It is not parallel: a machine that is busy with other tests would be slow while all is well.
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

// watchedCorefile has two zones that leave, and one whose answers are on a small disk. Of the former one leaves without what is
// not known, and has room for one lookup at a time. Each has an upstream of its own, and so a memory of its own.
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

// watched is a server that a Prometheus scrapes, and what is around it.
type watched struct {
	*process
	page       string // address of its metrics
	prometheus string // address of Prometheus
	began      time.Time

	up, busy  *upstream.Server // of the zones that leave
	secondary *upstream.Server // one of two
	disk      string
}

func startWatched(t *testing.T) *watched {
	t.Helper()
	program := need(t, "prometheus")
	secondary := func() *upstream.Server { return upstream.New(t, upstream.Rcode(dns.RcodeSuccess)) }
	hosted := hosting(3, oldAddresses...)
	w := &watched{page: local(freePort(t)), up: upstream.New(t, hosted), busy: upstream.New(t, hosted), secondary: secondary(), disk: smallDisk(t)}
	port, dir := freePort(t), t.TempDir()
	write(t, filepath.Join(dir, "zone"), leavingZone(1, ""))
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

// leavingZone is the zone that leaves, with further records.
func leavingZone(serial int, more string) string {
	return strings.Replace(zoneFile, "hostmaster 1 ", fmt.Sprintf("hostmaster %d ", serial), 1) + more
}

// others is how many names have to be asked for until the small disk is full.
const others = 500

func otherName(i int) string { return fmt.Sprintf("other%d", i) }

func otherAliases() string {
	var zone strings.Builder
	for i := range others {
		fmt.Fprintf(&zone, "%s IN ALIAS %[1]s.hosting.example.\n", otherName(i))
	}
	return zone.String()
}

// startPrometheus starts a Prometheus with the configuration of the page, which scrapes what is at page, and returns its address.
func startPrometheus(t *testing.T, program, page string) (addr string) {
	t.Helper()
	dir := t.TempDir()
	conf, out, addr := filepath.Join(dir, "prometheus.yml"), filepath.Join(dir, "out"), local(freePort(t))
	i := slices.IndexFunc(blocks(read(t, monitoringPage)), func(b fenced) bool { return strings.Contains(b.text, "scrape_configs:") })
	write(t, conf, strings.NewReplacer("15s", scrapeInterval.String(), "/etc/prometheus/alias.rules.yaml", absolute(t, rulesFile),
		"127.0.0.1:9153", page).Replace(blocks(read(t, monitoringPage))[i].text))
	log, err := os.Create(out)
	check(t, err)
	defer log.Close()
	p := exec.CommandContext(t.Context(), program, "--config.file", conf, "--storage.tsdb.path", filepath.Join(dir, "data"),
		"--web.listen-address", addr, "--log.level", "warn")
	p.Stdout, p.Stderr = log, log
	p.Cancel = func() error { return p.Process.Signal(syscall.SIGTERM) }
	p.WaitDelay = 10 * time.Second
	check(t, p.Start())
	t.Cleanup(func() {
		p.Wait()
		if t.Failed() {
			t.Logf("Prometheus said\n%s", read(t, out))
		}
	})
	eventually(t, 20*time.Second, "Prometheus is ready", func() bool {
		code, _ := get(t, "http://"+addr+"/-/ready")
		return code == http.StatusOK
	})
	return addr
}

// calm has clients ask while all is well, and checks that there are no alerts.
func (w *watched) calm(t *testing.T) {
	t.Helper()
	// With an MX or NS record, file looks for its addresses in the zone that it may be replacing at that moment.
	w.keepAsking(t, append(questions("example.org."), question{"example.org.", dns.TypeTXT})...)
	w.askOthers(t, 1)
	// A counter that begins with what it counts has not grown: all has to happen twice.
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

// outage lets all go wrong: one upstream and one secondary are silent, the other upstream is slow, the disk is full, and
// the zones get an alias of which nothing is remembered. It waits until all alerts have come.
func (w *watched) outage(t *testing.T) {
	t.Helper()
	w.up.Set(nil)
	w.busy.Set(slowly)
	w.secondary.Set(nil)
	if err := os.WriteFile(filepath.Join(w.disk, "filler"), make([]byte, 256<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("The disk is not full: %v", err)
	}
	replaceFile(t, filepath.Join(w.Dir, "zone"), leavingZone(2, "new IN ALIAS new.hosting.example.\n"))
	w.askOthers(t, others)
	w.keepAsking(t, questions("new.example.org.")...)
	w.keepAsking(t, questions("example.net.", "new.example.net.")...)
	for zone, outcome := range map[string]string{"example.org.": "failure", "example.net.": "omitted"} {
		eventually(t, 10*time.Second, zone+" has its alias", func() bool {
			return w.logged(t, fmt.Sprintf("Successfully reloaded zone %q", zone)) > 0
		})
		eventually(t, 20*time.Second, "a transfer of "+zone+" is a "+outcome, func() bool {
			ask(w.addr, "tcp", zone, dns.TypeAXFR) // whatever it gets
			return metrics(t, w.page)[fmt.Sprintf(`coredns_alias_transfers_total{outcome=%q,zone=%q}`, outcome, zone)] > 0
		})
	}
	var missing []string
	defer func() {
		if t.Failed() {
			t.Logf("There were no alerts %v", missing)
		}
	}()
	eventually(t, 40*time.Second, "all alerts have come", func() bool {
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

// slowly takes its time for the one target that it knows, which has to be looked up again and again. About others it is silent.
func slowly(w dns.ResponseWriter, r *dns.Msg) {
	if r.Question[0].Name == "app.hosting.example." {
		upstream.Late(300*time.Millisecond, hosting(1, oldAddresses...))(w, r)
	}
}

// keepAsking has a client ask qs until the test ends.
func (w *watched) keepAsking(t *testing.T, qs ...question) {
	t.Helper()
	t.Cleanup(follow(w.addr, qs, func(question, *dns.Msg, error) {}))
}

// askOthers asks for the first n names whose targets are always known.
func (w *watched) askOthers(t *testing.T, n int) {
	t.Helper()
	for i := range n {
		if m := query(t, w.addr, "udp", otherName(i)+".example.com.", dns.TypeA); len(m.Answer) != 1 {
			t.Fatalf("No address:\n%v", m)
		}
	}
}

// api asks Prometheus, and puts what it says into data.
func (w *watched) api(t *testing.T, path string, params url.Values, data any) {
	t.Helper()
	_, body := get(t, "http://"+w.prometheus+"/api/v1/"+path+"?"+params.Encode())
	answer := struct {
		Status, Error string
		Data          any
	}{Data: data}
	if err := json.Unmarshal([]byte(body), &answer); err != nil || answer.Status != "success" {
		t.Fatalf("%s %v: %v %s", path, params, err, answer.Error)
	}
}

// rule is an alert, and what has become of it.
type rule struct{ Name, Query, State, Health, LastError string }

func (w *watched) rules(t *testing.T) []rule {
	t.Helper()
	var data struct{ Groups []struct{ Rules []rule } }
	w.api(t, "rules", nil, &data)
	if len(data.Groups) != 1 || len(data.Groups[0].Rules) == 0 {
		t.Fatalf("Prometheus has the rules %v", data)
	}
	return data.Groups[0].Rules
}

// sampled is a time series, with the time and the value of each sample.
type sampled struct {
	Metric map[string]string
	Value  [2]any   // now
	Values [][2]any // of a range
}

// ask returns what an expression is now.
func (w *watched) ask(t *testing.T, expr string) []sampled {
	t.Helper()
	var data struct{ Result []sampled }
	w.api(t, "query", url.Values{"query": {expr}}, &data)
	return data.Result
}

// await waits until an expression has a value.
func (w *watched) await(t *testing.T, expr string) {
	t.Helper()
	eventually(t, 20*time.Second, expr, func() bool { return len(w.ask(t, expr)) > 0 })
}

// checkNames checks that each metric of the dashboard and the rules is in a scrape, and that the dashboard has all of alias.
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

// asGrafana returns an expression with the variables replaced as Grafana does when all is chosen.
func asGrafana(expr string) string {
	return strings.NewReplacer("$__rate_interval", rateInterval.String(), "$job", ".+", "$instance", ".+", "$zone", ".+").Replace(expr)
}

// checkVariables checks what there is to choose from.
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

// measurement is what a query has returned for a time.
type measurement struct {
	series  int
	highest float64
}

// checkQueries checks that each query of the dashboard has had a value, and returns them in its order.
func (w *watched) checkQueries(t *testing.T, d *dashboard) []measurement {
	t.Helper()
	seconds := func(at time.Time) string { return strconv.FormatInt(at.Unix(), 10) }
	time.Sleep(scrapeInterval + time.Second) // the last whole second is to have what has been scraped
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

// highest returns the highest value in ss, -Inf for none.
func highest(t *testing.T, ss []sampled) float64 {
	t.Helper()
	most := math.Inf(-1)
	for _, s := range ss {
		for _, sample := range s.Values {
			value, err := strconv.ParseFloat(sample[1].(string), 64)
			check(t, err)
			if !math.IsNaN(value) {
				most = max(most, value)
			}
		}
	}
	return most
}

const scrapeHead = "| Panel | Query | Series | Highest value |\n| --- | --- | --- | --- |\n"

// rows returns how the rows of the table in the page begin, one for each query.
func (d *dashboard) rows() []string {
	var rows []string
	chosen := regexp.MustCompile(`job=~"\$job", instance=~"\$instance"(, )?|zone=~"\$zone"(, )?`)
	for _, p := range d.charts() {
		for _, q := range p.Targets {
			expr := strings.NewReplacer("{}", "", "|", `\|`).Replace(chosen.ReplaceAllString(q.Expr, ""))
			rows = append(rows, fmt.Sprintf("| %s | `%s` | ", p.Title, expr))
		}
	}
	return rows
}

// inWords returns a value of a panel with the unit of Grafana.
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
	t.Fatalf("Nothing is known of the unit %s", unit)
	return ""
}

// writeScrape writes the table, with which the page ends.
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
