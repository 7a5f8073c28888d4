package test

import (
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/redis"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// podServer is a server with the files of a directory of deploy/kubernetes, mounted as in a pod.
type podServer struct {
	*process
	files  map[string]string // of its ConfigMap, as the repository has them
	config string            // the directory where the ConfigMap is mounted
	pages  map[string]string // addresses by plugin
	adapt  func(corefile string) string
}

// startPodServer starts the server with the Corefile and the zones of a directory, with three changes: the server listens on
// loopback, it uses resolver, and it looks for changed files more often.
func startPodServer(t *testing.T, dir, resolver string, files ...string) *podServer {
	t.Helper()
	return startSharingPodServer(t, dir, resolver, "", nil, files...)
}

// startSharingPodServer is startPodServer for a server that has its store at a port of loopback, and environment variables.
func startSharingPodServer(t *testing.T, dir, resolver, store string, env []string, files ...string) *podServer {
	t.Helper()
	p := &podServer{files: make(map[string]string), config: t.TempDir(), pages: make(map[string]string)}
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join("../deploy/kubernetes", dir, name))
		if err != nil {
			t.Fatal(err)
		}
		p.files[filepath.Base(name)] = string(text)
	}
	for _, plugin := range []string{"health", "ready", "prometheus"} {
		p.pages[plugin] = local(freePort(t))
	}
	port, state := freePort(t), t.TempDir()
	p.adapt = func(corefile string) string {
		// The server is built without the kubernetes plugin.
		corefile = regexp.MustCompile(`(?ms)^    kubernetes .*?^    }\n`).ReplaceAllString(corefile, "")
		return strings.NewReplacer(
			"    health {", "    health "+p.pages["health"]+" {",
			"        lameduck 10s", "        lameduck 10ms",
			"    ready\n", "    ready "+p.pages["ready"]+"\n",
			"    prometheus :9153\n", "    prometheus "+p.pages["prometheus"]+"\n",
			"    reload\n", "    reload 2s 1s\n",
			".zone\n", ".zone {\n        reload 1s\n    }\n",
			"/etc/resolv.conf", resolver,
			"/etc/coredns/", p.config+"/",
			"/var/lib/coredns/", state+"/",
			":6379", ":"+store,
		).Replace(onLoopback(corefile, port))
	}
	p.mount(t)
	p.process = startServer(t, port, t.TempDir(), filepath.Join(p.config, "Corefile"), env...)
	return p
}

// mount updates the volume with the files as they are now.
func (p *podServer) mount(t *testing.T) {
	t.Helper()
	files := maps.Clone(p.files)
	files["Corefile"] = p.adapt(files["Corefile"])
	project(t, p.config, files)
}

// project writes the files of a ConfigMap into its volume as the kubelet does: all at once, by replacing a link.
func project(t *testing.T, volume string, files map[string]string) {
	t.Helper()
	data := filepath.Join(volume, "..data")
	old, _ := os.Readlink(data)
	dir, err := os.MkdirTemp(volume, "..")
	check(t, err)
	check(t, os.Chmod(dir, 0o755))
	for name, text := range files {
		check(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	check(t, os.Symlink(filepath.Base(dir), data+"_tmp"))
	check(t, os.Rename(data+"_tmp", data))
	if old != "" {
		check(t, os.RemoveAll(filepath.Join(volume, old)))
		return
	}
	for name := range files {
		check(t, os.Symlink(filepath.Join("..data", name), filepath.Join(volume, name)))
	}
}

// change replaces text in one of the files. The server sees the change after mount.
func (p *podServer) change(t *testing.T, name, was, becomes string) {
	t.Helper()
	if !strings.Contains(p.files[name], was) {
		t.Fatalf("%q is not in %s", was, name)
	}
	p.files[name] = strings.Replace(p.files[name], was, becomes, 1)
}

// probe reports whether the page of a plugin is a success for the kubelet.
func (p *podServer) probe(t *testing.T, plugin string) bool {
	t.Helper()
	code, _ := get(t, "http://"+p.pages[plugin]+"/"+plugin)
	return code == http.StatusOK
}

// metrics returns the metrics page.
func (p *podServer) metrics(t *testing.T) string {
	t.Helper()
	_, page := get(t, "http://"+p.pages["prometheus"]+"/metrics")
	return page
}

// The authoritative servers serve the zone of their ConfigMap, and load a changed ConfigMap, unless it has an error.
func TestAuthoritativePod(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, upstream.Zone(
		"myapp.hosting.example. 60 IN A 203.0.113.80",
		"myapp.hosting.example. 60 IN AAAA 2001:db8:80::80",
		"other.hosting.example. 60 IN A 203.0.113.81",
	))
	server := startPodServer(t, "authoritative", up.Addr, "Corefile", "example.com.zone")
	for _, plugin := range []string{"health", "ready"} {
		eventually(t, 5*time.Second, plugin, func() bool { return server.probe(t, plugin) })
	}
	answer := func(name string, qtype uint16) []dns.RR {
		t.Helper()
		m := query(t, server.addr, "udp", name, qtype)
		if !m.Authoritative {
			t.Errorf("The answer is not authoritative:\n%v", m)
		}
		return m.Answer
	}
	checkRecords(t, answer("example.com.", dns.TypeA), "example.com. 60 IN A 203.0.113.80")
	checkRecords(t, answer("example.com.", dns.TypeAAAA), "example.com. 60 IN AAAA 2001:db8:80::80")
	checkRecords(t, answer("www.example.com.", dns.TypeA), "www.example.com. 60 IN A 203.0.113.80")
	checkRecords(t, answer("example.com.", dns.TypeMX), "example.com. 3600 IN MX 10 mail.example.com.")

	server.change(t, "Corefile", "record @ myapp.hosting.example", "record @ other.hosting.example")
	server.change(t, "example.com.zone", "2026112501", "2026112502")
	server.change(t, "example.com.zone", "MX    10 mail", "MX    20 mail")
	server.mount(t)
	eventually(t, 15*time.Second, "the Corefile is loaded", func() bool {
		m := query(t, server.addr, "udp", "example.com.", dns.TypeA)
		return len(m.Answer) == 1 && strings.HasSuffix(m.Answer[0].String(), "203.0.113.81")
	})
	eventually(t, 15*time.Second, "the zone is loaded", func() bool {
		m := query(t, server.addr, "udp", "example.com.", dns.TypeMX)
		return len(m.Answer) == 1 && strings.HasSuffix(m.Answer[0].String(), "20 mail.example.com.")
	})

	server.change(t, "Corefile", "upstream", "upsteam")
	server.mount(t)
	eventually(t, 15*time.Second, "the Corefile is refused", func() bool {
		return strings.Contains(server.metrics(t), "\ncoredns_reload_failed_total 1\n")
	})
	if server.logged(t, "upsteam") == 0 {
		t.Error("The log does not have the reason")
	}
	checkRecords(t, answer("example.com.", dns.TypeA), "example.com. 60 IN A 203.0.113.81")
	for _, plugin := range []string{"health", "ready"} {
		eventually(t, 5*time.Second, plugin+" again", func() bool { return server.probe(t, plugin) })
	}
}

// A pod that starts while the resolver is down has the answers of another one from the store. The password comes from the
// environment.
func TestAuthoritativeSharePod(t *testing.T) {
	t.Parallel()
	store := redis.Start(t, "--requirepass", "secret")
	host, port, _ := strings.Cut(store.Addr, ":")
	up := upstream.New(t, upstream.Zone("myapp.hosting.example. 60 IN A 203.0.113.80"))
	start := func() *podServer {
		p := startSharingPodServer(t, "authoritative-share", up.Addr, port, []string{"STORE_PASSWORD=secret", "ALIAS_STORE_SERVICE_HOST=" + host},
			"Corefile", "../authoritative/example.com.zone")
		eventually(t, 15*time.Second, "ready", func() bool { return p.probe(t, "ready") })
		return p
	}
	first := start()
	checkRecords(t, query(t, first.addr, "udp", "example.com.", dns.TypeA).Answer, "example.com. 60 IN A 203.0.113.80")
	eventually(t, 5*time.Second, "the answer is in the store", func() bool {
		return strings.Contains(first.metrics(t), `coredns_alias_share_operations_total{operation="put",outcome="success"}`)
	})

	up.Set(nil)
	second := start()
	if m := query(t, second.addr, "udp", "example.com.", dns.TypeA); addressText(m) != "203.0.113.80" {
		t.Errorf("The second pod answers\n%v", m)
	}
	for _, p := range []*podServer{first, second} {
		if p.logged(t, "secret") > 0 || p.logged(t, "Answers are not ") > 0 {
			t.Error("The log has the password, or a failure of the store")
		}
	}
}

// The command in the page on Kubernetes that checks the zone finds no errors and no warnings.
func TestZoneOfPod(t *testing.T) {
	t.Parallel()
	page, err := os.ReadFile("../docs/kubernetes.md")
	if err != nil {
		t.Fatal(err)
	}
	command := regexp.MustCompile("`(go run ./cmd/alias-checkzone \\S+ deploy/\\S+)`").FindSubmatch(page)
	if command == nil {
		t.Fatal("The page has no such command")
	}
	args := strings.Fields(string(command[1]))
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Dir = ".."
	if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), " 0 errors, 0 warnings") {
		t.Errorf("%s: %v\n%s", cmd, err, out)
	}
}

// A cluster's own CoreDNS serves the alias, and forwards queries for names outside the cluster.
func TestClusterDNSPod(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, upstream.Zone(
		"gateway.partner.example.net. 5 IN A 203.0.113.90",
		"www.example.org. 60 IN A 192.0.2.81",
	))
	server := startPodServer(t, "cluster-dns", up.Addr, "Corefile")
	for _, plugin := range []string{"health", "ready"} {
		eventually(t, 5*time.Second, plugin, func() bool { return server.probe(t, plugin) })
	}
	const name, want = "api.partner.example.com.", "api.partner.example.com. 5 IN A 203.0.113.90"
	checkRecords(t, query(t, server.addr, "udp", name, dns.TypeA).Answer, want)
	checkRecords(t, query(t, server.addr, "tcp", "www.example.org.", dns.TypeA).Answer, "www.example.org. 30 IN A 192.0.2.81")

	up.Set(nil)
	eventually(t, 15*time.Second, "the answer is stale", func() bool {
		m := query(t, server.addr, "udp", name, dns.TypeA)
		if len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), "203.0.113.90") {
			t.Fatalf("Got\n%v", m)
		}
		return m.Answer[0].Header().Ttl == 30
	})
	counted := `coredns_alias_answers_total{server="dns://` + server.addr + `",status="stale",zone="partner.example.com."}`
	if !strings.Contains(server.metrics(t), counted) {
		t.Error("No stale answer is counted")
	}
}
