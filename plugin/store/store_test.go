package store

import (
	"bytes"
	"errors"
	"fmt"
	"hash/fnv"
	"iter"
	golog "log"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	bolt "go.etcd.io/bbolt"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	// bbolt keeps its lock when a fault ends a transaction, and then cannot be closed any more.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("go.etcd.io/bbolt.(*DB).Close"))
}

var page = os.Getpagesize()

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
	*Bucket
	*contents
	mu     sync.Mutex
	errors []error // of the writes
}

func open(path, name string, records ...string) *user {
	u := &user{contents: &contents{records: make(map[string]string)}}
	for _, r := range records {
		key, value, _ := strings.Cut(r, "=")
		u.records[key] = value
	}
	u.Bucket = New(Canonical(path), name, u.contents, func(err error) {
		u.mu.Lock()
		defer u.mu.Unlock()
		u.errors = append(u.errors, err)
	})
	u.Bucket.Open()
	return u
}

func (u *user) put(key, value string) {
	u.contents.mu.Lock()
	u.records[key] = value
	u.contents.mu.Unlock()
	u.Put(key, value)
}

// has checks what is in memory.
func (u *user) has(t *testing.T, records ...string) {
	t.Helper()
	got := u.copy()
	want := make(map[string]string)
	for _, r := range records {
		key, value, _ := strings.Cut(r, "=")
		want[key] = value
	}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// kept returns what is in the file, as another process finds it.
func kept(t *testing.T, path, name string) map[string]string {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(other, data, 0o600); err != nil {
		t.Fatal(err)
	}
	u := open(other, name)
	defer u.Close()
	return u.copy()
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
		at(Interval-time.Millisecond, "1")
		u.put("x", "3")
		at(time.Millisecond, "3")
		u.put("x", "4")
		u.Flush()
		at(0, "4")
	})
}

// A file is open once in a process, however it is called.
func TestShared(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "db")
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
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

// More changes than go into one transaction, and more than are kept until there is one.
func TestMany(t *testing.T) {
	for _, n := range []int{2*maxBatch + 1, maxPending + 10} {
		path := filepath.Join(t.TempDir(), "db")
		dir := filepath.Dir(path)
		if err := os.Rename(dir, dir+"-away"); err != nil { // so that the file cannot be written
			t.Fatal(err)
		}
		u := open(path, "a")
		for i := range n {
			u.put(fmt.Sprintf("%08d.example.", i), "value")
		}
		u.Bucket.mu.Lock()
		if len(u.pending) > maxPending {
			t.Errorf("%d changes are pending", len(u.pending))
		}
		u.Bucket.mu.Unlock()
		if err := os.Rename(dir+"-away", dir); err != nil {
			t.Fatal(err)
		}
		u.Close()
		if got := kept(t, path, "a"); len(got) != n {
			t.Errorf("%d records of %d are in the file", len(got), n)
		}
	}
}

// filled returns a file with n records, of which half have been removed again, so that it has free pages.
func filled(t testing.TB, n, pageSize int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	db, err := bolt.Open(path, 0o600, &bolt.Options{PageSize: pageSize})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	u := open(path, "a")
	for i := range n {
		u.put(fmt.Sprintf("%04d.example.", i), strings.Repeat("v", 40))
	}
	u.Flush()
	for i := range n / 2 {
		u.Delete(fmt.Sprintf("%04d.example.", 2*i))
	}
	u.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// otherVersion returns a file as another version of this package might write it.
func otherVersion(t *testing.T) []byte {
	return edited(t, filled(t, 10, page), func(tx *bolt.Tx) error {
		return tx.Bucket([]byte(aboutBucket)).Put([]byte(versionKey), []byte("2/../x"))
	})
}

// foreign returns a database of another program.
func foreign(t *testing.T) []byte {
	return edited(t, nil, func(tx *bolt.Tx) error {
		_, err := tx.CreateBucket([]byte("theirs"))
		return err
	})
}

// edited returns the database with what edit changes.
func edited(t *testing.T, data []byte, edit func(tx *bolt.Tx) error) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := db.Update(edit); err != nil {
		t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		t.Fatal(err)
	}
	data, err = os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Whatever is in the file, nothing of it is lost, and if it is set aside there is a new one.
func TestUnusable(t *testing.T) {
	good := filled(t, 1000, page)
	flipped := func(at int) []byte {
		data := bytes.Clone(good)
		data[at] ^= 0xff
		return data
	}
	tests := []struct {
		name  string
		data  []byte
		aside string // a part of the name that the file gets, or "" if it is left alone
	}{
		{"no database", []byte("$ORIGIN example.org.\n@ 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 300\n"), ""},
		{"one octet", []byte{'x'}, ""},
		{"another program's", foreign(t), ""},
		{"zeros", make([]byte, 32<<10), ".damaged-"},
		{"another version", otherVersion(t), ".version-2_.._x-"},
		{"both beginnings", func() []byte { data := flipped(30); data[page+30] ^= 1; return data }(), ".damaged-"},
		{"cut off in the first page", good[:page/2], ".damaged-"},
		{"cut off after the beginning", good[:2*page], ".damaged-"},
		{"cut off in the middle", good[:len(good)/2], ".damaged-"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := t.TempDir()
			path := filepath.Join(dir, "db")
			if err := os.WriteFile(path, test.data, 0o600); err != nil {
				t.Fatal(err)
			}
			u := open(path, "a", "own=1")
			u.put("x", "2")
			u.Close()
			u.has(t, "own=1", "x=2")

			where := path
			if aside, _ := filepath.Glob(path + ".*"); len(aside) > 0 {
				where = aside[0]
			}
			if test.aside == "" != (where == path) || !strings.Contains(where, test.aside) {
				t.Errorf("the file is %s", where)
			}
			if data, err := os.ReadFile(where); err != nil || !bytes.Equal(data, test.data) {
				t.Errorf("the file is not what it was: %v", err)
			}
			if test.aside != "" {
				want := map[string]string{"own": "1", "x": "2"}
				if got := kept(t, path, "a"); !maps.Equal(got, want) {
					t.Errorf("the new file has %v, want %v", got, want)
				}
			}
		})
	}
}

// Each octet of a small file is changed in turn: what is restored is right, or nothing is.
func TestChangedOctets(t *testing.T) {
	good := filled(t, 20, page)
	dir := t.TempDir()
	for at := range good {
		if at%89 != 0 && at > 100 && at != 4*page+52 { // a part of them
			continue
		}
		data := bytes.Clone(good)
		data[at] ^= 0xff
		path := filepath.Join(dir, fmt.Sprint(at))
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		u := open(path, "a")
		for key, value := range u.copy() {
			if value != strings.Repeat("v", 40) || !strings.HasSuffix(key, ".example.") {
				t.Fatalf("octet %d: %q=%q", at, key, value)
			}
		}
		u.put("x", "1")
		u.Close()
		u = open(path, "a")
		if u.copy()["x"] != "1" {
			t.Errorf("octet %d: what was written is not there", at)
		}
		u.Close()
	}
}

// A record that is not what was written is left out, and the others are not.
func TestDamagedRecord(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	u := open(path, "a", "x=1", "y=2")
	u.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	sealed := seal([]byte("x"), "1")
	if !bytes.Contains(data, sealed) {
		t.Fatal("the record is not in the file")
	}
	data = bytes.ReplaceAll(data, sealed, append(bytes.Clone(sealed[:4]), '7'))
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	again := open(path, "a")
	again.has(t, "y=2")
	again.Close()
}

// What becomes of the file while it is open: it is removed, replaced, cut off, or made empty.
func TestTamperedWith(t *testing.T) {
	for name, tamper := range map[string]func(path string) error{
		"removed":   os.Remove,
		"replaced":  func(path string) error { return errors.Join(os.Remove(path), os.WriteFile(path, nil, 0o600)) },
		"emptied":   func(path string) error { return os.Truncate(path, 0) },
		"cut off":   func(path string) error { return os.Truncate(path, 10_000) },
		"moved":     func(path string) error { return os.Rename(path, path+".moved") },
		"scribbled": func(path string) error { return scribble(path) },
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			u := open(path, "a", "own=1")
			for i := range 1000 {
				u.put(fmt.Sprint(i), "1")
			}
			u.Flush()
			if err := tamper(path); err != nil {
				t.Fatal(err)
			}
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
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = file.WriteAt(bytes.Repeat([]byte("scribble"), int(info.Size()/8)), 0)
	return errors.Join(err, file.Close())
}

// A file that another process has open is tried again, and gets everything then; its own records are restored.
func TestLocked(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	before := open(path, "a", "x=1")
	before.Close()
	synctest.Test(t, func(t *testing.T) {
		other, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		u := open(path, "a", "own=1")
		defer u.Close()
		u.has(t, "own=1")
		time.Sleep(10 * RetryInterval)
		u.has(t, "own=1")
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(RetryInterval + lockTimeout)
		synctest.Wait()
		u.has(t, "own=1", "x=1")
		if got := kept(t, path, "a"); len(got) != 2 {
			t.Errorf("the file has %v", got)
		}
	})
}

// There are so many buckets, and those that have not been in use for longest make room; the clock has no part in that.
func TestUnused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	first := open(path, "open all the time", "x=1")
	defer first.Close()
	for i := range maxBuckets + 1 {
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
	for name, want := range map[string]int{"open all the time": 2, "0": 2, "1": 0, "2": 0, "50": 1, fmt.Sprint(maxBuckets): 1} {
		if got := kept(t, path, name); len(got) != want {
			t.Errorf("bucket %s has %d records, want %d", name, len(got), want)
		}
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
	b := New(Canonical(path), "a", h, func(error) {})
	var once sync.Once
	h.during = func() {
		once.Do(func() {
			for i := range maxPending + 1 {
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
	if got := kept(t, path, "a"); len(got) != maxPending+1 || got["x"] != "new" {
		t.Errorf("the file has %d records of %d, x=%q", len(got), maxPending+1, got["x"])
	}
}

// What the file lacks is found once, however much it is and whatever changes meanwhile.
func TestComparedOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	compared := 0
	h := &hooked{contents: &contents{records: make(map[string]string)}}
	for i := range 2 * maxPending {
		h.records[fmt.Sprintf("%08d.example.", i)] = "value"
	}
	b := New(Canonical(path), "a", h, func(error) {})
	h.during = func() {
		compared++
		b.Put("x", "1")
	}
	b.wrote(func() { b.Put("x", "2") })
	b.Open()
	b.Flush()
	b.Close()
	if compared != 1 {
		t.Errorf("compared %d times", compared)
	}
}

// Who changes something all the time does not keep others from the file.
func TestBusy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	before := open(path, "b", "y=1")
	before.Close()
	busy := open(path, "a")
	busy.wrote(func() { time.Sleep(20 * time.Millisecond) }) // a slow disk
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
	if took := time.Since(began); took > readPatience/2 {
		t.Errorf("it took %s to open another bucket", took)
	}
	b.has(t, "y=1")
	close(end)
	changes.Wait()
	b.Close()
	busy.Close()
}

// wrote has f called after each attempt to write, beside what is called already.
func (b *Bucket) wrote(f func()) {
	b.file.mu.Lock()
	defer b.file.mu.Unlock()
	former := b.file.wrote
	b.file.wrote = func(err error) {
		former(err)
		f()
	}
}

// What another process does to its file, which is this one's too, is not taken for damage.
func TestOtherProcessWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	u := open(path, "a")
	const n = 20_000
	for i := range n {
		u.put(fmt.Sprintf("%08d.example.", i*7919%n), strings.Repeat("v", 40))
	}
	u.Close()
	other, err := bolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	end := make(chan struct{})
	var writer sync.WaitGroup
	writer.Go(func() {
		for round := 0; ; round++ {
			select {
			case <-end:
				return
			default:
			}
			err := other.Update(func(tx *bolt.Tx) error {
				records := tx.Bucket([]byte(bucketPrefix + "a"))
				for i := range 200 {
					key := []byte(fmt.Sprintf("%08d.example.", (i*7919+round*31)%n))
					if err := records.Put(key, seal(key, strings.Repeat("w", 40))); err != nil {
						return err
					}
				}
				return nil
			})
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	for range 3 {
		u := open(path, "a")
		u.Close()
		if aside, _ := filepath.Glob(path + ".*"); len(aside) > 0 {
			t.Fatalf("the file of the other process is %v", aside)
		}
	}
	close(end)
	writer.Wait()
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}

// What had to make room before the file could be read goes from there too, and does not come back.
func TestEvictedBeforeRestored(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	before := open(path, "a", "x=1")
	before.Close()
	synctest.Test(t, func(t *testing.T) {
		other, err := bolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		u := open(path, "a")
		defer u.Close()
		u.put("x", "2")
		u.contents.mu.Lock()
		delete(u.records, "x")
		u.contents.mu.Unlock()
		u.Delete("x")
		if err := other.Close(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(RetryInterval + lockTimeout)
		synctest.Wait()
		u.has(t)
		if got := kept(t, path, "a"); len(got) != 0 {
			t.Errorf("the file has %v", got)
		}
	})
}

// However often a file is tried, the log has one line about it.
func TestToldOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 250)) // there is no room for a longer name
	if err := os.WriteFile(path, make([]byte, 32<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	golog.SetOutput(&out)
	defer golog.SetOutput(os.Stderr)
	synctest.Test(t, func(t *testing.T) {
		u := open(path, "a")
		time.Sleep(10*RetryInterval + time.Second)
		u.Close()
	})
	if n := strings.Count(out.String(), "WARNING"); n != 1 {
		t.Errorf("%d lines: %s", n, out.String())
	}
}

// FuzzFile opens a file with any contents. mend makes the checksums of its beginnings right, so that what they lead to is
// looked at.
func FuzzFile(f *testing.F) {
	for _, n := range []int{0, 1, 10, 300} {
		f.Add(filled(f, n, 1024), false)
		f.Add(filled(f, n, 1024), true)
	}
	f.Add(make([]byte, 8192), false)
	f.Add([]byte("; a zone"), false)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		if mend {
			data = mended(data)
		}
		path := filepath.Join(dir, "db")
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
		defer func() {
			left, _ := filepath.Glob(path + "*")
			for _, name := range left {
				os.Remove(name)
			}
		}()
		u := open(path, "a", "own=1")
		u.put("x", "2")
		u.Close()
		if now, err := os.ReadFile(path); err == nil && bytes.Equal(now, data) {
			return // something else, and left alone
		}
		if got := kept(t, path, "a"); got["own"] != "1" || got["x"] != "2" {
			t.Errorf("what was written is not there: %v", got)
		}
	})
}

// mended returns data with the right checksums where a database begins.
func mended(data []byte) []byte {
	data = bytes.Clone(data)
	for at := 0; at+headerSize+metaSize <= min(len(data), 1<<16); at = max(2*at, 1024) {
		if m := data[at+headerSize:]; order.Uint32(m) == magic {
			sum := fnv.New64a()
			sum.Write(m[:checksumAt])
			order.PutUint64(m[checksumAt:], sum.Sum64())
		}
	}
	return data
}

// A file that cannot be opened is a failed attempt to write too.
func TestNoFileCounts(t *testing.T) {
	u := open(filepath.Join(t.TempDir(), "missing", "db"), "a")
	u.Close()
	if len(u.errors) == 0 || u.errors[0] == nil {
		t.Errorf("counted: %v", u.errors)
	}
}
