package test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// The example of the repository does what it says, from the first query on.
func TestExample(t *testing.T) {
	t.Parallel()
	need(t, "dig")
	dir, port := t.TempDir(), freePort(t)
	if err := os.CopyFS(filepath.Join(dir, "examples"), os.DirFS("../examples")); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(dir, "examples", "Corefile")
	example, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	write(t, conf, strings.ReplaceAll(string(example), "1053", port))
	startServer(t, port, dir, "examples/Corefile")

	for _, network := range []string{"+notcp", "+tcp"} {
		for qtype, want := range map[string][]string{
			"A":    {"example.com. 60 IN A 203.0.113.80", "example.com. 60 IN A 203.0.113.81"},
			"AAAA": {"example.com. 60 IN AAAA 2001:db8:80::80", "example.com. 60 IN AAAA 2001:db8:80::81"},
			"MX":   {"example.com. 3600 IN MX 10 mail.example.com."},
			"SOA":  {"example.com. 3600 IN SOA ns1.example.com. hostmaster.example.com. 2026112201 7200 3600 1209600 300"},
		} {
			t.Run(qtype+network, func(t *testing.T) {
				flags, answer := dig(t, port, "example.com", qtype, network)
				if !strings.Contains(flags, " aa ") {
					t.Errorf("Not authoritative: %s", flags)
				}
				checkRecords(t, answer, want...)
			})
		}
		_, answer := dig(t, port, "www.example.com", "A", network) // the zone's own alias
		checkRecords(t, answer, "www.example.com. 60 IN A 203.0.113.80", "www.example.com. 60 IN A 203.0.113.81")
	}
}

// dig returns the line of the header flags and the answer section that dig prints.
func dig(t *testing.T, port string, args ...string) (flags string, answer []dns.RR) {
	t.Helper()
	args = append([]string{"@127.0.0.1", "-p", port, "+noall", "+comments", "+answer", "+tries=1"}, args...)
	out, err := exec.Command(need(t, "dig"), args...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "status: NOERROR") {
		t.Fatalf("dig %v: %v\n%s", args, err, out)
	}
	for line := range strings.Lines(string(out)) {
		switch line = strings.TrimSpace(line); {
		case strings.HasPrefix(line, ";; flags:"):
			flags = strings.ReplaceAll(line, ";", " ")
		case line != "" && line[0] != ';':
			answer = append(answer, upstream.RRs(line)...)
		}
	}
	return flags, answer
}

func TestPlugins(t *testing.T) {
	t.Parallel()
	out, err := exec.Command(coredns, "-plugins").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]bool{
		"alias": true, "cache": true, "file": true, "forward": true,
		"azure": false, "clouddns": false, "kubernetes": false, "route53": false,
	} {
		if got := slices.Contains(strings.Fields(string(out)), name); got != want {
			t.Errorf("%s is compiled in: %t, want %t", name, got, want)
		}
	}
}

// The server is ready when the targets of all server blocks are known, and in any case after ten seconds.
func TestReady(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout string
		answers bool // the silent upstream comes to its senses
		least   time.Duration
		most    time.Duration
	}{
		{"upstream answers", "2s", true, 2 * time.Second, 7 * time.Second},
		{"upstream stays silent", "5s", false, 9 * time.Second, 11 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			targets := upstream.Zone("app.hosting.example. 60 IN A 203.0.113.80")
			good, silent := upstream.New(t, targets), upstream.New(t, nil)
			port, page := freePort(t), local(freePort(t))
			begin := time.Now()
			serve(t, port,
				block("example.org", port, "record @ app.hosting.example\nupstream "+good.Addr, "ready "+page),
				block("example.net", port, fmt.Sprintf("record @ app.hosting.example\nupstream %s\ntimeout %s\nretries 2",
					silent.Addr, test.timeout), ""))

			var code int
			var body string
			eventually(t, 5*time.Second, "the ready page is there", func() bool {
				code, body = get(t, "http://"+page+"/ready")
				return code != 0
			})
			if code != http.StatusServiceUnavailable || !strings.Contains(body, "alias") {
				t.Errorf("Got %d %q while a target is unknown", code, body)
			}
			if test.answers {
				eventually(t, 5*time.Second, "the silent upstream is asked", func() bool { return silent.AskedAll() == 2 })
				silent.Set(targets)
			}
			eventually(t, 12*time.Second, "the server is ready", func() bool {
				code, _ = get(t, "http://"+page+"/ready")
				return code == http.StatusOK
			})
			if took := time.Since(begin); took < test.least || took > test.most {
				t.Errorf("Ready after %s, want %s to %s", took, test.least, test.most)
			}
		})
	}
}

// metrics returns the time series at addr, by name and labels as they are written there.
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
	// The queries find one after the other what there is to tell about.
	a := func(name string) *dns.Msg { return query(t, server.addr, "udp", name, dns.TypeA) }
	const age = 1100 * time.Millisecond // past the TTL

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

// The response is the same whether it leaves in wire form or, because of log, as a message, and prometheus sees both.
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

// changing returns a handler that knows one target with this address, which soon may be another, and fails for the
// target dead.
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

// checkQuiet checks that two hundred queries leave no line of the plugin in the log.
func checkQuiet(t *testing.T, server *process, name string) {
	t.Helper()
	before := server.logged(t, "plugin/alias")
	for range 200 {
		query(t, server.addr, "udp", name, dns.TypeA)
	}
	if lines := server.logged(t, "plugin/alias") - before; lines > 0 {
		t.Errorf("200 queries left %d lines in the log", lines)
	}
}

// goroutines returns how many goroutines the server has whose pprof page is at addr, those with part in their stack.
func goroutines(t *testing.T, addr, part string) int {
	t.Helper()
	_, body := get(t, "http://"+addr+"/debug/pprof/goroutine?debug=1")
	n := 0
	for _, stack := range regexp.MustCompile(`(?m)^(\d+) @ .*\n(#.*\n)*`).FindAllStringSubmatch(body, -1) {
		if strings.Contains(stack[0], part) {
			many, _ := strconv.Atoi(stack[1])
			n += many
		}
	}
	if n == 0 {
		t.Fatalf("No goroutine with %q in its stack:\n%s", part, body)
	}
	return n
}

// files returns how many files the server has open.
func files(t *testing.T, server *process) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", server.Process.Pid))
	if err != nil {
		t.Skip(err)
	}
	return len(fds)
}

// load lets four clients ask one query after the other until it is told to stop, which returns how many there were.
// They use UDP: a reload of CoreDNS closes TCP connections on which it has not read a query yet.
func load(t *testing.T, addr, name string) (stop func() int64) {
	var asked atomic.Int64
	var clients sync.WaitGroup
	end := make(chan struct{})
	for range 4 {
		clients.Go(func() {
			for {
				select {
				case <-end:
					return
				case <-time.After(2 * time.Millisecond):
				}
				n := asked.Add(1)
				qtype := []uint16{dns.TypeA, dns.TypeAAAA}[n%2]
				m, err := ask(addr, "udp", name, qtype)
				if err != nil || len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != qtype {
					t.Errorf("Query %d under load: %v\n%v", n, err, m)
				}
			}
		})
	}
	return func() int64 {
		close(end)
		clients.Wait()
		return asked.Load()
	}
}

var bothFamilies = upstream.Zone("app.hosting.example. 60 IN A 203.0.113.80", "app.hosting.example. 60 IN AAAA 2001:db8:80::80")

func TestReloads(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, bothFamilies)
	port, page := freePort(t), local(freePort(t))
	server := serve(t, port, block("example.org", port, "record @ app.hosting.example\nupstream "+up.Addr, "pprof "+page))
	goroutinesBefore, filesBefore := goroutines(t, page, ""), files(t, server)

	stop := load(t, server.addr, "example.org.")
	for i := range 50 {
		time.Sleep(20 * time.Millisecond)
		server.signal(t, syscall.SIGUSR1)
		eventually(t, 10*time.Second, fmt.Sprintf("reload %d is over", i), func() bool {
			return server.logged(t, "Reloading complete") > i
		})
	}
	t.Logf("%d queries during 50 reloads", stop())

	const slack = 8 // for what comes and goes with a request
	eventually(t, 15*time.Second, "goroutines and open files are as many as before", func() bool {
		return goroutines(t, page, "") <= goroutinesBefore+slack && files(t, server) <= filesBefore+slack
	})
	t.Logf("%d goroutines before and %d after, %d open files before and %d after",
		goroutinesBefore, goroutines(t, page, ""), filesBefore, files(t, server))
}

// What is new in a reload is resolved as at the start, and it is ready by that; what is remembered is not asked again. The ways
// to a reload differ in what they do to the plugins.
func TestReloadResolves(t *testing.T) {
	for _, test := range []struct {
		name, plugin string
		signal       os.Signal
	}{
		{"signal", "", syscall.SIGUSR1},
		{"reload plugin", "reload 2s 1s", syscall.SIGHUP}, // SIGHUP is ignored
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			up := upstream.New(t, oneAddress)
			port, page := freePort(t), local(freePort(t))
			conf := block("example.org", port, "record @ app0.hosting.example\nupstream "+up.Addr,
				"ready "+page+" {\nmonitor continuously\n}\n"+test.plugin)
			server := serve(t, port, conf)
			for times := range 3 {
				if times > 0 {
					server.configure(t, strings.Replace(conf, "record @", fmt.Sprintf("record new app%d.hosting.example\nrecord @", times), 1), test.signal)
				}
				eventually(t, 8*time.Second, fmt.Sprintf("the record is resolved after %d reloads", times), func() bool {
					code, _ := get(t, "http://"+page+"/ready")
					target := fmt.Sprintf("app%d.hosting.example.", times)
					return code == http.StatusOK && up.Asked(target, dns.TypeA) == 1 && up.Asked(target, dns.TypeAAAA) == 1
				})
			}
			if n := up.Asked("app0.hosting.example.", dns.TypeA); n != 1 {
				t.Errorf("What is remembered was asked %d times", n)
			}
		})
	}
}

// A Corefile that cannot be used leaves the server as it is, and the log says where and what the mistake is.
func TestBadReload(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, bothFamilies)
	port, page := freePort(t), local(freePort(t))
	taken, err := net.Listen("tcp", local(freePort(t)))
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	_, takenPort, _ := net.SplitHostPort(taken.Addr().String())

	good := "record @ app.hosting.example\nupstream " + up.Addr
	running := block("example.org", port, good, "pprof "+page)
	server := serve(t, port, running)
	server.configure(t, running, syscall.SIGUSR1)
	eventually(t, 10*time.Second, "the reload is over", func() bool { return server.logged(t, "Reloading complete") > 0 })

	for _, test := range []struct {
		name     string
		corefile string
		says     []string
	}{
		{"value", block("example.org", port, good+"\ntimeout soon", ""), []string{"Corefile:6", "timeout", "'soon'"}},
		{"property", block("example.org", port, good+"\ntime_out 1s", ""), []string{"Corefile:6", "'time_out'"}},
		{"second block", running + block("example.net", port, "record www.example.com. app.hosting.example", ""), []string{"Corefile:14", "record", "'www.example.com.'"}},
	} {
		t.Run(test.name, func(t *testing.T) { checkBadReload(t, server, test.corefile, test.says...) })
	}
	eventually(t, 5*time.Second, "only the upstream that is in use has goroutines", func() bool {
		return goroutines(t, page, "plugin/pkg/proxy.(*Transport).connManager") == 1
	})

	// With a port that is taken CoreDNS has started the servers of other ports already, and leaves them: both the new
	// and the old one of a block may answer.
	t.Run("port", func(t *testing.T) {
		for range 10 {
			checkBadReload(t, server, running+block("example.net", takenPort, good, ""), takenPort, "address already in use")
		}
	})
}

// checkBadReload checks that the log has an error that says all this, and that the server answers nevertheless.
func checkBadReload(t *testing.T, server *process, corefile string, says ...string) {
	t.Helper()
	seen := len(server.log(t))
	server.configure(t, corefile, syscall.SIGUSR1)
	var message string
	eventually(t, 10*time.Second, "the log has the error", func() bool {
		message = line(server.log(t)[seen:], "[ERROR] SIGUSR1")
		return message != ""
	})
	for _, part := range says {
		if !strings.Contains(message, part) {
			t.Errorf("The error does not say %s: %s", part, message)
		}
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if m := query(t, server.addr, "udp", "example.org.", qtype); len(m.Answer) != 1 {
			t.Errorf("Got no address after the reload:\n%v", m)
		}
	}
}

// line returns the first complete line of text that has part in it, or "".
func line(text, part string) string {
	for l := range strings.Lines(text) {
		if strings.Contains(l, part) && strings.HasSuffix(l, "\n") {
			return l
		}
	}
	return ""
}

// Ten thousand clients who want to know the same cause one question to the upstream for each type.
func TestColdStampede(t *testing.T) {
	for _, test := range []struct {
		name string
		warm bool // what was resolved at the start is forgotten again; otherwise it is under way still
	}{
		{"at start-up", false},
		{"out of the blue", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			up := upstream.New(t, nil)
			hold := make(chan struct{})
			slow := func(w dns.ResponseWriter, r *dns.Msg) {
				<-hold
				bothFamilies(w, r)
			}
			if test.warm {
				up.Set(upstream.Zone("app.hosting.example. 1 IN A 203.0.113.80", "app.hosting.example. 1 IN AAAA 2001:db8:80::80"))
			} else {
				up.Set(slow)
			}
			port := freePort(t)
			server := serve(t, port, block("example.org", port, `
				record @ app.hosting.example
				timeout 10s
				min_ttl 1s
				stale 0
				upstream `+up.Addr, ""))
			if test.warm {
				time.Sleep(1500 * time.Millisecond)
				up.Set(slow)
			}
			stampede(t, server.addr, "example.org.", func() {
				time.Sleep(200 * time.Millisecond)
				close(hold)
			})
			want := 1
			if test.warm {
				want = 2
			}
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
				if n := up.Asked("app.hosting.example.", qtype); n != want {
					t.Errorf("The upstream was asked %d times for %s, want %d", n, dns.TypeToString[qtype], want)
				}
			}
		})
	}
}

// stampede sends ten thousand queries, half of them for each type, calls sent, and waits until all are answered.
func stampede(t *testing.T, addr, name string, sent func()) {
	t.Helper()
	const sockets, clients = 50, 200 // clients of each socket
	var asked, answered sync.WaitGroup
	asked.Add(sockets)
	for range sockets {
		answered.Go(func() {
			crowd, err := newCrowd(addr, name, clients)
			asked.Done()
			if err == nil {
				defer crowd.conn.Close()
				err = crowd.wait(10 * time.Second)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	asked.Wait()
	sent()
	answered.Wait()
}

// crowd are clients that share a socket. They are told apart by the IDs of their queries.
type crowd struct {
	conn    *dns.Conn
	name    string
	waiting map[uint16]uint16 // the type that each client wants to know
}

// newCrowd returns clients that have asked.
func newCrowd(addr, name string, clients int) (*crowd, error) {
	conn, err := dns.Dial("udp", addr)
	if err != nil {
		return nil, err
	}
	c := &crowd{conn, name, make(map[uint16]uint16)}
	for id := range uint16(clients) {
		c.waiting[id] = []uint16{dns.TypeA, dns.TypeAAAA}[id%2]
	}
	return c, c.ask()
}

// ask asks for all who are waiting.
func (c *crowd) ask() error {
	for id, qtype := range c.waiting {
		r := new(dns.Msg).SetQuestion(c.name, qtype)
		r.Id = id
		if err := c.conn.WriteMsg(r); err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // more at once would not fit into the buffer of the server's socket
	}
	return nil
}

// wait waits until all have their addresses. They ask again when nothing comes: UDP loses messages.
func (c *crowd) wait(patience time.Duration) error {
	for deadline := time.Now().Add(patience); len(c.waiting) > 0; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d clients got no answer", len(c.waiting))
		}
		c.conn.SetReadDeadline(time.Now().Add(time.Second))
		m, err := c.conn.ReadMsg()
		if err != nil {
			if err := c.ask(); err != nil {
				return err
			}
			continue
		}
		if len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != m.Question[0].Qtype {
			return fmt.Errorf("not an address:\n%v", m)
		}
		delete(c.waiting, m.Id)
	}
	return nil
}

// While the health plugin holds up the end, what was remembered goes on being renewed.
func TestLameduck(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, upstream.Zone("app.hosting.example. 1 IN A 203.0.113.80"))
	port := freePort(t)
	server := serve(t, port, block("example.org", port, "record @ app.hosting.example\nmin_ttl 1s\nstale 0\nupstream "+up.Addr,
		"health "+local(freePort(t))+" {\nlameduck 4s\n}"))
	checkRecords(t, query(t, server.addr, "udp", "example.org.", dns.TypeA).Answer, "example.org. 1 IN A 203.0.113.80")
	server.signal(t, syscall.SIGTERM)
	eventually(t, 2*time.Second, "the server is told to end", func() bool { return server.logged(t, "SIGTERM") > 0 })
	time.Sleep(1500 * time.Millisecond) // past the TTL
	before := up.Asked("app.hosting.example.", dns.TypeA)
	checkRecords(t, query(t, server.addr, "udp", "example.org.", dns.TypeA).Answer, "example.org. 1 IN A 203.0.113.80")
	if up.Asked("app.hosting.example.", dns.TypeA) == before {
		t.Error("The target was not looked up")
	}
}
