//go:build darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd

package store

import (
	"errors"
	"os"
	"syscall"
)

// lock locks the file until it is closed, or returns errLocked if another process has locked it.
func lock(file *os.File) error {
	err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) // #nosec G115 -- a descriptor
	if errors.Is(err, syscall.EWOULDBLOCK) {
		return errLocked
	}
	return os.NewSyscallError("flock", err)
}

// replace puts the file fresh at the path, in place of former, which it closes. The lock is on one of them at any moment.
func replace(fresh, former *os.File, path string) (*os.File, error) {
	if err := lock(fresh); err != nil {
		return fresh, err
	}
	if err := os.Rename(fresh.Name(), path); err != nil {
		return fresh, err
	}
	_ = former.Close()
	return fresh, nil
}
