//go:build linux

package test

import (
	"encoding/json"
	"maps"
	"math"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// namesOf returns the names of time series, sorted.
func namesOf(series map[string]float64) []string {
	names := make(map[string]bool)
	for s := range series {
		name, _, _ := strings.Cut(s, "{")
		names[name] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// startPrometheus starts a Prometheus with the configuration in the page on monitoring. It scrapes the server at page.
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
			t.Logf("Prometheus logged\n%s", read(t, out))
		}
	})
	eventually(t, 20*time.Second, "Prometheus is ready", func() bool {
		code, _ := get(t, "http://"+addr+"/-/ready")
		return code == http.StatusOK
	})
	return addr
}

// api queries the HTTP API of Prometheus, and decodes the response into data.
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

// rule is an alert and its state.
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

// sampled is a time series. A sample is a time and a value.
type sampled struct {
	Metric map[string]string
	Value  [2]any   // of an instant
	Values [][2]any // of a range
}

// ask returns the current values of an expression.
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

// highest returns the highest value in ss, or -Inf if there is none.
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
