package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/miekg/dns"
)

// The contestants run on one core, and the clients on the other.
const (
	serverCore = "0"
	clientCore = "1"
)

// packages are the Debian packages that the measurements need.
var packages = []string{"dnsperf", "unbound", "pdns-server", "pdns-backend-bind", "nsd", "patch"}

// bench is one run of measurements.
type bench struct {
	ctx       context.Context
	dir       string // of all files that the run writes
	rounds    int
	length    time.Duration // of a turn
	stormLoad int           // queries a second
	zones     string        // the numbers of zones, with commas between them
	only      string        // which contestants of zones are measured
	idle      time.Duration // how long zones watches them without queries
	ttl       time.Duration // of the targets in job
	coredns   string        // path of the built server, or of that which is measured in its place
	bounded   string        // path of that for the contestants with secondary
	old       string        // path of the server that compare measures beside it
	readme    bool          // write the tables into README.md too
	servers   []*server     // that run
}

// server is a process that answers at addr.
type server struct {
	*exec.Cmd
	addr    string
	monitor string        // the address for MONITOR in the Corefile, if that has it
	began   time.Time     // the start
	startup time.Duration // from the start to the first answer
	ended   chan struct{}
	errors  tail // standard error, to be read when it has ended
}

// install installs the packages that are missing.
func (b *bench) install() error {
	var missing []string
	for _, p := range packages {
		out, _ := exec.CommandContext(b.ctx, "dpkg-query", "-W", "-f", "${Status}", p).Output()
		if string(out) != "install ok installed" {
			missing = append(missing, p)
		}
	}
	if len(missing) == 0 {
		return nil
	}
	if err := b.run(nil, "apt-get", "update"); err != nil {
		return err
	}
	args := append([]string{"install", "-y", "--no-install-recommends"}, missing...)
	return b.run([]string{"DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1"}, "apt-get", args...)
}

// build builds a command of the module in dir and returns its path.
func (b *bench) build(dir, pkg string) (string, error) {
	path := filepath.Join(b.dir, filepath.Base(pkg))
	return path, b.run(nil, "go", "-C", dir, "build", "-o", path, pkg)
}

// run runs a program. An error includes its output.
func (b *bench) run(env []string, program string, args ...string) error {
	cmd := exec.CommandContext(b.ctx, program, args...) // #nosec G204 -- named here
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}

// write writes a file and returns its path.
func (b *bench) write(name, text string) (string, error) {
	path := filepath.Join(b.dir, name)
	return path, os.WriteFile(path, []byte(text), 0o600)
}

// launch starts a program pinned to a core, and returns as soon as the program answers a query for the A records of probe at addr.
func (b *bench) launch(core, addr, probe string, env []string, program string, args ...string) (*server, error) {
	s, err := b.start(core, addr, nil, env, program, args...)
	if err != nil {
		return nil, err
	}
	return s, b.awaitAnswer(s, probe)
}

// start starts a program pinned to a core, which will answer at addr. Its standard output, to which CoreDNS logs, goes to out, or to
// /dev/null if that is nil.
func (b *bench) start(core, addr string, out io.Writer, env []string, program string, args ...string) (*server, error) {
	s := &server{addr: addr, ended: make(chan struct{}), began: time.Now()}
	s.Cmd = b.pinned(core, program, args...)
	s.Env, s.Dir = append(os.Environ(), env...), b.dir
	s.Stdout, s.Stderr = out, &s.errors
	s.Cancel = func() error { return s.Process.Signal(syscall.SIGTERM) }
	s.WaitDelay = 30 * time.Second
	if err := s.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.ended)
		s.Wait()
	}()
	b.servers = append(b.servers, s)
	return s, nil
}

// awaitAnswer returns as soon as s answers a query for the A records of probe.
func (b *bench) awaitAnswer(s *server, probe string) error {
	err := b.await(s.Path+" answers", 10*time.Millisecond, func() (bool, error) {
		if err := s.alive(); err != nil {
			return false, err
		}
		m, err := ask(s.addr, probe)
		return err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0, nil
	})
	s.startup = time.Since(s.began)
	return err
}

// alive returns an error when s has ended.
func (s *server) alive() error {
	select {
	case <-s.ended:
		return fmt.Errorf("%s ended: %s\n%s", s.Cmd, s.ProcessState, s.errors.text)
	default:
		return nil
	}
}

// await evaluates condition at each interval, and returns when it is true. It returns an error if that takes longer than patience,
// or if condition returns one.
func (b *bench) await(what string, interval time.Duration, condition func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(b.ctx, patience, fmt.Errorf("waited %s until %s", patience, what))
	defer cancel()
	for {
		if ok, err := condition(); ok || err != nil {
			return err
		}
		if err := wait(ctx, interval); err != nil {
			return err
		}
	}
}

// patience is the limit for every wait.
const patience = 15 * time.Minute

// wait waits for d. If ctx ends first, wait returns the cause.
func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// launchCoreDNS starts the built server with a Corefile, in which PORT stands for the port of the server, and MONITOR for the address
// of its metrics or its profiles.
func (b *bench) launchCoreDNS(name, probe, corefile string) (*server, error) {
	return b.launchCorefile(b.coredns, nil, name, probe, corefile)
}

// launchCorefile is launchCoreDNS for another program, with further environment variables.
func (b *bench) launchCorefile(program string, env []string, name, probe, corefile string) (*server, error) {
	s, err := b.startCorefile(serverCore, program, nil, env, name, corefile)
	if err != nil {
		return nil, err
	}
	return s, b.awaitAnswer(s, probe)
}

// startCorefile starts a server with a Corefile on these cores, and does not wait. Its standard output goes to out.
func (b *bench) startCorefile(cores, program string, out io.Writer, env []string, name, corefile string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	monitor, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	path, err := b.write(name+".corefile", strings.NewReplacer("PORT", port, "MONITOR", monitor).Replace(corefile))
	if err != nil {
		return nil, err
	}
	s, err := b.start(cores, addr, out, env, program, "-conf", path, "-quiet")
	if err == nil && strings.Contains(corefile, "MONITOR") {
		s.monitor = monitor
	}
	return s, err
}

// client returns a program that runs on the core of the clients.
func (b *bench) client(program string, args ...string) *exec.Cmd {
	return b.pinned(clientCore, program, args...)
}

// pinned returns a program that runs on these cores.
func (b *bench) pinned(cores, program string, args ...string) *exec.Cmd {
	return exec.CommandContext(b.ctx, "taskset", append([]string{"-c", cores, program}, args...)...) // #nosec G204 -- named here
}

// stop terminates s and waits for its end.
func (b *bench) stop(s *server) {
	s.Process.Signal(syscall.SIGTERM)
	<-s.ended
	b.servers = slices.DeleteFunc(b.servers, func(other *server) bool { return other == s })
}

// stopAll stops the servers that still run.
func (b *bench) stopAll() {
	for len(b.servers) > 0 {
		b.stop(b.servers[0])
	}
}

// throughput returns how many queries a second s answers; dnsperf sends those of the file queries again and again. It returns an
// error unless all of them are answered with NOERROR.
func (b *bench) throughput(s *server, queries string, options ...string) (float64, error) {
	out, err := b.perf(s, queries, "NOERROR", options...)
	return out.rate, err
}

// answered is what dnsperf reports.
type answered struct {
	rate  float64 // queries answered per second
	count int     // queries answered
}

// perf runs dnsperf, which sends the queries of a file again and again. It returns an error unless all are answered with that response
// code. Later options override earlier ones.
func (b *bench) perf(s *server, queries, rcode string, options ...string) (answered, error) {
	a, _, err := b.perfOn(clientCore, s, queries, rcode, options...)
	return a, err
}

// perfOn is perf on these cores. It also returns the processor time of dnsperf.
func (b *bench) perfOn(cores string, s *server, queries, rcode string, options ...string) (answered, time.Duration, error) {
	host, port, _ := net.SplitHostPort(s.addr)
	args := []string{"-s", host, "-p", port, "-d", queries, "-l", strconv.Itoa(int(b.length.Seconds())), "-c", "1", "-T", "1", "-q", "100"}
	cmd := b.pinned(cores, "dnsperf", append(args, options...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return answered{}, 0, fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	a, err := parsePerf(string(out), rcode)
	if err != nil {
		return answered{}, 0, fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return a, cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), nil
}

// parsePerf returns what the output of dnsperf says.
func parsePerf(out, rcode string) (a answered, err error) {
	report := make(map[string]string)
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		report[key] = strings.TrimSpace(value)
	}
	if codes := report["Response codes"]; !strings.HasSuffix(codes, "(100.00%)") || !strings.HasPrefix(codes, rcode+" ") {
		return a, fmt.Errorf("response codes %q", codes)
	}
	count, _, _ := strings.Cut(report["Queries completed"], " ")
	if a.count, err = strconv.Atoi(count); err != nil {
		return a, err
	}
	a.rate, err = strconv.ParseFloat(report["Queries per second"], 64)
	return a, err
}

// ask queries the server at addr for the A records of name.
func ask(addr, name string) (*dns.Msg, error) {
	client := dns.Client{Timeout: 5 * time.Second}
	m, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), addr)
	return m, err
}

// freeAddr returns an address of this machine whose port is free for UDP and TCP. It is none of those that Linux chooses for clients:
// a secondary with many zones takes all of these.
func freeAddr() (string, error) {
	for range 100 {
		addr := fmt.Sprintf("127.0.0.1:%d", 10_000+rand.IntN(20_000)) // #nosec G404 -- any port
		l, err := net.Listen("tcp", addr)
		if err != nil {
			continue
		}
		p, err := net.ListenPacket("udp", addr)
		l.Close()
		if err == nil {
			p.Close()
			return addr, nil
		}
	}
	return "", errors.New("no port is free for both UDP and TCP")
}

// tail keeps the end of what is written to it.
type tail struct{ text []byte }

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	const most = 4096
	t.text = append(t.text, p...)
	t.text = t.text[max(0, len(t.text)-most):]
	return len(p), nil
}
