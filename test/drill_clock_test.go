//go:build linux

package test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"
)

const day = 24 * time.Hour

// clockBuild is the path of a server whose wall clock can be set.
var clockBuild string

// buildWithClock builds the server with a changed package time: its wall clock is ahead by the seconds in the file that the
// environment variable DRILL_CLOCK names.
func buildWithClock(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	source := string(text)
	for old, wrong := range map[string]string{
		"import (\n": "import (\n\t\"sync/atomic\"\n",
		"func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n": "var Ahead atomic.Int64\n\n" +
			"func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n\tsec += Ahead.Load()\n",
	} {
		if strings.Count(source, old) != 1 {
			t.Fatalf("The drill does not know this version of package time: %s does not have, just once,\n%s", original, old)
		}
		source = strings.Replace(source, old, wrong, 1)
	}

	dir := t.TempDir()
	write(t, filepath.Join(dir, "time.go"), source)
	command, clock := absolute(t, "../cmd/coredns/clock.go"), absolute(t, "testdata/clock.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		original: filepath.Join(dir, "time.go"),
		command:  clock,
	}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "overlay"), string(overlay))
	program := filepath.Join(dir, "coredns")
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay"), "-o", program, "../cmd/coredns")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return program
}

// wrongClock is a server whose wall clock the test sets, and its resolver.
type wrongClock struct {
	up     *upstream.Server
	server *process
	file   string
	page   string // address of the health page, whose header has the date
}

func newWrongClock(t *testing.T) *wrongClock {
	t.Helper()
	c := &wrongClock{up: upstream.New(t, healthy), file: filepath.Join(t.TempDir(), "clock"), page: local(freePort(t))}
	c.set(t, 0)
	port, dir := configured(t, zoneFile, "health "+c.page, "upstream "+c.up.Addr, "persist answers")
	c.server = startBuild(t, clockBuild, port, dir, "Corefile", "DRILL_CLOCK="+c.file)
	return c
}

func (c *wrongClock) set(t *testing.T, ahead time.Duration) {
	t.Helper()
	write(t, c.file, fmt.Sprint(int(ahead.Seconds())))
}

// check waits until the wall clock of the server is ahead by this much.
func (c *wrongClock) check(t *testing.T, ahead time.Duration) {
	t.Helper()
	eventually(t, 5*time.Second, fmt.Sprintf("the clock is ahead by %s", ahead), func() bool {
		resp, err := http.Get("http://" + c.page + "/health")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		date, err := http.ParseTime(resp.Header.Get("Date"))
		return err == nil && (time.Until(date)-ahead).Abs() < time.Minute
	})
}

func clockMoved(t *testing.T) *stage {
	c := newWrongClock(t)
	return &stage{
		server: c.server,
		begin: func() {
			c.up.Set(nil)
			c.set(t, day)
			c.check(t, day)
		},
		midway: func() { c.set(t, -day) },
		end: func() {
			c.check(t, -day)
			c.up.Set(healthy)
		},
	}
}

func clockWrong(ahead time.Duration) func(t *testing.T) *stage {
	return func(t *testing.T) *stage {
		c := newWrongClock(t)
		s := &stage{server: c.server, end: func() { c.up.Set(healthy) }}
		s.begin = func() {
			c.up.Set(nil)
			c.set(t, ahead)
			s.server.kill(t)
			s.server = s.server.restart(t)
			c.check(t, ahead)
		}
		return s
	}
}
