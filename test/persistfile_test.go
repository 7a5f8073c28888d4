package test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"
)

// many is the number of targets in the file that the tests damage: enough for several pages.
const many = 200

// manyNumber returns the number of the address that a target has in a generation.
func manyNumber(generation, i int) int { return 1000*generation + i }

// manyHosted returns a handler that answers for the targets with the addresses of a generation.
func manyHosted(generation int) upstream.Handler {
	var records []string
	for i := range many {
		for _, qtype := range families {
			records = append(records, fmt.Sprintf("t%d.hosting.example. 1 IN %s %s", i, dns.TypeToString[qtype], numbered(manyNumber(generation, i), qtype)))
		}
	}
	return upstream.Zone(records...)
}

// manyBlock returns the Corefile of a server with a record for each target, and the file answers.
func manyBlock(port, addr, answers string) string {
	var records strings.Builder
	for i := range many {
		fmt.Fprintf(&records, "record t%d t%d.hosting.example\n", i, i)
	}
	return block("example.org", port, records.String()+"min_ttl 1s\ntimeout 1s\nretries 0\npersist "+answers+"\nupstream "+addr, "")
}

// askGeneration queries all records for A and AAAA. It returns how many answers have no address, and how many an address that is
// not of the generation.
func askGeneration(t *testing.T, server *process, generation int) (missing, wrong int64) {
	t.Helper()
	var without, others atomic.Int64
	var clients errgroup.Group
	clients.SetLimit(50) // a query may wait until a lookup has failed
	for i := range many {
		for _, q := range questions(fmt.Sprintf("t%d.example.org.", i)) {
			clients.Go(func() error {
				m, err := ask(server.addr, "udp", q.name, q.qtype)
				if err != nil {
					return fmt.Errorf("%s: %v", q, err)
				}
				switch n, ok := number(m); {
				case len(m.Answer) == 0:
					without.Add(1)
				case !ok || n != manyNumber(generation, i):
					others.Add(1)
				}
				return nil
			})
		}
	}
	if err := clients.Wait(); err != nil {
		t.Error(err)
	}
	return without.Load(), others.Load()
}

// awaitGeneration waits until all answers have the addresses of the generation.
func awaitGeneration(t *testing.T, server *process, generation int) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("all answers have the addresses of generation %d", generation), func() bool {
		missing, wrong := askGeneration(t, server, generation)
		return missing+wrong == 0
	})
}

// checkGeneration checks that all answers have the addresses of the generation.
func checkGeneration(t *testing.T, server *process, generation int) {
	t.Helper()
	if missing, wrong := askGeneration(t, server, generation); missing+wrong > 0 {
		t.Errorf("%d answers have no address, and %d have another one than those of generation %d", missing, wrong, generation)
	}
}

// written returns the file of a server with this upstream, which has answered generation 1.
func written(t *testing.T, up *upstream.Server) []byte {
	t.Helper()
	up.Set(manyHosted(1))
	port := freePort(t)
	server := serve(t, port, manyBlock(port, up.Addr, "answers"))
	awaitGeneration(t, server, 1)
	server.stop(t)
	content, err := os.ReadFile(filepath.Join(server.Dir, "answers"))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// Whatever is at PATH, the server serves, logs what is wrong with it, and does not destroy the file of another program.
func TestBadFile(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, nil)
	good := written(t, up)
	const (
		used      = iota // the server goes on with it
		setAside         // the server has renamed it, and created a new file
		leftAlone        // it is unchanged
	)
	for _, test := range []struct {
		name    string
		content []byte
		becomes int
		warning string // a part of it
	}{
		{"empty", nil, used, ""},
		{"truncated to a byte", good[:1], setAside, "damaged"},
		{"truncated in the header", good[:headerSize-1], setAside, "damaged"},
		{"truncated to the header", good[:headerSize], used, ""},
		{"truncated in the first record", good[:headerSize+30], used, ""},
		{"truncated to a page", good[:4096], used, ""},
		{"truncated to a half", good[:len(good)/2], used, ""},
		{"truncated by a byte", good[:len(good)-1], used, ""},
		{"zeros", make([]byte, len(good)), setAside, "damaged"},
		{"zeros behind the header", append(bytes.Clone(good[:headerSize]), make([]byte, len(good)-headerSize)...), setAside, "damaged"},
		{"zeros from the third page on", append(bytes.Clone(good[:8192]), make([]byte, len(good)-8192)...), used, "were damaged"},
		{"zeros in the first pages", append(make([]byte, 8192), good[8192:]...), used, "were damaged"},
		{"another version", version(good, 7), setAside, "it has version 7 and not 2"},
		{"version 1", []byte(read(t, "../plugin/store/testdata/version-1")), setAside, "it has version 1 and not 2"},
		{"garbage", garbage(len(good)), leftAlone, "something else"},
		{"zone file", []byte(zoneFile), leftAlone, "something else"},
		{"database of another program", []byte(read(t, "../plugin/store/testdata/other-program")), leftAlone, "something else"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			up := upstream.New(t, hosted(1))
			port, answers := freePort(t), filepath.Join(t.TempDir(), "answers")
			write(t, answers, string(test.content))
			server := serve(t, port, block("example.org", port, hostedRecords+"persist "+answers+"\nupstream "+up.Addr, ""))
			awaitNumber(t, server, "short.example.org.", 1)
			checkWarning(t, server, answers, test.warning)
			awaitNumber(t, server, "long.example.org.", 1)
			server.stop(t)

			others, err := filepath.Glob(answers + ".*")
			if err != nil {
				t.Fatal(err)
			}
			if want := test.becomes == setAside; (len(others) > 0) != want || len(others) > 1 {
				t.Fatalf("There are %d files beside it: %v", len(others), others)
			}
			switch test.becomes {
			case setAside:
				checkContent(t, others[0], test.content)
			case leftAlone:
				checkContent(t, answers, test.content)
				return
			}
			up.Set(nil)
			time.Sleep(1100 * time.Millisecond) // the TTL runs out
			server = server.restart(t)
			checkStale(t, server, "short.example.org.", 1)
			checkNoWarnings(t, server)
		})
	}
}

// checkWarning checks that the log has exactly one warning about the file, and that it contains text. With text "" there must
// be no warning.
func checkWarning(t *testing.T, server *process, file, text string) {
	t.Helper()
	if text == "" {
		checkNoWarnings(t, server)
		return
	}
	var warnings []string
	for line := range strings.Lines(server.log(t)) {
		if strings.Contains(line, "[WARNING]") && strings.Contains(line, file) {
			warnings = append(warnings, line)
		}
	}
	if len(warnings) != 1 || !strings.Contains(warnings[0], text) {
		t.Errorf("Want one warning with %q, got %q", text, warnings)
	}
}

func checkContent(t *testing.T, path string, want []byte) {
	t.Helper()
	got, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s has changed: %d bytes, %d before, %v", path, len(got), len(want), err)
	}
}

// The format of the file: a header, whose last octets are a checksum of it, and records. These have a checksum of what follows,
// a mark, the bucket, the lengths of key and value, and both.
const (
	headerSize       = 16
	versionAt        = 8
	recordHeaderSize = 20
)

func checksum(b []byte) uint32 { return crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)) }

// version returns a file with another version.
func version(content []byte, version uint32) []byte {
	content = bytes.Clone(content)
	binary.BigEndian.PutUint32(content[versionAt:], version)
	binary.BigEndian.PutUint32(content[headerSize-4:], checksum(content[:headerSize-4]))
	return content
}

// shifted returns a file with other times of the answers, which their values begin with, in milliseconds.
func shifted(content []byte, by time.Duration) []byte {
	content = bytes.Clone(content)
	for rest := content[headerSize:]; len(rest) > 0; {
		key, value := int(binary.BigEndian.Uint16(rest[14:])), int(binary.BigEndian.Uint32(rest[16:]))
		record := rest[:recordHeaderSize+key+value]
		if value > 0 {
			at := record[recordHeaderSize+key:]
			binary.BigEndian.PutUint64(at, uint64(int64(binary.BigEndian.Uint64(at))+by.Milliseconds()))
		}
		binary.BigEndian.PutUint32(record, checksum(record[4:]))
		rest = rest[len(record):]
	}
	return content
}

func garbage(n int) []byte {
	content := make([]byte, n)
	for i := range content {
		content[i] = byte(rand.N(256))
	}
	return content
}

// When the disk has changed a few bytes of the file, the server uses no wrong answer, and logs that answers are missing.
func TestFlippedBytes(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, nil)
	good := written(t, up)
	up.Set(nil)
	t.Logf("The file has %d octets", len(good))
	for i := range 12 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			content := bytes.Clone(good)
			var flipped []int
			for range 1 + i%4 {
				at := rand.N(len(content))
				if i < 4 { // in the header, or in that of the first record
					at = rand.N(headerSize + recordHeaderSize)
				}
				content[at] ^= byte(1 + rand.N(255))
				flipped = append(flipped, at)
			}
			port, answers := freePort(t), filepath.Join(t.TempDir(), "answers")
			write(t, answers, string(content))
			server := serve(t, port, manyBlock(port, up.Addr, answers))
			missing, wrong := askGeneration(t, server, 1)
			warnings := server.logged(t, " records of "+answers+" were damaged") + server.logged(t, answers+" is set aside as ")
			t.Logf("Flipped %v: %d answers missing, %d warnings", flipped, missing, warnings)
			if wrong > 0 {
				t.Errorf("%d addresses are wrong", wrong)
			}
			if missing > 0 && warnings == 0 {
				t.Error("Answers are missing, and there is no warning in the log")
			}
			if server.logged(t, answers+" is set aside as ") > 0 {
				others, _ := filepath.Glob(answers + ".*")
				if len(others) != 1 {
					t.Fatalf("There are %d files beside it: %v", len(others), others)
				}
				checkContent(t, others[0], content)
			}
		})
	}
}

// The answers in the file survive a clock that is set while no server runs. With the clock set back, they seem to be from the
// future; with it set forward, they seem older than they are.
func TestClockSet(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosted(1))
	port := freePort(t)
	server := serve(t, port, block("example.org", port, hostedRecords+"persist answers\nupstream "+up.Addr, ""))
	awaitNumber(t, server, "long.example.org.", 1)
	server.stop(t)
	path := filepath.Join(server.Dir, "answers")
	good, err := os.ReadFile(path)
	check(t, err)
	up.Set(nil)
	for _, test := range []struct {
		name string
		set  time.Duration
		lost bool
	}{
		{"back by a minute", -time.Minute, false},
		{"back by years", -30 * 365 * 24 * time.Hour, false},
		{"forward by an hour", time.Hour, false},
		{"forward by almost stale", 71 * time.Hour, false},
		{"forward by more than stale", 73 * time.Hour, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			write(t, path, string(shifted(good, -test.set)))
			server := server.restart(t)
			defer server.stop(t)
			if test.lost {
				if m := query(t, server.addr, "udp", "long.example.org.", dns.TypeA); len(m.Answer) > 0 {
					t.Errorf("An answer that is too old:\n%v", m)
				}
				return
			}
			checkStale(t, server, "long.example.org.", 1)
			checkNoWarnings(t, server)
		})
	}
}

// mounted starts a server in dir, in a new mount namespace in which it runs command first.
func mounted(t *testing.T, port, dir, command string) *process {
	t.Helper()
	unshare := need(t, "unshare")
	if err := exec.Command(unshare, "-m", "true").Run(); err != nil {
		lack(t, "no mount namespaces: %v", err)
	}
	return launch(t, local(port), dir, nil, unshare, "-m", "sh", "-e", "-c", command+"\nexec \"$@\"", "sh", coredns, "-conf", "Corefile")
}

// With a file that cannot be written, the server serves, and its cache survives a reload.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, path string
		prepare    string // a command in the mount namespace of the server
		warning    string // a part of it
	}{
		{"a directory", ".", "", "something else"},
		{"no directory", "there/is/none/answers", "", "no such file or directory"},
		{"below a file", "zone/answers", "", "not a directory"},
		{"read-only directory", "ro/answers", "mkdir ro; mount -t tmpfs none ro; mount -o remount,ro ro", "read-only file system"},
		{"full disk", "full/answers", "mkdir full; mount -t tmpfs -o size=64k none full; head -c 60k /dev/zero >full/other", "no space left on device"},
		{"disk that becomes full", "full/answers", "mkdir full; mount -t tmpfs -o size=64k none full; head -c 52k /dev/zero >full/other", "no space left on device"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			up := upstream.New(t, manyHosted(1))
			port, dir := freePort(t), t.TempDir()
			write(t, filepath.Join(dir, "zone"), zoneFile)
			write(t, filepath.Join(dir, "Corefile"), manyBlock(port, up.Addr, filepath.Join(dir, test.path)))
			server := mounted(t, port, dir, test.prepare)
			eventually(t, 10*time.Second, "the log has "+test.warning, func() bool { return server.logged(t, test.warning) > 0 })
			awaitGeneration(t, server, 1)
			up.Set(nil)
			time.Sleep(1100 * time.Millisecond) // the TTL runs out
			server.configure(t, manyBlock(port, up.Addr, filepath.Join(dir, test.path))+"\n", syscall.SIGUSR1)
			eventually(t, 10*time.Second, "the reload is over", func() bool { return server.logged(t, "Reloading complete") > 0 })
			checkGeneration(t, server, 1)
			server.stop(t)
			if !server.ProcessState.Success() {
				t.Errorf("The server ended with %s", server.ProcessState)
			}
		})
	}
}

// A file that another process has open is used as soon as it can be.
func TestLockedFile(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosted(1))
	port, answers := freePort(t), filepath.Join(t.TempDir(), "answers")
	other, err := os.Create(answers)
	check(t, err)
	defer other.Close()
	check(t, syscall.Flock(int(other.Fd()), syscall.LOCK_EX))
	server := serve(t, port, block("example.org", port, hostedRecords+"persist "+answers+"\nupstream "+up.Addr, ""))
	awaitNumber(t, server, "short.example.org.", 1)
	checkWarning(t, server, answers, "another process")
	other.Close()
	eventually(t, 15*time.Second, "the file is in use", func() bool { return server.logged(t, "Answers are kept in "+answers+" again") > 0 })
	time.Sleep(writtenAfter + 2*hiccup)
	up.Set(nil)
	server.kill(t)
	server = server.restart(t)
	checkStale(t, server, "short.example.org.", 1)
	checkNoWarnings(t, server)
}

// When another program changes the file that the server has open, the server goes on, serves, and soon has a usable file again.
func TestFileTouched(t *testing.T) {
	t.Parallel()
	for name, touch := range map[string]func(t *testing.T, answers string){
		"deleted":   func(t *testing.T, answers string) { check(t, os.Remove(answers)) },
		"truncated": func(t *testing.T, answers string) { check(t, os.Truncate(answers, 0)) },
		"truncated to a page": func(t *testing.T, answers string) {
			check(t, os.Truncate(answers, 4096))
		},
		"overwritten with zeros": func(t *testing.T, answers string) {
			info, err := os.Stat(answers)
			check(t, err)
			write(t, answers, string(make([]byte, info.Size())))
		},
		"overwritten with garbage": func(t *testing.T, answers string) {
			info, err := os.Stat(answers)
			check(t, err)
			f, err := os.OpenFile(answers, os.O_WRONLY, 0)
			check(t, err)
			defer f.Close()
			_, err = f.Write(garbage(int(info.Size())))
			check(t, err)
		},
		"replaced": func(t *testing.T, answers string) {
			write(t, answers+"~", "This is no database.\n")
			check(t, os.Rename(answers+"~", answers))
		},
		"directory deleted": func(t *testing.T, answers string) { check(t, os.RemoveAll(filepath.Dir(answers))) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			up := upstream.New(t, manyHosted(1))
			port, answers := freePort(t), filepath.Join(t.TempDir(), "answers")
			server := serve(t, port, manyBlock(port, up.Addr, answers))
			awaitGeneration(t, server, 1)
			time.Sleep(writtenAfter + 2*hiccup)
			touch(t, answers)
			up.Set(manyHosted(2))
			awaitGeneration(t, server, 2)
			time.Sleep(writtenAfter + 2*hiccup)
			if server.ended() {
				t.Fatal("The server has ended")
			}
			up.Set(nil)
			server.stop(t)
			if !server.ProcessState.Success() {
				t.Fatalf("The server ended with %s", server.ProcessState)
			}
			if name == "replaced" || name == "directory deleted" {
				return
			}
			server = server.restart(t)
			checkGeneration(t, server, 2)
		})
	}
}
