package test

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// Ten thousand clients that query the same name cause one query to the upstream for each type.
func TestColdStampede(t *testing.T) {
	for _, test := range []struct {
		name string
		warm bool // the answers from start-up are expired; otherwise the lookups of start-up are still in flight
	}{
		{"at start-up", false},
		{"after expiry", true},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			up := upstream.New(t, nil)
			hold := make(chan struct{})
			slow := func(w dns.ResponseWriter, r *dns.Msg) {
				<-hold
				bothFamilies(w, r)
			}
			if test.warm {
				up.Set(upstream.Zone("app.hosting.example. 1 IN A 203.0.113.80", "app.hosting.example. 1 IN AAAA 2001:db8:80::80"))
			} else {
				up.Set(slow)
			}
			port := freePort(t)
			server := serve(t, port, block("example.org", port, `
				record @ app.hosting.example
				timeout 10s
				min_ttl 1s
				stale 0
				upstream `+up.Addr, ""))
			if test.warm {
				time.Sleep(1500 * time.Millisecond)
				up.Set(slow)
			}
			stampede(t, server.addr, "example.org.", func() {
				time.Sleep(200 * time.Millisecond)
				close(hold)
			})
			want := 1
			if test.warm {
				want = 2
			}
			for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
				if n := up.Asked("app.hosting.example.", qtype); n != want {
					t.Errorf("The upstream got %d queries for %s, want %d", n, dns.TypeToString[qtype], want)
				}
			}
		})
	}
}

// stampede sends ten thousand queries, half of them for each type. Then it calls sent, and waits until all are answered.
func stampede(t *testing.T, addr, name string, sent func()) {
	t.Helper()
	const sockets, clients = 50, 200 // clients of each socket
	var asked, answered sync.WaitGroup
	asked.Add(sockets)
	for range sockets {
		answered.Go(func() {
			crowd, err := newCrowd(addr, name, clients)
			asked.Done()
			if err == nil {
				defer crowd.conn.Close()
				err = crowd.wait(10 * time.Second)
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	asked.Wait()
	sent()
	answered.Wait()
}

// crowd is a number of clients that share a socket. Each has the ID of its query.
type crowd struct {
	conn    *dns.Conn
	name    string
	waiting map[uint16]uint16 // the type that each client has asked for, by ID
}

// newCrowd returns clients that have sent their queries.
func newCrowd(addr, name string, clients int) (*crowd, error) {
	conn, err := dns.Dial("udp", addr)
	if err != nil {
		return nil, err
	}
	c := &crowd{conn, name, make(map[uint16]uint16)}
	for id := range uint16(clients) {
		c.waiting[id] = []uint16{dns.TypeA, dns.TypeAAAA}[id%2]
	}
	return c, c.ask()
}

// ask sends the queries of all clients that wait.
func (c *crowd) ask() error {
	for id, qtype := range c.waiting {
		r := new(dns.Msg).SetQuestion(c.name, qtype)
		r.Id = id
		if err := c.conn.WriteMsg(r); err != nil {
			return err
		}
		time.Sleep(time.Millisecond) // more at once would not fit into the buffer of the server's socket
	}
	return nil
}

// wait waits until all clients have an address. They ask again if there is no response: UDP loses messages.
func (c *crowd) wait(patience time.Duration) error {
	for deadline := time.Now().Add(patience); len(c.waiting) > 0; {
		if time.Now().After(deadline) {
			return fmt.Errorf("%d clients got no answer", len(c.waiting))
		}
		c.conn.SetReadDeadline(time.Now().Add(time.Second))
		m, err := c.conn.ReadMsg()
		if err != nil {
			if err := c.ask(); err != nil {
				return err
			}
			continue
		}
		if len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != m.Question[0].Qtype {
			return fmt.Errorf("not an address:\n%v", m)
		}
		delete(c.waiting, m.Id)
	}
	return nil
}
