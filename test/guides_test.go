package test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// guides are the pages whose commands are run, and the programs that they need besides Go.
var guides = []struct {
	page     string
	programs []string
	setup    string // commands before those of the page
}{
	{page: "from-powerdns.md", programs: []string{"dig", "pdns_server", "pdnsutil", "pdns_control"}},
	{page: "from-other-plugins.md", programs: []string{"dig"}},
	{page: "from-serve-stale.md", programs: []string{"dig"}},
	{page: "dnscontrol-octodns.md", programs: []string{"dig", "nsupdate", "tsig-keygen"}},
	{page: "troubleshooting.md", programs: []string{"dig", "curl"}, setup: faultyServer},
	{page: "transfers.md", programs: []string{"dig"}},
	{page: "https.md", programs: []string{"dig"}},
	{page: "security.md", programs: []string{"dig"}},
}

// leftOut are the commands of the pages that the test does not run, by their beginning, and why.
var leftOut = map[string]string{
	"apt-get ":      "CI installs what the tests need",
	"go build ":     "the suite has built the programs already",
	"dnscontrol ":   "Debian has no package; the page has what it writes",
	"octodns-sync ": "Debian has no package; the page has what it writes",
}

// faultyServer starts a server with a target that fails, for the commands of the page on troubleshooting.
const faultyServer = `
cat > db.example.org <<'END'
$TTL 300
@   IN SOA   ns1 hostmaster 1 7200 3600 1209600 300
    IN NS    ns1
    IN ALIAS myapp.hosting.example.
ns1 IN A     192.0.2.53
END
cat > Corefile <<'END'
example.org:5301 {
    bind 127.0.0.1
    prometheus 127.0.0.1:9153
    alias {
        record refused target.example.net
        upstream 127.0.0.1:1053
        txt
    }
    file db.example.org
    errors
}
END
coredns -conf examples/Corefile > resolver.log 2>&1 &
dig @127.0.0.1 -p 1053 myapp.hosting.example A
coredns -conf Corefile > coredns.log 2>&1 &
until grep -q 'Target target.example.net. A fails' coredns.log; do sleep 0.1; done
dig @127.0.0.1 -p 5301 refused.example.org A | grep -F 'EDE: 22 (No Reachable Authority): (alias target: refused)'
`

// prelude makes a shell stop at the first command that fails, and end the programs that it has started. dig tries again: a
// server that has just been started may not listen yet, and the test is faster than a reader.
const prelude = `set -eu
trap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT
dig() {
	local response
	case "$*" in *+tries=1*) command dig "$@"; return;; esac
	for _ in $(seq 100); do
		if response=$(command dig "$@"); then
			[ -z "$response" ] || printf '%s\n' "$response"
			return
		fi
		sleep 0.1
	done
	return 9
}
`

// The commands of the guides are run as they are written: all files and commands are those of the page, in its order, in one
// shell. Only the ports differ. A block without a language after a block of commands is their output.
func TestGuides(t *testing.T) {
	t.Parallel()
	bin := t.TempDir()
	check(t, os.Symlink(coredns, filepath.Join(bin, "coredns")))
	build := exec.Command("go", "build", "-o", bin, "../cmd/alias-checkzone")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	for _, g := range guides {
		t.Run(g.page, func(t *testing.T) {
			t.Parallel()
			bash := need(t, "bash")
			for _, program := range g.programs {
				need(t, program)
			}
			local := otherPorts(t)
			dir := t.TempDir()
			check(t, os.CopyFS(filepath.Join(dir, "examples"), os.DirFS("../examples")))
			example := filepath.Join(dir, "examples", "Corefile")
			write(t, example, local(read(t, example)))

			out := t.TempDir()
			script, printed := toScript(blocks(read(t, "../docs/"+g.page)), out)
			runScript(t, bash, dir, bin, local(prelude+g.setup+script))
			for i, want := range printed {
				got := read(t, filepath.Join(out, strconv.Itoa(i)))
				if g, w := sortedLines(got), sortedLines(local(want)); !slices.Equal(g, w) {
					t.Errorf("Block %d printed\n\t%s\nthe page says\n\t%s", i, strings.Join(g, "\n\t"), strings.Join(w, "\n\t"))
				}
			}
			checkLogs(t, dir)
		})
	}
}

// fenced is a fenced block of a page.
type fenced struct {
	language string
	file     string // the name of the file whose content it is, or ""
	follows  bool   // there is no text between the block before and this one
	text     string
}

// blocks returns the fenced blocks of a page. A block after a line that ends in a name and a colon is the file of that name.
func blocks(page string) []fenced {
	named := regexp.MustCompile("`([^` ]+)`:$")
	var bs []fenced
	var file, indent string
	var open, follows bool
	for line := range strings.Lines(page) {
		text := strings.TrimSpace(line)
		language, fence := strings.CutPrefix(text, "~~~")
		switch {
		case fence && open:
			open, file, follows = false, "", true
		case fence:
			open, indent = true, line[:strings.Index(line, "~~~")]
			bs = append(bs, fenced{language: strings.TrimSpace(language), file: file, follows: follows})
		case open:
			bs[len(bs)-1].text += strings.TrimPrefix(line, indent)
		case text != "":
			file, follows = "", false
			if m := named.FindStringSubmatch(text); m != nil {
				file = m[1]
			}
		}
	}
	return bs
}

// toScript returns a script that writes the files and runs the commands of a page. The output of block i goes to the file i in
// out; printed is the output in the page, by block.
func toScript(bs []fenced, out string) (script string, printed map[int]string) {
	var s strings.Builder
	printed = make(map[int]string)
	for i, b := range bs {
		switch {
		case b.language == "sh":
			fmt.Fprintf(&s, "{\n%s} > %s/%d\n", runnable(b.text), out, i)
		case b.file != "":
			fmt.Fprintf(&s, "mkdir -p $(dirname %[1]s)\ncat > %[1]s <<'END OF FILE'\n%[2]sEND OF FILE\n", b.file, b.text)
		case b.language == "" && b.follows && bs[i-1].language == "sh":
			printed[i-1] = b.text
		}
	}
	return s.String(), printed
}

// runnable returns commands without those that are left out.
func runnable(commands string) string {
	kept := ":\n" // a list of commands must not be empty
	for line := range strings.Lines(commands) {
		if _, out := leftOutBy(line); !out {
			kept += line
		}
	}
	return kept
}

func leftOutBy(line string) (beginning string, ok bool) {
	for beginning := range leftOut {
		if strings.HasPrefix(line, beginning) {
			return beginning, true
		}
	}
	return "", false
}

// runScript runs a script in dir, with the programs in bin.
func runScript(t *testing.T, bash, dir, bin, script string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, bash, "-c", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "PATH="+bin+":/usr/sbin:"+os.Getenv("PATH"), "LC_ALL=C", "GORACE=atexit_sleep_ms=0")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("The commands end with %v\n%s", err, out)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("The commands were\n%s", script)
		}
	})
}

// checkLogs checks that no log in dir or below has a panic or a data race.
func checkLogs(t *testing.T, dir string) {
	t.Helper()
	check(t, filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, ".log") {
			return err
		}
		log := read(t, path)
		for _, report := range racesOfOurs(log) {
			t.Errorf("%s has\n%s", filepath.Base(path), report)
		}
		if strings.Contains(log, "panic") {
			t.Errorf("%s has a panic", filepath.Base(path))
		}
		if t.Failed() {
			t.Logf("%s:\n%s", filepath.Base(path), log)
		}
		return nil
	}))
}

// otherPorts returns a function that replaces the ports in a page by free ones.
func otherPorts(t *testing.T) func(text string) string {
	t.Helper()
	ports := regexp.MustCompile(`\b(1053|530[0-9]|9153)\b`)
	free := make(map[string]string)
	return func(text string) string {
		return ports.ReplaceAllStringFunc(text, func(port string) string {
			if free[port] == "" {
				free[port] = freePort(t)
			}
			return free[port]
		})
	}
}

func sortedLines(text string) []string {
	var lines []string
	for line := range strings.Lines(text) {
		lines = append(lines, strings.TrimSpace(line))
	}
	slices.Sort(lines)
	return lines
}

// Each page is in the index, each link has a target, and each command in leftOut is in a page.
func TestGuideIndex(t *testing.T) {
	t.Parallel()
	pages, err := filepath.Glob("../docs/*.md")
	check(t, err)
	index := read(t, "../docs/README.md")
	link := regexp.MustCompile(`\]\(([^)#:]*)(#[^)]*)?\)`)
	used := make(map[string]bool)
	for _, page := range pages {
		if name := filepath.Base(page); name != "README.md" && !strings.Contains(index, "("+name+")") {
			t.Errorf("The index does not have %s", name)
		}
		text := read(t, page)
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			file := page
			if m[1] != "" {
				file = filepath.Join("../docs", m[1])
			}
			if _, err := os.Stat(file); err != nil {
				t.Errorf("%s: %v", page, err)
			} else if m[2] != "" && !slices.Contains(anchors(read(t, file)), m[2]) {
				t.Errorf("%s: no heading for %s in %s", page, m[2], file)
			}
		}
		for _, b := range blocks(text) {
			for line := range strings.Lines(b.text) {
				if beginning, ok := leftOutBy(line); ok && b.language == "sh" {
					used[beginning] = true
				}
			}
		}
	}
	for beginning := range leftOut {
		if !used[beginning] {
			t.Errorf("No page has a command %q", beginning)
		}
	}
}

// anchors returns the anchors of the headings of a page.
func anchors(page string) []string {
	var as []string
	for _, m := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		a := regexp.MustCompile(`[^a-z0-9 _-]`).ReplaceAllString(strings.ToLower(m[1]), "")
		as = append(as, "#"+strings.ReplaceAll(a, " ", "-"))
	}
	return as
}

// sectionOf returns the text below a heading of the second level.
func sectionOf(t *testing.T, page, heading string) string {
	t.Helper()
	_, section, ok := strings.Cut(page, "\n## "+heading+"\n")
	if !ok {
		t.Fatalf("No section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	return section
}

// codeSpans returns the code spans in text.
func codeSpans(text string) []string {
	var spans []string
	for _, m := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(text, -1) {
		spans = append(spans, m[1])
	}
	return spans
}
