package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

const (
	stormAliases = 1_000_000
	stormTTL     = 120 * time.Second // from the start of the resolver until all answers expire, in the same second
	probeRate    = 1000              // queries a second for an alias that stays fresh
	probeLength  = 25 * time.Second
	lasting      = 900_000 // the number of its target, and the first of those whose TTL is not counted down
)

// measureStorm measures how long a fresh answer takes while clients query other aliases: first while the answers of these are fresh
// too, and then while all of them are looked up again.
func (b *bench) measureStorm() (string, error) {
	rows := [2]series{}
	var lookups series
	for range b.rounds {
		before, during, looked, err := b.storm()
		if err != nil {
			return "", err
		}
		rows[0], rows[1], lookups = append(rows[0], before), append(rows[1], during), append(lookups, looked)
		b.stopAll()
	}
	return fmt.Sprintf(`| p99 of fresh answers, while others are queried | microseconds |
| --- | --- |
| all fresh | %s |
| all looked up again: %s lookups | %s |
| ratio of medians | %.2f |
`, rows[0].format("%.0f"), lookups.format("%.0f"), rows[1].format("%.0f"), rows[1].median()/rows[0].median()), nil
}

// storm measures one storm.
func (b *bench) storm() (before, during, lookups float64, err error) {
	dir := filepath.Join(b.dir, "storm")
	if err := makeDir(dir, stormAliases); err != nil {
		return 0, 0, 0, err
	}
	resolver, err := b.launchTargets(stormTTL, "down")
	if err != nil {
		return 0, 0, 0, err
	}
	end := time.Now().Add(stormTTL)
	monitor, err := freeAddr()
	if err != nil {
		return 0, 0, 0, err
	}
	records, err := recordsBlock(dir, resolver.addr, 1_000_000)
	if err != nil {
		return 0, 0, 0, err
	}
	records = strings.Replace(records, "alias {\n", fmt.Sprintf("alias {\nrecord fresh t%d%s\n", lasting, targets), 1)
	s, err := b.launchCoreDNS("storm", "fresh."+zone, "example.:PORT {\nbind 127.0.0.1\nprometheus "+monitor+"\n"+records+"\n}\n")
	if err != nil {
		return 0, 0, 0, err
	}
	if err := b.awaitQuiet(monitor); err != nil { // the lookups at start-up
		return 0, 0, 0, err
	}
	load, err := b.load(s, filepath.Join(dir, "queries"), time.Until(end)+probeLength)
	if err != nil {
		return 0, 0, 0, err
	}
	if left := time.Until(end); left < stormTTL/10+probeLength+5*time.Second {
		return 0, 0, 0, fmt.Errorf("the start took too long: %s are left", left)
	}
	if before, err = b.probe(s.addr, "fresh."+zone); err != nil {
		return 0, 0, 0, err
	}
	// The prefetch window is the last tenth of the TTL.
	if err := wait(b.ctx, time.Until(end.Add(-stormTTL/10))); err != nil {
		return 0, 0, 0, err
	}
	first, err := scrape(monitor)
	if err != nil {
		return 0, 0, 0, err
	}
	if during, err = b.probe(s.addr, "fresh."+zone); err != nil {
		return 0, 0, 0, err
	}
	last, err := scrape(monitor)
	if err != nil {
		return 0, 0, 0, err
	}
	return before, during, last - first, load.Wait()
}

// load starts dnsperf with queries for random aliases.
func (b *bench) load(s *server, queries string, length time.Duration) (*exec.Cmd, error) {
	host, port, _ := net.SplitHostPort(s.addr)
	cmd := b.client("dnsperf", "-s", host, "-p", port, "-d", queries,
		"-l", strconv.Itoa(int(length.Seconds())), "-c", "1", "-T", "1", "-q", "10000", "-Q", strconv.Itoa(b.stormLoad))
	return cmd, cmd.Start()
}

// probe runs runProbe for name on the core of the clients, and returns the 99th percentile in microseconds.
func (b *bench) probe(addr, name string) (float64, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	out, err := b.client(self, "probe", addr, name).Output()
	if err != nil {
		return 0, err
	}
	return strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
}

// runProbe queries name, probeRate times a second, and prints the 99th percentile of the time to the answer. A lost query counts as
// one second.
func runProbe(ctx context.Context, addr, name string, out io.Writer) error {
	conn, err := net.Dial("udp", addr)
	if err != nil {
		return err
	}
	defer conn.Close()
	n := probeRate * int(probeLength/time.Second)
	took := make([]time.Duration, n)
	sent := make([]time.Time, n)
	var mu sync.Mutex
	go func() {
		b := make([]byte, 512)
		for {
			if _, err := conn.Read(b); err != nil {
				return
			}
			i := int(b[0])<<8 | int(b[1])
			mu.Lock()
			took[i] = time.Since(sent[i])
			mu.Unlock()
		}
	}()
	query := new(dns.Msg).SetQuestion(name, dns.TypeA)
	ticker := time.NewTicker(time.Second / probeRate)
	defer ticker.Stop()
	for i := range n {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		query.Id = uint16(i) // #nosec G115 -- 25,000
		wire, err := query.Pack()
		if err != nil {
			return err
		}
		mu.Lock()
		sent[i] = time.Now()
		mu.Unlock()
		if _, err := conn.Write(wire); err != nil {
			return err
		}
	}
	if err := wait(ctx, time.Second); err != nil {
		return err
	}
	mu.Lock()
	defer mu.Unlock()
	for i, d := range took {
		if d == 0 {
			took[i] = time.Second
		}
	}
	slices.Sort(took)
	_, err = fmt.Fprintln(out, took[n*99/100].Microseconds())
	return err
}

// awaitQuiet returns when the server with the metrics at monitor has no more lookups.
func (b *bench) awaitQuiet(monitor string) error {
	last := -1.0
	return b.await("there are no more lookups", 2*time.Second, func() (bool, error) {
		before := last
		var err error
		last, err = scrape(monitor)
		return last == before, err
	})
}

// scrape returns how many requests the server with the metrics at monitor has sent to upstreams.
func scrape(monitor string) (float64, error) {
	r, err := http.Get("http://" + monitor + "/metrics")
	if err != nil {
		return 0, err
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return 0, err
	}
	sum := 0.0
	for line := range strings.Lines(string(text)) {
		if strings.HasPrefix(line, "coredns_alias_upstream_requests_total{") {
			n, err := strconv.ParseFloat(strings.TrimSpace(line[strings.LastIndexByte(line, ' '):]), 64)
			if err != nil {
				return 0, err
			}
			sum += n
		}
	}
	return sum, nil
}
