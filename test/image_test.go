//go:build linux

package test

import (
	"debug/elf"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// The image is built from its Dockerfile, without a network but loopback. The server starts with the files of the image alone,
// as the user of the image, at port 53.
func TestImage(t *testing.T) {
	t.Parallel()
	chroot, buildah := need(t, "chroot"), newBuildah(t)
	alone(t, syscall.CLONE_NEWNET)
	// Container engines set it too.
	sysctl(t, "net.ipv4.ip_unprivileged_port_start", "0")
	resolver, authority := startDoT(t, upstream.Zone("app.hosting.example. 60 IN A 203.0.113.80"))

	standIn(t, buildah, authority)
	buildah("build", "--pull=never", "--build-arg", "VERSION=v1.2.3", "--file", "../cmd/coredns/Dockerfile", "--tag", "image",
		"--volume", goEnv(t, "GOROOT")+":/usr/local/go:ro", "--volume", goEnv(t, "GOCACHE")+":/cache",
		"--volume", goEnv(t, "GOMODCACHE")+":/modules:ro", "..")

	checkConfig(t, buildah("inspect", "--type", "image", "image"))
	root := buildah("mount", buildah("from", "--pull=never", "image"))
	checkFiles(t, root)
	checkBinary(t, filepath.Join(root, "coredns"))
	inside := []string{chroot, "--userspec=65532:65532", "--groups=", root, "/coredns"}
	checkVersion(t, `alias-v1\.2\.3`, inside...)

	// The bundled example, and an upstream whose certificate only the authorities in the image can verify.
	if err := os.CopyFS(filepath.Join(root, "examples"), os.DirFS("../examples")); err != nil {
		t.Fatal(err)
	}
	conf := filepath.Join(root, "examples/Corefile")
	example, err := os.ReadFile(conf)
	if err != nil {
		t.Fatal(err)
	}
	write(t, conf, strings.ReplaceAll(string(example), "1053", "53")+fmt.Sprintf(`
		example.org {
			bind 127.0.0.1
			alias {
				record @ app.hosting.example
				upstream tls://%s
				tls_servername example.com
				timeout 2s
				persist /var/lib/coredns/alias.db
			}
		}`, resolver))
	server := launch(t, local("53"), "", nil, inside[0], append(inside[1:], "-conf", "examples/Corefile")...)
	for _, network := range []string{"udp", "tcp"} {
		checkRecords(t, query(t, server.addr, network, "example.com.", dns.TypeAAAA).Answer,
			"example.com. 60 IN AAAA 2001:db8:80::80", "example.com. 60 IN AAAA 2001:db8:80::81")
		checkRecords(t, query(t, server.addr, network, "example.org.", dns.TypeA).Answer, "example.org. 60 IN A 203.0.113.80")
	}
	eventually(t, 10*time.Second, "persist has a file", func() bool {
		_, err := os.Stat(filepath.Join(root, "var/lib/coredns/alias.db"))
		return err == nil
	})
}

// newBuildah returns a function that runs buildah and returns its output. The test has its own images and containers.
func newBuildah(t *testing.T) func(args ...string) string {
	t.Helper()
	program, dir := need(t, "buildah"), t.TempDir()
	return func(args ...string) string {
		t.Helper()
		cmd := exec.Command(program, append([]string{"--storage-driver", "vfs",
			"--root", filepath.Join(dir, "root"), "--runroot", filepath.Join(dir, "run")}, args...)...)
		cmd.Env = append(os.Environ(), "TMPDIR="+dir, "BUILDAH_ISOLATION=chroot")
		out, err := cmd.Output()
		if err != nil {
			var exit *exec.ExitError
			errors.As(err, &exit)
			t.Fatalf("%s: %v\n%s%s", cmd, err, out, exit.Stderr)
		}
		return strings.TrimSpace(string(out))
	}
}

// standIn builds an image in place of the one that the Dockerfile starts from, which has the Go version of go.mod. It has a
// shell and one certificate authority. Go, its build cache and its modules are mounted from this machine.
func standIn(t *testing.T, buildah func(args ...string) string, authority []byte) {
	t.Helper()
	mod, err := os.ReadFile("../go.mod")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(mod)
	busybox, err := os.ReadFile(need(t, "busybox"))
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "busybox"), string(busybox))
	write(t, filepath.Join(dir, "authorities"), string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: authority})))
	write(t, filepath.Join(dir, "Dockerfile"), `
		FROM scratch
		COPY --chmod=0755 busybox /bin/
		COPY --chmod=0644 authorities /etc/ssl/certs/ca-certificates.crt
		RUN ["/bin/busybox", "--install", "-s", "/bin"]
		RUN mkdir /tmp
		ENV PATH=/usr/local/go/bin:/bin GOCACHE=/cache GOMODCACHE=/modules GOPROXY=off GOTOOLCHAIN=local`)
	buildah("build", "--tag", fmt.Sprintf("docker.io/library/golang:%s-alpine", version[1]), dir)
}

// goEnv returns a variable of the go command.
func goEnv(t *testing.T, name string) string {
	t.Helper()
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// checkConfig checks the configuration of an image, as buildah inspects it.
func checkConfig(t *testing.T, inspected string) {
	t.Helper()
	type config struct {
		User         string
		ExposedPorts map[string]struct{}
		Entrypoint   []string
		Cmd          []string
		WorkingDir   string
		Labels       map[string]string
	}
	var image struct {
		OCIv1 struct{ Config config }
	}
	if err := json.Unmarshal([]byte(inspected), &image); err != nil {
		t.Fatal(err)
	}
	if version := image.OCIv1.Config.Labels["org.opencontainers.image.version"]; version != "v1.2.3" {
		t.Errorf("The label of the version is %q", version)
	}
	image.OCIv1.Config.Labels = nil
	want := config{
		User:         "65532:65532",
		ExposedPorts: map[string]struct{}{"53/udp": {}, "53/tcp": {}},
		Entrypoint:   []string{"/coredns"},
		WorkingDir:   "/",
	}
	if diff := cmp.Diff(want, image.OCIv1.Config); diff != "" {
		t.Errorf("Config of the image, wanted - and got +:\n%s", diff)
	}
}

// checkFiles checks that root has exactly the files it must have, with their modes and owners.
func checkFiles(t *testing.T, root string) {
	t.Helper()
	var files []string
	err := fs.WalkDir(os.DirFS(root), ".", func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == "." {
			return err
		}
		info, err := os.Lstat(filepath.Join(root, path))
		if err != nil {
			return err
		}
		owner := info.Sys().(*syscall.Stat_t)
		files = append(files, fmt.Sprintf("%v %d:%d /%s", info.Mode(), owner.Uid, owner.Gid, path))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"-rwxr-xr-x 0:0 /coredns",
		"drwxr-xr-x 0:0 /etc",
		"drwxr-xr-x 0:0 /etc/ssl",
		"drwxr-xr-x 0:0 /etc/ssl/certs",
		"-rw-r--r-- 0:0 /etc/ssl/certs/ca-certificates.crt",
		"drwxr-xr-x 0:0 /var",
		"drwxr-xr-x 0:0 /var/lib",
		"dtrwxrwxrwx 0:0 /var/lib/coredns",
	}
	if diff := cmp.Diff(want, files); diff != "" {
		t.Errorf("Files of the image, wanted - and got +:\n%s", diff)
	}
}

// checkBinary checks that the program at path is static, stripped, and not larger than expected.
func checkBinary(t *testing.T, path string) {
	t.Helper()
	program, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer program.Close()
	for _, p := range program.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			t.Errorf("Not static: it has a segment %v", p.Type)
		}
	}
	if program.Section(".symtab") != nil {
		t.Error("It has a symbol table")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Size() > 40e6 {
		t.Errorf("It has %d octets", info.Size())
	}
}
