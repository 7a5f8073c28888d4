//go:build linux

package test

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

var update = flag.Bool("update", false, "write the figures of the drills, and of the scrape, into their pages")

const (
	outage = 12 * time.Second // how long it is wrong: two lookups fail, and the third, 15 s after the first, is to find all well

	// growth is by how much p99 may grow, beside what makes queries slow that need no resolver. On two cores with
	// a load of 10 it was 31 ms. Who waits for a lookup waits for 100 ms.
	growth = 40 * time.Millisecond

	// waited is less than a lookup that fails takes, which is the 500 ms of timeout.
	waited = 420 * time.Millisecond

	// patience bounds each single query: one attempt, and what a busy machine adds.
	patience = time.Second
)

// calm is how long clients ask before something goes wrong. The figures in README.md are to be of as many queries before as in
// an outage.
func calm() time.Duration {
	if *update {
		return outage
	}
	return outage / 3
}

// outlook is what the second half of an outage is like, when the TTLs of all answers from before it have run out.
type outlook int

const (
	dark   outlook = iota // no lookup succeeds: all answers are stale
	dim                   // some do: there are fresh answers
	either                // that is up to chance
	denied                // the target exists no more: no addresses
)

// drill is something that goes wrong while clients ask for the addresses of example.org.
type drill struct {
	name    string
	outlook outlook
	stage   func(t *testing.T) *stage
}

// stage is what a drill takes place on, and what happens there.
type stage struct {
	server *process

	begin  func() // begins the outage
	midway func() // after a third of it, while the clients ask; may be nil, and must not wait
	end    func() // ends it
	after  func() // when the answers are fresh again; may be nil
}

var drills = []drill{
	{"Resolver stopped (Unbound, SIGSTOP)", dark, stopped},
	{"Resolver killed (Unbound, SIGKILL)", dark, killed},
	{"Resolver slow: 400 ms, `timeout` is 500 ms", dim, faulty(upstream.Late(400*time.Millisecond, healthy))},
	{"Resolver slow: 600 ms, `timeout` is 500 ms", dark, faulty(upstream.Late(600*time.Millisecond, healthy))},
	{"Resolver loses 30 % of the packets each way", either, faulty(upstream.Lossy(0.3, 1, healthy))},
	{"Resolver answers SERVFAIL", dark, faulty(upstream.Rcode(dns.RcodeServerFailure))},
	{"Resolver answers REFUSED", dark, faulty(upstream.Rcode(dns.RcodeRefused))},
	{"Resolver answers garbage", dark, faulty(upstream.Garbage())},
	{"Resolver silent, wrong addresses from another port", dark, spoofed},
	{"One of two resolvers silent", dim, halved},
	{"No route to the resolver (network namespace)", dark, cutOff},
	{"Server killed and started again, resolver silent, `persist`", dark, restarted},
	{"Server reloaded, resolver silent", dark, reloaded},
	{"Disk full at `persist`, resolver silent", dark, diskFull},
	{"Clock a day forth, then two days back, resolver silent", dark, clockMoved},
	{"Server killed and started again with the clock a day ahead, resolver silent, `persist`", dark, clockWrong(day)},
	{"Server killed and started again with the clock a day behind, resolver silent, `persist`", dark, clockWrong(-day)},
	{"Target NXDOMAIN for 12 s and back, TTL 2 s, of NXDOMAIN 5 s", denied, faulty(upstream.Zone(soa))},
}

const (
	soa      = "hosting.example. 5 IN SOA ns1 hostmaster 1 7200 3600 1209600 5"
	addrA    = "example.org. IN A 203.0.113.80"
	addrAAAA = "example.org. IN AAAA 2001:db8:80::80"
)

var (
	records = []string{soa, "app.hosting.example. 2 IN A 203.0.113.80", "app.hosting.example. 2 IN AAAA 2001:db8:80::80"}
	healthy = upstream.Zone(records...)
)

// Whatever goes wrong, clients get the addresses, and get them as quickly as before.
func TestDrills(t *testing.T) {
	if !*update {
		checkTable(t)
	}
	clockBuild = buildWithClock(t)
	results := make([]result, len(drills))
	t.Cleanup(func() { // when all have ended
		if *update && !t.Failed() {
			writeTable(t, results)
		}
	})
	for i, d := range drills {
		t.Run(d.name, func(t *testing.T) {
			t.Parallel()
			results[i] = d.run(t)
			t.Log(results[i])
		})
	}
}

// result is what became of the queries of a drill.
type result struct {
	asked, answered, stale, empty, lost int
	slowest                             time.Duration
	before, during, control             time.Duration // p99, also of the other queries
	fresh                               time.Duration // from the end of the outage to the first fresh answer of the slower family
}

func (d drill) run(t *testing.T) result {
	s := d.stage(t)
	eventually(t, 5*time.Second, "the target is known", func() bool { return len(bothFresh(t, s.server)) == 2 })
	before, _ := s.ask(t, calm(), nil)
	checkAll(t, "before", before, func(s shot) bool { return s.answered() && !s.old() })

	s.begin()
	during, control := s.ask(t, outage, s.midway)
	d.check(t, during)
	s.end()

	r := count(during)
	others := notFirst(during)
	r.before, r.during, r.control = p99(before), p99(others), p99(control)
	if limit := max(r.before, r.control)*6/5 + growth; r.during > limit {
		t.Errorf("p99 is %s, after %s before. The slowest took %s, and of the other queries %s",
			r.during, r.before, slowest(others, 12), slowest(control, 12))
	}
	stall := slowest(control, 1)[0] // of the machine
	if worst := slowest(others, 1)[0]; worst > waited+stall {
		t.Errorf("Somebody waited %s for a lookup", worst)
	}
	if r.slowest > patience+stall {
		t.Errorf("A query took %s", r.slowest)
	}
	r.fresh = d.recover(t, s.server)
	if s.after != nil {
		s.after()
	}
	return r
}

// ask has clients ask for A and AAAA, 50 times a second. In between there are queries that have nothing to do with
// resolvers: they show what the machine makes queries wait for.
func (s *stage) ask(t *testing.T, d time.Duration, midway func()) (addresses, control []shot) {
	t.Helper()
	for _, s := range volley(t, s.server.addr, "example.org.", []uint16{dns.TypeA, dns.TypeMX, dns.TypeAAAA, dns.TypeMX}, d, midway) {
		if s.qtype == dns.TypeMX {
			control = append(control, s)
		} else {
			addresses = append(addresses, s)
		}
	}
	return addresses, control
}

// bothFresh returns the families that are answered, and not from the past.
func bothFresh(t *testing.T, server *process) map[uint16]bool {
	t.Helper()
	fresh := make(map[uint16]bool)
	for _, s := range volley(t, server.addr, "example.org.", families, 100*time.Millisecond, nil) {
		if s.answered() && !s.old() {
			fresh[s.qtype] = true
		}
	}
	return fresh
}

// check checks what clients got in an outage.
func (d drill) check(t *testing.T, shots []shot) {
	t.Helper()
	half := shots[len(shots)/2:]
	switch d.outlook {
	case denied:
		checkAll(t, "during", shots, func(s shot) bool { return s.answered() || s.denied() })
		checkAll(t, "in the second half", half, shot.denied)
		return
	case dark:
		checkAll(t, "in the second half", half, func(s shot) bool { return s.answered() && s.old() })
	case dim:
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			if !slices.ContainsFunc(half, func(s shot) bool { return s.qtype == qtype && s.answered() && !s.old() }) {
				t.Errorf("No fresh answer for %s in the second half", dns.TypeToString[qtype])
			}
		}
	}
	checkAll(t, "during", shots, shot.answered)
}

// checkAll checks that right holds for all shots.
func checkAll(t *testing.T, when string, shots []shot, right func(shot) bool) {
	t.Helper()
	wrong := 0
	for _, s := range shots {
		if right(s) {
			continue
		}
		if wrong++; wrong <= 3 {
			t.Errorf("%s, %s after the first query, %s after %s: %v\n%v", when, s.asked.Sub(shots[0].asked),
				dns.TypeToString[s.qtype], s.took, s.err, s.m)
		}
	}
	if wrong > 0 {
		t.Errorf("%s, %d of %d are wrong", when, wrong, len(shots))
	}
}

// recover waits until both families are fresh, and returns how long that took since the end of the outage.
func (d drill) recover(t *testing.T, server *process) time.Duration {
	t.Helper()
	over := time.Now()
	var took time.Duration
	for back := make(map[uint16]bool); len(back) < 2; {
		if time.Since(over) > 30*time.Second {
			t.Fatalf("No fresh answers %s after the end of the outage", time.Since(over))
		}
		shots := volley(t, server.addr, "example.org.", families, time.Second, nil)
		checkAll(t, "after", shots, func(s shot) bool { return s.answered() || d.outlook == denied && s.denied() })
		for _, s := range shots {
			if s.answered() && !s.old() && !back[s.qtype] {
				back[s.qtype] = true
				took = max(took, s.asked.Sub(over))
			}
		}
	}
	return took
}

// answered reports whether s got the one address that there is, be it stale or fresh, with a TTL that goes with that.
func (s shot) answered() bool {
	if s.err != nil || s.m.Rcode != dns.RcodeSuccess || len(s.m.Answer) != 1 {
		return false
	}
	want := upstream.RRs(map[uint16]string{dns.TypeA: addrA, dns.TypeAAAA: addrAAAA}[s.qtype])[0]
	return dns.IsDuplicate(s.m.Answer[0], want) && (s.stale() || extendedError(s.m) == -1 && s.m.Answer[0].Header().Ttl <= 2)
}

// old reports whether s got an answer that is marked as stale.
func (s shot) old() bool {
	return s.err == nil && extendedError(s.m) == int(dns.ExtendedErrorCodeStaleAnswer)
}

// denied reports whether s got an answer that says that there are no addresses.
func (s shot) denied() bool {
	return s.err == nil && s.m.Rcode == dns.RcodeSuccess && len(s.m.Answer) == 0 && extendedError(s.m) == -1 &&
		len(s.m.Ns) == 1 && s.m.Ns[0].Header().Rrtype == dns.TypeSOA
}

func count(shots []shot) result {
	r := result{asked: len(shots), slowest: slowest(shots, 1)[0]}
	for _, s := range shots {
		switch {
		case s.answered():
			r.answered++
		case s.err == nil && s.m.Rcode == dns.RcodeSuccess && len(s.m.Answer) == 0:
			r.empty++
		default:
			r.lost++
		}
		if s.old() {
			r.stale++
		}
	}
	return r
}

// notFirst returns shots without those queries that find an outage out: for each family the first one that gets a stale
// answer after a fresh one. It is the one that asked first when the TTL had run out, and may have had to wait for the
// lookup that failed. Later lookups, after 5 s, 10 s and so on, are made in the background: nobody may wait for them, and
// nobody is left out.
func notFirst(shots []shot) []shot {
	var others []shot
	stale := make(map[uint16]bool)
	for _, s := range shots {
		first := s.old() && !stale[s.qtype]
		stale[s.qtype] = s.old()
		if !first {
			others = append(others, s)
		}
	}
	return others
}

// p99 returns what 99 of 100 queries do not exceed.
func p99(shots []shot) time.Duration {
	n := len(shots) / 100
	return slowest(shots, n+1)[n]
}

// startAlias starts a server with an alias, with these further properties.
func startAlias(t *testing.T, properties ...string) *process {
	t.Helper()
	port, dir := configured(t, zoneFile, "", properties...)
	return startServer(t, port, dir, "Corefile")
}

// configured returns a directory with the files of a server with an alias, and the port it is to serve at.
func configured(t *testing.T, zone, plugins string, properties ...string) (port, dir string) {
	t.Helper()
	port, dir = freePort(t), t.TempDir()
	properties = append([]string{"record @ app.hosting.example", "min_ttl 1s"}, properties...)
	write(t, filepath.Join(dir, "zone"), zone)
	write(t, filepath.Join(dir, "Corefile"), block("example.org", port, strings.Join(properties, "\n"), plugins))
	return port, dir
}

// faulty sets a stage with a resolver that does what fault says.
func faulty(fault upstream.Handler) func(t *testing.T) *stage {
	return func(t *testing.T) *stage {
		up := upstream.New(t, healthy)
		return &stage{
			server: startAlias(t, "upstream "+up.Addr),
			begin:  func() { up.Set(fault) },
			end:    func() { up.Set(healthy) },
		}
	}
}

func stopped(t *testing.T) *stage {
	unbound := startUnbound(t, upstream.New(t, authority(records...)).Addr)
	t.Cleanup(func() { unbound.Process.Signal(syscall.SIGCONT) })
	return &stage{
		server: startAlias(t, "upstream "+unbound.addr),
		begin:  func() { unbound.signal(t, syscall.SIGSTOP) },
		end:    func() { unbound.signal(t, syscall.SIGCONT) },
	}
}

func killed(t *testing.T) *stage {
	unbound := startUnbound(t, upstream.New(t, authority(records...)).Addr)
	return &stage{
		server: startAlias(t, "upstream "+unbound.addr),
		begin:  func() { unbound.kill(t) },
		end:    func() { launch(t, unbound.addr, unbound.Dir, nil, unbound.Path, unbound.Args[1:]...) },
	}
}

func spoofed(t *testing.T) *stage {
	return faulty(upstream.Elsewhere(t, upstream.Zone(
		"app.hosting.example. 300 IN A 198.51.100.66", "app.hosting.example. 300 IN AAAA 2001:db8:66::66")))(t)
}

func halved(t *testing.T) *stage {
	up, other := upstream.New(t, healthy), upstream.New(t, healthy)
	return &stage{
		server: startAlias(t, "upstream "+up.Addr+" "+other.Addr),
		begin:  func() { up.Set(nil) },
		end:    func() { up.Set(healthy) },
	}
}

// cutOff sets a stage in a network of its own, where the resolver has an address that is not loopback's.
func cutOff(t *testing.T) *stage {
	program := need(t, "ip")
	alone(t, syscall.CLONE_NEWNET)
	ip := func(args string) {
		if out, err := exec.Command(program, strings.Fields(args)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v\n%s", args, err, out)
		}
	}
	ip("address add 192.0.2.1/32 dev lo")
	up := upstream.NewAt(t, "192.0.2.1", healthy)
	return &stage{
		server: startAlias(t, "upstream "+up.Addr),
		begin:  func() { ip("route delete local 192.0.2.1 table local") },
		end:    func() { ip("route add local 192.0.2.1 dev lo table local") },
	}
}

// alone puts the calling goroutine into namespaces of its own, with all sockets and processes that it makes from now
// on; a network has loopback. The thread stays locked to it, and thus ends with it.
func alone(t *testing.T, namespaces int) {
	t.Helper()
	runtime.LockOSThread()
	if err := syscall.Unshare(namespaces); err != nil {
		lack(t, "no namespaces: %v", err)
	}
	if namespaces&syscall.CLONE_NEWNET == 0 {
		return
	}
	// In a container root may make a network, but not set it up.
	if out, err := exec.Command(need(t, "ip"), "link", "set", "lo", "up").CombinedOutput(); err != nil {
		lack(t, "no network: %v: %s", err, out)
	}
}

// sysctl sets one of the network of the calling goroutine. In a container they may be read-only.
func sysctl(t *testing.T, name, value string) {
	t.Helper()
	err := os.WriteFile("/proc/sys/"+strings.ReplaceAll(name, ".", "/"), []byte(value), 0o644)
	switch {
	case errors.Is(err, syscall.EROFS):
		lack(t, "%v", err)
	case err != nil:
		t.Fatal(err)
	}
}

func restarted(t *testing.T) *stage {
	up := upstream.New(t, healthy)
	s := &stage{
		server: startAlias(t, "upstream "+up.Addr, "persist answers"),
		end:    func() { up.Set(healthy) },
	}
	s.begin = func() {
		up.Set(nil)
		s.server.kill(t)
		s.server = s.server.restart(t)
	}
	return s
}

func reloaded(t *testing.T) *stage {
	up := upstream.New(t, healthy)
	server := startAlias(t, "upstream "+up.Addr)
	const heard, done = "[INFO] SIGUSR1: ", "Reloading complete"
	return &stage{
		server: server,
		begin:  func() { up.Set(nil) },
		midway: func() { server.Process.Signal(syscall.SIGUSR1) },
		end: func() {
			up.Set(healthy)
			if server.logged(t, heard) == 0 || server.logged(t, done) == 0 {
				t.Error("There was no reload")
			}
		},
	}
}

// diskFull sets a stage with a small disk, which only this drill sees. When it has become full there is a lot to write:
// the server is asked for many names that it has not been asked for before. They are in the file in the end.
func diskFull(t *testing.T) *stage {
	disk := smallDisk(t)
	zone := zoneFile
	const others = 500
	for i := range others {
		zone += fmt.Sprintf("other%d IN ALIAS other%d.hosting.example.\n", i, i)
	}
	up, filler := upstream.New(t, healthy), filepath.Join(disk, "filler")
	port, dir := configured(t, zone, "", "upstream "+up.Addr, "persist "+filepath.Join(disk, "answers"))
	s := &stage{server: startServer(t, port, dir, "Corefile")}
	askOthers := func() {
		for i := range others {
			m := query(t, s.server.addr, "udp", fmt.Sprintf("other%d.example.org.", i), dns.TypeA)
			if len(m.Answer) != 1 {
				t.Fatalf("No address:\n%v", m)
			}
		}
	}
	s.begin = func() {
		if err := os.WriteFile(filler, make([]byte, 256<<10), 0o600); !errors.Is(err, syscall.ENOSPC) {
			t.Fatalf("The disk is not full: %v", err)
		}
		up.Set(onlyOthers)
		askOthers()
		up.Set(nil)
	}
	s.end = func() {
		if s.server.logged(t, "no space left on device") == 0 {
			t.Error("Nothing was to be written while the disk was full")
		}
		up.Set(healthy)
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
	s.after = func() {
		eventually(t, 15*time.Second, "the file is written again", func() bool {
			return s.server.logged(t, "Answers are kept in "+disk) > 0
		})
		up.Set(nil)
		s.server.kill(t)
		s.server = s.server.restart(t)
		askOthers()
	}
	return s
}

// onlyOthers is silent about the target of example.org.
func onlyOthers(w dns.ResponseWriter, r *dns.Msg) {
	if name := r.Question[0].Name; strings.HasPrefix(name, "other") {
		upstream.Answer(name+" 300 IN A 203.0.113.90")(w, r)
	}
}

// smallDisk returns a directory on a disk of 256 KiB.
func smallDisk(t *testing.T) string {
	t.Helper()
	alone(t, syscall.CLONE_NEWNS)
	disk := t.TempDir()
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", disk, "tmpfs", 0, "size=256k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	return disk
}

const day = 24 * time.Hour

// clockBuild is the path of a server whose wall clock can be set.
var clockBuild string

// buildWithClock builds the server with another package time: its wall clock is wrong by as many seconds as the file
// says that DRILL_CLOCK names.
func buildWithClock(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		t.Fatal(err)
	}
	original := filepath.Join(strings.TrimSpace(string(out)), "src", "time", "time.go")
	text, err := os.ReadFile(original)
	if err != nil {
		t.Fatal(err)
	}
	source := string(text)
	for old, wrong := range map[string]string{
		"import (\n": "import (\n\t\"sync/atomic\"\n",
		"func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n": "var Ahead atomic.Int64\n\n" +
			"func Now() Time {\n\tsec, nsec, mono := runtimeNow()\n\tsec += Ahead.Load()\n",
	} {
		if strings.Count(source, old) != 1 {
			t.Fatalf("This is not the package time that the drill knows: %s does not have once\n%s", original, old)
		}
		source = strings.Replace(source, old, wrong, 1)
	}

	dir := t.TempDir()
	write(t, filepath.Join(dir, "time.go"), source)
	command, clock := absolute(t, "../cmd/coredns/clock.go"), absolute(t, "testdata/clock.go")
	overlay, err := json.Marshal(map[string]any{"Replace": map[string]string{
		original: filepath.Join(dir, "time.go"),
		command:  clock,
	}})
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, "overlay"), string(overlay))
	program := filepath.Join(dir, "coredns")
	build := exec.Command("go", "build", "-overlay", filepath.Join(dir, "overlay"), "-o", program, "../cmd/coredns")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", build, err, out)
	}
	return program
}

func absolute(t *testing.T, path string) string {
	t.Helper()
	path, err := filepath.Abs(path)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// wrongClock is a server whose wall clock is wrong, and a resolver.
type wrongClock struct {
	up     *upstream.Server
	server *process
	file   string
	page   string // with a date in its header
}

func newWrongClock(t *testing.T) *wrongClock {
	t.Helper()
	c := &wrongClock{up: upstream.New(t, healthy), file: filepath.Join(t.TempDir(), "clock"), page: local(freePort(t))}
	c.set(t, 0)
	port, dir := configured(t, zoneFile, "health "+c.page, "upstream "+c.up.Addr, "persist answers")
	c.server = startBuild(t, clockBuild, port, dir, "Corefile", "DRILL_CLOCK="+c.file)
	return c
}

func (c *wrongClock) set(t *testing.T, ahead time.Duration) {
	t.Helper()
	write(t, c.file, fmt.Sprint(int(ahead.Seconds())))
}

// check waits until the server believes that it is ahead by so much.
func (c *wrongClock) check(t *testing.T, ahead time.Duration) {
	t.Helper()
	eventually(t, 5*time.Second, fmt.Sprintf("the clock is ahead by %s", ahead), func() bool {
		resp, err := http.Get("http://" + c.page + "/health")
		if err != nil {
			return false
		}
		defer resp.Body.Close()
		date, err := http.ParseTime(resp.Header.Get("Date"))
		return err == nil && (time.Until(date)-ahead).Abs() < time.Minute
	})
}

func clockMoved(t *testing.T) *stage {
	c := newWrongClock(t)
	return &stage{
		server: c.server,
		begin: func() {
			c.up.Set(nil)
			c.set(t, day)
			c.check(t, day)
		},
		midway: func() { c.set(t, -day) },
		end: func() {
			c.check(t, -day)
			c.up.Set(healthy)
		},
	}
}

func clockWrong(ahead time.Duration) func(t *testing.T) *stage {
	return func(t *testing.T) *stage {
		c := newWrongClock(t)
		s := &stage{server: c.server, end: func() { c.up.Set(healthy) }}
		s.begin = func() {
			c.up.Set(nil)
			c.set(t, ahead)
			s.server.kill(t)
			s.server = s.server.restart(t)
			c.check(t, ahead)
		}
		return s
	}
}

const tableHead = `| Drill | Asked | Answered | of these stale | Empty | Lost | Slowest | p99 before | p99 during | p99 of MX | Fresh again after |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
`

// checkTable checks that the table in README.md has the drills that there are.
func checkTable(t *testing.T) {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(readme), tableHead)
	if !found {
		t.Fatal("README.md has no table of drills")
	}
	var rows, names []string
	for line := range strings.Lines(table) {
		rows = append(rows, strings.TrimSpace(strings.Split(line+"|", "|")[1]))
	}
	for _, d := range drills {
		names = append(names, d.name)
	}
	if !slices.Equal(rows, names) {
		t.Errorf("The table in README.md is not up to date, run with -update. It has\n\t%s\nwant\n\t%s",
			strings.Join(rows, "\n\t"), strings.Join(names, "\n\t"))
	}
}

// writeTable writes the table, with which README.md ends.
func writeTable(t *testing.T, results []result) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	text, _, found := strings.Cut(string(readme), tableHead)
	if !found {
		t.Fatal("README.md has no table of drills")
	}
	text += tableHead
	for i, r := range results {
		if r.asked == 0 {
			t.Errorf("%s: it did not run, so README.md is left as it is", drills[i].name)
			return
		}
		text += fmt.Sprintf("| %s %s\n", drills[i].name, r)
	}
	if err := os.WriteFile("README.md", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// String returns the columns of the table that have figures.
func (r result) String() string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
	return fmt.Sprintf("| %d | %d | %d | %d | %d | %s | %s | %s | %s | %.1f s |", r.asked, r.answered, r.stale, r.empty, r.lost,
		ms(r.slowest), ms(r.before), ms(r.during), ms(r.control), r.fresh.Seconds())
}
