package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// counting returns a handler that gives each answer an address of its own, with ascending numbers. It does not answer queries
// for which silent returns true.
func counting(silent func(name string) bool) upstream.Handler {
	var mu sync.Mutex
	n := 0
	return func(w dns.ResponseWriter, r *dns.Msg) {
		q := r.Question[0]
		if q.Qtype == dns.TypeNS { // a health check
			upstream.Rcode(dns.RcodeRefused)(w, r)
			return
		}
		if silent(q.Name) {
			return
		}
		mu.Lock()
		n++
		address := numbered(n, q.Qtype)
		mu.Unlock()
		upstream.Answer(fmt.Sprintf("%s 1 IN %s %s", q.Name, dns.TypeToString[q.Qtype], address))(w, r)
	}
}

// At whatever moment the server is killed, the next one has all cached answers but those of the last second. Its upstream does
// not answer.
func TestKills(t *testing.T) {
	t.Parallel()
	const kills, lanes = 100, 5
	for i := range lanes {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			l := newLane(t)
			for range kills / lanes {
				l.kill(t)
				l.check(t)
			}
			t.Logf("%d kills, and %d more while the server started; the oldest answer that was lost was %s old, %s were allowed; the slowest write of the disk took %s",
				kills/lanes, l.early, l.oldest.Round(time.Millisecond), l.allowed.Round(time.Millisecond), l.disk.longest(time.Time{}).Round(time.Millisecond))
		})
	}
}

// lane is a server that is killed again and again. It has two groups of names: the upstream answers for one, each time with
// another address, and not for the other. With each kill the groups change places.
type lane struct {
	server *process
	up     *upstream.Server
	disk   *disk
	live   string // the group that the upstream answers for

	mu   sync.Mutex
	seen map[question][]sighting // the answers that clients got for the live group since the server was started

	killed  time.Time
	early   int           // kills while the server started
	oldest  time.Duration // the age of the oldest answer that was lost
	allowed time.Duration // the highest age that was allowed
}

// sighting is an answer that a client got.
type sighting struct {
	number int
	at     time.Time
}

var groups = map[string][]question{
	"even": questions("even0.example.org.", "even1.example.org."),
	"odd":  questions("odd0.example.org.", "odd1.example.org."),
}

// newLane returns a lane whose server has answers for all names in its file.
func newLane(t *testing.T) *lane {
	t.Helper()
	l := &lane{up: upstream.New(t, nil), disk: newDisk(t)}
	answer := counting(func(name string) bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.live != "" && !strings.HasPrefix(name, l.live)
	})
	l.up.Set(answer)
	port := freePort(t)
	l.server = serve(t, port, block("example.org", port, `
		record even0 even0.hosting.example
		record even1 even1.hosting.example
		record odd0 odd0.hosting.example
		record odd1 odd1.hosting.example
		min_ttl 1s
		timeout 200ms
		persist `+filepath.Join(t.TempDir(), "answers")+`
		upstream `+l.up.Addr, ""))
	for _, q := range slices.Concat(groups["even"], groups["odd"]) {
		eventually(t, 15*time.Second, q.String()+" is known", func() bool {
			_, ok := number(query(t, l.server.addr, "udp", q.name, q.qtype))
			return ok
		})
	}
	l.server.stop(t)
	l.swap("even")
	l.server = l.server.restart(t)
	return l
}

// kill kills the server at a random moment while answers change. The groups change places, the next server is sometimes killed
// while it starts, and the one after it stays.
func (l *lane) kill(t *testing.T) {
	t.Helper()
	server, seen := l.server, make(map[question][]sighting)
	l.seen = seen
	stop := follow(server.addr, groups[l.live], func(q question, m *dns.Msg, err error) {
		at := time.Now()
		if err != nil {
			return // the server has been killed
		}
		n, ok := number(m)
		if !ok {
			t.Errorf("No address for %s:\n%v", q, m)
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		seen[q] = append(seen[q], sighting{n, at})
	})
	time.Sleep(rand.N(2200 * time.Millisecond))
	if server.ended() {
		t.Fatal("The server ended by itself")
	}
	l.killed = time.Now()
	server.kill(t)
	go stop() // waits until the query that was not answered has timed out

	l.swap(l.silent())
	if rand.N(4) == 0 {
		l.early++
		startAndKill(t, server.Dir)
	}
	l.server = server.restart(t)
}

// startAndKill starts a server in dir, and kills it at a random moment of its start.
func startAndKill(t *testing.T, dir string) {
	t.Helper()
	start := exec.Command(coredns, "-conf", "Corefile")
	start.Dir = dir
	check(t, start.Start())
	time.Sleep(rand.N(400 * time.Millisecond))
	start.Process.Kill()
	start.Wait()
}

// silent returns the group that the upstream does not answer for.
func (l *lane) silent() string { return map[string]string{"even": "odd", "odd": "even"}[l.live] }

// swap has the upstream answer for this group.
func (l *lane) swap(live string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = live
}

// check checks that the server has the answers of the killed one, but those of the last second.
func (l *lane) check(t *testing.T) {
	t.Helper()
	// The last write to the disk may still have been running when the next one was due.
	allowed := writtenAfter + hiccup + 2*l.disk.longest(l.killed.Add(-3*time.Second))
	l.allowed = max(l.allowed, allowed)
	for _, q := range groups[l.silent()] {
		m := query(t, l.server.addr, "udp", q.name, q.qtype)
		n, ok := number(m)
		if !ok {
			t.Errorf("No address for %s after a kill:\n%v", q, m)
			continue
		}
		l.mu.Lock()
		seen := l.seen[q]
		l.mu.Unlock()
		for _, s := range seen {
			if s.number > n {
				age := l.killed.Sub(s.at)
				l.oldest = max(l.oldest, age)
				if age > allowed {
					t.Errorf("%s was answered with %d, %s before the kill, and now with %d", q, s.number, age, n)
				}
				break
			}
		}
	}
	checkNoWarnings(t, l.server)
}

// hiccup is how long a busy machine and the race detector may delay a write.
const hiccup = 250 * time.Millisecond

// A server that is killed while it creates its file leaves none that the next one warns of.
func TestKilledAtFirst(t *testing.T) {
	t.Parallel()
	for i := range 4 {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			up := upstream.New(t, hosted(1))
			port := freePort(t)
			server := serve(t, port, block("example.org", port, hostedRecords+"persist answers\nupstream "+up.Addr, ""))
			for range 5 {
				server.stop(t)
				check(t, os.Remove(filepath.Join(server.Dir, "answers")))
				startAndKill(t, server.Dir)
				server = server.restart(t)
				awaitNumber(t, server, "long.example.org.", 1)
				checkNoWarnings(t, server)
			}
		})
	}
}

// disk measures how long the disk takes for the writes of a change of the file.
type disk struct {
	mu   sync.Mutex
	took []spell
}

type spell struct{ from, to time.Time }

// newDisk starts a measurement, which runs until the test ends.
func newDisk(t *testing.T) *disk {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "disk"))
	if err != nil {
		t.Fatal(err)
	}
	d := new(disk)
	measured := make(chan struct{})
	go func() {
		defer close(measured)
		defer f.Close()
		for t.Context().Err() == nil {
			s := spell{from: time.Now()}
			for range 2 { // a file that is compacted, and then what it lacks
				f.WriteAt(make([]byte, 16<<10), 0)
				f.Sync()
			}
			s.to = time.Now()
			d.mu.Lock()
			d.took = append(d.took, s)
			d.mu.Unlock()
			time.Sleep(200 * time.Millisecond)
		}
	}()
	t.Cleanup(func() { <-measured })
	return d
}

// longest returns the duration of the longest write that ended after since.
func (d *disk) longest(since time.Time) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	var longest time.Duration
	for _, s := range d.took {
		if s.to.After(since) {
			longest = max(longest, s.to.Sub(s.from))
		}
	}
	return longest
}
