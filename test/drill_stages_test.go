//go:build linux

package test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// stage is the server of a drill, and the fault.
type stage struct {
	server *process

	begin  func() // begins the outage
	midway func() // is called after a third of the outage, while the clients ask; may be nil, and must not wait
	end    func() // ends the outage
	after  func() // is called when the answers are fresh again; may be nil
}

// startAlias starts a server with an alias at example.org, and with these further properties.
func startAlias(t *testing.T, properties ...string) *process {
	t.Helper()
	port, dir := configured(t, zoneFile, "", properties...)
	return startServer(t, port, dir, "Corefile")
}

// configured returns a directory with the files of such a server, and the port at which it is to serve.
func configured(t *testing.T, zone, plugins string, properties ...string) (port, dir string) {
	t.Helper()
	port, dir = freePort(t), t.TempDir()
	properties = append([]string{"record @ app.hosting.example", "min_ttl 1s"}, properties...)
	write(t, filepath.Join(dir, "zone"), zone)
	write(t, filepath.Join(dir, "Corefile"), block("example.org", port, strings.Join(properties, "\n"), plugins))
	return port, dir
}

// faulty returns a stage on which fault answers in place of the resolver during the outage.
func faulty(fault upstream.Handler) func(t *testing.T) *stage {
	return func(t *testing.T) *stage {
		up := upstream.New(t, healthy)
		return &stage{
			server: startAlias(t, "upstream "+up.Addr),
			begin:  func() { up.Set(fault) },
			end:    func() { up.Set(healthy) },
		}
	}
}

func stopped(t *testing.T) *stage {
	unbound := startUnbound(t, upstream.New(t, authority(records...)).Addr)
	t.Cleanup(func() { unbound.Process.Signal(syscall.SIGCONT) })
	return &stage{
		server: startAlias(t, "upstream "+unbound.addr),
		begin:  func() { unbound.signal(t, syscall.SIGSTOP) },
		end:    func() { unbound.signal(t, syscall.SIGCONT) },
	}
}

func killed(t *testing.T) *stage {
	unbound := startUnbound(t, upstream.New(t, authority(records...)).Addr)
	return &stage{
		server: startAlias(t, "upstream "+unbound.addr),
		begin:  func() { unbound.kill(t) },
		end:    func() { launch(t, unbound.addr, unbound.Dir, nil, unbound.Path, unbound.Args[1:]...) },
	}
}

func spoofed(t *testing.T) *stage {
	return faulty(upstream.Elsewhere(t, upstream.Zone(
		"app.hosting.example. 300 IN A 198.51.100.66", "app.hosting.example. 300 IN AAAA 2001:db8:66::66")))(t)
}

func halved(t *testing.T) *stage {
	up, other := upstream.New(t, healthy), upstream.New(t, healthy)
	return &stage{
		server: startAlias(t, "upstream "+up.Addr+" "+other.Addr),
		begin:  func() { up.Set(nil) },
		end:    func() { up.Set(healthy) },
	}
}

// cutOff returns a stage in a network namespace, where the resolver is not at a loopback address, and has its route deleted.
func cutOff(t *testing.T) *stage {
	program := need(t, "ip")
	alone(t, syscall.CLONE_NEWNET)
	ip := func(args string) {
		if out, err := exec.Command(program, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	ip("address add 192.0.2.1/32 dev lo")
	up := upstream.NewAt(t, "192.0.2.1", healthy)
	return &stage{
		server: startAlias(t, "upstream "+up.Addr),
		begin:  func() { ip("route delete local 192.0.2.1 table local") },
		end:    func() { ip("route add local 192.0.2.1 dev lo table local") },
	}
}

func restarted(t *testing.T) *stage {
	up := upstream.New(t, healthy)
	s := &stage{
		server: startAlias(t, "upstream "+up.Addr, "persist answers"),
		end:    func() { up.Set(healthy) },
	}
	s.begin = func() {
		up.Set(nil)
		s.server.kill(t)
		s.server = s.server.restart(t)
	}
	return s
}

func reloaded(t *testing.T) *stage {
	up := upstream.New(t, healthy)
	server := startAlias(t, "upstream "+up.Addr)
	const handled, done = "[INFO] SIGUSR1: ", "Reloading complete"
	return &stage{
		server: server,
		begin:  func() { up.Set(nil) },
		midway: func() { server.Process.Signal(syscall.SIGUSR1) },
		end: func() {
			up.Set(healthy)
			if server.logged(t, handled) == 0 || server.logged(t, done) == 0 {
				t.Error("There was no reload")
			}
		},
	}
}

// diskFull returns a stage with a small disk, which only this drill sees. While the disk is full, clients ask for many names
// that are not cached, so that there is much to write. In the end all of them must be in the file.
func diskFull(t *testing.T) *stage {
	disk := smallDisk(t)
	zone := zoneFile
	const others = 500
	for i := range others {
		zone += fmt.Sprintf("other%d IN ALIAS other%d.hosting.example.\n", i, i)
	}
	up, filler := upstream.New(t, healthy), filepath.Join(disk, "filler")
	port, dir := configured(t, zone, "", "upstream "+up.Addr, "persist "+filepath.Join(disk, "answers"))
	s := &stage{server: startServer(t, port, dir, "Corefile")}
	askOthers := func() {
		for i := range others {
			m := query(t, s.server.addr, "udp", fmt.Sprintf("other%d.example.org.", i), dns.TypeA)
			if len(m.Answer) != 1 {
				t.Fatalf("No address:\n%v", m)
			}
		}
	}
	s.begin = func() {
		if err := os.WriteFile(filler, make([]byte, 256<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("The disk is not full: %v", err)
		}
		up.Set(onlyOthers)
		askOthers()
		up.Set(nil)
	}
	s.end = func() {
		if s.server.logged(t, "no space left on device") == 0 {
			t.Error("The server did not try to write while the disk was full")
		}
		up.Set(healthy)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	s.after = func() {
		eventually(t, 15*time.Second, "the file is written again", func() bool {
			return s.server.logged(t, "Answers are kept in "+disk) > 0
		})
		up.Set(nil)
		s.server.kill(t)
		s.server = s.server.restart(t)
		askOthers()
	}
	return s
}

// onlyOthers answers for all targets but that of example.org.
func onlyOthers(w dns.ResponseWriter, r *dns.Msg) {
	if name := r.Question[0].Name; strings.HasPrefix(name, "other") {
		upstream.Answer(name+" 300 IN A 203.0.113.90")(w, r)
	}
}
