package test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// soakVariable is the environment variable with the duration of TestSoak. If it is set, the server is built without the race
// detector. The -timeout of go test must be longer.
const soakVariable = "ALIAS_SOAK"

// soakTargets is the number of targets. Each has a record; the last one is also the target of a wildcard.
const soakTargets = 100

// Under load, with addresses that change, an upstream that stops answering at times, and reloads, the server answers each query
// with an address, and its memory, goroutines and files do not grow.
func TestSoak(t *testing.T) {
	t.Parallel()
	dnsperf := need(t, "dnsperf")
	duration, qps := 20*time.Second, 300
	if v := os.Getenv(soakVariable); v != "" {
		var err error
		if duration, err = time.ParseDuration(v); err != nil {
			t.Fatal(err)
		}
		qps = 1000
	}
	var silent atomic.Bool
	up := upstream.New(t, comingAndGoing(&silent))
	page, metricsPage := local(freePort(t)), local(freePort(t))
	port := freePort(t)
	conf := func(reloads int) string {
		return block("example.org", port, soakProperties(reloads)+"upstream "+up.Addr, "pprof "+page+"\nprometheus "+metricsPage)
	}
	server := serve(t, port, conf(0))
	for i := range soakTargets {
		for _, q := range questions(fmt.Sprintf("t%d.example.org.", i)) {
			eventually(t, 10*time.Second, q.String()+" is known", func() bool {
				return len(query(t, server.addr, "udp", q.name, q.qtype).Answer) == 1
			})
		}
	}

	before := answersByStatus(t, metricsPage) // on a busy machine a few lookups may have failed so far
	// At most 100 queries are sent and not answered. They fit into the buffers of the sockets, so none may be lost.
	var out bytes.Buffer
	load := exec.Command(dnsperf, "-s", "127.0.0.1", "-p", port, "-d", soakQueries(t), "-l", fmt.Sprint(int(duration.Seconds())),
		"-Q", fmt.Sprint(qps), "-q", "100", "-c", "4", "-e", "-t", "5")
	load.Stdout, load.Stderr = &out, &out
	check(t, load.Start())
	ended := make(chan error, 1)
	go func() { ended <- load.Wait() }()

	samples, reloads, outages := soak(t, server, page, duration, &silent, conf, ended)
	t.Logf("%d reloads, %d outages\n%s%s", reloads, outages, table(samples), out.String())
	checkLoad(t, out.String(), int(duration.Seconds())*qps)
	checkAnswers(t, before, answersByStatus(t, metricsPage))
	checkFlat(t, samples, os.Getenv(soakVariable) == "")
	checkNoWarnings(t, server)
}

// soakProperties returns the properties of alias after this many reloads. With them, no answer without an address is NOERROR.
func soakProperties(reloads int) string {
	var s strings.Builder
	for i := range soakTargets {
		fmt.Fprintf(&s, "record t%d t%d.hosting.example\n", i, i)
	}
	fmt.Fprintf(&s, "record * t%d.hosting.example\nrecord more%d t0.hosting.example\n", soakTargets-1, reloads)
	s.WriteString("min_ttl 1s\ntimeout 200ms\nretries 0\non_failure servfail\npersist answers\n")
	return s.String()
}

// comingAndGoing returns a handler that answers for each target with another address every few seconds. While silent is true
// it does not answer.
func comingAndGoing(silent *atomic.Bool) upstream.Handler {
	begin := time.Now()
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if silent.Load() {
			return
		}
		q := r.Question[0]
		var target int
		if _, err := fmt.Sscanf(q.Name, "t%d.", &target); err != nil {
			upstream.Rcode(dns.RcodeRefused)(w, r)
			return
		}
		n := int(time.Since(begin).Seconds())/(2+target%5)<<8 | target
		upstream.Answer(fmt.Sprintf("%s %d IN %s %s", q.Name, 1+target%4, dns.TypeToString[q.Qtype], numbered(n, q.Qtype)))(w, r)
	}
}

// soakQueries returns the path of a file of queries for dnsperf, half of them for names below the wildcard.
func soakQueries(t *testing.T) string {
	t.Helper()
	var queries strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&queries, "t%d.example.org A\nt%d.example.org AAAA\nwild%d.example.org A\nwild%d.example.org AAAA\n",
			i%soakTargets, i%soakTargets, i, i)
	}
	path := filepath.Join(t.TempDir(), "queries")
	write(t, path, queries.String())
	return path
}

// sample is what the server uses at a moment.
type sample struct {
	at                time.Duration
	memory, heap      int // resident memory, and memory in use on the heap, in KiB
	files, goroutines int
	file              int64 // the size of the file of persist, in octets
}

// soak reloads the server, switches the upstream off and on, and takes samples, until the load has ended.
func soak(t *testing.T, server *process, page string, duration time.Duration, silent *atomic.Bool, conf func(int) string, ended <-chan error) (samples []sample, reloads, outages int) {
	t.Helper()
	within := func(part int, least, most time.Duration) time.Duration {
		return min(max(duration/time.Duration(part), least), most)
	}
	measure := time.NewTicker(within(40, 500*time.Millisecond, 10*time.Second))
	renew := time.NewTicker(within(8, time.Second, time.Minute))
	change := time.NewTicker(within(10, time.Second, 45*time.Second))
	begin := time.Now()
	for {
		select {
		case <-measure.C:
			samples = append(samples, measured(t, server, page, time.Since(begin)))
		case <-renew.C:
			reloads++
			reload(t, server, conf(reloads), syscall.SIGUSR1)
		case <-change.C:
			if silent.Store(!silent.Load()); silent.Load() {
				outages++
			}
		case err := <-ended:
			if err != nil {
				t.Errorf("dnsperf: %v", err)
			}
			return samples, reloads, outages
		}
	}
}

// measured takes a sample.
func measured(t *testing.T, server *process, page string, at time.Duration) sample {
	t.Helper()
	s := sample{at: at, files: files(t, server)}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", server.Process.Pid))
	check(t, err)
	_, err = fmt.Sscanf(line(string(status), "VmRSS:"), "VmRSS: %d", &s.memory)
	check(t, err)
	info, err := os.Stat(filepath.Join(server.Dir, "answers"))
	check(t, err)
	s.file = info.Size()
	_, err = fmt.Sscanf(profile(t, page, "goroutine?debug=1"), "goroutine profile: total %d", &s.goroutines)
	check(t, err)
	_, err = fmt.Sscanf(line(profile(t, page, "heap?debug=1&gc=1"), "# HeapAlloc = "), "# HeapAlloc = %d", &s.heap)
	check(t, err)
	s.heap /= 1024
	return s
}

// profile returns a page of pprof. For a moment of a reload there is none.
func profile(t *testing.T, page, name string) string {
	t.Helper()
	var body string
	eventually(t, 5*time.Second, "the pprof page is there", func() bool {
		var code int
		code, body = get(t, "http://"+page+"/debug/pprof/"+name)
		return code == http.StatusOK
	})
	return body
}

// table returns about twenty of the samples, one per line.
func table(samples []sample) string {
	var s strings.Builder
	s.WriteString("    time  memory/KiB    heap/KiB  goroutines  open files  answers/KiB\n")
	for i, m := range samples {
		if i%max(len(samples)/20, 1) == 0 || i == len(samples)-1 {
			fmt.Fprintf(&s, "%8s  %10d  %10d  %10d  %10d  %11d\n", m.at.Round(time.Second/10), m.memory, m.heap, m.goroutines, m.files, m.file/1024)
		}
	}
	return s.String()
}

// checkLoad checks in the output of dnsperf that it has sent at least half of the queries wanted, and that all were answered with
// NOERROR.
func checkLoad(t *testing.T, out string, about int) {
	t.Helper()
	count := func(what string) int {
		n := regexp.MustCompile(what + `\s+(\d+)`).FindStringSubmatch(out)
		if n == nil {
			return 0
		}
		count, _ := strconv.Atoi(n[1])
		return count
	}
	sent, good := count("Queries sent:"), count("Response codes: +NOERROR")
	if sent < about/2 {
		t.Errorf("dnsperf sent %d queries, want about %d", sent, about)
	}
	if good != sent || count("Queries lost:") > 0 || count("Queries completed:") != sent {
		t.Errorf("%d of %d queries were answered with NOERROR, %d were lost", good, sent, count("Queries lost:"))
	}
}

// answersByStatus returns the number of answers by status.
func answersByStatus(t *testing.T, page string) map[string]float64 {
	t.Helper()
	answers := make(map[string]float64)
	for name, value := range metrics(t, page) {
		if strings.HasPrefix(name, "coredns_alias_answers_total{") {
			answers[regexp.MustCompile(`status="(\w+)"`).FindStringSubmatch(name)[1]] += value
		}
	}
	return answers
}

// checkAnswers checks that there were fresh and stale answers since before, and none without an address.
func checkAnswers(t *testing.T, before, answers map[string]float64) {
	t.Helper()
	for status := range answers {
		answers[status] -= before[status]
	}
	t.Logf("Answers: %v", answers)
	for _, status := range []string{"hit", "stale"} {
		if answers[status] == 0 {
			t.Errorf("There were no answers with the status %s", status)
		}
	}
	for _, status := range []string{"failure", "nodata", "fallback"} {
		if answers[status] > 0 {
			t.Errorf("There were %v answers with the status %s", answers[status], status)
		}
	}
}

// checkFlat checks that the server uses no more in the last third of the time than in the first one.
func checkFlat(t *testing.T, samples []sample, race bool) {
	t.Helper()
	third := len(samples) / 3
	if third < 3 {
		t.Fatalf("There are only %d samples", len(samples))
	}
	for _, test := range []struct {
		what   string
		of     func(sample) int
		margin func(first int) int
	}{
		// With the garbage collector the heap goes up and down. The race detector gives no memory back.
		{"KiB of memory", func(s sample) int { return s.memory }, func(first int) int {
			if race {
				return first
			}
			return first/5 + 4096
		}},
		// Queries and lookups in flight have goroutines and memory.
		{"KiB in use", func(s sample) int { return s.heap }, func(first int) int { return first/10 + 1024 }},
		{"goroutines", func(s sample) int { return s.goroutines }, func(int) int { return 20 }},
		{"open files", func(s sample) int { return s.files }, func(int) int { return 10 }},
		// The file is compacted when it has more than twice its records and 64 KiB.
		{"KiB of answers", func(s sample) int { return int(s.file / 1024) }, func(first int) int { return first + 64 }},
	} {
		first, last := median(samples[:third], test.of), median(samples[len(samples)-third:], test.of)
		t.Logf("%d %s in the first third, %d in the last one", first, test.what, last)
		if last > first+test.margin(first) {
			t.Errorf("%s grew from %d to %d", test.what, first, last)
		}
	}
}

// median returns the median of a value of the samples.
func median(samples []sample, of func(sample) int) int {
	var values []int
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}
