package store_test

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/coredns/alias/plugin/store"
)

// size returns that of the file.
func size(t testing.TB, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	check(t, err)
	return info.Size()
}

// fill changes one record again and again, until so many octets have been written.
func fill(t testing.TB, u *user, path string, octets int64) {
	t.Helper()
	for written := int64(0); written < octets; {
		before := size(t, path)
		u.put("filler", strings.Repeat("f", 10_000))
		u.Flush()
		if now := size(t, path); now > before {
			written += now - before
		} else {
			written += 10_000 // it has been compacted
		}
	}
}

// However much is changed, the file has no more than the records twice and MaxGarbage, and the last write; and the records of buckets that
// are not open, once they have been compacted, no more than once.
func TestCompacted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	other := open(path, "other", "o=1")
	other.put("o", "2")
	other.remove("p")
	u := open(path, "a")
	other.Close()
	const n, record = 100, recordHeaderSize + 3 + 1000
	check(t, os.Chmod(path, 0o640))
	var largest int64
	for round := range 40 {
		for i := range n {
			u.put(fmt.Sprintf("%03d", i), strings.Repeat(string(rune('a'+round%26)), 1000))
		}
		u.Flush()
		largest = max(largest, size(t, path))
	}
	if bound := int64(2*n*record + store.MaxGarbage + n*record + 1000); largest > bound || largest < 2*n*record {
		t.Errorf("the file had %d octets, want at most %d", largest, bound)
	}
	for i := range n - 1 {
		u.remove(fmt.Sprintf("%03d", i))
	}
	fill(t, u, path, 10*store.MaxGarbage)
	u.Close()
	if now, bound := size(t, path), int64(2*record+4*10_020+store.MaxGarbage+1000); now > bound {
		t.Errorf("the file of two records has %d octets, want at most %d", now, bound)
	}
	if got := kept(t, path, "a"); len(got) != 2 || !strings.HasPrefix(got["099"], "nnn") {
		t.Errorf("the file has %d records", len(got))
	}
	if got, want := kept(t, path, "other"), (map[string]string{"o": "2"}); !maps.Equal(got, want) {
		t.Errorf("the other bucket has %v", got)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o640 {
		t.Errorf("the file has the mode %v, %v", info.Mode(), err)
	}
}

// A file that cannot be compacted does not grow, and gets what it lacks when it can be.
func TestCannotBeCompacted(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	check(t, os.MkdirAll(path+".compacting/in-the-way", 0o700))
	u := open(path, "a")
	value := func(i int) string { return strings.Repeat("v", 1000) + strconv.Itoa(i) }
	const last = 300
	for i := range last + 1 {
		u.put("x", value(i))
		u.Flush()
	}
	if now := size(t, path); now > store.MaxGarbage+4000 || now < store.MaxGarbage {
		t.Errorf("the file has %d octets", now)
	}
	if err := u.errors[len(u.errors)-1]; err == nil {
		t.Error("no failure is counted")
	}
	check(t, os.RemoveAll(path+".compacting"))
	u.Close()
	if got := kept(t, path, "a"); len(got) != 1 || got["x"] != value(last) {
		t.Errorf("the file has %v", got)
	}
	if now := size(t, path); now > 5000 {
		t.Errorf("the file has %d octets after it was compacted", now)
	}
}

// What a process leaves that is killed while it compacts is removed.
func TestLeftover(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	before := open(path, "a", "x=1")
	before.Close()
	write(t, path+".compacting", read(t, path)[:20])
	u := open(path, "a")
	defer u.Close()
	u.has(t, "x=1")
	if _, err := os.Stat(path + ".compacting"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is there: %v", err)
	}
}

// limit has files be no longer than this, until the test calls lift. No other test may run meanwhile.
func limit(t *testing.T, octets int64) (lift func()) {
	t.Helper()
	signal.Ignore(syscall.SIGXFSZ) // so that a write fails instead
	var before syscall.Rlimit
	check(t, syscall.Getrlimit(syscall.RLIMIT_FSIZE, &before))
	check(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &syscall.Rlimit{Cur: uint64(octets), Max: before.Max}))
	lift = sync.OnceFunc(func() {
		check(t, syscall.Setrlimit(syscall.RLIMIT_FSIZE, &before))
		signal.Reset(syscall.SIGXFSZ)
	})
	t.Cleanup(lift)
	return lift
}

// failed checks that the last attempt to write has failed for want of room.
func (u *user) failed(t *testing.T) {
	t.Helper()
	if len(u.errors) == 0 || !errors.Is(u.errors[len(u.errors)-1], syscall.EFBIG) {
		t.Errorf("the errors are %v", u.errors)
	}
}

// large is the length of the values in the tests of what there is no room for: the limit is for all files of the process, and go test
// has a small one.
const large = 500_000

// When there is no more room in the middle of a record, all that was written before stays. What is to be written waits, the newest
// of each, until there is room.
func TestNoRoom(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	u := open(path, "a")
	for i := range 10 {
		u.put(fmt.Sprint(i), strings.Repeat("v", large))
	}
	u.remove("3")
	u.Flush()
	u.Flush() // which compacts it
	full := size(t, path)
	lift := limit(t, full+large/2)
	for i := range 10 {
		u.put("more", fmt.Sprint(i)+strings.Repeat("w", large))
		u.remove("4")
		u.Flush()
		if now := size(t, path); now != full {
			t.Errorf("the file has %d octets, and not %d", now, full)
		}
	}
	u.failed(t)
	if got := kept(t, path, "a"); len(got) != 9 || got["4"] == "" {
		t.Errorf("the file has %d records", len(got))
	}
	lift()
	u.Close()
	if got := kept(t, path, "a"); len(got) != 8+1 || got["4"] != "" || !strings.HasPrefix(got["more"], "9w") {
		t.Errorf("then the file has %d records", len(got))
	}
}

// limitedTo is the environment variable that has TestNoRoomAtStart be about files of so many octets.
const limitedTo = "STORE_TEST_LIMITED_TO"

// When there is no room for a new file, or for what it lacks at the start, it gets all when there is.
func TestNoRoomAtStart(t *testing.T) {
	octets, err := strconv.ParseInt(os.Getenv(limitedTo), 10, 64)
	if err != nil {
		octets = 3 * large / 2
		for _, few := range []string{"0", "5", "16", "1000"} { // too few for go test
			other := exec.Command(os.Args[0], "-test.run", "^TestNoRoomAtStart$")
			other.Env = append(os.Environ(), limitedTo+"="+few)
			if out, err := other.CombinedOutput(); err != nil {
				t.Errorf("%s octets: %v: %s", few, err, out)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "db")
	lift := limit(t, octets)
	u := open(path, "a", "x="+strings.Repeat("v", large), "y="+strings.Repeat("v", large))
	u.failed(t)
	if now := size(t, path); now != 0 && now != headerSize {
		t.Errorf("the file has %d octets where %d are allowed", now, octets)
	}
	u.put("z", "1")
	lift()
	u.Close()
	if got := kept(t, path, "a"); len(got) != 3 {
		t.Errorf("the file has %d records", len(got))
	}
}

// When there is no room for a second file, the first one stays until there is.
func TestNoRoomToCompact(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	const n, live = 10, 10 * (recordHeaderSize + 1 + large)
	u := open(path, "a")
	for i := 0; size(t, path) <= 2*live+store.MaxGarbage; i++ {
		u.put(fmt.Sprint(i%n), strings.Repeat("v", large))
		u.Flush()
	}
	full := size(t, path)
	lift := limit(t, live/2)
	u.put("x", "1")
	for range 3 {
		u.Flush()
		u.failed(t)
	}
	if _, err := os.Stat(path + ".compacting"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the second file is there: %v", err)
	}
	if now := size(t, path); now != full {
		t.Errorf("the file has %d octets, and had %d", now, full)
	}
	lift()
	u.Close()
	if got := kept(t, path, "a"); len(got) != n+1 || size(t, path) > live+1000 {
		t.Errorf("the file has %d records in %d octets", len(got), size(t, path))
	}
}
