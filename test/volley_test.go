package test

import (
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/miekg/dns"
)

// shot is a query of a volley, and its response.
type shot struct {
	qtype uint16
	asked time.Time
	took  time.Duration
	m     *dns.Msg
	err   error
}

// fresh reports whether the answer has neither the TTL nor the Extended DNS Error of a stale one.
func (s shot) fresh() bool { return s.m.Answer[0].Header().Ttl != 30 && extendedError(s.m) == -1 }

// stale reports whether the answer has both.
func (s shot) stale() bool {
	return s.m.Answer[0].Header().Ttl == 30 && extendedError(s.m) == int(dns.ExtendedErrorCodeStaleAnswer)
}

// volley sends queries for these types in turn, 25 a second for each, however long the responses take. When a third of the
// time is over it calls midway, unless that is nil. It returns when all queries have ended. The calling goroutine creates
// the sockets: it may be in a network namespace of its own.
func volley(t *testing.T, addr, name string, types []uint16, d time.Duration, midway func()) []shot {
	t.Helper()
	rate := 25 * len(types)
	shots := make([]shot, int(d.Seconds()*float64(rate)))
	tick := time.NewTicker(time.Second / time.Duration(rate))
	defer tick.Stop()
	var wg sync.WaitGroup
	for i := range shots {
		if midway != nil && i == len(shots)/3 {
			midway()
		}
		conn, err := dns.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			defer conn.Close()
			shots[i] = shoot(conn, name, types[i%len(types)])
		})
		<-tick.C
	}
	wg.Wait()
	return shots
}

// shoot sends a query with EDNS over conn.
func shoot(conn *dns.Conn, name string, qtype uint16) shot {
	r := new(dns.Msg).SetQuestion(name, qtype)
	r.SetEdns0(1232, false)
	return shootQuery(conn, r)
}

// shootQuery sends r over conn.
func shootQuery(conn *dns.Conn, r *dns.Msg) shot {
	client := dns.Client{Timeout: 5 * time.Second}
	s := shot{qtype: r.Question[0].Qtype, asked: time.Now()}
	s.m, _, s.err = client.ExchangeWithConn(r, conn)
	s.took = time.Since(s.asked)
	return s
}

var families = []uint16{dns.TypeA, dns.TypeAAAA}

// barrage is a volley for A and AAAA in which each query must be answered with an address.
func barrage(t *testing.T, addr, name string, d time.Duration) []shot {
	t.Helper()
	shots := volley(t, addr, name, families, d, nil)
	for _, s := range shots {
		if s.err != nil || len(s.m.Answer) != 1 || s.m.Answer[0].Header().Rrtype != s.qtype {
			t.Fatalf("%s after %s: %v\n%v", dns.TypeToString[s.qtype], s.took, s.err, s.m)
		}
	}
	return shots
}

// slowest returns how long the n slowest queries took, slowest first.
func slowest(shots []shot, n int) []time.Duration {
	var took []time.Duration
	for _, s := range shots {
		took = append(took, s.took.Round(time.Millisecond/10))
	}
	slices.Sort(took)
	slices.Reverse(took)
	return took[:min(n, len(took))]
}
