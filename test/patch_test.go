package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// The patch of CoreDNS in docs is for the version in go.mod: the commands of the page build the server with it, and CoreDNS's own tests
// of what it changes pass. That server answers for the members of a catalog zone as the server without the patch does, while members
// come and go.
func TestZonesPatch(t *testing.T) {
	t.Parallel()
	bash := need(t, "bash")
	need(t, "patch")
	patched := buildWithZonesPatch(t, bash)

	dir, primary := t.TempDir(), freePort(t)
	without, with, withAlias := freePort(t), freePort(t), freePort(t)
	// The spelling in the catalog zone does not matter.
	setMembers := func(serial int, members ...string) {
		zone := fmt.Sprintf("@ 60 IN SOA invalid. invalid. %d 7200 3600 1209600 60\n@ 60 IN NS invalid.\nversion 60 IN TXT 2\n", serial)
		for _, member := range members {
			zone += fmt.Sprintf("m%s.zones 60 IN PTR %s.\n", strings.ReplaceAll(member, ".", "-"), member)
		}
		path := filepath.Join(dir, "db.catalog")
		write(t, path+".new", zone)
		check(t, os.Rename(path+".new", path))
	}
	setMembers(1, "one.test", "Sub.one.TEST", "three.test")
	write(t, filepath.Join(dir, "db.member"), `$TTL 300
@      IN SOA ns hostmaster 1 7200 3600 1209600 60
@      IN NS  ns
@      IN MX  10 mail
www    IN A   192.0.2.1
*.wild IN TXT "wild"
cut    IN NS  ns.cut
`)
	write(t, filepath.Join(dir, "primary"), fmt.Sprintf(`.:%s {
    bind 127.0.0.1
    file db.catalog catalog.test {
        reload 100ms
    }
    file db.member one.test sub.one.test two.test three.test
    transfer {
        to * %s %s %s
    }
}
`, primary, local(without), local(with), local(withAlias)))
	startServer(t, primary, dir, "primary")
	up := upstream.New(t, upstream.Rcode(dns.RcodeRefused))
	for port, program := range map[string]string{without: coredns, with: patched, withAlias: patched} {
		plugins := fmt.Sprintf("secondary catalog.test {\ncatalog\ntransfer from %s\n}\n", local(primary))
		if port == withAlias {
			plugins = "alias {\nupstream " + up.Addr + "\n}\n" + plugins
		}
		write(t, filepath.Join(dir, port), fmt.Sprintf(".:%s {\nbind 127.0.0.1\n%s}\n", port, plugins))
		startBuild(t, program, port, dir, port)
	}

	compare := func(there []string, gone ...string) {
		t.Helper()
		eventually(t, 30*time.Second, fmt.Sprintf("the members are %v", there), func() bool {
			for _, port := range []string{without, with, withAlias} {
				for i, name := range append(there, gone...) {
					m, err := ask(local(port), "udp", name, dns.TypeSOA)
					if err != nil || (len(m.Answer) > 0) != (i < len(there)) {
						return false
					}
				}
			}
			return true
		})
		for _, member := range []string{"one.test.", "sub.one.test.", "two.test.", "three.test.", "catalog.test.", "none.test.", "."} {
			for _, below := range []string{"", "www.", "WWW.", "none.", "x.y.", "x.wild.", "x.cut.", `a\.b.`, "xx"} {
				if member == "." {
					below = strings.TrimSuffix(below, ".")
				}
				name := below + member
				for _, qtype := range []uint16{dns.TypeA, dns.TypeMX, dns.TypeTXT, dns.TypeNS, dns.TypeSOA, dns.TypeDS, dns.TypeANY, dns.TypeAXFR} {
					want := describe(local(without), name, qtype)
					for _, port := range []string{with, withAlias} {
						if diff := cmp.Diff(want, describe(local(port), name, qtype)); diff != "" {
							t.Errorf("%s %s, alias %t (-without +with the patch):\n%s", name, dns.Type(qtype), port == withAlias, diff)
						}
					}
				}
			}
		}
	}
	compare([]string{"one.test.", "sub.one.test.", "three.test."}, "two.test.")
	setMembers(2, "one.test", "two.test")
	compare([]string{"one.test.", "two.test."}, "sub.one.test.", "three.test.")
	setMembers(3, "one.test", "two.test", "sub.one.test")
	compare([]string{"one.test.", "two.test.", "sub.one.test."}, "three.test.")
}

// buildWithZonesPatch runs the commands of the page on limits in a copy of this repository, and CoreDNS's tests. It returns the path
// of the server. The network is not used.
func buildWithZonesPatch(t *testing.T, bash string) string {
	t.Helper()
	dir := t.TempDir()
	here := filepath.Join(dir, "alias")
	for _, pattern := range []string{"go.mod", "go.sum", "*.go", "cmd", "plugin", "docs"} {
		paths, err := filepath.Glob("../" + pattern)
		check(t, err)
		for _, path := range paths {
			to := filepath.Join(here, filepath.Base(path))
			if info, err := os.Stat(path); err == nil && info.IsDir() {
				check(t, os.CopyFS(to, os.DirFS(path)))
				continue
			}
			check(t, os.MkdirAll(here, 0o700))
			write(t, to, read(t, path))
		}
	}
	var commands string
	for _, b := range blocks(sectionOf(t, read(t, "../docs/limits.md"), "Catalog zones")) {
		if b.language == "sh" && strings.Contains(b.text, "patch ") {
			commands += b.text
		}
	}
	// The settings are those of plugincfg.sh: Go's build cache serves both. Of plugin/metrics, only the tests of zones run: others wait
	// for time-outs, or bind ports that another test can take.
	runScript(t, bash, here, here, "set -eu\nexport CGO_ENABLED=0 GOFLAGS=-trimpath GOPROXY=off GOWORK=off\n"+commands+
		"go test github.com/coredns/coredns/plugin{,/auto,/dynupdate,/file,/secondary}\n"+
		"go test -run 'Zone|TestMetrics$' github.com/coredns/coredns/plugin/metrics\n")
	if t.Failed() {
		t.FailNow()
	}
	// patch keeps a file that it has changed elsewhere than at the line that the patch names.
	check(t, filepath.WalkDir(filepath.Join(dir, "coredns"), func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, ".orig") {
			t.Errorf("The patch is for another version of CoreDNS: there is %s", path)
		}
		return err
	}))
	server := filepath.Join(here, "coredns")
	out, err := exec.Command("go", "version", "-m", server).CombinedOutput()
	check(t, err)
	if !strings.Contains(string(out), "=>\t../coredns") {
		t.Errorf("The server is built without the patch:\n%s", out)
	}
	return server
}
