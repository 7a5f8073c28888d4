//go:build linux

package test

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// alone moves the calling goroutine into new namespaces, with all sockets and processes that it creates from then on. A
// new network has loopback. The goroutine stays locked to its thread, which ends with it.
func alone(t *testing.T, namespaces int) {
	t.Helper()
	runtime.LockOSThread()
	if err := syscall.Unshare(namespaces); err != nil {
		lack(t, "no namespaces: %v", err)
	}
	if namespaces&syscall.CLONE_NEWNET == 0 {
		return
	}
	// In a container, root may create a network namespace, and lack the right to configure it.
	if out, err := exec.Command(need(t, "ip"), "link", "set", "lo", "up").CombinedOutput(); err != nil {
		lack(t, "no network: %v: %s", err, out)
	}
}

// sysctl sets a sysctl in the network namespace of the calling goroutine. In a container sysctls may be read-only.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0o644)
	switch {
	case errors.Is(err, syscall.EROFS):
		lack(t, "%v", err)
	case err != nil:
		t.Fatal(err)
	}
}

// smallDisk returns a directory on a disk of 256 KiB, which only the calling goroutine and its processes see.
func smallDisk(t *testing.T) string {
	t.Helper()
	alone(t, syscall.CLONE_NEWNS)
	disk := t.TempDir()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	return disk
}
