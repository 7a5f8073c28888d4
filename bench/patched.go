package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// secondary begins the transfers of all zones at once, before CoreDNS listens. Each takes a file descriptor: with 100,000 zones and a
// limit of 20,000, none is left for the listeners, and CoreDNS ends. The bench therefore builds CoreDNS with this change for the
// contestants with secondary.
const (
	transferCall   = "err := s.transferIn(origin, z, x)\n"
	boundedCall    = "transfers <- struct{}{}\n\t\terr := s.transferIn(origin, z, x)\n\t\t<-transfers\n"
	transfersBound = "\n// transfers bounds how many zones are transferred at once.\nvar transfers = make(chan struct{}, 1000)\n"
)

// boundTransfers changes the source of secondary's setup.go.
func boundTransfers(source string) (string, error) {
	if n := strings.Count(source, transferCall); n != 1 {
		return "", fmt.Errorf("secondary has %d places with %q, want 1", n, transferCall)
	}
	return strings.Replace(source, transferCall, boundedCall, 1) + transfersBound, nil
}

// boundIn changes the copy of CoreDNS in dir.
func boundIn(dir string) error {
	setup := filepath.Join(dir, "plugin", "secondary", "setup.go")
	source, err := os.ReadFile(setup) // #nosec G304 -- a copy
	if err != nil {
		return err
	}
	changed, err := boundTransfers(string(source))
	if err != nil {
		return err
	}
	return os.WriteFile(setup, []byte(changed), 0o600)
}

// buildBounded builds the server of this tree with a copy of CoreDNS in which secondary is changed, and returns its path.
func (b *bench) buildBounded() (string, error) { return b.buildChanged("coredns-bounded", boundIn) }

// buildChanged builds the server of this tree with a copy of CoreDNS, which change changes, and returns its path.
func (b *bench) buildChanged(name string, change func(dir string) error) (string, error) {
	const module = "github.com/coredns/coredns"
	out, err := exec.CommandContext(b.ctx, "go", "-C", "..", "list", "-m", "-f", "{{.Dir}}", module).Output()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(b.dir, name+"-source")
	if err := os.CopyFS(dir, os.DirFS(strings.TrimSpace(string(out)))); err != nil {
		return "", err
	}
	if err := change(dir); err != nil {
		return "", err
	}
	for file, more := range map[string]string{"go.mod": "\nreplace " + module + " => " + dir + "\n", "go.sum": ""} {
		text, err := os.ReadFile(filepath.Join("..", file))
		if err != nil {
			return "", err
		}
		if _, err := b.write(name+file[len("go"):], string(text)+more); err != nil {
			return "", err
		}
	}
	path := filepath.Join(b.dir, name)
	return path, b.run(nil, "go", "-C", "..", "build", "-modfile", path+".mod", "-o", path, "./cmd/coredns")
}
