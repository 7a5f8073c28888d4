package test

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// writtenAfter is how long an answer may be in memory alone.
const writtenAfter = time.Second

// stop ends p in an orderly way.
func (p *process) stop(t *testing.T) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	<-p.done
}

// question is a name and a type.
type question struct {
	name  string
	qtype uint16
}

func (q question) String() string { return q.name + " " + dns.TypeToString[q.qtype] }

// questions returns those for the addresses of names.
func questions(names ...string) []question {
	var qs []question
	for _, name := range names {
		for _, qtype := range families {
			qs = append(qs, question{name, qtype})
		}
	}
	return qs
}

// numbered returns the address that stands for a number.
func numbered(n int, qtype uint16) string {
	a, b, c := byte(n>>16), byte(n>>8), byte(n)
	if qtype == dns.TypeA {
		return netip.AddrFrom4([4]byte{10, a, b, c}).String()
	}
	return netip.AddrFrom16([16]byte{0: 0x20, 1: 0x01, 2: 0x0d, 3: 0xb8, 13: a, 14: b, 15: c}).String()
}

// number returns the number that the address in m stands for, if there is one address and nothing else.
func number(m *dns.Msg) (n int, ok bool) {
	if m.Rcode != dns.RcodeSuccess || len(m.Answer) != 1 {
		return 0, false
	}
	var ip []byte
	switch rr := m.Answer[0].(type) {
	case *dns.A:
		ip = rr.A.To4()
	case *dns.AAAA:
		ip = rr.AAAA
	default:
		return 0, false
	}
	last := ip[len(ip)-3:]
	return int(last[0])<<16 | int(last[1])<<8 | int(last[2]), true
}

// counting returns a handler that gives each answer an address of its own, which grows. It leaves the questions
// without answer that are silent.
func counting(silent func(name string) bool) upstream.Handler {
	var mu sync.Mutex
	n := 0
	return func(w dns.ResponseWriter, r *dns.Msg) {
		q := r.Question[0]
		if q.Qtype == dns.TypeNS { // is it alive?
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

// follow has a client ask one question after the other, again and again, until it is told to stop. see gets each
// response, or the error when there was none.
func follow(addr string, qs []question, see func(q question, m *dns.Msg, err error)) (stop func()) {
	end := make(chan struct{})
	var client sync.WaitGroup
	client.Go(func() {
		for i := 0; ; i++ {
			select {
			case <-end:
				return
			case <-time.After(5 * time.Millisecond):
			}
			q := qs[i%len(qs)]
			m, err := ask(addr, "udp", q.name, q.qtype)
			see(q, m, err)
		}
	})
	return func() {
		close(end)
		client.Wait()
	}
}

// Whenever the process is killed, the next one has all that was remembered, but for what came in the last second. Its
// resolver is dead.
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
			t.Logf("%d kills, %d of them while the server started; of the answers that clients had seen the oldest that was lost was %s old, %s were allowed; the slowest disk took %s",
				kills/lanes, l.early, l.oldest.Round(time.Millisecond), l.allowed.Round(time.Millisecond), l.disk.longest(time.Time{}).Round(time.Millisecond))
		})
	}
}

// lane is a server that is killed again and again. It has two groups of names: while the answers for one change, the
// resolver is silent about the other. With each kill they change places.
type lane struct {
	server *process
	up     *upstream.Server
	disk   *disk
	live   string // the group that the resolver answers for

	mu   sync.Mutex
	seen map[question][]sighting // what clients saw of the live group in this life of the server

	killed  time.Time
	early   int           // kills while the server started
	oldest  time.Duration // how old what was lost was
	allowed time.Duration // and how old it might have been, at most
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

// newLane returns a lane whose server has all names in its file.
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

// kill kills the server at a moment like any other while answers change, sometimes another time while it starts, and
// starts it when the groups have changed places.
func (l *lane) kill(t *testing.T) {
	t.Helper()
	server, seen := l.server, make(map[question][]sighting)
	l.seen = seen
	stop := follow(server.addr, groups[l.live], func(q question, m *dns.Msg, err error) {
		at := time.Now()
		if err != nil {
			return // it has been killed
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
	go stop() // a query that the server has taken with it has to time out

	l.swap(l.silent())
	if rand.N(4) == 0 {
		l.early++
		startAndKill(t, server.Dir)
	}
	l.server = server.restart(t)
}

// startAndKill starts a server in dir, and kills it at a moment of its start.
func startAndKill(t *testing.T, dir string) {
	t.Helper()
	start := exec.Command(coredns, "-conf", "Corefile")
	start.Dir = dir
	check(t, start.Start())
	time.Sleep(rand.N(400 * time.Millisecond))
	start.Process.Kill()
	start.Wait()
}

// silent returns the group that the resolver does not answer for.
func (l *lane) silent() string { return map[string]string{"even": "odd", "odd": "even"}[l.live] }

// swap has the resolver answer for this group.
func (l *lane) swap(live string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.live = live
}

// check checks that the server has what the killed one has had, with no more than a second missing.
func (l *lane) check(t *testing.T) {
	t.Helper()
	// The disk may have been busy with the last write when the next one was due.
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
	checkKept(t, l.server)
}

// hiccup is what a busy machine and the race detector take of a second.
const hiccup = 250 * time.Millisecond

// checkKept checks that the log has no complaint of the plugin but those about targets.
func checkKept(t *testing.T, server *process) {
	t.Helper()
	for line := range strings.Lines(server.log(t)) {
		complains := strings.Contains(line, "[WARNING]") || strings.Contains(line, "[ERROR]")
		if complains && !strings.Contains(line, "plugin/alias: Target ") && !strings.Contains(line, "more messages about targets were suppressed") {
			t.Errorf("The log has: %s", line)
		}
	}
}

// A server that is killed while it makes its file leaves nothing that the next one complains about.
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
				checkKept(t, server)
			}
		})
	}
}

// disk knows how long the disk takes for what a change of the file takes.
type disk struct {
	mu   sync.Mutex
	took []spell
}

type spell struct{ from, to time.Time }

// newDisk returns a disk that is measured until the test ends.
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
			for range 2 { // the data, and then the page that leads to them
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

// longest returns how long the disk took at most, as far as it was still at it at that time.
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

// hosted returns a handler for targets below hosting.example: long has a TTL that outlasts any test, short one that
// does not, gone does not exist.
func hosted(n int) upstream.Handler {
	return upstream.Zone(
		"hosting.example. 300 IN SOA ns1 hostmaster 1 7200 3600 1209600 300",
		"long.hosting.example. 600 IN A "+numbered(n, dns.TypeA),
		"long.hosting.example. 600 IN AAAA "+numbered(n, dns.TypeAAAA),
		"short.hosting.example. 1 IN A "+numbered(n, dns.TypeA),
		"short.hosting.example. 1 IN AAAA "+numbered(n, dns.TypeAAAA))
}

// hostedRecords are the records for these targets, and what makes them fail quickly.
const hostedRecords = `
	record long long.hosting.example
	record short short.hosting.example
	record gone gone.hosting.example
	min_ttl 1s
	timeout 1s
	retries 0
	`

// checkFresh checks that the answers for owner have this number and are not stale.
func checkFresh(t *testing.T, server *process, owner string, want int) {
	t.Helper()
	checkNumber(t, server, owner, want, -1)
}

// checkStale checks that the answers for owner have this number and are marked as stale.
func checkStale(t *testing.T, server *process, owner string, want int) {
	t.Helper()
	checkNumber(t, server, owner, want, int(dns.ExtendedErrorCodeStaleAnswer))
}

func checkNumber(t *testing.T, server *process, owner string, want, code int) {
	t.Helper()
	for _, q := range questions(owner) {
		m := query(t, server.addr, "udp", q.name, q.qtype)
		n, ok := number(m)
		if !ok || n != want || extendedError(m) != code || (m.Answer[0].Header().Ttl == 30) != (code != -1) {
			t.Errorf("%s: want the number %d and the extended error %d, got\n%v", q, want, code, m)
		}
	}
}

// awaitNumber waits until owner is answered with this number.
func awaitNumber(t *testing.T, server *process, owner string, want int) {
	t.Helper()
	for _, q := range questions(owner) {
		eventually(t, 15*time.Second, fmt.Sprintf("%s has the number %d", q, want), func() bool {
			n, ok := number(query(t, server.addr, "udp", q.name, q.qtype))
			return ok && n == want
		})
	}
}

// checkUnasked checks that the resolver is not asked for target while f runs.
func checkUnasked(t *testing.T, up *upstream.Server, target string, f func()) {
	t.Helper()
	asked := func() int { return up.Asked(target, dns.TypeA) + up.Asked(target, dns.TypeAAAA) }
	before := asked()
	f()
	if n := asked() - before; n > 0 {
		t.Errorf("The resolver was asked %d times for %s", n, target)
	}
}

// A server that is told to end takes the last answers with it to the next one, with what is left of their TTLs.
func TestRestart(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosted(1))
	port := freePort(t)
	server := serve(t, port, block("example.org", port, hostedRecords+"persist answers\nupstream "+up.Addr, ""))
	awaitNumber(t, server, "long.example.org.", 1)
	awaitNumber(t, server, "short.example.org.", 1)
	query(t, server.addr, "udp", "gone.example.org.", dns.TypeA)
	query(t, server.addr, "udp", "gone.example.org.", dns.TypeAAAA)
	time.Sleep(1100 * time.Millisecond) // the short TTL runs out
	up.Set(hosted(2))
	awaitNumber(t, server, "short.example.org.", 2)
	server.stop(t)
	up.Set(nil)
	ended := time.Now()

	server = server.restart(t)
	checkUnasked(t, up, "long.hosting.example.", func() {
		checkFresh(t, server, "long.example.org.", 1)
		if ttl := query(t, server.addr, "udp", "long.example.org.", dns.TypeA).Answer[0].Header().Ttl; ttl >= 600 || ttl < 580 {
			t.Errorf("The TTL is %d after the restart", ttl)
		}
	})
	checkUnasked(t, up, "gone.hosting.example.", func() {
		if m := query(t, server.addr, "udp", "gone.example.org.", dns.TypeA); extendedError(m) != -1 || len(m.Ns) != 1 {
			t.Errorf("What is known not to exist:\n%v", m)
		}
	})
	time.Sleep(time.Until(ended.Add(1100 * time.Millisecond)))
	checkStale(t, server, "short.example.org.", 2)
	checkKept(t, server)

	up.Set(hosted(3))
	awaitNumber(t, server, "short.example.org.", 3)
	checkFresh(t, server, "long.example.org.", 1)
}

// Server blocks that share a file share what is in it if they have the same upstreams; otherwise they have nothing to
// do with each other, though they look the same names up.
func TestSharedFile(t *testing.T) {
	t.Parallel()
	one, two := upstream.New(t, hosted(1)), upstream.New(t, hosted(2))
	silent := upstream.New(t, nil)
	port := freePort(t)
	properties := func(addr string) string { return hostedRecords + "persist answers\nupstream " + addr }
	server := serve(t, port,
		block("example.org", port, properties(one.Addr), ""),
		block("example.net", port, "record other short.hosting.example\nmin_ttl 1s\npersist ./answers\nupstream "+one.Addr, ""),
		block("example.com", port, properties(two.Addr), ""),
		block("example.edu", port, properties(silent.Addr), ""))
	check := func(want func(t *testing.T, server *process, owner string, want int)) {
		t.Helper()
		want(t, server, "short.example.org.", 1)
		want(t, server, "other.example.net.", 1)
		want(t, server, "short.example.com.", 2)
		for _, q := range questions("short.example.edu.", "long.example.edu.") {
			if m := query(t, server.addr, "udp", q.name, q.qtype); len(m.Answer) > 0 {
				t.Errorf("A block whose resolver has never answered has an address:\n%v", m)
			}
		}
	}
	check(awaitNumber)
	awaitNumber(t, server, "long.example.org.", 1)
	awaitNumber(t, server, "long.example.com.", 2)
	one.Set(nil)
	two.Set(nil)
	for _, end := range []func(*process, *testing.T){(*process).stop, (*process).kill} {
		time.Sleep(writtenAfter + 2*hiccup)
		end(server, t)
		server = server.restart(t)
		check(checkStale)
		checkFresh(t, server, "long.example.org.", 1)
		checkFresh(t, server, "long.example.com.", 2)
		checkKept(t, server)
	}
}

// A server that finds all its records in the file is ready, whatever the resolver does.
func TestReadyAfterRestart(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosted(1))
	port, page := freePort(t), local(freePort(t))
	server := serve(t, port, block("example.org", port, "record short short.hosting.example\nmin_ttl 1s\ntimeout 5s\npersist answers\nupstream "+up.Addr,
		"ready "+page))
	awaitNumber(t, server, "short.example.org.", 1)
	server.stop(t)
	up.Set(nil)
	time.Sleep(1100 * time.Millisecond) // the TTL runs out

	server.restart(t)
	eventually(t, 3*time.Second, "the server is ready, which a lookup would take longer for", func() bool {
		code, _ := get(t, "http://"+page+"/ready")
		return code == http.StatusOK
	})
}
