package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// The generated files have the number of aliases that the user gave, and agree with each other.
func TestGenerate(t *testing.T) {
	const aliases = 25
	dir := t.TempDir()
	if err := generate(dir, aliases); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, name)) // #nosec G304 -- generated
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	count := func(name string) map[uint16]int {
		t.Helper()
		counts := make(map[uint16]int)
		zp := dns.NewZoneParser(strings.NewReader(read(name)), "", name)
		for rr, ok := zp.Next(); ok; rr, ok = zp.Next() {
			counts[rr.Header().Rrtype]++
		}
		if err := zp.Err(); err != nil {
			t.Fatal(err)
		}
		return counts
	}
	if n := strings.Count(read("alias.zone"), " IN ALIAS "); n != aliases {
		t.Errorf("%d ALIAS records", n)
	}
	if c := count("static.zone"); c[dns.TypeA] != aliases || c[dns.TypeSOA] != 1 {
		t.Errorf("static: %v", c)
	}
	if c := count("targets.zone"); c[dns.TypeA] != 3*addressesFamily || c[dns.TypeAAAA] != 3*addressesFamily {
		t.Errorf("targets: %v", c)
	}
	for _, i := range []int{0, 9, 10, 24} {
		if line := "record c" + strings.TrimPrefix(strings.TrimSuffix(owner(i), "."+zone), "c") + " " + target(i) + "\n"; !strings.Contains(read("records"), line) {
			t.Errorf("no %q", line)
		}
		if q := owner(i) + " A\n"; strings.Count(read("queries"), q) != 1 || strings.Count(read("queries.both"), q+owner(i)+" AAAA\n") != 1 {
			t.Errorf("no %q", q)
		}
	}
	if lines := strings.Count(read("queries"), "\n"); lines != aliases {
		t.Errorf("%d queries", lines)
	}
}

// The new tables replace the old ones, and nothing else changes.
func TestWriteTables(t *testing.T) {
	path := filepath.Join(t.TempDir(), "README.md")
	text := "a\n<!-- x -->\nold\n<!-- end of x -->\nb\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := writeTables(path, "x", "new\n"); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := os.ReadFile(path); string(got) != "a\n<!-- x -->\nnew\n\n<!-- end of x -->\nb\n" { // #nosec G304 -- written here
		t.Errorf("got %q", got)
	}
	if err := writeTables(path, "y", ""); err == nil {
		t.Error("no error, though there is no marker for y")
	}
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range measurements {
		if !strings.Contains(string(readme), "<!-- "+m.name+" -->\n") {
			t.Errorf("README.md has no place for %s", m.name)
		}
	}
}

// The measured server and the ceiling are built from two modules, but with the same CoreDNS.
func TestSameCoreDNS(t *testing.T) {
	versions := func(dir string) string {
		t.Helper()
		out, err := exec.Command("go", "-C", dir, "list", "-m", "github.com/coredns/coredns", "github.com/miekg/dns").Output() // #nosec G204 -- named here
		if err != nil {
			t.Fatal(err)
		}
		return string(out)
	}
	if here, root := versions("."), versions(".."); here != root {
		t.Errorf("the bench has\n%sand the plugin\n%s", here, root)
	}
}

func TestCompareTables(t *testing.T) {
	figures := make([][2]turns, len(compared))
	for i := range figures {
		figures[i] = [2]turns{{series{100, 200, 400}, series{8, 9, 10}}, {series{110, 180, 500}, series{10, 9, 9}}}
	}
	tables := compareTables(figures)
	for _, plugins := range []string{"*errors*", "*errors*, *prometheus*, *log*, *cache*"} {
		for _, row := range []string{
			"| " + plugins + " | 200 (100-400) | 180 (110-500) | 0.900 (0.900-1.250) |\n",
			"| " + plugins + " | 9.00 (8.00-10.00) | 9.00 (9.00-10.00) | 1.000 (0.900-1.250) |\n",
		} {
			if !strings.Contains(tables, row) {
				t.Errorf("no row %q in\n%s", row, tables)
			}
		}
	}
}

func TestSeries(t *testing.T) {
	for _, tc := range []struct {
		s    series
		want string
	}{{series{3, 1, 2}, "2.0 (1.0-3.0)"}, {series{4, 1, 2, 3}, "2.5 (1.0-4.0)"}, {series{7}, "7.0 (7.0-7.0)"}} {
		if got := tc.s.format("%.1f"); got != tc.want {
			t.Errorf("%v: %s, want %s", []float64(tc.s), got, tc.want)
		}
	}
}
