// Package test tests the built server end to end: as a process, over sockets, with real resolvers and secondaries.
package test

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// coredns is the path of the built server.
var coredns string

func TestMain(m *testing.M) { os.Exit(buildAndRun(m)) }

func buildAndRun(m *testing.M) int {
	dir, err := os.MkdirTemp("", "alias")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)

	coredns = filepath.Join(dir, "coredns")
	race := "-race=true"
	if os.Getenv(soakVariable)+os.Getenv(neighboursVariable)+os.Getenv(subnetsVariable) != "" { // the figures are to be those of the server without the race detector
		race = "-race=false"
	}
	build := exec.Command("go", "build", race, "-o", coredns, "../cmd/coredns")
	if out, err := build.CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n%s", build, err, out)
		return 1
	}
	return m.Run()
}

// need returns the path of a program. If it is not installed, the test is skipped; in CI it fails.
func need(t *testing.T, program string) string {
	t.Helper()
	for _, file := range []string{program, "/usr/sbin/" + program} {
		if path, err := exec.LookPath(file); err == nil {
			return path
		}
	}
	lack(t, "%s is not installed", program)
	return ""
}

// lack ends a test that this machine cannot run: the test is skipped; in CI it fails.
func lack(t *testing.T, format string, args ...any) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatalf(format, args...)
	}
	t.Skipf(format, args...)
}

// process is a name server that runs until its test ends.
type process struct {
	*exec.Cmd
	addr string        // address and port, the same for UDP and TCP
	out  string        // path of the file with its output
	done chan struct{} // closed when it has ended

	killed bool // the test has killed it
}

// launch starts a program that is to serve at addr, with dir as its working directory, and returns when it answers.
func launch(t *testing.T, addr, dir string, env []string, program string, args ...string) *process {
	t.Helper()
	out, err := os.Create(filepath.Join(t.TempDir(), "out"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	// The context of the test is cancelled before its clean-up functions run.
	p := &process{exec.CommandContext(t.Context(), program, args...), addr, out.Name(), make(chan struct{}), false}
	p.Dir, p.Env = dir, append(os.Environ(), env...)
	p.Stdout, p.Stderr = out, out
	p.Cancel = func() error { return p.Process.Signal(syscall.SIGTERM) }
	p.WaitDelay = 30 * time.Second
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(p.done)
		p.Wait()
	}()
	t.Cleanup(func() {
		<-p.done
		if t.Failed() {
			t.Logf("%s ended, %s:\n%s", filepath.Base(program), p.ProcessState, p.log(t))
		}
	})
	eventually(t, 15*time.Second, p.Path+" serves", func() bool { return p.ended() || p.serves() })
	if p.ended() {
		t.Fatalf("%s does not start", p.Path)
	}
	return p
}

// serves reports whether p answers. The query is for a name that resolvers answer by themselves, and that authoritative
// servers refuse.
func (p *process) serves() bool {
	client := dns.Client{Timeout: 100 * time.Millisecond}
	_, _, err := client.Exchange(new(dns.Msg).SetQuestion("localhost.", dns.TypeA), p.addr)
	return err == nil
}

func (p *process) ended() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// signal sends a signal to p. On a busy machine, the server can answer before it handles SIGUSR1, and ignores it until
// then: signal sends it until the log shows that it was handled.
func (p *process) signal(t *testing.T, s os.Signal) {
	t.Helper()
	const handled = "[INFO] SIGUSR1: "
	before := p.logged(t, handled)
	for range 10 {
		if err := p.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		for range 100 {
			if s != syscall.SIGUSR1 || p.logged(t, handled) > before {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	t.Fatal("The server did not handle the signal")
}

// endedEarly reports whether SIGTERM ended p before p handled that signal: on a busy machine, the server can answer before
// it does.
func (p *process) endedEarly(t *testing.T) bool {
	t.Helper()
	status := p.ProcessState.Sys().(syscall.WaitStatus)
	return status.Signaled() && status.Signal() == syscall.SIGTERM && p.logged(t, "[INFO] SIGTERM: ") == 0
}

// kill ends p with SIGKILL, so that p cannot write anything more.
func (p *process) kill(t *testing.T) {
	t.Helper()
	p.killed = true
	p.signal(t, syscall.SIGKILL)
	<-p.done
}

// log returns what p has printed so far.
func (p *process) log(t *testing.T) string {
	t.Helper()
	out, err := os.ReadFile(p.out)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// logged returns how often text is in the output of p so far.
func (p *process) logged(t *testing.T, text string) int {
	t.Helper()
	return strings.Count(p.log(t), text)
}

// startServer starts the built server in dir, with the Corefile at conf, which serves at port.
func startServer(t *testing.T, port, dir, conf string, env ...string) *process {
	t.Helper()
	return startBuild(t, coredns, port, dir, conf, env...)
}

// restart starts a server that has ended once more: the same build, in the same directory, at the same port.
func (p *process) restart(t *testing.T) *process {
	t.Helper()
	_, port, _ := strings.Cut(p.addr, ":")
	return startBuild(t, p.Path, port, p.Dir, "Corefile", p.Env...)
}

// startBuild is startServer with another build of the server.
func startBuild(t *testing.T, program, port, dir, conf string, env ...string) *process {
	t.Helper()
	p := launch(t, local(port), dir, append(env, raceEnvironment), program, "-conf", conf)
	t.Cleanup(func() {
		p.checkEnd(t)
		if p.logged(t, "panic") > 0 {
			t.Error("The log of the server has a panic")
		}
	})
	return p
}

// raceEnvironment has a server with the race detector go on after a race, and end with raceStatus.
const (
	raceEnvironment = "GORACE=exitcode=66 atexit_sleep_ms=0"
	raceStatus      = 66
)

// checkEnd waits until the server has ended, and checks that it ended well and without a data race of its own.
func (p *process) checkEnd(t *testing.T) {
	t.Helper()
	<-p.done
	races := racesOfOurs(p.log(t))
	for _, report := range races {
		t.Errorf("The server has %s", report)
	}
	foreign := len(races) == 0 && p.ProcessState.ExitCode() == raceStatus
	if !p.killed && !p.endedEarly(t) && !p.ProcessState.Success() && !foreign {
		t.Errorf("The server ended with %s", p.ProcessState)
	}
}

// racesOfOurs returns the reports of data races in a log that this module has a part in. CoreDNS and caddy have races of
// their own: at a stop, and in the file plugin at each reload of a zone, below the queries that alias passes on.
func racesOfOurs(log string) []string {
	var ours []string
	for report := range strings.SplitSeq(log, "==================") {
		if strings.Contains(report, "DATA RACE") && strings.Contains(report, "github.com/coredns/alias") &&
			!strings.Contains(report, "file.(*Zone).setData()") {
			ours = append(ours, report)
		}
	}
	return ours
}

// zoneFile is the zone that the file plugin serves in the server blocks that block returns.
const zoneFile = `$TTL 300
@   IN SOA  ns1 hostmaster 1 7200 3600 1209600 300
    IN NS   ns1
    IN MX   10 mail
ns1 IN A    192.0.2.53
own IN A    192.0.2.80
`

// block returns a server block for zone, with these properties of alias and these further plugins.
func block(zone, port, properties, plugins string) string {
	return fmt.Sprintf("%s:%s {\nbind 127.0.0.1\nalias {\n%s\n}\nfile zone %s\nerrors\n%s\n}\n",
		zone, port, properties, zone, plugins)
}

// serve starts a server with a Corefile of these server blocks, which serve at port.
func serve(t *testing.T, port string, blocks ...string) *process {
	t.Helper()
	return serveEnv(t, port, nil, blocks...)
}

// serveEnv is serve with further environment variables.
func serveEnv(t *testing.T, port string, env []string, blocks ...string) *process {
	t.Helper()
	dir := t.TempDir()
	write(t, filepath.Join(dir, "zone"), zoneFile)
	write(t, filepath.Join(dir, "Corefile"), strings.Join(blocks, ""))
	return startServer(t, port, dir, "Corefile", env...)
}

// configure replaces the Corefile of a server, and sends the server a signal.
func (p *process) configure(t *testing.T, corefile string, s os.Signal) {
	t.Helper()
	write(t, filepath.Join(p.Dir, "Corefile"), corefile)
	p.signal(t, s)
}

func write(t *testing.T, path, content string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// lastPort is the last port that freePort returned. The ports are below those that the system chooses by itself, so that
// no socket of another test takes one before it is used.
var lastPort atomic.Int32

func init() { lastPort.Store(10000 + rand.Int32N(20000)) }

// freePort returns a port that is free for both UDP and TCP.
func freePort(t *testing.T) string {
	t.Helper()
	for range 1000 {
		port := fmt.Sprint(lastPort.Add(1))
		l, err := net.Listen("tcp", local(port))
		if err != nil {
			continue
		}
		p, err := net.ListenPacket("udp", local(port))
		l.Close()
		if err == nil {
			p.Close()
			return port
		}
	}
	t.Fatal("found no free port")
	return ""
}

func local(port string) string { return net.JoinHostPort("127.0.0.1", port) }

// eventually waits until condition holds.
func eventually(t *testing.T, patience time.Duration, what string, condition func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !condition(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("Waited %s in vain until %s", patience, what)
		}
	}
}

// query returns the response of the server at addr, over "udp" or "tcp", to a query with EDNS.
func query(t *testing.T, addr, network, name string, qtype uint16) *dns.Msg {
	t.Helper()
	m, err := ask(addr, network, name, qtype)
	if err != nil {
		t.Fatalf("%s %s over %s: %v", name, dns.TypeToString[qtype], network, err)
	}
	return m
}

// ask is query for goroutines other than that of the test.
func ask(addr, network, name string, qtype uint16) (*dns.Msg, error) {
	client := dns.Client{Net: network, Timeout: 5 * time.Second}
	r := new(dns.Msg).SetQuestion(name, qtype)
	r.SetEdns0(1232, true) // with DO, so that signatures are in the response
	m, _, err := client.Exchange(r, addr)
	return m, err
}

// checkRecords compares records with those wanted, in any order. A TTL may be up to two seconds lower.
func checkRecords(t *testing.T, got []dns.RR, want ...string) {
	t.Helper()
	wanted := upstream.RRs(want...)
	if g, w := texts(got, wanted), texts(wanted, wanted); !slices.Equal(g, w) {
		t.Errorf("Got the records\n\t%s\nwant\n\t%s", strings.Join(g, "\n\t"), strings.Join(w, "\n\t"))
	}
}

// texts returns rrs in presentation form, sorted. A TTL up to two seconds below the first one of wanted becomes that.
func texts(rrs, wanted []dns.RR) []string {
	var ts []string
	for _, rr := range rrs {
		rr = dns.Copy(rr)
		if h := rr.Header(); len(wanted) > 0 {
			if ttl := wanted[0].Header().Ttl; h.Ttl <= ttl && h.Ttl+2 >= ttl {
				h.Ttl = ttl
			}
		}
		ts = append(ts, rr.String())
	}
	slices.Sort(ts)
	return ts
}

// extendedError returns the code of the Extended DNS Error in m, or -1 if there is none.
func extendedError(m *dns.Msg) int {
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if ede, ok := o.(*dns.EDNS0_EDE); ok {
				return int(ede.InfoCode)
			}
		}
	}
	return -1
}

// get returns the status code and the body of an HTTP page. The code is 0 if there is no response.
func get(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	check(t, err)
	return string(text)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// line returns the first complete line of text that contains part, or "".
func line(text, part string) string {
	for l := range strings.Lines(text) {
		if strings.Contains(l, part) && strings.HasSuffix(l, "\n") {
			return l
		}
	}
	return ""
}

// A data race counts when a frame of this module is in it, unless it is the one of the file plugin.
func TestRacesOfOurs(t *testing.T) {
	t.Parallel()
	report := func(frames string) string {
		return "==================\nWARNING: DATA RACE\n" + frames + "==================\n"
	}
	for frames, want := range map[string]int{
		"github.com/coredns/alias.(*cache).get()\n":                           1,
		"github.com/coredns/caddy.(*Instance).ShutdownCallbacks()\n":          0,
		"file.(*Zone).setData()\ngithub.com/coredns/alias.(*Alias).pass()\n":  0,
		"github.com/miekg/dns.Pack()\ngithub.com/coredns/alias/plugin/wire\n": 1,
	} {
		if got := len(racesOfOurs("[INFO] x\n" + report(frames) + "[INFO] y\n")); got != want {
			t.Errorf("%q: %d races, want %d", frames, got, want)
		}
	}
}
