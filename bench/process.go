package main

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// processes returns the process of s and all that it has started: NSD has several.
func (s *server) processes() ([]int, error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	children := make(map[int][]int)
	for _, path := range stats {
		stat, err := os.ReadFile(path) // #nosec G304 -- of /proc
		if err != nil {
			continue // it has ended
		}
		pid, parent, err := parseStat(string(stat))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		children[parent] = append(children[parent], pid)
	}
	all := []int{s.Process.Pid}
	for i := 0; i < len(all); i++ {
		all = append(all, children[all[i]]...)
	}
	return all, nil
}

// parseStat returns the process and its parent from the text of /proc/PID/stat. The name of the program, in parentheses, may have any
// characters.
func parseStat(stat string) (pid, parent int, err error) {
	before, _, _ := strings.Cut(stat, " ")
	if pid, err = strconv.Atoi(before); err != nil {
		return 0, 0, err
	}
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 2 {
		return 0, 0, fmt.Errorf("no parent in %q", stat)
	}
	parent, err = strconv.Atoi(fields[1])
	return pid, parent, err
}

// cpuTime returns how much processor time s has used: that of all its processes, user and system time.
func (s *server) cpuTime() (time.Duration, error) {
	pids, err := s.processes()
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, pid := range pids {
		var t unix.Timespec
		const scheduled = 2                 // clock_getcpuclockid(3): the time that the scheduler gave to the process, in nanoseconds
		clock := int32(^pid)<<3 | scheduled // #nosec G115 -- a process number
		if err := unix.ClockGettime(clock, &t); err != nil && pid == s.Process.Pid {
			return 0, err
		}
		sum += time.Duration(t.Nano())
	}
	return sum, nil
}

// resident returns the resident memory of s, in octets. Memory that several of its processes share counts once.
func (s *server) resident() (int, error) {
	pids, err := s.processes()
	if err != nil {
		return 0, err
	}
	if len(pids) == 1 {
		return memory(pids[0], "status", "VmRSS:")
	}
	sum := 0
	for _, pid := range pids {
		n, err := memory(pid, "smaps_rollup", "Pss:")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// peak returns the largest resident memory that the process of s has had, in octets.
func (s *server) peak() (int, error) { return memory(s.Process.Pid, "status", "VmHWM:") }

// memory returns the figure with that title in a file of a process in /proc, in octets.
func memory(pid int, file, title string) (int, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, err
	}
	return kilobytes(text, title)
}

// kilobytes returns the figure with that title in text, in octets.
func kilobytes(text []byte, title string) (int, error) {
	for line := range bytes.Lines(text) {
		fields := strings.Fields(string(line))
		if i := slices.Index(fields, title); i == 0 && len(fields) == 3 {
			n, err := strconv.Atoi(fields[1])
			return n << 10, err
		}
	}
	return 0, fmt.Errorf("no %q", title)
}

// inUse makes the CoreDNS with the plugin pprof at addr collect garbage, and returns how much memory its heap and its stacks then use.
func (b *bench) inUse(addr string) (int, error) {
	request, err := http.NewRequestWithContext(b.ctx, http.MethodGet, "http://"+addr+"/debug/pprof/heap?gc=1&debug=1", nil)
	if err != nil {
		return 0, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return 0, err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return 0, err
	}
	return parseHeap(string(text))
}

// parseHeap returns the sum of the memory of the heap and of the stacks from a heap profile in text form.
func parseHeap(profile string) (int, error) {
	sum := 0
	for _, title := range []string{"\n# HeapAlloc = ", "\n# Stack = "} { // of the stacks, memory in use and memory taken from the system
		_, rest, ok := strings.Cut(profile, title)
		if !ok {
			return 0, fmt.Errorf("no %q in the heap profile", title)
		}
		figure, _, _ := strings.Cut(rest, "\n")
		figure, _, _ = strings.Cut(figure, " /")
		n, err := strconv.Atoi(figure)
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// usage is the processor time that each server has used.
func usage(servers []*server) ([]time.Duration, error) {
	used := make([]time.Duration, len(servers))
	for i, s := range servers {
		var err error
		if used[i], err = s.cpuTime(); err != nil {
			return nil, err
		}
	}
	return used, nil
}

// A server is quiet when it takes less than this share of a core. settleLimit is how long settle waits for that.
const (
	quietShare  = 0.1
	settleLimit = 3 * time.Minute
)

// settle returns when all servers have been quiet for two intervals in a row, so that what they do after the start is done, or after
// settleLimit.
func (b *bench) settle(interval time.Duration, servers ...*server) error {
	before, err := usage(servers)
	if err != nil {
		return err
	}
	began := time.Now()
	for quiet, at := 0, began; quiet < 2 && time.Since(began) < settleLimit; {
		if err := wait(b.ctx, interval); err != nil {
			return err
		}
		now, err := usage(servers)
		if err != nil {
			return err
		}
		quiet++
		for i := range servers {
			if float64(now[i]-before[i]) > quietShare*float64(time.Since(at)) {
				quiet = 0
			}
		}
		before, at = now, time.Now()
	}
	return nil
}
