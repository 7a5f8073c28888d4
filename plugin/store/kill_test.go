package store_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"iter"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/store"
)

// victimFile is the environment variable that makes the test a process that writes to the file it names, until it is killed.
const victimFile = "STORE_TEST_VICTIM_FILE"

// victimRecords is how many records the victim has. It changes one after the other, so fast that the file is compacted all the time.
const victimRecords = 3000

// TestVictim is the process that is killed. It says which change it has made last.
func TestVictim(t *testing.T) {
	path := os.Getenv(victimFile)
	if path == "" {
		t.Skip("for other tests alone")
	}
	begun := &counted{}
	b := store.New(path, "a", begun, func(error) {})
	b.Open()
	for n := begun.highest() + 1; ; n++ {
		b.Put(strconv.Itoa(n%victimRecords), countedValue(n))
		fmt.Printf("change %d\n", n)
		if n%20 == 0 {
			time.Sleep(time.Millisecond)
		}
	}
}

// counted are records whose values are the numbers of the changes that made them.
type counted struct{ numbers map[string]int }

func countedValue(n int) string {
	return string(binary.BigEndian.AppendUint64(nil, uint64(n))) + strings.Repeat("v", 40)
}

func (c *counted) Restore(key, value string) string {
	if c.numbers == nil {
		c.numbers = make(map[string]int)
	}
	c.numbers[key] = int(binary.BigEndian.Uint64([]byte(value)))
	return value
}

func (c *counted) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		for key, n := range c.numbers {
			if !yield(key, countedValue(n)) {
				return
			}
		}
	}
}

// restoreCounted returns what is in the file.
func restoreCounted(t *testing.T, path string) *counted {
	t.Helper()
	c := &counted{}
	b := store.New(path, "a", c, func(err error) {
		if err != nil {
			t.Error(err)
		}
	})
	b.Open()
	b.Close()
	return c
}

// highest returns the number of the last change, -1 if there is none.
func (c *counted) highest() int {
	highest := -1
	for _, n := range c.numbers {
		highest = max(highest, n)
	}
	return highest
}

// check checks that there is no change up to the last one that is not there.
func (c *counted) check(t *testing.T) {
	t.Helper()
	last := c.highest()
	for n := max(0, last-victimRecords+1); n <= last; n++ {
		if key := strconv.Itoa(n % victimRecords); c.numbers[key] != n {
			t.Errorf("record %s is of change %d, and not of %d; the last change is %d", key, c.numbers[key], n, last)
		}
	}
}

// victim is a process that writes to a file.
type victim struct {
	*exec.Cmd
	ended  chan struct{} // it has said all
	killed time.Time

	mu    sync.Mutex
	first int
	times []time.Time // of the changes, from the first one on
}

// startVictim starts a process that writes to the file.
func startVictim(t *testing.T, path string) *victim {
	t.Helper()
	v := &victim{Cmd: exec.Command(os.Args[0], "-test.run", "^TestVictim$"), ended: make(chan struct{})}
	v.Env = append(os.Environ(), victimFile+"="+path)
	out, err := v.StdoutPipe()
	check(t, err)
	check(t, v.Start())
	t.Cleanup(v.kill)
	go func() {
		defer close(v.ended)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if n, err := strconv.Atoi(strings.TrimPrefix(lines.Text(), "change ")); err == nil {
				v.mu.Lock()
				if v.times == nil {
					v.first = n
				}
				v.times = append(v.times, time.Now())
				v.mu.Unlock()
			}
		}
	}()
	return v
}

// await waits until the process has made n changes.
func (v *victim) await(t *testing.T, n int) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		v.mu.Lock()
		made := len(v.times)
		v.mu.Unlock()
		if made >= n {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("the process has made %d changes", made)
		}
	}
}

// kill kills the process, unless that has been done.
func (v *victim) kill() {
	if v.killed.IsZero() {
		v.killed = time.Now()
		_ = v.Process.Kill()
		<-v.ended
		_ = v.Wait()
	}
}

// A process that is killed at any moment has left all changes but the last ones, and each of those before.
func TestKilled(t *testing.T) {
	t.Parallel()
	const kills = 20
	path := filepath.Join(t.TempDir(), "db")
	most, oldest := 0, time.Duration(0)
	for range kills {
		v := startVictim(t, path)
		v.await(t, 1)
		time.Sleep(rand.N(1500 * time.Millisecond))
		v.kill()
		c := restoreCounted(t, path)
		c.check(t)
		for i, at := range v.times[min(max(c.highest()-v.first+1, 0), len(v.times)):] {
			most, oldest = max(most, i+1), max(oldest, v.killed.Sub(at))
		}
	}
	if oldest > store.Interval+3*time.Second { // a slow disk
		t.Errorf("a change was lost %s after it was made", oldest)
	}
	if left, _ := filepath.Glob(path + ".*"); len(left) > 0 {
		t.Errorf("there are %v", left)
	}
	t.Logf("%d kills: at most %d changes were lost, the oldest %s before the kill", kills, most, oldest.Round(time.Millisecond))
}
