package store_test

import (
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/store"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// contents are records in memory; those of memory are newer than those of the file.
type contents struct {
	mu      sync.Mutex
	records map[string]string
}

func (c *contents) Restore(key, value string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if own, ok := c.records[key]; ok {
		return own
	}
	if value == "unwanted" {
		return ""
	}
	c.records[key] = value
	return value
}

func (c *contents) All() iter.Seq2[string, string] {
	return maps.All(c.copy())
}

func (c *contents) copy() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.records)
}

// user is a bucket and what it is the copy of.
type user struct {
	*store.Bucket
	*contents
	mu     sync.Mutex
	errors []error // of the writes
	after  func()  // is called after each write
}

// closed returns a user whose bucket has not been opened.
func closed(path, name string, records ...string) *user {
	u := &user{contents: &contents{records: asMap(records)}, after: func() {}}
	u.Bucket = store.New(store.Canonical(path), name, u.contents, u.wrote)
	return u
}

func open(path, name string, records ...string) *user {
	u := closed(path, name, records...)
	u.Open()
	return u
}

func (u *user) wrote(err error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.errors = append(u.errors, err)
	u.after()
}

func asMap(records []string) map[string]string {
	m := make(map[string]string)
	for _, r := range records {
		key, value, _ := strings.Cut(r, "=")
		m[key] = value
	}
	return m
}

func (u *user) put(key, value string) {
	u.contents.mu.Lock()
	u.records[key] = value
	u.contents.mu.Unlock()
	u.Put(key, value)
}

func (u *user) remove(key string) {
	u.contents.mu.Lock()
	delete(u.records, key)
	u.contents.mu.Unlock()
	u.Delete(key)
}

// has checks what is in memory.
func (u *user) has(t *testing.T, records ...string) {
	t.Helper()
	if got, want := u.copy(), asMap(records); !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// kept returns what is in the file, as another process finds it.
func kept(t *testing.T, path, name string) map[string]string {
	t.Helper()
	other := filepath.Join(t.TempDir(), "copy")
	write(t, other, read(t, path))
	u := open(other, name)
	defer u.Close()
	return u.copy()
}

func read(t testing.TB, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	check(t, err)
	return data
}

func write(t testing.TB, path string, data []byte) {
	t.Helper()
	check(t, os.WriteFile(path, data, 0o600))
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSurvives(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	u := open(path, "a", "before=1")
	u.put("x", "1")
	u.put("x", "2")
	u.put("y", "3")
	u.put("z", "unwanted")
	u.Delete("y")
	u.Close()
	again := open(path, "a", "own=5")
	again.has(t, "before=1", "x=2", "own=5")
	again.Close()
	third := open(path, "a")
	defer third.Close()
	third.has(t, "before=1", "x=2", "own=5")
}

// Whatever is put and deleted, in whatever buckets and between whatever starts, the next start finds.
func TestAnything(t *testing.T) {
	t.Parallel()
	path, names := filepath.Join(t.TempDir(), "db"), []string{"a", "b", "c"}
	want := make(map[string]map[string]string)
	for _, name := range names {
		want[name] = make(map[string]string)
	}
	for range 60 {
		name := names[rand.N(len(names))]
		u := open(path, name)
		if got := u.copy(); !maps.Equal(got, want[name]) {
			t.Fatalf("%s: got %d records, want %d", name, len(got), len(want[name]))
		}
		for range rand.N(300) {
			key := fmt.Sprint(rand.N(100))
			if rand.N(3) == 0 {
				u.remove(key)
				delete(want[name], key)
			} else {
				value := strings.Repeat("v", 1+rand.N(500))
				u.put(key, value)
				want[name][key] = value
			}
			if rand.N(50) == 0 {
				u.Flush()
			}
		}
		u.Close()
	}
}

// A change is in the file Interval later, and the first after a while at once.
func TestWrittenBehind(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		path := filepath.Join(t.TempDir(), "db")
		u := open(path, "a")
		defer u.Close()
		at := func(wait time.Duration, want string) {
			t.Helper()
			time.Sleep(wait)
			synctest.Wait()
			if got := kept(t, path, "a")["x"]; got != want {
				t.Errorf("the file has %q, want %q", got, want)
			}
		}
		time.Sleep(time.Hour)
		u.put("x", "1")
		at(0, "1")
		u.put("x", "2")
		at(store.Interval-time.Millisecond, "1")
		u.put("x", "3")
		at(time.Millisecond, "3")
		u.put("x", "4")
		u.Flush()
		at(0, "4")
	})
}

// More changes than are kept until they are written.
func TestMany(t *testing.T) {
	for _, n := range []int{store.MaxPending / 5, store.MaxPending + 10} {
		path := filepath.Join(t.TempDir(), "db")
		dir := filepath.Dir(path)
		check(t, os.Rename(dir, dir+"-away")) // so that the file cannot be written
		u := open(path, "a")
		for i := range n {
			u.put(fmt.Sprintf("%08d.example.", i), "value")
		}
		if pending := u.Pending(); pending > store.MaxPending {
			t.Errorf("%d changes are pending", pending)
		}
		check(t, os.Rename(dir+"-away", dir))
		u.Close()
		if got := kept(t, path, "a"); len(got) != n {
			t.Errorf("%d records of %d are in the file", len(got), n)
		}
	}
}

// The longest keys and values are kept. Longer ones are not, and there is no older value in their place.
func TestLongest(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	key, value := strings.Repeat("k", store.MaxKey), strings.Repeat("v", store.MaxValue)
	u := open(path, "a")
	u.put(key, value)
	u.put("x", "1")
	u.put("y", "1")
	u.Flush()
	u.put(key+"k", "1")
	u.put("x", value+"v")
	u.Close()
	if got, want := kept(t, path, "a"), (map[string]string{key: value, "y": "1"}); !maps.Equal(got, want) {
		t.Errorf("the file has %d records: x=%q, y=%q", len(got), got["x"], got["y"])
	}
}

// hooked are contents that do something while they are compared with the file.
type hooked struct {
	*contents
	during func()
}

func (h *hooked) All() iter.Seq2[string, string] {
	all := h.copy()
	h.during()
	return maps.All(all)
}

// More changes than are kept, while the file is being compared, have it compared again.
func TestBehindMeanwhile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	h := &hooked{contents: &contents{records: map[string]string{"x": "old"}}}
	b := store.New(store.Canonical(path), "a", h, func(error) {})
	var once sync.Once
	h.during = func() {
		once.Do(func() {
			for i := range store.MaxPending + 1 {
				key := fmt.Sprint(i)
				if i == 0 {
					key = "x"
				}
				h.contents.mu.Lock()
				h.records[key] = "new"
				h.contents.mu.Unlock()
				b.Put(key, "new")
			}
		})
	}
	b.Open()
	b.Flush()
	b.Close()
	if got := kept(t, path, "a"); len(got) != store.MaxPending+1 || got["x"] != "new" {
		t.Errorf("the file has %d records of %d, x=%q", len(got), store.MaxPending+1, got["x"])
	}
}

// What the file lacks is found once, however much it is and whatever changes meanwhile.
func TestComparedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	compared := 0
	h := &hooked{contents: &contents{records: make(map[string]string)}}
	for i := range 2 * store.MaxPending {
		h.records[fmt.Sprintf("%08d.example.", i)] = "value"
	}
	var b *store.Bucket
	b = store.New(store.Canonical(path), "a", h, func(error) { b.Put("x", "2") })
	h.during = func() {
		compared++
		b.Put("x", "1")
	}
	b.Open()
	b.Flush()
	b.Close()
	if compared != 1 {
		t.Errorf("compared %d times", compared)
	}
	if got := kept(t, path, "a"); len(got) != 2*store.MaxPending+1 || got["x"] != "2" {
		t.Errorf("the file has %d records, x=%q", len(got), got["x"])
	}
}

// What was written with a wrong clock, or before it, is as good as any other.
func TestWrongClock(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	u := open(path, "a", "x=1")
	u.Close()
	synctest.Test(t, func(t *testing.T) { // in 2000
		u := open(path, "a")
		u.put("y", "2")
		u.Close()
	})
	u = open(path, "a")
	defer u.Close()
	u.has(t, "x=1", "y=2")
}

// A file that cannot be opened is a failed attempt to write too.
func TestNoFileCounts(t *testing.T) {
	u := open(filepath.Join(t.TempDir(), "missing", "db"), "a")
	u.Close()
	if len(u.errors) == 0 || u.errors[0] == nil {
		t.Errorf("counted: %v", u.errors)
	}
}
