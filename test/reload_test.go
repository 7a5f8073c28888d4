package test

import (
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// A reload of the Corefile forgets nothing, whatever else it changes. The resolver is dead meanwhile, and clients go on
// asking.
func TestReloadKeepsAnswers(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name          string
		before, after string // further properties
		further       string // a server block or a zone that comes in
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
					reloadUnderWay(t, server, conf(test.after, test.further), w.signal)
					checkStale(t, server, "short.example.org.", 1)
					checkFresh(t, server, "long.example.org.", 1)
					for _, owner := range test.owners {
						checkStale(t, server, owner, 1)
					}
				})
				checkKept(t, server)
				if !strings.Contains(test.after, "persist") {
					return
				}
				server.kill(t) // it is not the end that writes what came with the reload
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

// reloadUnderWay has the server take another Corefile while a client asks for what it has an address of, and must get
// one each time.
func reloadUnderWay(t *testing.T, server *process, conf string, s os.Signal) {
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

// reload has the server take another Corefile.
func reload(t *testing.T, server *process, conf string, s os.Signal) {
	t.Helper()
	const over = "Reloading complete"
	before := server.logged(t, over)
	server.configure(t, conf, s)
	eventually(t, 15*time.Second, "the reload is over", func() bool { return server.logged(t, over) > before })
}

// What one resolver has said is not what another one says: after a change it serves only as long as the other fails.
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

				reloadUnderWay(t, server, conf(two.Addr), w.signal)
				checkFresh(t, server, "long.example.org.", 2)
				awaitNumber(t, server, "short.example.org.", 2)

				one.Set(nil)
				two.Set(nil)
				reloadUnderWay(t, server, conf(one.Addr), w.signal) // to one that is dead
				if persist == "" {
					checkStale(t, server, "long.example.org.", 2)
					checkStale(t, server, "short.example.org.", 2)
				} else {
					checkFresh(t, server, "long.example.org.", 1) // its own answer, which the file has
				}
				reloadUnderWay(t, server, conf(two.Addr), w.signal) // and back
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

// What is to be asked anew after a change of the resolver is so after a restart too: the file does not make it what the
// new one has said.
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

// Each of several server blocks keeps what it has, whatever becomes of it and of the others.
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
