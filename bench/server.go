package main

import (
	"bytes"
	"context"
	"fmt"
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
var packages = []string{"dnsperf", "unbound", "pdns-server", "pdns-backend-bind"}

// bench is one run of measurements.
type bench struct {
	ctx       context.Context
	dir       string // of all files that the run writes
	rounds    int
	length    time.Duration // of a turn
	stormLoad int           // queries a second
	coredns   string        // path of the built server
	old       string        // path of the server that compare measures beside it
	readme    bool          // write the tables into README.md too
	servers   []*server     // that run
}

// server is a process that answers at addr.
type server struct {
	*exec.Cmd
	addr    string
	startup time.Duration // from the start to the first answer
	ended   chan struct{}
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
	s := &server{addr: addr, ended: make(chan struct{})}
	s.Cmd = exec.CommandContext(b.ctx, "taskset", append([]string{"-c", core, program}, args...)...) // #nosec G204 -- named here
	s.Env, s.Dir = append(os.Environ(), env...), b.dir
	out := new(bytes.Buffer)
	s.Stderr = out // the standard output, to which CoreDNS logs, is /dev/null
	s.Cancel = func() error { return s.Process.Signal(syscall.SIGTERM) }
	s.WaitDelay = 30 * time.Second
	began := time.Now()
	if err := s.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(s.ended)
		s.Wait()
	}()
	b.servers = append(b.servers, s)
	err := b.await(s.Path+" answers", 10*time.Millisecond, func() (bool, error) {
		select {
		case <-s.ended:
			return false, fmt.Errorf("%s ended: %s\n%s", s.Cmd, s.ProcessState, out)
		default:
		}
		m, err := ask(addr, probe)
		return err == nil && m.Rcode == dns.RcodeSuccess && len(m.Answer) > 0, nil
	})
	s.startup = time.Since(began)
	return s, err
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
const patience = 5 * time.Minute

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
// of its metrics.
func (b *bench) launchCoreDNS(name, probe, corefile string) (*server, error) {
	return b.launchCorefile(b.coredns, nil, name, probe, corefile)
}

// launchCorefile is launchCoreDNS for another program, with further environment variables.
func (b *bench) launchCorefile(program string, env []string, name, probe, corefile string) (*server, error) {
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
	return b.launch(serverCore, addr, probe, env, program, "-conf", path, "-quiet")
}

// client returns a program that runs on the core of the clients.
func (b *bench) client(program string, args ...string) *exec.Cmd {
	return exec.CommandContext(b.ctx, "taskset", append([]string{"-c", clientCore, program}, args...)...) // #nosec G204 -- named here
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

// resident returns the resident memory of s, in octets.
func (s *server) resident() (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.Process.Pid))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(status), "VmRSS:")
	kB, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.Atoi(kB)
	return n << 10, err
}

// cpuTime returns how much processor time s has used.
func (s *server) cpuTime() (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.Process.Pid))
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the state on, which proc(5) numbers 3
	user, err := strconv.Atoi(fields[14-3])
	if err != nil {
		return 0, err
	}
	system, err := strconv.Atoi(fields[15-3])
	return time.Duration(user+system) * (time.Second / 100), err // USER_HZ
}

// throughput returns how many queries a second s answers; dnsperf sends those of the file queries again and again. It returns an
// error unless all of them are answered with NOERROR.
func (b *bench) throughput(s *server, queries string, options ...string) (float64, error) {
	host, port, _ := net.SplitHostPort(s.addr)
	args := []string{"-s", host, "-p", port, "-d", queries, "-l", strconv.Itoa(int(b.length.Seconds())), "-c", "1", "-T", "1", "-q", "100"}
	cmd := b.client("dnsperf", append(args, options...)...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return 0, fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	report := make(map[string]string)
	for line := range strings.Lines(string(out)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		report[key] = strings.TrimSpace(value)
	}
	if codes := report["Response codes"]; !strings.HasSuffix(codes, "(100.00%)") || !strings.HasPrefix(codes, "NOERROR") {
		return 0, fmt.Errorf("%s: response codes %q\n%s", cmd, codes, out)
	}
	return strconv.ParseFloat(report["Queries per second"], 64)
}

// ask queries the server at addr for the A records of name.
func ask(addr, name string) (*dns.Msg, error) {
	client := dns.Client{Timeout: 5 * time.Second}
	m, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeA), addr)
	return m, err
}

// freeAddr returns an address of this machine whose port is free for UDP and TCP.
func freeAddr() (string, error) {
	for range 10 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		p, err := net.ListenPacket("udp", l.Addr().String())
		l.Close()
		if err == nil {
			p.Close()
			return l.Addr().String(), nil
		}
	}
	return "", fmt.Errorf("no port is free for both UDP and TCP")
}
