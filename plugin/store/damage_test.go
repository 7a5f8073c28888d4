package store_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash/crc32"
	golog "log"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/store"
)

// Sizes of the format.
const (
	headerSize       = 16
	recordHeaderSize = 20
)

// The format is what it was, whatever the machine. These are a header, a record of the bucket "a", and one that removes it.
func TestFormat(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	u := open(path, "a", "key=value")
	u.remove("key")
	u.Close()
	const want = "89616c6961730d0a" + "00000002" + "67578b06" +
		"9e9af553" + "d18c" + "ca978112ca1bbdca" + "0003" + "00000005" + "6b6579" + "76616c7565" +
		"834ed7ca" + "c590" + "ca978112ca1bbdca" + "0003" + "00000000" + "6b6579"
	if got := hex.EncodeToString(read(t, path)); got != want {
		t.Errorf("the file has\n%s, want\n%s", got, want)
	}
	data, err := hex.DecodeString(want[:len(want)-2*(recordHeaderSize+3)])
	check(t, err)
	write(t, path, data)
	if got := kept(t, path, "a"); got["key"] != "value" {
		t.Errorf("the file has %v", got)
	}
}

// filled returns a file with n records, of which half have been removed again.
func filled(t testing.TB, n int) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "db")
	u := open(path, "a")
	for i := range n {
		u.put(fmt.Sprintf("%04d.example.", i), strings.Repeat("v", 40))
	}
	u.Flush()
	for i := range n / 2 {
		u.remove(fmt.Sprintf("%04d.example.", 2*i))
	}
	u.Close()
	return read(t, path)
}

func withVersion(data []byte, version uint32) []byte {
	data = bytes.Clone(data)
	binary.BigEndian.PutUint32(data[8:], version)
	return mended(data)
}

// mended returns data with the right checksums where records are, as far as their lengths are right.
func mended(data []byte) []byte {
	data = bytes.Clone(data)
	sum := func(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }
	if len(data) < headerSize {
		return data
	}
	binary.BigEndian.PutUint32(data[headerSize-4:], sum(data[:headerSize-4]))
	for rest := data[headerSize:]; len(rest) >= recordHeaderSize; {
		size := recordHeaderSize + uint64(binary.BigEndian.Uint16(rest[14:])) + uint64(binary.BigEndian.Uint32(rest[16:]))
		if size > uint64(len(rest)) {
			break
		}
		binary.BigEndian.PutUint16(rest[4:], uint16(sum(rest[6:recordHeaderSize])))
		binary.BigEndian.PutUint32(rest, sum(rest[4:size]))
		rest = rest[size:]
	}
	return data
}

// Whatever is in a file that cannot be used, nothing of it is lost, and if it is set aside there is a new one.
func TestUnusable(t *testing.T) {
	good := filled(t, 1000)
	first := read(t, "testdata/version-1") // by the version of this package that kept a bbolt database
	swapped := bytes.Clone(first)
	for _, at := range []int{16, 17} {
		swapped[at], swapped[35-at] = swapped[35-at], swapped[at]
	}
	tests := []struct {
		name  string
		data  []byte
		aside string // a part of the name that the file gets, or "" if it is left alone
	}{
		{"a zone", []byte("$ORIGIN example.org.\n@ 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 300\n"), ""},
		{"one octet", []byte{'x'}, ""},
		{"large", bytes.Repeat([]byte("something else\n"), 1<<20), ""},
		{"another program's database", read(t, "testdata/other-program"), ""},
		{"version 1", first, ".version-1-"},
		{"version 1 of a machine of the other byte order", swapped, ".version-1-"},
		{"a later version", withVersion(good, 3), ".version-3-"},
		{"zeros", make([]byte, 32<<10), ".damaged-"},
		{"zeros behind the header", append(bytes.Clone(good[:headerSize]), make([]byte, 32<<10)...), ".damaged-"},
		{"cut off to an octet", good[:1], ".damaged-"},
		{"cut off in the header", good[:headerSize-1], ".damaged-"},
		{"the header alone, and damaged", append(bytes.Clone(good[:headerSize-1]), good[headerSize-1]^1), ".damaged-"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			write(t, path, test.data)
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
			if !bytes.Equal(read(t, where), test.data) {
				t.Error("the file is not what it was")
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

// Two files that are set aside in the same second have two names.
func TestSetAsideTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // whose clock stands still
		path := filepath.Join(t.TempDir(), "db")
		for range 3 {
			write(t, path, make([]byte, 1000))
			u := open(path, "a", "x=1")
			u.Close()
		}
		if aside, _ := filepath.Glob(path + ".damaged-*"); len(aside) != 3 {
			t.Errorf("there are %v", aside)
		}
	})
}

// logged returns what is logged while f runs.
func logged(f func()) string {
	var out strings.Builder
	golog.SetOutput(&out)
	defer golog.SetOutput(os.Stderr)
	f()
	return out.String()
}

// What is damaged in a file is left out, and the rest is used. The log says so once, for the file is mended then.
func TestDamaged(t *testing.T) {
	const n, size = 100, recordHeaderSize + len("0000.example.") + 40
	path := filepath.Join(t.TempDir(), "good")
	u := open(path, "a")
	for i := range n { // one after the other, so that they are in order
		u.put(fmt.Sprintf("%04d.example.", i), strings.Repeat("v", 40))
		u.Flush()
	}
	u.Close()
	good := read(t, path)
	record := func(i int) int { return headerSize + i*size }
	tests := []struct {
		name   string
		damage func(data []byte) []byte
		left   int
		says   string
	}{
		{"value", func(d []byte) []byte { d[record(50)-1] ^= 1; return d }, n - 1, "At least 1 records"},
		{"length", func(d []byte) []byte { d[record(50)+17] ^= 1; return d }, n - 1, "At least 1 records"},
		{"mark", func(d []byte) []byte { d[record(50)+4] ^= 1; return d }, n - 1, "At least 1 records"},
		{"bucket", func(d []byte) []byte { d[record(50)+6] ^= 1; return d }, n - 1, "At least 1 records"},
		{"two records", func(d []byte) []byte { d[record(20)-1] ^= 1; d[record(70)] ^= 1; return d }, n - 2, "At least 2 records"},
		{"last record", func(d []byte) []byte { d[len(d)-1] ^= 1; return d }, n - 1, "At least 1 records"},
		{"length of the last", func(d []byte) []byte { d[record(n-1)+18] ^= 1; return d }, n - 1, "At least 1 records"},
		{"header", func(d []byte) []byte { d[9] ^= 1; return d }, n, "At least 1 records"},
		{"header gone", func(d []byte) []byte { return d[headerSize:] }, n, "At least 1 records"},
		{"zeros inside", func(d []byte) []byte { clear(d[record(30):record(60)]); return d }, n - 30, "At least 1 records"},
		{"zeros in front", func(d []byte) []byte { clear(d[:record(60)]); return d }, n - 60, "At least 1 records"},
		{"zeros at the end", func(d []byte) []byte { clear(d[record(60):]); return d }, 60, "At least 1 records"},
		{"more inside", func(d []byte) []byte {
			return bytes.Join([][]byte{d[:record(9)], []byte("scribble"), d[record(9):]}, nil)
		}, n, "At least 1 records"},
		{"more at the end", func(d []byte) []byte { return append(d, make([]byte, 5000)...) }, n, "At least 1 records"},
		{"cut off", func(d []byte) []byte { return d[:record(60)+recordHeaderSize+7] }, 60, ""},
		{"cut off in a header", func(d []byte) []byte { return d[:record(60)+7] }, 60, ""},
		{"cut off between two", func(d []byte) []byte { return d[:record(60)] }, 60, ""},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "db")
			write(t, path, test.damage(bytes.Clone(good)))
			out := logged(func() {
				u := open(path, "a")
				defer u.Close()
				if got := u.copy(); len(got) != test.left {
					t.Errorf("%d records are restored, want %d", len(got), test.left)
				}
				u.put("x", "1")
			})
			if want := fmt.Sprintf("%s of %s were damaged", test.says, path); test.says == "" && out != "" || test.says != "" && !strings.Contains(out, want) {
				t.Errorf("the log has %q", out)
			}
			out = logged(func() {
				u := open(path, "a")
				defer u.Close()
				if got := u.copy(); len(got) != test.left+1 || got["x"] != "1" {
					t.Errorf("then %d records are restored, want %d", len(got), test.left+1)
				}
			})
			if out != "" {
				t.Errorf("then the log has %q", out)
			}
			if others, _ := filepath.Glob(path + ".*"); len(others) > 0 {
				t.Errorf("there are %v", others)
			}
		})
	}
}

// Each octet of a small file is changed in turn: what is restored is right, and no more than a record is missing.
func TestChangedOctets(t *testing.T) {
	good, value := filled(t, 20), strings.Repeat("v", 40)
	dir := t.TempDir()
	for at := range good {
		if at%7 != 0 && at > 200 { // a part of them
			continue
		}
		data := bytes.Clone(good)
		data[at] ^= 0xff
		path := filepath.Join(dir, fmt.Sprint(at))
		write(t, path, data)
		u := open(path, "a")
		restored := u.copy()
		for key, v := range restored {
			if v != value || !strings.HasSuffix(key, ".example.") {
				t.Fatalf("octet %d: %q=%q", at, key, v)
			}
		}
		if len(restored) < 9 || len(restored) > 11 { // one more if it is the record that removes it
			t.Errorf("octet %d: %d records are restored", at, len(restored))
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

// However often a file is tried, the log has one line about it.
func TestToldOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), strings.Repeat("x", 250)) // there is no room for a longer name
	write(t, path, make([]byte, 32<<10))
	out := logged(func() {
		synctest.Test(t, func(t *testing.T) {
			u := open(path, "a")
			time.Sleep(10*store.RetryInterval + time.Second)
			u.Close()
		})
	})
	if n := strings.Count(out, "WARNING"); n != 1 {
		t.Errorf("%d lines: %s", n, out)
	}
}

// FuzzFile opens a file with any contents. mend makes the checksums of its records right, so that what they say is looked at.
func FuzzFile(f *testing.F) {
	for _, n := range []int{0, 1, 10, 300} {
		f.Add(filled(f, n), false)
		f.Add(filled(f, n), true)
	}
	f.Add(read(f, "testdata/version-1"), false)
	f.Add(read(f, "testdata/other-program"), false)
	f.Add(withVersion(filled(f, 1), 3), false)
	f.Add(make([]byte, 8192), false)
	f.Add([]byte("; a zone"), false)
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte, mend bool) {
		if mend {
			data = mended(data)
		}
		path := filepath.Join(dir, "db")
		write(t, path, data)
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
