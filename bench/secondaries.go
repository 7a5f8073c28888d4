package main

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// pullReport says what secondaries got that pulled all zones.
type pullReport struct {
	Seconds float64
	Zones   int // that were transferred
	Failed  int // that were not
	Current int // address records that are those after so many moves
}

// runPull has secondaries pull all zones from addr by AXFR, each an equal part, all at the same time, and prints a pullReport. The
// addresses are to be those after so many moves.
func runPull(ctx context.Context, addr, zones, secondaries, moves string, out io.Writer) error {
	var n [3]int
	for i, s := range []string{zones, secondaries, moves} {
		var err error
		if n[i], err = strconv.Atoi(s); err != nil {
			return err
		}
	}
	p := puller{addr: addr, move: uint32(n[2])} // #nosec G115 -- a few moves
	began := time.Now()
	var wg sync.WaitGroup
	for i := range n[1] {
		wg.Go(func() {
			for zone := i; zone < n[0] && ctx.Err() == nil; zone += n[1] {
				p.pull(zone)
			}
		})
	}
	wg.Wait()
	report := pullReport{time.Since(began).Seconds(), int(p.zones.Load()), int(p.failed.Load()), int(p.current.Load())}
	return json.NewEncoder(out).Encode(report)
}

// puller counts what is transferred.
type puller struct {
	addr                   string
	move                   uint32
	zones, failed, current atomic.Int64
}

// pull transfers one zone over a connection of its own.
func (p *puller) pull(zone int) {
	conn, err := net.DialTimeout("tcp", p.addr, 30*time.Second)
	if err != nil {
		p.failed.Add(1)
		return
	}
	defer conn.Close()
	if tcp, ok := conn.(*net.TCPConn); ok {
		tcp.SetLinger(0) // or 100,000 connections leave no port
	}
	apex := hosted{}.zone(zone) + "."
	t := dns.Transfer{Conn: &dns.Conn{Conn: conn}, ReadTimeout: 30 * time.Second}
	batches, err := t.In(new(dns.Msg).SetAxfr(apex), p.addr)
	if err != nil {
		p.failed.Add(1)
		return
	}
	for batch := range batches {
		if err = batch.Error; err != nil {
			continue
		}
		for _, rr := range batch.RR {
			p.check(apex, rr)
		}
	}
	if err != nil {
		p.failed.Add(1)
		return
	}
	p.zones.Add(1)
}

// check counts a record that has the current address of its alias, whose owner says which target it has.
func (p *puller) check(apex string, rr dns.RR) {
	h := rr.Header()
	label := "z"
	if h.Name != apex {
		label = "c"
	}
	first, _, _ := strings.Cut(h.Name, ".")
	number, err := strconv.Atoi(strings.TrimPrefix(first, label))
	if err != nil || h.Rrtype != dns.TypeA && h.Rrtype != dns.TypeAAAA {
		return // not that of an alias
	}
	if want := hostedAddresses(dns.Question{Name: h.Name, Qtype: h.Rrtype}, number, p.move, h.Ttl); want[0].String() == rr.String() {
		p.current.Add(1)
	}
}
