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

// alone puts the calling goroutine into namespaces of its own, with all sockets and processes that it makes from now
// on; a network has loopback. The thread stays locked to it, and thus ends with it.
func alone(t *testing.T, namespaces int) {
	t.Helper()
	runtime.LockOSThread()
	if err := syscall.Unshare(namespaces); err != nil {
		lack(t, "no namespaces: %v", err)
	}
	if namespaces&syscall.CLONE_NEWNET == 0 {
		return
	}
	// In a container root may make a network, but not set it up.
	if out, err := exec.Command(need(t, "ip"), "link", "set", "lo", "up").CombinedOutput(); err != nil {
		lack(t, "no network: %v: %s", err, out)
	}
}

// sysctl sets one of the network of the calling goroutine. In a container they may be read-only.
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

// smallDisk returns a directory on a disk of 256 KiB.
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
