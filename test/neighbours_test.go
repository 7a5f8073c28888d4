package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// neighbours are the zone healthy.test, whose targets are all well, and the zone dead.test, whose targets the upstream
// never answers for, in one server block.
type neighbours struct {
	*process
	up      *upstream.Server
	page    string       // with the metrics
	notify  atomic.Int32 // messages for healthy.test
	changed atomic.Bool  // the target h1 has another address
	fails   atomic.Bool  // the target h2 fails
	dead    atomic.Bool  // the targets of dead.test are dead
}

const healthyAliases = 20

// startNeighbours starts a server with that many aliases in dead.test.
func startNeighbours(t *testing.T, aliases int, dead bool, properties string, prepare func(*neighbours)) *neighbours {
	t.Helper()
	n := &neighbours{page: local(freePort(t))}
	n.dead.Store(dead)
	if prepare != nil {
		prepare(n)
	}
	n.up = upstream.New(t, n.answer)
	secondary := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Opcode == dns.OpcodeNotify && r.Question[0].Name == "healthy.test." {
			n.notify.Add(1)
		}
		w.WriteMsg(new(dns.Msg).SetReply(r))
	})
	port, dir := freePort(t), t.TempDir()
	write(t, filepath.Join(dir, "dead"), zoneFile+aliasLines("d", "dead.example.", aliases))
	write(t, filepath.Join(dir, "healthy"), zoneFile+aliasLines("h", "healthy.example.", healthyAliases))
	write(t, filepath.Join(dir, "Corefile"), fmt.Sprintf(`
		dead.test:%s healthy.test:%[1]s {
			bind 127.0.0.1
			alias {
				%s
				upstream %s
			}
			file dead dead.test
			file healthy healthy.test
			transfer {
				to * %s
			}
			prometheus %s
			errors
		}`, port, properties, n.up.Addr, secondary.Addr, n.page))
	n.process = startServer(t, port, dir, "Corefile")
	return n
}

// answer answers the queries for the targets of both zones.
func (n *neighbours) answer(w dns.ResponseWriter, r *dns.Msg) {
	q := r.Question[0]
	m := new(dns.Msg).SetReply(r)
	switch {
	case strings.HasSuffix(q.Name, ".dead.example."):
		if n.dead.Load() {
			return
		}
		m.Answer = addressesOf(q, 1, 1)
	case q.Name == "h1.healthy.example." && n.changed.Load():
		m.Answer = addressesOf(q, 2, 2)[1:]
	case q.Name == "h2.healthy.example." && n.fails.Load():
		m.Rcode = dns.RcodeServerFailure
	default:
		m.Answer = addressesOf(q, 1, 2)
	}
	w.WriteMsg(m)
}

// transferred transfers a zone, and returns its records and how long that took.
func (n *neighbours) transferred(t *testing.T, zone string, patience time.Duration) ([]dns.RR, time.Duration, error) {
	t.Helper()
	began := time.Now()
	tr := &dns.Transfer{ReadTimeout: patience}
	envelopes, err := tr.In(new(dns.Msg).SetAxfr(zone), n.addr)
	var rrs []dns.RR
	if err == nil {
		for e := range envelopes {
			rrs = append(rrs, e.RR...)
			if e.Error != nil {
				err = e.Error
			}
		}
	}
	return rrs, time.Since(began), err
}

// checkQuick checks that the transfer of a zone has this many addresses, and waits for no lookup that fails. In all, these
// would take 36 s.
func (n *neighbours) checkQuick(t *testing.T, zone string, addresses int) {
	t.Helper()
	rrs, took, err := n.transferred(t, zone, 15*time.Second)
	if err != nil || took > 3*time.Second || len(rrs) != addresses+zoneFileRecords {
		t.Errorf("The transfer of %s took %s and has %d records, want %d; %v", zone, took, len(rrs), addresses+zoneFileRecords, err)
	}
	t.Logf("The transfer of %s took %s", zone, took)
}

// zoneFileRecords is the number of records in a transfer of zoneFile, with the SOA record twice.
const zoneFileRecords = 6

// deadAliases is the number of aliases in dead.test. Lookups of both families take 36 s with the defaults: 250 at a time, 1.5 s
// each.
const deadAliases = 3000

// Whatever the targets of another zone do, a zone is transferred at once, what changes in it is noticed as soon as without
// the others, and its prefetches find room.
func TestNeighbours(t *testing.T) {
	t.Parallel()
	n := startNeighbours(t, deadAliases, true, "min_ttl 1s\ntransfer_on_failure omit", func(n *neighbours) { n.fails.Store(true) })
	eventually(t, 10*time.Second, "the secondary has NOTIFY", func() bool { return n.notify.Load() > 0 })
	for range 3 {
		n.checkQuick(t, "healthy.test.", 2*(healthyAliases-1))
		time.Sleep(500 * time.Millisecond)
	}
	n.fails.Store(false) // the job looks the target up 5 s after the failure, or 15 s
	before := n.notify.Load()
	for began := time.Now(); n.notify.Load() == before; time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > 20*time.Second {
			t.Fatal("There is no NOTIFY of the change")
		}
		if m := query(t, n.addr, "udp", "h0.healthy.test.", dns.TypeA); len(m.Answer) != 1 {
			t.Fatalf("h0:\n%v", m)
		}
	}
	n.checkQuick(t, "healthy.test.", 2*healthyAliases)
	series := metrics(t, n.page)
	if skipped := series[`coredns_alias_refreshes_total{outcome="skipped"}`]; skipped > 0 {
		t.Errorf("%v prefetches were skipped", skipped)
	}
	if series[`coredns_alias_refreshes_total{outcome="failure"}`] < 100 {
		t.Errorf("The dead targets were not looked up: %v", series)
	}
}

// A zone whose targets have all died is transferred with the addresses that are known: those that secondaries have, and after
// a restart those of the file.
func TestTransferOfKnownAddresses(t *testing.T) {
	t.Parallel()
	n := startNeighbours(t, deadAliases, false, "min_ttl 1s\npersist file", nil)
	if rrs, _, err := n.transferred(t, "dead.test.", time.Minute); err != nil || len(rrs) != 2*deadAliases+zoneFileRecords {
		t.Fatalf("%d records, %v", len(rrs), err)
	}
	n.dead.Store(true)
	time.Sleep(1100 * time.Millisecond) // all have expired
	n.checkQuick(t, "dead.test.", 2*deadAliases)
	n.checkQuick(t, "healthy.test.", 2*healthyAliases)

	n.signal(t, syscall.SIGTERM)
	<-n.done
	n.process = n.restart(t)
	n.checkQuick(t, "dead.test.", 2*deadAliases)
	n.checkQuick(t, "healthy.test.", 2*healthyAliases)
}

// neighboursVariable is the environment variable with the duration of TestNeighboursDrill. If it is set, the server is built
// without the race detector.
const neighboursVariable = "ALIAS_NEIGHBOURS"

// A drill with 20,000 aliases of dead targets. Its figures are in README.md.
func TestNeighboursDrill(t *testing.T) {
	v := os.Getenv(neighboursVariable)
	if v == "" {
		t.Skipf("%s is not set", neighboursVariable)
	}
	d, err := time.ParseDuration(v)
	check(t, err)
	n := startNeighbours(t, 20_000, true, "", nil)
	noticed := make(chan time.Duration, 1)
	time.AfterFunc(d/3, func() {
		before, began := n.notify.Load(), time.Now()
		n.changed.Store(true)
		for n.notify.Load() == before && time.Since(began) < d {
			time.Sleep(10 * time.Millisecond)
		}
		noticed <- time.Since(began)
	})
	shots := volley(t, n.addr, "h0.healthy.test.", []uint16{dns.TypeA}, d, nil)
	for _, s := range shots {
		if s.err != nil || len(s.m.Answer) != 1 {
			t.Errorf("h0: %v\n%v", s.err, s.m)
		}
	}
	refreshes := metrics(t, n.page)
	rrs, took, err := n.transferred(t, "healthy.test.", 2*time.Minute)
	t.Logf("Transfer of the healthy zone: %d records in %s, %v", len(rrs), took.Round(time.Millisecond), err)
	rrs, took, err = n.transferred(t, "dead.test.", 2*time.Minute)
	t.Logf("Transfer of the dead zone: %d records in %s, %v", len(rrs), took.Round(time.Millisecond), err)
	t.Logf("NOTIFY of a changed address after %s", (<-noticed).Round(time.Second))
	t.Logf("Prefetches skipped: %v", refreshes[`coredns_alias_refreshes_total{outcome="skipped"}`])
}

// While clients query thousands of aliases of dead targets, those of another zone get the addresses of targets that were never
// looked up, and stale answers of targets that fail: whether the dead targets are those of one zone, or those of one domain,
// to which many zones lead. All zones are in one of ZONES.
func TestClientsOfNeighbours(t *testing.T) {
	for name, deadZones := range map[string]int{"one zone": 1, "many zones": 3000} {
		t.Run(name, func(t *testing.T) { testClientsOfNeighbours(t, deadZones) })
	}
}

// testClientsOfNeighbours is the test with so many zones that have the aliases of dead targets.
func testClientsOfNeighbours(t *testing.T, deadZones int) {
	const dead, healthy, stale = 3000, 400, 50
	n := new(neighbours)
	n.dead.Store(true)
	var fails atomic.Bool
	n.up = upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		switch {
		case !strings.HasSuffix(r.Question[0].Name, ".stale.example."):
			n.answer(w, r)
			return
		case fails.Load():
			m.Rcode = dns.RcodeServerFailure
		default:
			m.Answer = addressesOf(r.Question[0], 1, 1)
		}
		w.WriteMsg(m)
	})
	port, dir := freePort(t), t.TempDir()
	zones := filepath.Join(dir, "zones")
	check(t, os.Mkdir(zones, 0o700))
	for i := range deadZones {
		write(t, filepath.Join(zones, fmt.Sprintf("db.z%d.test", i)), zoneFile+aliasLines(fmt.Sprintf("z%d-", i), "dead.example.", dead/deadZones))
	}
	write(t, filepath.Join(zones, "db.healthy.test"), zoneFile+aliasLines("h", "healthy.example.", healthy)+aliasLines("s", "stale.example.", stale))
	write(t, filepath.Join(dir, "Corefile"), fmt.Sprintf(`
		.:%s {
			bind 127.0.0.1
			alias {
				min_ttl 1s
				upstream %s
			}
			auto {
				directory zones
				reload 0
			}
			errors
		}`, port, n.up.Addr))
	n.process = startServer(t, port, dir, "Corefile")
	conn, err := dns.Dial("udp", n.addr)
	check(t, err)
	defer conn.Close()
	ask := func(prefix string, names int, ok func(shot) bool) {
		t.Helper()
		bad := 0
		var slowest time.Duration
		for i := range names {
			name := fmt.Sprintf("%s%d.healthy.test.", prefix, i)
			s := shoot(conn, name, dns.TypeA)
			if s.err != nil { // a busy machine has dropped the query or the response
				s = shoot(conn, name, dns.TypeA)
			}
			if s.err != nil || len(s.m.Answer) == 0 || !ok(s) {
				bad++
			}
			slowest = max(slowest, s.took)
		}
		if bad > 0 {
			t.Errorf("%d of %d clients of the names %s... did not get the answer that they should", bad, names, prefix)
		}
		t.Logf("the slowest response for the names %s... took %s", prefix, slowest)
	}
	ask("s", stale, shot.fresh)
	time.Sleep(1100 * time.Millisecond) // these expire
	fails.Store(true)
	stop := disturb(t, n.addr, func(i int) string {
		return fmt.Sprintf("z%d-%d.z%[1]d.test.", i%deadZones, i/deadZones%(dead/deadZones))
	})
	defer stop()
	time.Sleep(time.Second) // until lookups of dead targets have taken all that they may
	ask("h", healthy, shot.fresh)
	ask("s", stale, shot.stale)
}

// disturb sends 2000 queries a second for the A records of the names, one after the other, until the caller calls stop. It does
// not wait for responses, as a thousand resolvers do not wait for each other.
func disturb(t *testing.T, addr string, name func(i int) string) (stop func()) {
	t.Helper()
	conn, err := net.Dial("udp", addr)
	check(t, err)
	stopped := make(chan struct{})
	var sender sync.WaitGroup
	sender.Go(func() {
		defer conn.Close()
		ticks := time.NewTicker(time.Millisecond / 2)
		defer ticks.Stop()
		for i := 0; ; i++ {
			select {
			case <-stopped:
				return
			case <-ticks.C:
			}
			query, err := new(dns.Msg).SetQuestion(name(i), dns.TypeA).Pack()
			if err == nil {
				_, err = conn.Write(query)
			}
			if err != nil {
				t.Error(err)
				return
			}
		}
	})
	return func() {
		close(stopped)
		sender.Wait()
	}
}
