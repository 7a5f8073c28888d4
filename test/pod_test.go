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
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
	"go.yaml.in/yaml/v2"
)

// manifest is the part of the workload with the sidecar that the drill reads.
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

// readManifest returns the manifest of a pod with the sidecar. Like the kustomization, it puts the namespace into the search
// domains.
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
		t.Fatalf("The drill cannot start a container like this: %+v", c)
	}
	return spec
}

// resolvConf returns the resolv.conf that the kubelet writes for the containers of the pod.
func (s podSpec) resolvConf() string {
	var options []string
	for _, o := range s.DNSConfig.Options {
		options = append(options, o.Name+":"+o.Value)
	}
	return fmt.Sprintf("nameserver %s\nsearch %s\noptions %s\n", strings.Join(s.DNSConfig.Nameservers, "\nnameserver "),
		strings.Join(s.DNSConfig.Searches, " "), strings.Join(options, " "))
}

// environment returns the environment variables of the container as the kubelet sets them.
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

// port returns the number of the port with this name, or name if there is none.
func (c containerSpec) port(name string) string {
	for _, p := range c.Ports {
		if p.Name == name {
			return p.ContainerPort
		}
	}
	return name
}

// pod is a network namespace with an application and its sidecar. The thread of the test is in it. Cluster DNS is in another
// network namespace, that of the node.
type pod struct {
	spec      podSpec
	container containerSpec // of the sidecar
	node      *exec.Cmd     // keeps the namespace of the node
	dns       *process      // cluster DNS
	server    *process      // the sidecar
	configMap string        // the volume with the Corefile

	application, sidecar string // their bundles

	asked   int           // the lookups of the application
	slowest time.Duration // of them
}

// newPod starts cluster DNS and a pod, and returns when the sidecar is ready, so that the application may start.
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

// network moves the thread into the network namespace of the pod, and connects that with the one of the node.
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

// volumes creates the volumes of the pod, and returns the mounts of the sidecar.
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
			t.Fatalf("The drill cannot mount a volume like this: %+v", m)
		}
		mounts = append(mounts, mount{sources[m.Name], m.MountPath, options})
	}
	return mounts
}

// mount is a mount in a container.
type mount struct{ source, target, options string }

// newBundle returns a directory with the root of a container in rootfs, and the mounts of the container in fstab: the programs
// of this machine, read-only, and mounts.
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

// inContainer returns the arguments of unshare that run a command in the container of a bundle, which must be the working
// directory. The command has its own mount namespace, a read-only root, and no privileges.
func inContainer(user, group int, command ...string) []string {
	const script = `
mount --bind rootfs rootfs
mount --all --fstab fstab
mount -o remount,bind,ro rootfs
exec unshare --root rootfs setpriv --clear-groups --inh-caps=-all --bounding-set=-all --no-new-privs "$@"`
	return append([]string{"--mount", "sh", "-ec", script, "sh",
		fmt.Sprint("--reuid=", user), fmt.Sprint("--regid=", group)}, command...)
}

// startDNS starts cluster DNS, in which the partner's gateway has these addresses.
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
	t.Cleanup(func() { p.dns.Process.Kill() }) // a stopped process does not handle SIGTERM
}

// start starts the container of the sidecar, and waits for its probes.
func (p *pod) start(t *testing.T) {
	t.Helper()
	c, begin := p.container, time.Now()
	command := append([]string{"/coredns"}, c.Args...)
	env := append(c.environment(), raceEnvironment)
	waitForProbes := upstream.New(t, upstream.Rcode(dns.RcodeRefused)).Addr // launch need not wait: this server answers
	server := launch(t, waitForProbes, p.sidecar, env, "unshare",
		inContainer(c.SecurityContext.RunAsUser, c.SecurityContext.RunAsGroup, command...)...)
	t.Cleanup(func() {
		server.checkEnd(t)
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

// restart kills the sidecar, and starts its container again.
func (p *pod) restart(t *testing.T) {
	t.Helper()
	p.server.kill(t)
	p.start(t)
}

// succeeds reports whether a probe gets a status code that the kubelet takes for a success.
func (p *pod) succeeds(t *testing.T, probe probe) bool {
	t.Helper()
	code, _ := p.page(t, probe.HTTPGet.Port, probe.HTTPGet.Path)
	return code >= 200 && code < 400
}

// page returns the status code and the body of a page of the sidecar at the address of the pod. The code is 0 if there is no
// response.
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
