package store_test

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/store"
)

// A file is open once in a process, however it is called.
func TestShared(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	check(t, os.Symlink(dir, filepath.Join(dir, "link")))
	a, b := open(path, "a"), open(filepath.Join(dir, "link", "db"), "b")
	a.put("x", "1")
	b.put("x", "2")
	a.Close()
	b.put("y", "3")
	again := open(path, "a")
	again.has(t, "x=1")
	b.Close()
	again.Close()
	for name, want := range map[string]map[string]string{"a": {"x": "1"}, "b": {"x": "2", "y": "3"}, "c": {}} {
		if got := kept(t, path, name); !maps.Equal(got, want) {
			t.Errorf("bucket %s has %v, want %v", name, got, want)
		}
	}
}

// A file behind a symbolic link stays where it is, also when it is compacted.
func TestLinkStays(t *testing.T) {
	dir := t.TempDir()
	link, path := filepath.Join(dir, "link"), filepath.Join(dir, "db")
	check(t, os.Symlink("db", link))
	write(t, path, nil)
	u := open(link, "a", "x=1")
	fill(t, u, path, 3*store.MaxGarbage)
	u.Close()
	if info, err := os.Lstat(link); err != nil || info.Mode()&os.ModeSymlink == 0 {
		t.Errorf("the link is %v, %v", info, err)
	}
	if got := kept(t, path, "a"); got["x"] != "1" {
		t.Errorf("the file has %v", got)
	}
}

// What becomes of the file while it is open: it is removed, replaced, cut off, made empty, or written to.
func TestTamperedWith(t *testing.T) {
	for name, tamper := range map[string]func(path string) error{
		"removed":   os.Remove,
		"replaced":  func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)) },
		"emptied":   func(path string) error { return os.Truncate(path, 0) },
		"cut off":   func(path string) error { return os.Truncate(path, 10_000) },
		"moved":     func(path string) error { return os.Rename(path, path+".moved") },
		"scribbled": func(path string) error { return scribble(path) },
		"longer":    func(path string) error { return overwrite(path, []byte("scribble"), -1) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			u := open(path, "a", "own=1")
			for i := range 1000 {
				u.put(fmt.Sprint(i), "1")
			}
			u.Flush()
			time.Sleep(10 * time.Millisecond) // file systems do not tell times apart that are closer than a tick
			check(t, tamper(path))
			u.put("x", "2")
			u.Flush()
			u.put("y", "3")
			u.Close()
			got := kept(t, path, "a")
			if len(got) != 1003 || got["own"] != "1" || got["x"] != "2" || got["y"] != "3" {
				t.Errorf("the file has %d records", len(got))
			}
		})
	}
}

// scribble writes over all but the size of the file.
func scribble(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	return overwrite(path, bytes.Repeat([]byte("scribble"), int(info.Size()/8)), 0)
}

// overwrite writes data to the file, at its end if at is -1.
func overwrite(path string, data []byte, at int64) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	if at < 0 {
		info, err := file.Stat()
		if err != nil {
			return err
		}
		at = info.Size()
	}
	_, err = file.WriteAt(data, at)
	return errors.Join(err, file.Close())
}

// lock locks the file as another process would.
func lock(t *testing.T, path string) (unlock func()) {
	t.Helper()
	other, err := os.Open(path)
	check(t, err)
	check(t, syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB))
	return func() { check(t, other.Close()) }
}

// A file that another process has open is tried again, and gets everything then; its own records are restored.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	before := open(path, "a", "x=1")
	before.Close()
	synctest.Test(t, func(t *testing.T) {
		unlock := lock(t, path)
		u := open(path, "a", "own=1")
		defer u.Close()
		u.has(t, "own=1")
		time.Sleep(10 * store.RetryInterval)
		u.has(t, "own=1")
		unlock()
		time.Sleep(store.RetryInterval + store.LockTimeout)
		synctest.Wait()
		u.has(t, "own=1", "x=1")
		if got := kept(t, path, "a"); len(got) != 2 {
			t.Errorf("the file has %v", got)
		}
	})
}

// A process that ends gives the file to the next one, which waits for it a moment, also when it has been compacted meanwhile.
func TestHandedOver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	before := open(path, "a", "x=1")
	before.Close()
	synctest.Test(t, func(t *testing.T) {
		unlock := lock(t, path)
		go func() {
			time.Sleep(store.LockTimeout / 2)
			write(t, path+".compacted", read(t, path))
			check(t, os.Rename(path+".compacted", path))
			unlock()
		}()
		u := open(path, "a")
		u.has(t, "x=1")
		u.put("y", "2")
		u.Close()
		if got := kept(t, path, "a"); len(got) != 2 {
			t.Errorf("the file has %v", got)
		}
	})
}

// What had to make room before the file could be read goes from there too, and does not come back.
func TestEvictedBeforeRestored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	before := open(path, "a", "x=1")
	before.Close()
	synctest.Test(t, func(t *testing.T) {
		unlock := lock(t, path)
		u := open(path, "a")
		defer u.Close()
		u.put("x", "2")
		u.remove("x")
		unlock()
		time.Sleep(store.RetryInterval + store.LockTimeout)
		synctest.Wait()
		u.has(t)
		if got := kept(t, path, "a"); len(got) != 0 {
			t.Errorf("the file has %v", got)
		}
	})
}

// There are so many buckets, and those that have not been in use for longest make room; the clock has no part in that.
func TestUnused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	first := open(path, "open all the time", "x=1")
	defer first.Close()
	for i := range store.MaxBuckets + 1 {
		u := open(path, fmt.Sprint(i), "x=1")
		u.Close()
		if i == 2 {
			again := open(path, "0")
			again.put("y", "2") // and so it is the last that was in use
			again.Close()
		}
	}
	first.put("y", "2")
	first.Flush()
	for name, want := range map[string]int{"open all the time": 2, "0": 2, "1": 0, "2": 0, "50": 1, fmt.Sprint(store.MaxBuckets): 1} {
		if got := kept(t, path, name); len(got) != want {
			t.Errorf("bucket %s has %d records, want %d", name, len(got), want)
		}
	}
}

// Who changes something all the time does not keep others from the file.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	before := open(path, "b", "y=1")
	before.Close()
	busy := closed(path, "a")
	busy.after = func() { time.Sleep(20 * time.Millisecond) } // a slow disk
	busy.Open()
	end := make(chan struct{})
	var changes sync.WaitGroup
	changes.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			case <-time.After(10 * time.Millisecond):
				busy.put(fmt.Sprint(i), "1")
			}
		}
	})
	time.Sleep(100 * time.Millisecond)
	began := time.Now()
	b := open(path, "b")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("it took %s to open another bucket", took)
	}
	b.has(t, "y=1")
	close(end)
	changes.Wait()
	b.Close()
	busy.Close()
}

// All methods may be called at the same time.
func TestConcurrent(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	users := []*user{open(path, "a"), open(path, "b")}
	const n = 2000
	var all sync.WaitGroup
	for _, u := range users {
		all.Go(func() {
			for i := range n {
				u.put(fmt.Sprint(i), "1")
			}
		})
		all.Go(func() {
			for i := range n {
				u.put("x", fmt.Sprint(i))
				u.remove("x")
			}
		})
		all.Go(func() {
			for range 100 {
				u.Flush()
			}
		})
	}
	all.Wait()
	for _, u := range users {
		u.Close()
	}
	for _, name := range []string{"a", "b"} {
		if got := kept(t, path, name); len(got) != n {
			t.Errorf("bucket %s has %d records", name, len(got))
		}
	}
}

// While the disk hangs, nobody waits for changes, and Open and Close wait no longer than they say.
func TestHanging(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "db")
		hang := make(chan struct{})
		a := closed(path, "a", "x=1")
		a.after = func() { <-hang }
		waits := func(what string, atMost time.Duration, f func()) {
			t.Helper()
			began := time.Now()
			if f(); time.Since(began) > atMost {
				t.Errorf("%s takes %s", what, time.Since(began))
			}
		}
		waits("Open", 10*time.Second, a.Open)
		waits("Put", 0, func() { a.put("y", "2") })
		waits("Delete", 0, func() { a.remove("y") })
		waits("Flush", 5*time.Second, a.Flush)
		b := closed(path, "b", "z=3")
		waits("Open of another", 10*time.Second, b.Open)
		waits("Close of another", 5*time.Second, b.Close)
		waits("the last Close", 10*time.Second, a.Close)
		close(hang)
	})
}

// What another process writes to its file, which is this one's too, is not taken for damage, and stays.
func TestOtherProcessWrites(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "db")
	v := startVictim(t, path)
	v.await(t, 2*victimRecords)
	for range 3 {
		u := open(path, "a", "own=1")
		u.has(t, "own=1")
		u.put("x", "2")
		u.Close()
	}
	v.kill()
	if aside, _ := filepath.Glob(path + ".*-*"); len(aside) > 0 {
		t.Errorf("the file of the other process is %v", aside)
	}
	c := restoreCounted(t, path)
	c.check(t)
	if len(c.numbers) != victimRecords {
		t.Errorf("there are %d records", len(c.numbers))
	}
}
