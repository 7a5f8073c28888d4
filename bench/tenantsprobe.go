package main

import (
	"context"
	"encoding/json"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	tenantsRate = 100             // queries a second for each kind of names
	tenantsWait = 3 * time.Second // for the last responses
	staleTTL    = 30              // seconds; the default of stale_ttl
)

// tenantsProbe queries the names of others, and notes what it gets.
type tenantsProbe struct {
	conn net.Conn

	mu    sync.Mutex
	shots []tenantsShot // by the ID of the query
}

type tenantsShot struct {
	sent time.Time
	took time.Duration
	ok   bool
}

// runTenantsProbe queries names of all kinds at a fixed rate, whatever the responses, and prints the figures.
func runTenantsProbe(ctx context.Context, addr string, out io.Writer) error {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	perKind := tenantsRate * int(tenantsLength/time.Second)
	p := &tenantsProbe{conn: conn, shots: make([]tenantsShot, perKind*len(tenants))}
	go p.read()
	random := rand.New(rand.NewPCG(7, 8)) // #nosec G404 -- the same each time
	ticker := time.NewTicker(time.Second / time.Duration(tenantsRate*len(tenants)))
	defer ticker.Stop()
	for id := range p.shots {
		t := tenants[id%len(tenants)]
		name := t.owner(id / len(tenants))
		if t.repeat {
			name = t.owner(random.IntN(t.aliases))
		}
		if err := p.send(id, name); err != nil {
			return err
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if err := wait(ctx, tenantsWait); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(p.figures())
}

func (p *tenantsProbe) send(id int, name string) error {
	query := new(dns.Msg).SetQuestion(name, dns.TypeA)
	query.Id = uint16(id) // #nosec G115 -- 10,000
	wire, err := query.Pack()
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.shots[id].sent = time.Now()
	p.mu.Unlock()
	_, err = p.conn.Write(wire)
	return err
}

// read notes the responses until the connection is closed.
func (p *tenantsProbe) read() {
	b := make([]byte, dns.MinMsgSize)
	for {
		n, err := p.conn.Read(b)
		if err != nil {
			return
		}
		at := time.Now()
		var m dns.Msg
		if m.Unpack(b[:n]) != nil || int(m.Id) >= len(p.shots) {
			continue
		}
		p.mu.Lock()
		s := &p.shots[m.Id]
		s.took, s.ok = at.Sub(s.sent), tenants[int(m.Id)%len(tenants)].accepts(&m)
		p.mu.Unlock()
	}
}

// accepts reports whether a client who queries a name of that kind gets what it should. Stale answers have a TTL that none of the fresh
// ones has.
func (t tenant) accepts(m *dns.Msg) bool {
	if len(m.Answer) == 0 {
		return false
	}
	ttl := m.Answer[0].Header().Ttl
	return !t.fresh || ttl <= shortestTTL || ttl > staleTTL
}

func (p *tenantsProbe) figures() []tenantFigures {
	p.mu.Lock()
	defer p.mu.Unlock()
	took := make([]series, len(tenants))
	for id, s := range p.shots {
		if s.ok {
			took[id%len(tenants)] = append(took[id%len(tenants)], float64(s.took.Microseconds())/1000)
		}
	}
	figures := make([]tenantFigures, len(tenants))
	for i, s := range took {
		slices.Sort(s)
		if len(s) > 0 {
			figures[i].P99 = s[len(s)*99/100]
		}
		figures[i].Success = 100 * float64(len(s)) / float64(len(p.shots)/len(tenants))
	}
	return figures
}
