package upstream_test

import (
	"sync"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// seen has the source ports and the IDs of queries.
type seen struct {
	mu    sync.Mutex
	ports map[string]int
	ids   map[uint16]int
}

// startSeeing starts an upstream that notes what it sees, and answers after a while.
func startSeeing(t *testing.T, while time.Duration) (*fake.Server, *seen) {
	t.Helper()
	s := &seen{ports: make(map[string]int), ids: make(map[uint16]int)}
	return fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		s.mu.Lock()
		s.ports[w.RemoteAddr().String()]++
		s.ids[r.Id]++
		s.mu.Unlock()
		time.Sleep(while)
		good(w, r)
	}), s
}

// Somebody who forges a response has to guess its ID, which is random for each query, and the port: queries in flight at the same
// time have different ones.
func TestPortsAndIDs(t *testing.T) {
	t.Parallel()
	const n = 64
	up, s := startSeeing(t, 500*time.Millisecond)
	us, _ := start(t, patient, up.Addr)
	var lookups sync.WaitGroup
	for range n {
		lookups.Go(func() { resolve(t, us, question, 1) })
	}
	lookups.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ports) != n || len(s.ids) < n-2 { // two random IDs may be the same
		t.Errorf("%d queries from %d ports, with %d IDs", n, len(s.ports), len(s.ids))
	}
}

// A socket that is used all the time does not keep its port.
func TestPortChanges(t *testing.T) {
	t.Parallel()
	up, s := startSeeing(t, 0)
	us, _ := start(t, patient, up.Addr)
	for began := time.Now(); time.Since(began) < 12*time.Second; time.Sleep(500 * time.Millisecond) {
		resolve(t, us, question, 1)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.ports) < 2 || len(s.ports) > 3 {
		t.Errorf("the queries came from the ports %v", s.ports)
	}
}
