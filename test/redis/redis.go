// Package redis starts Redis servers for tests: the real ones, on loopback, on ports that are free.
package redis

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
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
	_, port, _ := net.SplitHostPort(s.Addr)
	args := append([]string{"--bind", "127.0.0.1", "--port", port, "--save", "", "--dir", t.TempDir()}, s.args...)
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
	_, port, _ := net.SplitHostPort(s.Addr)
	for i, arg := range s.args {
		if arg == "--requirepass" {
			args = append([]string{"--no-auth-warning", "-a", s.args[i+1]}, args...)
		}
	}
	out, err := exec.Command("redis-cli", append([]string{"-p", port}, args...)...).CombinedOutput()
	if err == nil && bytes.Contains(out, []byte("ERR")) {
		err = errors.New(string(out))
	}
	return err
}
