package alias

import (
	"bytes"
	"flag"
	"fmt"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the picture of the dependencies into docs/architecture.md")

const module = "github.com/coredns/alias"

// allowed are the packages of this module that a leaf package may import. A leaf never imports the root. What it needs
// from above comes in as a function or an interface.
var allowed = map[string][]string{
	"priority": {},
	"limit":    {"priority"},
	"lookup":   {},
	"rdata":    {},
	"store":    {},
	"subnet":   {"lookup"},
	"filter":   {"records"},
	"wire":     {"lookup"},
	"denial":   {"lookup"},
	"upstream": {"lookup", "subnet"},
	"answers":  {"lookup"},
	"records":  {"lookup", "answers"}, // of answers, Ref alone: an alias has cached pointers
	"backend":  {"lookup", "records", "rdata"},
	"primary":  {"limit", "lookup", "records", "rdata"},
}

// imports returns the packages of this module that each package imports, without tests, all by their last element.
func imports(t *testing.T) map[string][]string {
	t.Helper()
	out, err := exec.Command("go", "list", "-f", `{{.ImportPath}} {{join .Imports " "}}`, ".", "./plugin/...", "./cmd/...").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := make(map[string][]string)
	for line := range strings.Lines(string(out)) {
		paths := strings.Fields(line)
		names := []string{}
		for _, p := range paths[1:] {
			if strings.HasPrefix(p, module) {
				names = append(names, path.Base(p))
			}
		}
		all[path.Base(paths[0])] = names
	}
	return all
}

// Leaf packages import what they may, and nothing else.
func TestImports(t *testing.T) {
	all := imports(t)
	for _, dir := range must(filepath.Glob("plugin/*")) {
		leaf := filepath.Base(dir)
		may, known := allowed[leaf]
		if !known {
			t.Errorf("plugin/%s is not in the list of what leaf packages may import", leaf)
		}
		for _, imported := range all[leaf] {
			if !slices.Contains(may, imported) {
				t.Errorf("plugin/%s may not import %s", leaf, imported)
			}
		}
		for _, p := range may {
			if !slices.Contains(all[leaf], p) {
				t.Errorf("plugin/%s may import %s, and does not", leaf, p)
			}
		}
		deps, err := exec.Command("go", "list", "-deps", "./"+dir).Output()
		if err != nil {
			t.Fatal(err)
		}
		if slices.Contains(strings.Split(string(deps), "\n"), module) {
			t.Errorf("plugin/%s depends on the root", leaf)
		}
	}
}

// setup.go is the only file, beside tests, that imports caddy.
func TestCaddyInSetupAlone(t *testing.T) {
	for _, file := range sources(t) {
		if strings.HasSuffix(file, "_test.go") || file == "setup.go" || strings.HasPrefix(file, "cmd/") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			if strings.Contains(i.Path.Value, "coredns/caddy") {
				t.Errorf("%s imports %s", file, i.Path.Value)
			}
		}
	}
}

// sources returns the Go files of this module.
func sources(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.go", "plugin/*/*.go", "cmd/*/*.go", "test/*.go", "test/*/*.go"} {
		files = append(files, must(filepath.Glob(pattern))...)
	}
	return files
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A file can be read at a sitting, and the fields of Alias in one glance.
func TestSizes(t *testing.T) {
	for _, file := range sources(t) {
		most := 400
		if strings.HasSuffix(file, "_test.go") {
			most = 600
		}
		if n := bytes.Count(must(os.ReadFile(file)), []byte("\n")); n > most {
			t.Errorf("%s has %d lines, at most %d are allowed", file, n, most)
		}
	}
	if n := reflect.TypeFor[Alias]().NumField(); n > 15 {
		t.Errorf("Alias has %d fields, at most 15 are allowed", n)
	}
}

// The picture in docs/architecture.md is drawn from the imports.
func TestArchitecturePicture(t *testing.T) {
	const page, begin, end = "docs/architecture.md", "<!-- drawn by: go test -run ArchitecturePicture . -update -->\n\n~~~\n", "~~~\n"
	text := string(must(os.ReadFile(page)))
	before, rest, ok := strings.Cut(text, begin)
	drawn, after, ok2 := strings.Cut(rest, end)
	if !ok || !ok2 {
		t.Fatalf("%s has no place for the picture", page)
	}
	want := draw(imports(t))
	if *update {
		if err := os.WriteFile(page, []byte(before+begin+want+end+after), 0o644); err != nil { // #nosec G306 -- a page
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, drawn); diff != "" {
		t.Errorf("%s (-imports +page):\n%s", page, diff)
	}
}

// draw returns the packages in floors: each stands above all that it imports.
func draw(all map[string][]string) string {
	floors := make(map[string]int)
	var floorOf func(name string) int
	floorOf = func(name string) int {
		if floors[name] == 0 {
			floor := 1
			for _, imported := range all[name] {
				floor = max(floor, floorOf(imported)+1)
			}
			floors[name] = floor
		}
		return floors[name]
	}
	for name := range all {
		floorOf(name)
	}
	var b strings.Builder
	for floor := slices.Max(slices.Collect(maps.Values(floors))); floor > 0; floor-- {
		for _, name := range slices.Sorted(maps.Keys(all)) {
			if floors[name] != floor {
				continue
			}
			imported := slices.Sorted(slices.Values(all[name]))
			if len(imported) == 0 {
				imported = []string{"-"}
			}
			fmt.Fprintf(&b, "%d  %-16s imports  %s\n", floor, name, strings.Join(imported, " "))
		}
	}
	return b.String()
}
