package test

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// The bundled example works from the first query on, over UDP and TCP.
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
		_, answer := dig(t, port, "www.example.com", "A", network) // an ALIAS record of the zone
		checkRecords(t, answer, "www.example.com. 60 IN A 203.0.113.80", "www.example.com. 60 IN A 203.0.113.81")
	}
}

// dig runs dig, and returns the flags of the header and the answer section that it prints.
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

// The server is ready when the records of all server blocks are resolved, and in any case after ten seconds.
func TestReady(t *testing.T) {
	for _, test := range []struct {
		name    string
		timeout string
		answers bool // the silent upstream answers after a while
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
				t.Errorf("Got %d %q while a record is not resolved", code, body)
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

// While the health plugin delays the end of the server, targets are still looked up.
func TestLameduck(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, upstream.Zone("app.hosting.example. 1 IN A 203.0.113.80"))
	port := freePort(t)
	server := serve(t, port, block("example.org", port, "record @ app.hosting.example\nmin_ttl 1s\nstale 0\nupstream "+up.Addr,
		"health "+local(freePort(t))+" {\nlameduck 4s\n}"))
	checkRecords(t, query(t, server.addr, "udp", "example.org.", dns.TypeA).Answer, "example.org. 1 IN A 203.0.113.80")
	server.signal(t, syscall.SIGTERM)
	eventually(t, 2*time.Second, "the server handles SIGTERM", func() bool { return server.logged(t, "SIGTERM") > 0 })
	time.Sleep(1500 * time.Millisecond) // until the answer is expired
	before := up.Asked("app.hosting.example.", dns.TypeA)
	checkRecords(t, query(t, server.addr, "udp", "example.org.", dns.TypeA).Answer, "example.org. 1 IN A 203.0.113.80")
	if up.Asked("app.hosting.example.", dns.TypeA) == before {
		t.Error("The target was not looked up")
	}
}

// The server's -version has the version of alias, however the server was built.
func TestVersion(t *testing.T) {
	t.Parallel()
	checkVersion(t, `alias-.+`, coredns)
}

func checkVersion(t *testing.T, want string, command ...string) {
	t.Helper()
	out, err := exec.Command(command[0], append(command[1:], "-version")...).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !regexp.MustCompile(`^CoreDNS-[0-9.]+\n\S+, go\S+, ` + want + `\n$`).Match(out) {
		t.Errorf("-version says %q", out)
	}
}
