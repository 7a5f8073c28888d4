package main

import (
	"fmt"
	"go/format"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/miekg/dns"
)

func readFile(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path) // #nosec G304 -- generated
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// All forms of a zone have the same records, but for the alias.
func TestHostedZones(t *testing.T) {
	h := hosted{t.TempDir(), 3, 8}
	if err := h.generate(2); err != nil {
		t.Fatal(err)
	}
	wants := map[string]uint16{"generic": typeAlias, "static": dns.TypeA}
	for form, want := range wants {
		aliases := 0
		for i := range h.zones {
			text := readFile(t, filepath.Join(h.file(form), "db."+h.zone(i)))
			counts := make(map[uint16]int)
			zp := dns.NewZoneParser(strings.NewReader(text), "", form)
			for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
				counts[rr.Header().Rrtype]++
				if rr.Header().Rrtype == want && !strings.HasPrefix(rr.Header().Name, "mail.") {
					aliases++
				}
			}
			if err := zp.Err(); err != nil {
				t.Fatal(err)
			}
			if counts[dns.TypeSOA] != 1 || counts[dns.TypeNS] != 2 || counts[dns.TypeMX] != 1 {
				t.Errorf("%s, zone %d: %v", form, i, counts)
			}
		}
		if aliases != h.aliases {
			t.Errorf("%s: %d aliases, want %d", form, aliases, h.aliases)
		}
	}
	for i := range h.aliases {
		line := h.owner(i) + ". IN ALIAS " + hostedTarget(i) + "\n"
		if text := readFile(t, filepath.Join(h.file("alias"), "db."+h.zone(i%h.zones))); !strings.Contains(text, line) {
			t.Errorf("no %q in\n%s", line, text)
		}
	}
}

// The RDATA of an ALIAS record is the target in wire form.
func TestGenericAlias(t *testing.T) {
	rr, err := dns.NewRR("z. IN " + genericAlias("t7.hosting.test."))
	if err != nil {
		t.Fatal(err)
	}
	generic, ok := rr.(*dns.RFC3597)
	if !ok || generic.Rdata != "02743707686f7374696e67047465737400" || generic.Hdr.Rrtype != typeAlias {
		t.Errorf("got %v", rr)
	}
}

// The queries ask for each apex once, and all parts of the cold ones together for each alias once.
func TestHostedQueries(t *testing.T) {
	h := hosted{t.TempDir(), 5, 12}
	const turns = 3
	if err := h.generate(turns); err != nil {
		t.Fatal(err)
	}
	for _, q := range questions {
		lines := strings.Split(strings.TrimSpace(readFile(t, h.file(q.name))), "\n")
		for i := range h.zones {
			if line := q.prefix + h.zone(i) + ". " + q.qtype; !slices.Contains(lines, line) {
				t.Errorf("%s: no %q", q.name, line)
			}
		}
		if len(lines) != h.zones {
			t.Errorf("%s: %d queries", q.name, len(lines))
		}
	}
	var cold []string
	for turn := range turns {
		part := strings.Split(strings.TrimSpace(readFile(t, h.coldFile(turn))), "\n")
		if len(part) != h.aliases/turns {
			t.Errorf("turn %d has %d queries", turn, len(part))
		}
		cold = append(cold, part...)
	}
	var want []string
	for i := range h.aliases {
		want = append(want, h.owner(i)+". A")
	}
	slices.Sort(cold)
	slices.Sort(want)
	if !slices.Equal(cold, want) {
		t.Errorf("got %v, want %v", cold, want)
	}
	if !enoughForCold(5000, 5) || enoughForCold(4999, 5) {
		t.Error("5000 aliases are enough for 5 rounds, and not fewer")
	}
}

// A Corefile of a contestant has alias and the form of data that goes with it, or neither.
func TestBackends(t *testing.T) {
	h := hosted{"dir", 2, 2}
	for _, be := range backends {
		with, without := be.plugins(h, h.hostedProperties("192.0.2.53"), "192.0.2.1:53"), be.plugins(h, "", "192.0.2.1:53")
		if !strings.HasPrefix(with, "alias") || !strings.Contains(with, "upstream 192.0.2.53\n") || strings.Contains(with, "static") {
			t.Errorf("%s, with alias:\n%s", be.name, with)
		}
		if strings.Contains(without, "alias") {
			t.Errorf("%s, without alias:\n%s", be.name, without)
		}
	}
	names := make(map[string]bool)
	for _, c := range zoneContestants() {
		if names[c.name] {
			t.Errorf("%s twice", c.name)
		}
		names[c.name] = true
	}
	for _, c := range zoneContestants() {
		if c.base != "" && !names[c.base] {
			t.Errorf("%s has the unknown base %s", c.name, c.base)
		}
	}
}

// The change of secondary fits the CoreDNS that the plugin is built with.
func TestBoundTransfers(t *testing.T) {
	dir, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/coredns/coredns").Output()
	if err != nil {
		t.Fatal(err)
	}
	source := readFile(t, filepath.Join(strings.TrimSpace(string(dir)), "plugin", "secondary", "setup.go"))
	changed, err := boundTransfers(source)
	if err != nil {
		t.Fatal(err)
	}
	if formatted, err := format.Source([]byte(changed)); err != nil || string(formatted) != changed {
		t.Errorf("%v in\n%s", err, changed)
	}
	if strings.Count(changed, "transfers <- struct{}{}") != 1 || strings.Count(changed, "<-transfers\n") != 1 {
		t.Errorf("transfers are not bounded in\n%s", changed)
	}
	if _, err := boundTransfers(changed + changed); err == nil {
		t.Error("no error for two places")
	}
	if _, err := boundTransfers("package secondary"); err == nil {
		t.Error("no error for another source")
	}
}

func TestTail(t *testing.T) {
	var end tail
	for i := range 3000 {
		fmt.Fprintf(&end, "line %d\n", i)
	}
	if text := string(end.text); len(text) > 4096 || !strings.HasSuffix(text, "line 2998\nline 2999\n") {
		t.Errorf("%d octets, which end in %q", len(text), text[max(0, len(text)-20):])
	}
}

func TestParseSizes(t *testing.T) {
	if got, err := parseSizes("1,20,300"); err != nil || !slices.Equal(got, []int{1, 20, 300}) {
		t.Errorf("got %v, %v", got, err)
	}
	for _, s := range []string{"", "0", "x", "2,1", "1,1", "1,"} {
		if got, err := parseSizes(s); err == nil {
			t.Errorf("%q: no error, but %v", s, got)
		}
	}
}

func TestLineCounter(t *testing.T) {
	c := &lineCounter{mark: []byte("Transferred: ")}
	for _, part := range []string{"[INFO] Transf", "erred: a.\nother\n[INFO] Transferred: b.\n[INFO] Transferred: c.", "", "\n"} {
		if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	if n := c.count.Load(); n != 3 {
		t.Errorf("%d lines, want 3", n)
	}
}

func TestParsePerf(t *testing.T) {
	out := "Statistics:\n\n  Queries sent:         1234\n  Queries completed:    1230 (99.68%)\n\n  Response codes:       NXDOMAIN 1230 (100.00%)\n" +
		"  Queries per second:   617.250000\n"
	if a, err := parsePerf(out, "NXDOMAIN"); err != nil || a != (answered{617.25, 1230}) {
		t.Errorf("got %v, %v", a, err)
	}
	for _, other := range []string{"NOERROR", "NX"} {
		if _, err := parsePerf(out, other); err == nil {
			t.Errorf("no error for %s", other)
		}
	}
	mixed := strings.Replace(out, "NXDOMAIN 1230 (100.00%)", "NXDOMAIN 1229 (99.92%), SERVFAIL 1 (0.08%)", 1)
	if _, err := parsePerf(mixed, "NXDOMAIN"); err == nil {
		t.Error("no error for a mixture")
	}
}

func TestParseHeap(t *testing.T) {
	profile := "heap profile: 1: 2 [3: 4] @ heap/1048576\n\n# runtime.MemStats\n# Alloc = 7\n# HeapAlloc = 1000\n# HeapSys = 9\n# Stack = 200 / 300\n# MSpan = 1 / 2\n"
	if n, err := parseHeap(profile); err != nil || n != 1200 {
		t.Errorf("got %d, %v", n, err)
	}
	for _, bad := range []string{"", "\n# HeapAlloc = 1\n", "\n# HeapAlloc = x\n# Stack = 1 / 2\n"} {
		if n, err := parseHeap(bad); err == nil {
			t.Errorf("%q: no error, but %d", bad, n)
		}
	}
}

func TestParseStat(t *testing.T) {
	if pid, parent, err := parseStat("12 (nsd: (a) b) S 7 12 12 0"); pid != 12 || parent != 7 || err != nil {
		t.Errorf("got %d, %d, %v", pid, parent, err)
	}
	for _, s := range []string{"", "x (a) S 1", "1 (a)", "1 (a) S", "1 (a) S x"} {
		if _, _, err := parseStat(s); err == nil {
			t.Errorf("%q: no error", s)
		}
	}
}

func TestKilobytes(t *testing.T) {
	text := []byte("Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
	if n, err := kilobytes(text, "VmRSS:"); n != 1<<20 || err != nil {
		t.Errorf("got %d, %v", n, err)
	}
	if _, err := kilobytes(text, "Pss:"); err == nil {
		t.Error("no error for a title that is not there")
	}
}

// The processor time and the memory of a process that runs are more than nothing, and include its children.
func TestProcesses(t *testing.T) {
	b := &bench{ctx: t.Context(), dir: t.TempDir()}
	s, err := b.start(serverCore, "", nil, nil, "sh", "-c", "sleep 60 & sh -c 'while :; do :; done' & wait")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		pids, _ := s.processes()
		for _, pid := range pids {
			if p, err := os.FindProcess(pid); err == nil {
				p.Kill()
			}
		}
		<-s.ended
	}()
	deadline := time.Now().Add(10 * time.Second)
	for {
		pids, err := s.processes()
		if err != nil {
			t.Fatal(err)
		}
		used, err := s.cpuTime()
		if err != nil {
			t.Fatal(err)
		}
		if len(pids) == 3 && used > 100*time.Millisecond {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d processes, %s", len(pids), used)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if n, err := s.resident(); err != nil || n < 100<<10 {
		t.Errorf("%d octets, %v", n, err)
	}
}

func TestZoneTables(t *testing.T) {
	r := &zoneRun{sizes: []int{1, 100}}
	for _, c := range zoneContestants() {
		r.contestant = append(r.contestant, c)
		few := zoneFigures{rates: []series{{100}, {200}, {300}, {400}}, cold: series{50}, coldTime: series{20}, measured: true}
		many := zoneFigures{
			rates: []series{{80, 90, 100}, {100}, {30}, {1}}, cold: series{2500}, coldTime: series{40}, measured: true,
			first: 1, last: 2, started: 3, quiet: 4, idle: 0.015, resident: 200 << 20, inUse: 50 << 20, settled: true,
		}
		if c.base == "" {
			many.resident, many.inUse = 100<<20, 25<<20
		}
		if c.name == hostedNSD {
			many.rates[0], many.inUse = nil, 0
		}
		r.figures = append(r.figures, []zoneFigures{few, many})
	}
	tables := r.tables()
	for _, row := range []string{
		"| Queries per second, fresh A | 1 | 100 |\n| --- | --- | --- |\n| *alias*, *auto* | 100 (100-100) | 90 (80-100) |\n",
		"| NSD, static records | 100 (100-100) | - |\n",
		"| Queries per second, 100 zones / 1 | fresh A | MX | SOA | NXDOMAIN | cold A |\n",
		"| *alias*, *file* | 0.90 | 0.50 | 0.10 | 0.0025 | 50 |\n",
		"| *alias*, *file* / *file*, static | 1.00 | 1.00 | 1.00 | 1.00 | 1.00 |\n",
		"| *alias*, *file* / NSD, static records | - | 1.00 | 1.00 | 1.00 | 1.00 |\n",
		"| *auto*, static, with *transfer* | 0.00 / 0.00; 0.00 / 0.00 | 1.00 / 2.00; 3.00 / 4.00 |\n",
		"| *alias*, *auto* | 200 | 2097152 | 1048576 | 50 | 524288 | 262144 | 1.50 |\n",
		"| *auto*, static | 100 | 1048576 | - | 25 | 262144 | - | 1.50 |\n",
		"| NSD, static records | 100 | 1048576 | - | - | - | - | 1.50 |\n",
	} {
		if !strings.Contains(tables, row) {
			t.Errorf("no row %q in\n%s", row, tables)
		}
	}
}

// With two cores, the clients take a part of them. The capacity is what the server would reach with both for itself.
func TestCores(t *testing.T) {
	one := coreTurn{queries: 100_000, length: time.Second, server: time.Second, cores: 1}
	two := coreTurn{queries: 120_000, length: time.Second, server: 1200 * time.Millisecond, client: 600 * time.Millisecond, cores: 2}
	if got := two.perQuery(); got != 10 {
		t.Errorf("%v microseconds, want 10", got)
	}
	if got := two.idle(); got < 0.0999 || got > 0.1001 {
		t.Errorf("idle %v, want 0.1", got)
	}
	if got := two.capacity(false) / one.capacity(false); got < 1.999 || got > 2.001 {
		t.Errorf("ratio %v, want 2", got)
	}
	if got := two.capacity(true); got < 171_428 || got > 171_429 { // 1.4 s of 2 s are not the clients'
		t.Errorf("capacity %v", got)
	}
	figures := make([][]coreFigures, len(coreContestants))
	for i := range figures {
		figures[i] = make([]coreFigures, 2)
		figures[i][0].add(one)
		figures[i][1].add(two)
	}
	tables := coreTables(figures)
	for _, row := range []string{
		"| *alias*, fresh | 2 | 120000 (120000-120000) | 10.00 (10.00-10.00) | 30 (30-30) | 10.0 (10.0-10.0) | 200000 (200000-200000) | 171429 (171429-171429) |\n",
		"| *file*, static records | 2.00 | 1.71 |\n",
	} {
		if !strings.Contains(tables, row) {
			t.Errorf("no row %q in\n%s", row, tables)
		}
	}
}
