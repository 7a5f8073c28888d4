package test

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// The cache survives a reload of the Corefile, whatever else the reload changes. Meanwhile the resolver does not answer, and
// clients go on asking.
func TestReloadKeepsAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		before, after string // further properties
		further       string // a zone that the reload adds to the server block
		owners        []string
	}{
		{name: "without persist", before: "retries 1", after: "retries 2"},
		{name: "with persist", before: "persist answers", after: "persist answers\nretries 2"},
		{name: "persist added", after: "persist answers"},
		{name: "persist taken away", before: "persist answers"},
		{name: "another path", before: "persist answers", after: "persist others"},
		{name: "record added", before: "persist answers", after: "persist answers\nrecord added short.hosting.example", owners: []string{"added.example.org."}},
		{name: "zone added", after: "record added.example.net. short.hosting.example", further: " example.net:", owners: []string{"added.example.net."}},
		{name: "zone added with persist", before: "persist answers", after: "persist answers\nrecord added.example.net. short.hosting.example",
			further: " example.net:", owners: []string{"added.example.net."}},
	} {
		for way, w := range reloads {
			t.Run(test.name+"/"+way, func(t *testing.T) {
				t.Parallel()
				up := upstream.New(t, hosted(1))
				port := freePort(t)
				conf := func(properties, zones string) string {
					if zones != "" {
						zones += port
					}
					return fmt.Sprintf("example.org:%s%s {\nbind 127.0.0.1\nalias {\n%s\n%s\nupstream %s\n}\nerrors\n%s\n}\n",
						port, zones, reloadedRecords, properties, up.Addr, w.plugin)
				}
				server := serve(t, port, conf(test.before, ""))
				awaitNumber(t, server, "long.example.org.", 1)
				awaitNumber(t, server, "short.example.org.", 1)
				time.Sleep(1100 * time.Millisecond) // the short TTL runs out
				up.Set(nil)
				checkStale(t, server, "short.example.org.", 1)

				checkUnasked(t, up, "long.hosting.example.", func() {
					reloadUnderLoad(t, server, conf(test.after, test.further), w.signal)
					checkStale(t, server, "short.example.org.", 1)
					checkFresh(t, server, "long.example.org.", 1)
					for _, owner := range test.owners {
						checkStale(t, server, owner, 1)
					}
				})
				checkNoWarnings(t, server)
				if !strings.Contains(test.after, "persist") {
					return
				}
				server.kill(t) // the file must have been written before the end
				server = server.restart(t)
				checkStale(t, server, "short.example.org.", 1)
				checkFresh(t, server, "long.example.org.", 1)
			})
		}
	}
}

// reloadedRecords are the records of servers that are reloaded.
const reloadedRecords = `
	record long.example.org. long.hosting.example
	record short.example.org. short.hosting.example
	min_ttl 1s
	timeout 1s
	`

// reloads are the ways to reload a Corefile.
var reloads = map[string]struct {
	plugin string
	signal os.Signal
}{
	"signal": {"", syscall.SIGUSR1},
	"plugin": {"reload 2s 1s", syscall.SIGHUP}, // SIGHUP is ignored
}

// reloadUnderLoad reloads another Corefile while a client queries cached names. Each response must have an address.
func reloadUnderLoad(t *testing.T, server *process, conf string, s os.Signal) {
	t.Helper()
	asked := 0
	stop := follow(server.addr, questions("long.example.org.", "short.example.org."), func(q question, m *dns.Msg, err error) {
		asked++
		if err != nil {
			t.Errorf("%s: %v", q, err)
		} else if _, ok := number(m); !ok {
			t.Errorf("No address for %s:\n%v", q, m)
		}
	})
	defer stop()
	reload(t, server, conf, s)
	time.Sleep(500 * time.Millisecond) // the new records have failed
}

// reload has the server reload another Corefile, and waits until it has done so.
func reload(t *testing.T, server *process, conf string, s os.Signal) {
	t.Helper()
	const over = "Reloading complete"
	before := server.logged(t, over)
	server.configure(t, conf, s)
	eventually(t, 15*time.Second, "the reload is over", func() bool { return server.logged(t, over) > before })
}

// The answers of one upstream are not those of another. When a reload changes the upstream, they are served only as long as
// the new upstream fails.
func TestReloadUpstreams(t *testing.T) {
	t.Parallel()
	for _, persist := range []string{"", "persist answers"} {
		for way, w := range reloads {
			t.Run(way+"/"+persist, func(t *testing.T) {
				t.Parallel()
				one, two := upstream.New(t, hosted(1)), upstream.New(t, hosted(2))
				port := freePort(t)
				conf := func(addrs ...string) string {
					return block("example.org", port, reloadedRecords+persist+"\nupstream "+strings.Join(addrs, " "), w.plugin)
				}
				server := serve(t, port, conf(one.Addr))
				awaitNumber(t, server, "long.example.org.", 1)
				awaitNumber(t, server, "short.example.org.", 1)

				reloadUnderLoad(t, server, conf(two.Addr), w.signal)
				checkFresh(t, server, "long.example.org.", 2)
				awaitNumber(t, server, "short.example.org.", 2)

				one.Set(nil)
				two.Set(nil)
				reloadUnderLoad(t, server, conf(one.Addr), w.signal) // to one that does not answer
				if persist == "" {
					checkStale(t, server, "long.example.org.", 2)
					checkStale(t, server, "short.example.org.", 2)
				} else {
					checkFresh(t, server, "long.example.org.", 1) // its own answer, which the file has
				}
				reloadUnderLoad(t, server, conf(two.Addr), w.signal) // and back
				for _, q := range questions("long.example.org.", "short.example.org.") {
					if n, ok := number(query(t, server.addr, "udp", q.name, q.qtype)); !ok || n != 2 {
						t.Errorf("Got the number %d for %s", n, q)
					}
				}
				two.Set(hosted(3))
				awaitNumber(t, server, "short.example.org.", 3)
			})
		}
	}
}

// The answers of the former upstream stay stale after a restart too: the file does not keep them as answers of the new one.
func TestReloadUpstreamsAndRestart(t *testing.T) {
	t.Parallel()
	for name, end := range map[string]func(*process, *testing.T){"stop": (*process).stop, "kill": (*process).kill} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			one, two := upstream.New(t, hosted(1)), upstream.New(t, nil)
			port := freePort(t)
			conf := func(addr string) string {
				return block("example.org", port, reloadedRecords+"persist answers\nupstream "+addr, "")
			}
			server := serve(t, port, conf(one.Addr))
			awaitNumber(t, server, "long.example.org.", 1)
			reload(t, server, conf(two.Addr), syscall.SIGUSR1)
			checkStale(t, server, "long.example.org.", 1)
			time.Sleep(writtenAfter + 2*hiccup)
			end(server, t)
			server = server.restart(t)
			checkStale(t, server, "long.example.org.", 1)
			two.Set(hosted(2))
			awaitNumber(t, server, "long.example.org.", 2)
		})
	}
}

// Each of several server blocks keeps its cached answers, whatever a reload changes in it or in the others.
func TestReloadBlocks(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		before, after [2]string // properties
		zone          string    // of the second block
	}{
		{"persist added to one", [2]string{"upstream one", "upstream one\npersist answers"},
			[2]string{"upstream one\npersist answers", "upstream one\npersist answers"}, "example.net"},
		{"persist taken from one", [2]string{"upstream one\npersist answers", "upstream one"},
			[2]string{"upstream one", "upstream one"}, "example.net"},
		{"another path, and persist added", [2]string{"upstream one\npersist answers", "upstream one"},
			[2]string{"upstream one\npersist others", "upstream one\npersist others"}, "example.net"},
		{"upstream of the other", [2]string{"upstream one", "upstream two"},
			[2]string{"upstream two", "upstream two"}, "example.net"},
		{"upstreams swapped", [2]string{"upstream one", "upstream two"},
			[2]string{"upstream two", "upstream one"}, "example.net"},
		{"one upstream for both", [2]string{"upstream one", "upstream one"},
			[2]string{"upstream three", "upstream three"}, "example.net"},
		{"zone on two ports", [2]string{"upstream one", "upstream one"},
			[2]string{"upstream three", "upstream three"}, "example.org"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			one, two, three := upstream.New(t, hosted(1)), upstream.New(t, hosted(1)), upstream.New(t, nil)
			ports := [2]string{freePort(t), freePort(t)}
			servers := [2]*process{}
			conf := func(properties [2]string) string {
				addresses := strings.NewReplacer("one", one.Addr, "two", two.Addr, "three", three.Addr)
				first := block("example.org", ports[0], "record first long.hosting.example\ntimeout 1s\n"+addresses.Replace(properties[0]), "")
				return first + block(test.zone, ports[1], "record second short.hosting.example\nmin_ttl 1s\ntimeout 1s\n"+addresses.Replace(properties[1]), "")
			}
			servers[0] = serve(t, ports[0], conf(test.before))
			second := *servers[0] // the same process at its other port
			second.addr = local(ports[1])
			servers[1] = &second
			owners := [2]string{"first.example.org.", "second." + test.zone + "."}
			for i, server := range servers {
				awaitNumber(t, server, owners[i], 1)
			}
			one.Set(nil)
			two.Set(nil)
			reload(t, servers[0], conf(test.after), syscall.SIGUSR1)
			for i, server := range servers {
				for _, q := range questions(owners[i]) {
					if n, ok := number(query(t, server.addr, "udp", q.name, q.qtype)); !ok || n != 1 {
						t.Errorf("No address for %s after the reload", q)
					}
				}
			}
		})
	}
}

// load has four clients send one query after the other until stop is called, which returns how many there were. They use
// UDP: a reload of CoreDNS closes TCP connections on which it has not read a query yet.
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

// In 50 reloads every query is answered, and no goroutine or open file is left behind.
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

	eventually(t, 15*time.Second, "goroutines and open files are as many as before", func() bool {
		return goroutines(t, page, "") <= goroutinesBefore+slack && files(t, server) <= filesBefore+slack
	})
	t.Logf("%d goroutines before and %d after, %d open files before and %d after",
		goroutinesBefore, goroutines(t, page, ""), filesBefore, files(t, server))
}

// Records that a reload adds are resolved as at start-up, and the server is ready after that; cached targets are not looked
// up again. The two ways to reload start and stop the plugins differently.
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
				t.Errorf("The cached target was looked up %d times", n)
			}
		})
	}
}

// After a reload of a Corefile with an error the server goes on as before, and the log has the error with its line.
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
		parts    []string
	}{
		{"value", block("example.org", port, good+"\ntimeout soon", ""), []string{"Corefile:6", "timeout", "'soon'"}},
		{"property", block("example.org", port, good+"\ntime_out 1s", ""), []string{"Corefile:6", "'time_out'"}},
		{"second block", running + block("example.net", port, "record www.example.com. app.hosting.example", ""), []string{"Corefile:14", "record", "'www.example.com.'"}},
	} {
		t.Run(test.name, func(t *testing.T) { checkBadReload(t, server, test.corefile, test.parts...) })
	}
	eventually(t, 5*time.Second, "only the upstream of the running Corefile has goroutines", func() bool {
		return goroutines(t, page, "plugin/pkg/proxy.(*Transport).connManager") == 1
	})

	// If a port is taken, CoreDNS has started the servers of the other ports already, and does not stop them: both the old
	// and the new server of a block may answer.
	t.Run("port", func(t *testing.T) {
		for range 10 {
			checkBadReload(t, server, running+block("example.net", takenPort, good, ""), takenPort, "address already in use")
		}
	})
}

// checkBadReload checks that a reload logs an error with all these parts, and that the server still answers.
func checkBadReload(t *testing.T, server *process, corefile string, parts ...string) {
	t.Helper()
	seen := len(server.log(t))
	server.configure(t, corefile, syscall.SIGUSR1)
	var message string
	eventually(t, 10*time.Second, "the log has the error", func() bool {
		message = line(server.log(t)[seen:], "[ERROR] SIGUSR1")
		return message != ""
	})
	for _, part := range parts {
		if !strings.Contains(message, part) {
			t.Errorf("The error does not have %q: %s", part, message)
		}
	}
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		if m := query(t, server.addr, "udp", "example.org.", qtype); len(m.Answer) != 1 {
			t.Errorf("Got no address after the reload:\n%v", m)
		}
	}
}
