package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/miekg/dns"
)

// followed is a resolver that knows how often the job asks for each of its targets. The addresses of all targets change together, each
// time that it is asked for moveName.
type followed struct {
	ttl  uint32 // seconds
	move atomic.Uint32

	mu      sync.Mutex
	last    []time.Time // when each question was asked last; the zero time: never
	begun   time.Time   // of the window that is reported
	queries int         // in the window
	gaps    []float64   // seconds between two queries for the same question, of those that ended in the window
}

// Names in questions to followed that are no targets.
const (
	moveName   = "move.control.test."   // changes all addresses
	beginName  = "begin.control.test."  // begins a window
	reportName = "report.control.test." // TXT: the report of the window
)

// followReport says how a server has followed the targets in a window.
type followReport struct {
	Queries            int     // in the window
	Never, Late        int     // questions that were never asked, and that were not asked for longer than their TTL and a second
	Median, P99, Worst float64 // seconds between two queries for the same question
}

// serveFollowed runs a resolver for so many targets until ctx ends.
func serveFollowed(ctx context.Context, addr, targets, ttl string) error {
	n, err := strconv.Atoi(targets)
	if err != nil {
		return err
	}
	lifetime, err := time.ParseDuration(ttl)
	if err != nil {
		return err
	}
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	f := &followed{ttl: uint32(lifetime.Seconds()), last: make([]time.Time, 2*n), begun: time.Now()} // #nosec G115 -- positive
	server := &dns.Server{PacketConn: conn, Handler: f}
	stop := context.AfterFunc(ctx, func() { server.Shutdown() })
	defer stop()
	return server.ActivateAndServe()
}

// ServeDNS implements dns.Handler.
func (f *followed) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	q, m := r.Question[0], new(dns.Msg).SetReply(r)
	switch number, ok := hostedNumber(q.Name); {
	case q.Name == moveName:
		f.move.Add(1)
	case q.Name == beginName:
		f.mu.Lock()
		f.begun, f.queries, f.gaps = time.Now(), 0, f.gaps[:0]
		f.mu.Unlock()
	case q.Name == reportName:
		text, _ := json.Marshal(f.report())
		m.Answer = []dns.RR{&dns.TXT{Hdr: dns.RR_Header{Name: q.Name, Rrtype: dns.TypeTXT, Class: dns.ClassINET}, Txt: []string{string(text)}}}
	case ok && 2*number+1 < len(f.last):
		f.count(question(number, q.Qtype))
		m.Answer = hostedAddresses(q, number, f.move.Load(), f.ttl)
	}
	w.WriteMsg(m)
}

// hostedNumber returns the number of a target.
func hostedNumber(name string) (int, bool) {
	label, ok := strings.CutSuffix(strings.ToLower(name), targets)
	n, err := strconv.Atoi(strings.TrimPrefix(label, "t"))
	return n, ok && err == nil
}

// question returns the number of the question for the addresses of a target.
func question(number int, qtype uint16) int {
	if qtype == dns.TypeAAAA {
		return 2*number + 1
	}
	return 2 * number
}

// hostedAddresses returns the address of a target after so many moves.
func hostedAddresses(q dns.Question, number int, move, ttl uint32) []dns.RR {
	hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: ttl}
	a, b, c := byte(number>>16), byte(number>>8), byte(number) // #nosec G115 -- less than 2^20
	high := byte(move)<<4 | a                                  // #nosec G115 -- a few moves
	if q.Qtype == dns.TypeA {
		return []dns.RR{&dns.A{Hdr: hdr, A: net.IPv4(10, high, b, c).To4()}}
	}
	return []dns.RR{&dns.AAAA{Hdr: hdr, AAAA: net.IP{0x20, 1, 0xd, 0xb8, 15: c, 14: b, 13: high}}}
}

// count counts a query for a question.
func (f *followed) count(question int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := time.Now()
	if last := f.last[question]; !last.IsZero() {
		f.gaps = append(f.gaps, now.Sub(last).Seconds())
	}
	f.last[question] = now
	f.queries++
}

// report returns the report of the window.
func (f *followed) report() followReport {
	f.mu.Lock()
	defer f.mu.Unlock()
	r := followReport{Queries: f.queries}
	oldest := time.Now().Add(-time.Duration(f.ttl)*time.Second - time.Second)
	for _, last := range f.last {
		switch {
		case last.IsZero():
			r.Never++
		case last.Before(oldest):
			r.Late++
		}
	}
	if n := len(f.gaps); n > 0 {
		slices.Sort(f.gaps)
		r.Median, r.P99, r.Worst = f.gaps[n/2], f.gaps[n*99/100], f.gaps[n-1]
	}
	return r
}

// control asks followed at addr for one of the names that are no targets. Its answer is the report of the window, for reportName.
func control(addr, name string) (r followReport, err error) {
	client := dns.Client{Timeout: time.Minute}
	m, _, err := client.Exchange(new(dns.Msg).SetQuestion(name, dns.TypeTXT), addr)
	if err != nil || len(m.Answer) == 0 {
		return r, err
	}
	text, ok := m.Answer[0].(*dns.TXT)
	if !ok {
		return r, fmt.Errorf("no report: %s", m.Answer[0])
	}
	// The library writes a quotation mark in a text with a backslash before it.
	return r, json.Unmarshal([]byte(strings.ReplaceAll(strings.Join(text.Txt, ""), `\"`, `"`)), &r)
}
