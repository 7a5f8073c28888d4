//go:build linux

package test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
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
	"go.yaml.in/yaml/v2"
)

const (
	sidecarFiles = "../deploy/kubernetes/sidecar/"

	namespace  = "shop"
	podAddress = "10.244.0.2"
	clusterDNS = "10.96.0.10" // CLUSTER_DNS of the manifest

	partner = "api.partner.example.com" // the alias in the Corefile
	backend = "backend"                 // a Service in the namespace
	service = "10.96.0.80"              // its address

	applicationUser = 65534
	resolverTimeout = 5 * time.Second // of glibc and of Go: what takes longer was lost, and asked again
)

// manifest is what the drill reads of the workload with the sidecar.
type manifest struct {
	Spec struct{ Template struct{ Spec podSpec } }
}

type podSpec struct {
	DNSPolicy string `yaml:"dnsPolicy"`
	DNSConfig struct {
		Nameservers, Searches []string
		Options               []variable
	} `yaml:"dnsConfig"`
	SecurityContext struct{ Sysctls []variable } `yaml:"securityContext"`
	InitContainers  []containerSpec              `yaml:"initContainers"`
	Volumes         []struct {
		Name      string
		ConfigMap *struct{ Name string } `yaml:"configMap"`
		EmptyDir  *struct{}              `yaml:"emptyDir"`
	}
}

type containerSpec struct {
	Command, Args []string
	Env           []variable
	Ports         []struct {
		Name          string
		ContainerPort string `yaml:"containerPort"`
	}
	StartupProbe    probe           `yaml:"startupProbe"`
	ReadinessProbe  probe           `yaml:"readinessProbe"`
	LivenessProbe   probe           `yaml:"livenessProbe"`
	SecurityContext securityContext `yaml:"securityContext"`
	VolumeMounts    []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
		SubPath   string `yaml:"subPath"`
		ReadOnly  bool   `yaml:"readOnly"`
	} `yaml:"volumeMounts"`
}

type variable struct {
	Name, Value string
	ValueFrom   struct {
		FieldRef struct {
			FieldPath string `yaml:"fieldPath"`
		} `yaml:"fieldRef"`
	} `yaml:"valueFrom"`
}

type probe struct {
	HTTPGet          struct{ Path, Port string } `yaml:"httpGet"`
	PeriodSeconds    int                         `yaml:"periodSeconds"`
	FailureThreshold int                         `yaml:"failureThreshold"`
}

type securityContext struct {
	AllowPrivilegeEscalation *bool                   `yaml:"allowPrivilegeEscalation"`
	Capabilities             struct{ Drop []string } `yaml:"capabilities"`
	ReadOnlyRootFilesystem   bool                    `yaml:"readOnlyRootFilesystem"`
	RunAsUser                int                     `yaml:"runAsUser"`
	RunAsGroup               int                     `yaml:"runAsGroup"`
}

// readManifest returns the manifest of a pod with the sidecar. The kustomization, too, puts the namespace into the search
// domain.
func readManifest(t *testing.T) podSpec {
	t.Helper()
	text := strings.ReplaceAll(read(t, sidecarFiles+"component/pod.yaml"), "NAMESPACE.", namespace+".")
	var m manifest
	check(t, yaml.Unmarshal([]byte(text), &m))
	spec := m.Spec.Template.Spec
	if spec.DNSPolicy != "None" || len(spec.InitContainers) != 1 {
		t.Fatalf("Not a pod with one sidecar as its resolver: %+v", spec)
	}
	c := spec.InitContainers[0]
	s := c.SecurityContext
	if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation || !slices.Equal(s.Capabilities.Drop, []string{"ALL"}) ||
		!s.ReadOnlyRootFilesystem || s.RunAsUser == 0 || s.RunAsGroup == 0 || len(c.Command) > 0 {
		t.Fatalf("Not a container as the drill makes it: %+v", c)
	}
	return spec
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	return string(text)
}

// resolvConf returns what the kubelet writes into the file resolv.conf of the pod's containers.
func (s podSpec) resolvConf() string {
	var options []string
	for _, o := range s.DNSConfig.Options {
		options = append(options, o.Name+":"+o.Value)
	}
	return fmt.Sprintf("nameserver %s\nsearch %s\noptions %s\n", strings.Join(s.DNSConfig.Nameservers, "\nnameserver "),
		strings.Join(s.DNSConfig.Searches, " "), strings.Join(options, " "))
}

// environment returns the variables of the container as the kubelet sets them.
func (c containerSpec) environment() []string {
	var env []string
	for _, v := range c.Env {
		if v.ValueFrom.FieldRef.FieldPath == "metadata.namespace" {
			v.Value = namespace
		}
		for _, earlier := range env {
			name, value, _ := strings.Cut(earlier, "=")
			v.Value = strings.ReplaceAll(v.Value, "$("+name+")", value)
		}
		env = append(env, v.Name+"="+v.Value)
	}
	return env
}

// port returns the number of a port with this name.
func (c containerSpec) port(name string) string {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return name
}

// pod is a network namespace with an application and its sidecar. The thread of the test is in it. Cluster DNS is in
// another one, that of the node.
type pod struct {
	spec      podSpec
	container containerSpec // of the sidecar
	node      *exec.Cmd     // keeps the namespace of the node
	dns       *process      // cluster DNS
	server    *process      // the sidecar
	configMap string        // the volume with the Corefile

	application, sidecar string // their bundles

	asked   int // what the application has looked up
	slowest time.Duration
}

// newPod starts cluster DNS and a pod, and returns when the sidecar is ready and the application may start.
func newPod(t *testing.T) *pod {
	t.Helper()
	for _, program := range []string{"getent", "mount", "nsenter", "setpriv", "unshare"} {
		need(t, program)
	}
	p := &pod{spec: readManifest(t)}
	p.container = p.spec.InitContainers[0]
	lookup := filepath.Join(t.TempDir(), "lookup")
	run(t, "go", "build", "-o", lookup, "./testdata/lookup")

	p.network(t)
	p.application = newBundle(t, p.spec.resolvConf(), mount{lookup, "/lookup", "bind,ro"})
	p.sidecar = newBundle(t, p.spec.resolvConf(), append(p.volumes(t), mount{coredns, "/coredns", "bind,ro"})...)
	project(t, p.configMap, map[string]string{"Corefile": read(t, sidecarFiles+"Corefile")})
	p.startDNS(t, appAddresses)
	p.start(t)
	return p
}

// network puts the thread into the namespace of the pod, and connects it with that of the node.
func (p *pod) network(t *testing.T) {
	t.Helper()
	ip := need(t, "ip")
	alone(t, syscall.CLONE_NEWNET)
	for _, s := range p.spec.SecurityContext.Sysctls {
		sysctl(t, s.Name, s.Value)
	}

	p.node = exec.Command("sleep", "infinity")
	p.node.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	check(t, p.node.Start())
	t.Cleanup(func() {
		p.node.Process.Kill()
		p.node.Wait()
	})
	inPod := func(args string) { run(t, ip, strings.Fields(args)...) }
	onNode := func(args string) { run(t, "nsenter", p.onNode(append([]string{ip}, strings.Fields(args)...)...)...) }
	inPod(fmt.Sprintf("link add eth0 type veth peer name pod0 netns %d", p.node.Process.Pid))
	inPod("address add " + podAddress + "/24 dev eth0")
	inPod("link set eth0 up")
	onNode("link set lo up")
	onNode("address add " + clusterDNS + "/32 dev lo")
	onNode("address add 10.244.0.1/24 dev pod0")
	onNode("link set pod0 up")
	inPod("route add default via 10.244.0.1")
}

// onNode returns the arguments of nsenter that run a command in the network namespace of the node.
func (p *pod) onNode(command ...string) []string {
	return append([]string{"--target", fmt.Sprint(p.node.Process.Pid), "--net"}, command...)
}

func run(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v\n%s", program, strings.Join(args, " "), err, out)
	}
}

// volumes makes the volumes of the pod, and returns where the sidecar has them.
func (p *pod) volumes(t *testing.T) []mount {
	t.Helper()
	sources := make(map[string]string)
	for _, v := range p.spec.Volumes {
		source := t.TempDir()
		sources[v.Name] = source
		mode := os.FileMode(0o755)
		switch {
		case v.ConfigMap != nil:
			p.configMap = source
		case v.EmptyDir != nil:
			mode = 0o777
		}
		check(t, os.Chmod(source, mode))
	}
	var mounts []mount
	for _, m := range p.container.VolumeMounts {
		options := "bind"
		if m.ReadOnly {
			options = "bind,ro"
		}
		if sources[m.Name] == "" || m.SubPath != "" {
			t.Fatalf("Not a volume as the drill makes it: %+v", m)
		}
		mounts = append(mounts, mount{sources[m.Name], m.MountPath, options})
	}
	return mounts
}

// mount says what is mounted where in a container.
type mount struct{ source, target, options string }

// newBundle returns a directory with what a container is made of: its root in rootfs, and in fstab what is mounted there.
// These are the programs of this machine and what else the container is to have.
func newBundle(t *testing.T, resolvConf string, mounts ...mount) string {
	t.Helper()
	dir := t.TempDir()
	root := filepath.Join(dir, "rootfs")
	create := func(path, content string) {
		path = filepath.Join(root, path)
		check(t, os.MkdirAll(filepath.Dir(path), 0o755))
		check(t, os.WriteFile(path, []byte(content), 0o644))
	}
	create("/etc/resolv.conf", resolvConf)
	create("/etc/hosts", "127.0.0.1 localhost\n")
	create("/etc/nsswitch.conf", "hosts: files dns\n")
	for _, system := range []string{"/bin", "/dev", "/lib", "/lib64", "/proc", "/usr"} {
		if target, err := os.Readlink(system); err == nil {
			check(t, os.Symlink(target, root+system))
		} else if _, err := os.Stat(system); err == nil {
			mounts = append(mounts, mount{system, system, "bind,ro"})
		}
	}
	var fstab strings.Builder
	for _, m := range mounts {
		info, err := os.Stat(m.source)
		check(t, err)
		if info.IsDir() {
			check(t, os.MkdirAll(root+m.target, 0o755))
		} else {
			create(m.target, "")
		}
		fmt.Fprintf(&fstab, "%s %s none %s 0 0\n", m.source, root+m.target, m.options)
	}
	write(t, filepath.Join(dir, "fstab"), fstab.String())
	return dir
}

// inContainer returns the arguments of unshare that run a command in the container of a bundle, which is the working
// directory: in a mount namespace that ends with it, so that no other process sees what is mounted, with a root that
// cannot be written to, and without privileges.
func inContainer(user, group int, command ...string) []string {
	const script = `
mount --bind rootfs rootfs
mount --all --fstab fstab
mount -o remount,bind,ro rootfs
exec unshare --root rootfs setpriv --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"`
	return append([]string{"--mount", "sh", "-ec", script, "sh",
		fmt.Sprint("--reuid=", user), fmt.Sprint("--regid=", group)}, command...)
}

// startDNS starts cluster DNS. The partner's gateway has these addresses.
func (p *pod) startDNS(t *testing.T, gateway []string) {
	t.Helper()
	dir := t.TempDir()
	zone := ". 5 IN SOA ns. hostmaster. 1 7200 3600 1209600 5\n. 5 IN NS ns.\n" +
		fmt.Sprintf("%s.%s.svc.cluster.local. 5 IN A %s\n", backend, namespace, service)
	for _, address := range gateway {
		qtype := "A"
		if strings.Contains(address, ":") {
			qtype = "AAAA"
		}
		zone += fmt.Sprintf("gateway.partner.example.net. 2 IN %s %s\n", qtype, address)
	}
	write(t, filepath.Join(dir, "zone"), zone)
	write(t, filepath.Join(dir, "Corefile"), ".:53 {\nbind "+clusterDNS+"\nfile zone\n}\n")
	p.dns = launch(t, clusterDNS+":53", dir, nil, "nsenter", p.onNode(coredns, "-conf", "Corefile")...)
	t.Cleanup(func() { p.dns.Process.Kill() }) // one that is stopped does not hear SIGTERM
}

// start starts the container of the sidecar, and waits for its probes.
func (p *pod) start(t *testing.T) {
	t.Helper()
	c, begin := p.container, time.Now()
	command := append([]string{"/coredns"}, c.Args...)
	env := append(c.environment(), "GORACE=halt_on_error=1 exitcode=66 atexit_sleep_ms=0")
	waitForProbes := upstream.New(t, upstream.Rcode(dns.RcodeRefused)).Addr // launch finds that somebody serves there
	server := launch(t, waitForProbes, p.sidecar, env, "unshare",
		inContainer(c.SecurityContext.RunAsUser, c.SecurityContext.RunAsGroup, command...)...)
	t.Cleanup(func() {
		<-server.done
		if !server.killed && !server.ProcessState.Success() {
			t.Errorf("The sidecar ended with %s", server.ProcessState)
		}
		checkLog(t, server)
	})
	p.server = server
	patience := time.Duration(c.StartupProbe.PeriodSeconds*c.StartupProbe.FailureThreshold) * time.Second
	eventually(t, patience, "startupProbe succeeds", func() bool { return server.ended() || p.succeeds(t, c.StartupProbe) })
	if server.ended() {
		t.Fatal("The sidecar does not start")
	}
	t.Logf("the sidecar is ready after %s", time.Since(begin).Round(time.Millisecond))
	if !p.succeeds(t, c.ReadinessProbe) || !p.succeeds(t, c.LivenessProbe) {
		t.Fatal("readinessProbe or livenessProbe fails")
	}
}

// restart kills the sidecar, and starts its container anew.
func (p *pod) restart(t *testing.T) {
	t.Helper()
	p.server.kill(t)
	p.start(t)
}

// succeeds reports whether a probe gets what the kubelet takes for a success.
func (p *pod) succeeds(t *testing.T, probe probe) bool {
	t.Helper()
	code, _ := p.page(t, probe.HTTPGet.Port, probe.HTTPGet.Path)
	return code >= 200 && code < 400
}

// page returns the status code and the body of a page of the sidecar, which is asked for at the address of the pod, and 0
// while nobody serves it.
func (p *pod) page(t *testing.T, port, path string) (int, string) {
	t.Helper()
	addr := net.JoinHostPort(podAddress, p.container.port(port))
	conn, err := net.DialTimeout("tcp", addr, time.Second) // the thread of an http.Client is in another namespace
	if err != nil {
		return 0, ""
	}
	dial := func(context.Context, string, string) (net.Conn, error) { return conn, nil }
	client := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}
	resp, err := client.Get("http://" + addr + path)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	check(t, err)
	return resp.StatusCode, string(body)
}

// stale returns how many stale answers the sidecar has given.
func (p *pod) stale(t *testing.T) int {
	t.Helper()
	_, body := p.page(t, "alias-metrics", "/metrics")
	sum := 0
	for _, m := range regexp.MustCompile(`(?m)^coredns_alias_answers_total{.*status="stale".*} (\d+)$`).FindAllStringSubmatch(body, -1) {
		n, err := strconv.Atoi(m[1])
		check(t, err)
		sum += n
	}
	return sum
}

// The resolvers of an application.
var clients = [][]string{{"/usr/bin/getent", "ahosts"}, {"/lookup"}}

// resolve returns the addresses that a client of the application gets for name, in order, and how long that took.
func (p *pod) resolve(t *testing.T, client []string, name string) ([]string, time.Duration) {
	t.Helper()
	cmd := exec.Command("unshare", inContainer(applicationUser, applicationUser, append(slices.Clone(client), name)...)...)
	cmd.Dir = p.application
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(begin)
	if err != nil {
		t.Logf("%s %s: %v after %s\n%s", client[0], name, err, took, out)
		return nil, took
	}
	p.asked, p.slowest = p.asked+1, max(p.slowest, took)
	var addresses []string
	for line := range strings.Lines(string(out)) {
		addresses = append(addresses, strings.Fields(line)[0])
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), took
}

// checkResolves checks that the application has these addresses for name, with each resolver.
func (p *pod) checkResolves(t *testing.T, name string, addresses ...string) {
	t.Helper()
	for _, client := range clients {
		got, took := p.resolve(t, client, name)
		if !slices.Equal(got, addresses) || took > resolverTimeout {
			t.Fatalf("%s has %v for %s after %s, want %v", client[0], got, name, took, addresses)
		}
	}
}

// goesOn has the application look its partner up, again and again, until done. It always gets the addresses.
func (p *pod) goesOn(t *testing.T, patience time.Duration, what string, done func() bool) {
	t.Helper()
	p.asked, p.slowest = 0, 0
	begin := time.Now()
	eventually(t, patience, what, func() bool {
		p.checkResolves(t, partner, appAddresses...)
		time.Sleep(100 * time.Millisecond) // the processor is others' too
		return done()
	})
	t.Logf("%s after %s; of %d lookups the slowest took %s", what, time.Since(begin).Round(time.Millisecond), p.asked,
		p.slowest.Round(time.Millisecond))
}

// goesStale has the application look its partner up until the sidecar gives it stale answers.
func (p *pod) goesStale(t *testing.T) {
	t.Helper()
	before := p.stale(t)
	p.goesOn(t, time.Minute, "100 answers are stale", func() bool { return p.stale(t) >= before+100 })
}

// trouble matches the lines of a log that somebody should look at.
var trouble = regexp.MustCompile(`(?m)^.*(\[WARNING\]|\[ERROR\]|\[FATAL\]|DATA RACE|panic).*\n`)

// expected matches those that go with an outage of cluster DNS.
var expected = regexp.MustCompile(`\[ERROR\] plugin/errors: 2 |\[WARNING\] plugin/alias: Target gateway\.partner\.example\.net\. A+ fails: `)

// checkLog checks that a sidecar found nothing wrong but cluster DNS.
func checkLog(t *testing.T, server *process) {
	t.Helper()
	for _, line := range trouble.FindAllString(server.log(t), -1) {
		if !expected.MatchString(line) {
			t.Errorf("The log of the sidecar has %s", line)
		}
	}
}

// An application goes on resolving its partner's name when cluster DNS is gone, also when the sidecar is restarted
// meanwhile, and gets the new addresses when cluster DNS is back.
func TestSidecar(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.checkResolves(t, partner, appAddresses...)
	p.checkResolves(t, backend, service)
	p.checkResolves(t, backend+"."+namespace+".svc", service)
	if lines := trouble.FindAllString(p.server.log(t), -1); len(lines) > 0 {
		t.Errorf("All is well, but the log has %q", lines)
	}

	p.dns.signal(t, syscall.SIGSTOP) // it is silent
	p.goesStale(t)
	p.checkResolves(t, backend, service) // the cache plugin, too, has stale answers
	p.checkResolves(t, backend+"."+namespace+".svc", service)
	p.restart(t)
	p.goesStale(t)
	unknown := 0
	eventually(t, 30*time.Second, "what nobody remembers fails at once", func() bool {
		slow := func(client []string) bool {
			unknown++
			_, took := p.resolve(t, client, fmt.Sprintf("www%d.example.org", unknown))
			return took > time.Second
		}
		return !slices.ContainsFunc(clients, slow)
	})

	p.dns.kill(t) // its port is closed
	p.goesStale(t)
	p.restart(t)
	p.goesStale(t)

	p.startDNS(t, otherAddresses)
	begin := time.Now()
	eventually(t, time.Minute, "the application has the new addresses", func() bool {
		renewed := true
		for _, client := range clients {
			got, _ := p.resolve(t, client, partner)
			renewed = renewed && slices.Equal(got, otherAddresses)
			for i, address := range got { // those of one family may be renewed before the others
				if len(got) != 2 || address != appAddresses[i] && address != otherAddresses[i] {
					t.Fatalf("%s has %v", client[0], got)
				}
			}
		}
		return renewed
	})
	t.Logf("the application has the new addresses after %s", time.Since(begin).Round(time.Millisecond))
	p.checkResolves(t, backend, service)
}

// A name that is added to the ConfigMap resolves without a restart, also while cluster DNS is gone.
func TestSidecarConfigMap(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.checkResolves(t, partner, appAddresses...)
	p.dns.kill(t)

	corefile := read(t, sidecarFiles+"Corefile")
	added := regexp.MustCompile(`(?m)^( *record )api(\..*\n)`).ReplaceAllString(corefile, "$0${1}www$2")
	if added == corefile {
		t.Fatal("The Corefile has no record for api")
	}
	project(t, p.configMap, map[string]string{"Corefile": added})
	p.goesOn(t, 45*time.Second, "the Corefile is reloaded", func() bool { return p.server.logged(t, "Reloading complete") > 0 })
	p.checkResolves(t, "www.partner.example.com", appAddresses...)
	p.checkResolves(t, partner, appAddresses...)
}
