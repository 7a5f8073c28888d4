package test

import (
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"
)

// goroutines returns how many goroutines with part in their stack the server has whose pprof page is at addr.
func goroutines(t *testing.T, addr, part string) int {
	t.Helper()
	n := countGoroutines(t, addr, part)
	if n == 0 {
		t.Fatalf("No goroutine with %q in its stack", part)
	}
	return n
}

// countGoroutines is goroutines where there may be none.
func countGoroutines(t *testing.T, addr, part string) int {
	t.Helper()
	_, body := get(t, "http://"+addr+"/debug/pprof/goroutine?debug=1")
	n := 0
	for _, stack := range regexp.MustCompile(`(?m)^(\d+) @ .*\n(#.*\n)*`).FindAllStringSubmatch(body, -1) {
		if strings.Contains(stack[0], part) {
			many, _ := strconv.Atoi(stack[1])
			n += many
		}
	}
	return n
}

// files returns how many files the server has open.
func files(t *testing.T, server *process) int {
	t.Helper()
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", server.Process.Pid))
	if err != nil {
		lack(t, "%v", err)
	}
	return len(fds)
}

// heap returns how many bytes are in use on the heap of the server whose pprof page is at addr. The memory of the process
// would not do: with the race detector it grows with each goroutine.
func heap(t *testing.T, addr string) int {
	t.Helper()
	return memory(t, addr, "HeapAlloc")
}

// stacks returns how many bytes the stacks take of the server whose pprof page is at addr.
func stacks(t *testing.T, addr string) int {
	t.Helper()
	return memory(t, addr, "Stack")
}

// memory returns a figure of the Go runtime of the server whose pprof page is at addr, after a garbage collection.
func memory(t *testing.T, addr, figure string) int {
	t.Helper()
	_, body := get(t, "http://"+addr+"/debug/pprof/heap?gc=1&debug=1")
	found := regexp.MustCompile("# " + figure + ` = (\d+)`).FindStringSubmatch(body)
	if found == nil {
		t.Fatalf("No %s:\n%s", figure, body)
	}
	n, err := strconv.Atoi(found[1])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// slack is how many goroutines and open files may come and go with the requests of a test.
const slack = 8

// footprint is what a server uses of the machine; heap is in bytes.
type footprint struct{ goroutines, files, heap int }

func footprintOf(t *testing.T, server *process, page string) footprint {
	t.Helper()
	return footprint{goroutines(t, page, ""), files(t, server), heap(t, page)}
}

func (f footprint) String() string {
	return fmt.Sprintf("%d goroutines, %d files, %d kB", f.goroutines, f.files, f.heap>>10)
}

func (f footprint) plus(g footprint) footprint {
	return footprint{f.goroutines + g.goroutines, f.files + g.files, f.heap + g.heap}
}

func (f footprint) within(g footprint) bool {
	return f.goroutines <= g.goroutines && f.files <= g.files && f.heap <= g.heap
}

// checkSettles waits until server uses no more than most.
func checkSettles(t *testing.T, server *process, page string, before, most footprint) {
	t.Helper()
	var now footprint
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(100 * time.Millisecond) {
		if now = footprintOf(t, server, page); now.within(most) || time.Now().After(deadline) {
			break
		}
	}
	t.Logf("%s before, %s after", before, now)
	if !now.within(most) {
		t.Errorf("%s at the end, want at most %s", now, most)
	}
}
