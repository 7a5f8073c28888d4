// Package redis starts Redis servers for tests: the real ones, on loopback, on ports that are free.
package redis

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// Server is a Redis that runs until its test ends, unless it is killed before. Its data are in memory only.
type Server struct {
	Addr string // host and port

	args []string
	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts redis-server with further arguments, as in its configuration: "--maxmemory", "2mb". Where it is not installed, the
// test is skipped; in CI it fails.
func Start(t testing.TB, args ...string) *Server {
	t.Helper()
	if _, err := exec.LookPath("redis-server"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("redis-server is not installed")
		}
		t.Skip("redis-server is not installed")
	}
	s := &Server{Addr: freeAddr(t), args: args}
	t.Cleanup(s.Kill)
	s.Run(t)
	return s
}

// Run starts a server that was killed once more, at the same address and with nothing in memory.
func (s *Server) Run(t testing.TB) {
	t.Helper()
	s.start(t, append([]string{"--bind", "127.0.0.1", "--port", portOf(s.Addr), "--save", "", "--dir", t.TempDir()}, s.args...)...)
}

// start starts redis-server, and waits until it listens.
func (s *Server) start(t testing.TB, args ...string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command("redis-server", args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		cmd.Wait()
		close(done)
	}()
	s.cmd, s.done = cmd, done
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("tcp", s.Addr)
		if err == nil {
			conn.Close()
			return
		}
		if time.Now().After(end) {
			s.Kill()
			t.Fatalf("redis-server does not listen: %v\n%s", err, &out)
		}
	}
}

// Stop stops the process, so that connections stay open and nothing is answered, until Continue.
func (s *Server) Stop() { s.cmd.Process.Signal(syscall.SIGSTOP) }

// Continue lets a stopped process go on.
func (s *Server) Continue() { s.cmd.Process.Signal(syscall.SIGCONT) }

// Kill ends the process at once. It may be called again.
func (s *Server) Kill() {
	if s.cmd == nil {
		return
	}
	s.cmd.Process.Kill()
	<-s.done
}

// freeAddr returns a loopback address with a port that nobody uses now.
func freeAddr(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// SetPassword changes the password that --requirepass has set, and ends all connections.
func (s *Server) SetPassword(password string) error {
	if err := s.Do("config", "set", "requirepass", password); err != nil {
		return err
	}
	s.args = []string{"--requirepass", password}
	return s.Do("client", "kill", "type", "normal")
}

// Do sends a command.
func (s *Server) Do(args ...string) error {
	out, err := s.output(args...)
	if err == nil && bytes.Contains(out, []byte("ERR")) {
		err = errors.New(string(out))
	}
	return err
}

// output sends a command and returns what redis-cli prints.
func (s *Server) output(args ...string) ([]byte, error) {
	for i, arg := range s.args {
		if arg == "--requirepass" {
			args = append([]string{"--no-auth-warning", "-a", s.args[i+1]}, args...)
		}
	}
	return exec.Command("redis-cli", append([]string{"-p", portOf(s.Addr)}, args...)...).CombinedOutput()
}

// StartSentinel starts a server, a replica of it, and a Sentinel that watches them under the name "fleet", and makes the replica
// the master half a second after the master has gone.
func StartSentinel(t testing.TB) (master, replica *Server, sentinel string) {
	t.Helper()
	master = Start(t)
	host, port, _ := net.SplitHostPort(master.Addr)
	replica = Start(t, "--replicaof", host+" "+port)
	conf := filepath.Join(t.TempDir(), "sentinel.conf")
	sentinel = freeAddr(t)
	_, sentinelPort, _ := net.SplitHostPort(sentinel)
	text := "bind 127.0.0.1\nport " + sentinelPort + "\nsentinel monitor fleet " + host + " " + port + " 1\n" +
		"sentinel down-after-milliseconds fleet 500\nsentinel failover-timeout fleet 2000\n"
	if err := os.WriteFile(conf, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: sentinel}
	t.Cleanup(s.Kill)
	s.start(t, conf, "--sentinel")
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		out, err := s.output("sentinel", "replicas", "fleet")
		if err == nil && bytes.Contains(out, []byte("master-link-status\nok")) {
			return master, replica, sentinel
		}
		if time.Now().After(end) {
			t.Fatalf("Sentinel does not know the replica: %v\n%s", err, out)
		}
	}
}

// StartCluster starts the three servers of a Cluster.
func StartCluster(t testing.TB) []*Server {
	t.Helper()
	var servers []*Server
	args := []string{"--cluster", "create"}
	for range 3 {
		s := Start(t, "--cluster-enabled", "yes", "--cluster-port", portOf(freeAddr(t)))
		servers, args = append(servers, s), append(args, s.Addr)
	}
	out, err := exec.Command("redis-cli", append(args, "--cluster-yes")...).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, s := range servers {
		for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
			out, err := s.output("cluster", "info")
			if err == nil && bytes.Contains(out, []byte("cluster_state:ok")) {
				break
			}
			if time.Now().After(end) {
				t.Fatalf("The Cluster is not ready: %v\n%s", err, out)
			}
		}
	}
	return servers
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}
