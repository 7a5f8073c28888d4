//go:build !(darwin || dragonfly || freebsd || illumos || linux || netbsd || openbsd)

package store

import (
	"errors"
	"os"
)

// lock does nothing: here, the operator has to see to it that no two processes have the same file.
func lock(*os.File) error { return nil }

// replace puts the file fresh at the path, in place of former, which it closes. Some systems do not rename a file that is open.
func replace(fresh, former *os.File, path string) (*os.File, error) {
	if err := errors.Join(fresh.Close(), former.Close()); err != nil {
		return fresh, err
	}
	if err := os.Rename(fresh.Name(), path); err != nil {
		return fresh, err
	}
	return os.OpenFile(path, os.O_RDWR, 0) // #nosec G304 -- the operator's choice
}
