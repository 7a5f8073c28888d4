package primary_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/store"
	fake "github.com/coredns/alias/test/redis"

	"github.com/redis/go-redis/v9"

	"github.com/miekg/dns"
)

// With a real Redis, which is killed and flushed, and servers that are started again with nothing, no serial has two contents, a
// secondary that pulls from any of them gets later serials only, and has the last content in the end.
func TestFleetRedis(t *testing.T) {
	if testing.Short() {
		t.Skip("it takes 40 s")
	}
	server := fake.Start(t)
	secondary := startReceiver(t, dns.RcodeSuccess)
	var clients []*redis.Client
	defer func() {
		for _, c := range clients {
			c.Close()
		}
	}()
	start := func(own uint32) *fleetServer {
		client := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, ContextTimeoutEnabled: true, DialTimeout: time.Second})
		clients = append(clients, client)
		b := new(backend)
		putNumbered(t, b, own)
		s := new(fleetServer)
		s.server = newServer(t, newResolver(map[string]target{"target.example.": at(v4)}), b, func(cfg *primary.Config) {
			cfg.Secondaries = []primary.Secondaries{{Zones: cfg.Zones, To: []string{secondary.addr}}}
			cfg.Fleet = primary.NewFleet(store.NewRegisters(client, "test"), time.Now, func(format string, v ...any) { s.log(format, v...) })
		})
		s.Start()
		return s
	}
	own := uint32(2026112800)
	servers := []*fleetServer{start(own), start(own), start(own)}
	contents := make(map[uint32]string)
	var last uint32
	var has string
	pull := func(s *fleetServer) {
		serial, ok := s.soa(t)
		if !ok || last != 0 && !before(last, serial) {
			return
		}
		out, err := s.Transfer("example.org.", last)
		if err != nil {
			return
		}
		rrs := slices.Concat(slices.Collect(values(out))...)
		got := rrs[0].(*dns.SOA).Serial
		if before(got, serial) {
			t.Errorf("transferred under %d after %d", got, serial)
		}
		content := strings.Join(texts(rrs[1:]), "\n")
		if other, ok := contents[got]; ok && other != content {
			t.Errorf("two contents under %d:\n%s\n\n%s", got, other, content)
		}
		contents[got], last, has = content, got, content
	}
	converge := func(patience time.Duration) bool {
		for end := time.Now().Add(patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
			settled := true
			for _, s := range servers {
				pull(s)
				serial, ok := s.soa(t)
				settled = settled && ok && serial == last && strings.Contains(has, fmt.Sprintf("\"%d\"", own))
			}
			if settled {
				return true
			}
		}
		return false
	}
	if !converge(started) {
		t.Fatalf("nothing was published after the start; logged: %s", servers[0].messages())
	}
	time.Sleep(2 * time.Second)
	starts := secondary.notified("example.org.") // each server notifies after its start
	if starts < 1 || starts > len(servers)+1 {
		t.Errorf("%d NOTIFY messages after the start of %d servers", starts, len(servers))
	}
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0)) // #nosec G404 -- a test
	for round := range 5 {
		own++
		for _, i := range random.Perm(len(servers)) {
			putNumbered(t, servers[i].backend, own)
			pull(servers[random.IntN(len(servers))])
			time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		}
		switch round {
		case 0:
			time.Sleep(10 * time.Second) // the number may have to wait for the clock
			if n := secondary.notified("example.org.") - starts; n != 1 {
				t.Errorf("%d NOTIFY messages for one change", n)
			}
		case 1:
			if err := clients[0].FlushAll(t.Context()).Err(); err != nil {
				t.Fatal(err)
			}
		case 2:
			servers[0].Stop()
			servers[0] = start(own)
		case 3:
			server.Kill()
			server.Run(t)
		}
		began := time.Now()
		if !converge(20 * time.Second) {
			t.Fatalf("round %d: the servers do not have one serial; logged: %s", round, servers[0].messages())
		}
		t.Logf("round %d: one serial after %s", round, time.Since(began).Round(time.Millisecond))
	}
}

// putNumbered makes b have a zone with that serial, which is in its content too.
func putNumbered(t testing.TB, b *backend, own uint32) {
	t.Helper()
	b.put(t, own, aliasAtApex, fmt.Sprintf("txt.example.org. 60 IN TXT %d", own))
}
