package alias

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/caddy"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// Both families of every record are looked up at start-up, each target once.
func TestPrime(t *testing.T) {
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", `
		record @ target.example
		record www target.example
		record deep.wild www.example.org
		record *.wild target.example
		record own mail.example.org
		upstream `+up.Addr, zoneFile(t, nil, "mail.example.org. 60 IN A 203.0.113.25", "mail.example.org. 60 IN AAAA 2001:db8::25"))
	if a.Ready() {
		t.Error("ready before anything was looked up")
	}
	running.prime(nil)
	running.prime(nil) // as after each reload
	a.priming.Wait()
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if n := up.Asked("target.example.", qtype); n != 1 {
			t.Errorf("%s: asked %d times", dns.TypeToString[qtype], n)
		}
	}
	if n := up.AskedAll(); n != 2 {
		t.Errorf("the upstream was asked %d times", n)
	}
	if !a.Ready() {
		t.Error("not ready")
	}
	if n := counted(t, answered(hit), func() { query(t, a, "example.org.", dns.TypeA) }); n != 1 {
		t.Error("the first query had to wait for a lookup")
	}
	if n := entries.Len(); n != 2 {
		t.Errorf("%v cache entries", n)
	}
}

// The start looks up no more than the cache holds, with no more lookups in flight than there may be in the background.
func TestPrimeBounds(t *testing.T) {
	up := fake.New(t, fake.Late(time.Millisecond, func(w dns.ResponseWriter, r *dns.Msg) {
		fake.Answer(r.Question[0].Name+" 300 IN A "+v4, r.Question[0].Name+" 300 IN AAAA "+v6)(w, r)
	}))
	var records strings.Builder
	for i := range 300 {
		fmt.Fprintf(&records, "record r%d t%d.example\n", i, i)
	}
	a, _ := newAlias(t, "example.org", records.String()+"cache_size 100\nmax_concurrent 20\nupstream "+up.Addr, nil)
	running.prime(nil)
	a.priming.Wait()
	if n := up.AskedAll(); n < 100 || n > 110 {
		t.Errorf("%d lookups for 100 places", n)
	}
}

// The start logs aliases that lead to each other.
func TestPrimeCycle(t *testing.T) {
	var out strings.Builder
	clog.SetOutput(&out)
	defer clog.Discard()
	a, _ := newAlias(t, "example.org", "record one two.example.org\nrecord two one.example.org\nupstream 127.0.0.1", nil)
	running.prime(nil)
	a.priming.Wait()
	if want := "Alias to two.example.org. A fails: loop: two.example.org. leads back to itself"; !strings.Contains(out.String(), want) {
		t.Errorf("the log is %q, without %q", out.String(), want)
	}
}

// Each instance reports readiness for the instances of all server blocks.
func TestReadyOfAll(t *testing.T) {
	silent, up := fake.New(t, nil), fake.New(t, good)
	first, _ := newAlias(t, "example.org", "record @ target.example\ntimeout 150ms\nretries 0\nupstream "+silent.Addr, nil)
	second, _ := newAlias(t, "example.net", "record @ target.example\nupstream "+up.Addr, nil)
	third, _ := newAlias(t, "example.com", "upstream "+up.Addr, nil) // nothing to look up
	running.prime(nil)
	second.priming.Wait()
	third.priming.Wait()
	for i, a := range []*Alias{first, second, third} {
		if a.Ready() {
			t.Errorf("instance %d is ready while the first is not", i)
		}
	}
	first.priming.Wait() // one full round has failed
	for i, a := range []*Alias{first, second, third} {
		if !a.Ready() {
			t.Errorf("instance %d is not ready", i)
		}
	}
}

// An instance that is not started yet is not ready.
func TestNotReadyBeforeStart(t *testing.T) {
	cfg, err := parseBlock("example.org", "upstream 127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	if cfg.build().Ready() {
		t.Error("ready before the start")
	}
}

// After ten seconds it is ready in any case.
func TestReadyInTheEnd(t *testing.T) {
	a, _ := newAlias(t, "example.org", "record @ target.example\nupstream 127.0.0.1", nil)
	if a.Ready() {
		t.Error("ready at once")
	}
	a.started = time.Now().Add(-readyAfter)
	if !a.Ready() {
		t.Error("not ready after ten seconds")
	}
}

// What a failed reload has started goes away by itself.
func TestLeftBehind(t *testing.T) {
	leave := func() {
		cfg, err := parseBlock("example.org", "record @ target.example\nupstream 127.0.0.1 tls://127.0.0.1 https://127.0.0.1\npersist "+
			filepath.Join(t.TempDir(), "db"))
		if err != nil {
			t.Fatal(err)
		}
		cfg.build().start()
	}
	before := runtime.NumGoroutine()
	leave()
	if len(running.all()) != 1 {
		t.Error("it does not run")
	}
	wait(t, 10*time.Second, "it is still there", func() bool {
		runtime.GC()
		return len(running.all()) == 0 && entries.Len() == 0 && runtime.NumGoroutine() <= before
	})
}

// A second stop does nothing.
func TestStopTwice(t *testing.T) {
	a, _ := newAlias(t, "example.org", "upstream 127.0.0.1", nil)
	a.stop()
	a.stop()
}

// The whole of CoreDNS's life in one process: start, reload, a reload that fails, stop.
func TestLifecycle(t *testing.T) {
	up := fake.New(t, good)
	corefile := func(properties string) caddy.Input {
		return caddy.CaddyfileInput{Filepath: "Corefile", ServerTypeName: "dns", Contents: fmt.Appendf(nil, `
			example.org:0 {
				bind 127.0.0.1
				alias {
					record @ target.example
					upstream %s
					%s
				}
			}`, up.Addr, properties)}
	}
	caddy.Quiet = true
	i, err := caddy.Start(corefile(""))
	if err != nil {
		t.Fatal(err)
	}
	checkServes := func() {
		t.Helper()
		var addr net.Addr = i.Servers()[0].LocalAddr()
		m, err := dns.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeA), addr.String())
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("%v: %v", err, m)
		}
	}
	checkServes()
	for range 5 {
		if i, err = i.Restart(corefile("retries 1")); err != nil {
			t.Fatal(err)
		}
		checkServes()
		if n := len(running.all()); n != 1 {
			t.Fatalf("%d instances after a reload", n)
		}
	}
	if _, err := i.Restart(corefile("retries none")); err == nil || !strings.Contains(err.Error(), "Corefile:7 - Error during parsing: retries: 'none' is not a number") {
		t.Errorf("error %v", err)
	}
	checkServes()
	errs := errors.Join(append(i.ShutdownCallbacks(), i.Stop())...)
	if errs != nil {
		t.Error(errs)
	}
	if n := len(running.all()); n != 0 {
		t.Errorf("%d instances after the end", n)
	}
}

// Each metric has the name and the labels that dashboards know.
func TestMetricNames(t *testing.T) {
	up := fake.New(t, good)
	a, c := newAlias(t, "example.org", "record @ target.example\nstale_ttl 7\nupstream "+up.Addr, nil)
	query(t, a, "example.org.", dns.TypeA)
	up.Set(fake.Zone("target.example. 300 IN A 192.0.2.99"))
	c.Advance(280 * time.Second)
	query(t, a, "example.org.", dns.TypeA)
	wait(t, time.Second, "no prefetch", func() bool { return up.Asked("target.example.", dns.TypeA) == 2 })
	a.cache.stop()

	want := map[string][]string{
		"coredns_alias_answers_total":                     {"server", "status", "zone"},
		"coredns_alias_upstream_requests_total":           {"outcome", "to"},
		"coredns_alias_upstream_request_duration_seconds": {"to"},
		"coredns_alias_cache_entries":                     nil,
		"coredns_alias_refreshes_total":                   {"outcome"},
		"coredns_alias_address_changes_total":             {"zone"},
		"coredns_alias_stale_age_seconds":                 nil,
	}
	others := []string{ // of other tests
		"coredns_alias_notifies_total", "coredns_alias_transfers_total", "coredns_alias_persist_writes_total", "coredns_alias_share_operations_total",
		"coredns_alias_failovers_total", "coredns_alias_client_subnet_capped_total", "coredns_alias_targets_denied_total",
	}
	families, err := prometheus.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "coredns_alias_") || slices.Contains(others, f.GetName()) {
			continue
		}
		labels, known := want[f.GetName()]
		if !known {
			t.Errorf("unexpected metric %s", f.GetName())
			continue
		}
		delete(want, f.GetName())
		var got []string
		for _, l := range f.GetMetric()[0].GetLabel() {
			got = append(got, l.GetName())
		}
		if !slices.Equal(got, labels) {
			t.Errorf("%s has labels %v, want %v", f.GetName(), got, labels)
		}
	}
	for name := range want {
		t.Errorf("%s is missing", name)
	}
	problems, err := testutil.GatherAndLint(prometheus.DefaultGatherer, "coredns_alias_answers_total", "coredns_alias_upstream_requests_total",
		"coredns_alias_upstream_request_duration_seconds", "coredns_alias_cache_entries", "coredns_alias_refreshes_total",
		"coredns_alias_address_changes_total", "coredns_alias_stale_age_seconds")
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", err, problems)
	}
}

// A server block goes on where that of the same zones is, which is found without going over all.
func TestPrimaryFor(t *testing.T) {
	const blocks, most = 20_000, 5 * time.Second // each to each would be minutes
	zonesOf := func(i int) records.Zones {
		return records.Zones{"example.": {}, fmt.Sprintf("z%d.example.", i): {}, fmt.Sprintf("a%d.example.", i): {}}
	}
	is := new(instances)
	if is.primaryFor(zonesOf(0)) != nil {
		t.Error("a primary before there is any")
	}
	began := time.Now()
	var as []*Alias
	for i := range blocks {
		a := &Alias{zones: zonesOf(i), primary: new(primary.Primary)}
		is.add(a)
		as = append(as, a)
	}
	for i, a := range as {
		if is.primaryFor(zonesOf(i)) != a.primary {
			t.Fatalf("block %d has no primary, or another one", i)
		}
	}
	if n := len(is.all()); n != blocks {
		t.Errorf("%d instances", n)
	}
	is.add(&Alias{zones: zonesOf(1)}) // without transfer
	twin := &Alias{zones: zonesOf(2), primary: new(primary.Primary)}
	is.add(twin)
	few := zonesOf(3)
	delete(few, "example.")
	if is.primaryFor(zonesOf(1)) != as[1].primary || is.primaryFor(zonesOf(2)) != nil || is.primaryFor(few) != nil {
		t.Error("another primary than that of the one with the same zones")
	}
	is.remove(twin)
	if is.primaryFor(zonesOf(2)) != as[2].primary {
		t.Error("no primary when there is one left")
	}
	for _, a := range as {
		is.remove(a)
	}
	if is.primaryFor(zonesOf(1)) != nil {
		t.Error("a primary of an instance that has stopped")
	}
	if took := time.Since(began); took > most {
		t.Errorf("%d server blocks took %s, want at most %s", blocks, took, most)
	}
}
