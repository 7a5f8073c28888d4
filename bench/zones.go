package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

const (
	// coldQueries is the least number of queries in a turn for cold answers. A server can be asked for each alias once only.
	coldQueries = 1000
	coldLimit   = 5 * time.Second // of a turn for cold answers
	warmLimit   = 2 * time.Minute // for the queries that make all answers fresh
	sampled     = 100             // zones that are asked for when a server starts
)

// zoneFigures are the figures of a contestant with one number of zones.
type zoneFigures struct {
	rates             []series // of each of questions
	cold, coldTime    series   // queries per second, and microseconds of processor time for each
	first, last       float64  // seconds from the start until the first and the last zone answers
	started, quiet    float64  // seconds of processor time until the last zone answers, and until the server is quiet
	idle              float64  // share of a core without queries
	resident, inUse   int      // octets, then; inUse is 0 for servers that are not CoreDNS
	measured, settled bool     // whether the rates, and the idle server, have been measured
}

// zoneRun is a run of the measurement zones.
type zoneRun struct {
	*bench
	sizes      []int // numbers of zones
	contestant []zoneContestant
	figures    [][]zoneFigures // by contestant and size
	resolver   *server
}

// parseSizes returns the numbers in s, which has commas between them. They grow.
func parseSizes(s string) ([]int, error) {
	var all []int
	for part := range strings.SplitSeq(s, ",") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, err
		}
		if n < 1 || len(all) > 0 && n <= all[len(all)-1] {
			return nil, fmt.Errorf("%q: the numbers of zones must grow, from 1 on", s)
		}
		all = append(all, n)
	}
	return all, nil
}

// measureZones measures servers that have up to 100,000 zones, and returns the tables.
func (b *bench) measureZones() (string, error) {
	numbers, err := parseSizes(b.zones)
	if err != nil {
		return "", err
	}
	only, err := regexp.Compile(b.only)
	if err != nil {
		return "", err
	}
	r := &zoneRun{bench: b, sizes: numbers}
	for _, c := range zoneContestants() {
		if only.MatchString(c.name) {
			r.contestant = append(r.contestant, c)
			r.figures = append(r.figures, make([]zoneFigures, len(numbers)))
		}
	}
	if len(r.contestant) == 0 {
		return "", fmt.Errorf("no contestant matches %q", b.only)
	}
	if b.bounded == "" {
		if b.bounded, err = b.buildBounded(); err != nil {
			return "", err
		}
	}
	if r.resolver, err = b.launchHostedResolver(); err != nil {
		return "", err
	}
	for size := range numbers {
		if err := r.measureSize(size); err != nil {
			return "", fmt.Errorf("%d zones: %w", numbers[size], err)
		}
		b.stopBut(r.resolver)
	}
	b.stopAll()
	return r.tables(), nil
}

// launchHostedResolver starts Unbound, which answers for all targets: for all names in their zone with the records of its apex.
func (b *bench) launchHostedResolver() (*server, error) {
	data := "\tlocal-zone: \"hosting.test.\" redirect\n"
	for _, rr := range []string{"A " + hostedAddress, "AAAA " + hostedAddress6} {
		data += fmt.Sprintf("\tlocal-data: \"hosting.test. %d IN %s\"\n", hostedTTL, rr)
	}
	return b.launchResolver(hostedTarget(0), data)
}

// stopBut stops all servers but one.
func (b *bench) stopBut(one *server) {
	for _, s := range slices.Clone(b.servers) {
		if s != one {
			b.stop(s)
		}
	}
}

// enoughForCold reports whether n zones are enough to ask one server for other aliases in each round.
func enoughForCold(n, rounds int) bool { return n >= coldQueries*rounds }

// measureSize measures all contestants with one number of zones.
func (r *zoneRun) measureSize(size int) error {
	n := r.sizes[size]
	turns := 0 // with the servers that the other figures come from
	if enoughForCold(n, r.rounds) {
		turns = r.rounds
	}
	h := hosted{filepath.Join(r.dir, fmt.Sprintf("zones-%d", n)), n, n}
	defer os.RemoveAll(h.dir)
	if err := h.generate(turns); err != nil {
		return err
	}
	if turns == 0 {
		if err := r.restartForCold(size, h); err != nil {
			return err
		}
	}
	servers := make([]*server, len(r.contestant))
	for i, c := range r.contestant {
		if c.transfer {
			continue
		}
		var err error
		if servers[i], err = r.launchMeasured(c, h, &r.figures[i][size]); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	for turn := range turns {
		for i, s := range servers {
			if s == nil {
				continue
			}
			if err := r.coldTurn(s, h.coldFile(turn), &r.figures[i][size]); err != nil {
				return fmt.Errorf("%s, cold: %w", r.contestant[i].name, err)
			}
		}
	}
	if err := r.measureRates(size, h, servers); err != nil {
		return err
	}
	for i, c := range r.contestant {
		if !c.transfer {
			continue
		}
		var err error
		if servers[i], err = r.launchMeasured(c, h, &r.figures[i][size]); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	if size < len(r.sizes)-1 {
		return nil
	}
	return r.measureIdle(size, servers)
}

// restartForCold measures cold answers with servers that are started anew for each round: there are too few zones to ask one server
// in all rounds. If there are fewer zones than queries in a round, they have more aliases.
func (r *zoneRun) restartForCold(size int, h hosted) error {
	h = hosted{h.dir + "-cold", h.zones, max(h.zones, coldQueries)}
	defer os.RemoveAll(h.dir)
	if err := h.generate(1); err != nil {
		return err
	}
	for range r.rounds {
		for i, c := range r.contestant {
			if c.transfer {
				continue
			}
			s, err := c.launch(r.bench, h, r.resolver.addr)
			if err == nil {
				err = r.settle(c.pause, s)
			}
			if err == nil {
				err = r.coldTurn(s, h.coldFile(0), &r.figures[i][size])
			}
			if err != nil {
				return fmt.Errorf("%s, cold: %w", c.name, err)
			}
			r.stop(s)
		}
	}
	return nil
}

// coldTurn measures the queries of a file, each once.
func (r *zoneRun) coldTurn(s *server, queries string, f *zoneFigures) error {
	rate, cost, err := r.timed(s, queries, "NOERROR", "-n", "1", "-t", "60", "-l", seconds(coldLimit))
	if err != nil {
		return err
	}
	f.cold, f.coldTime = append(f.cold, rate), append(f.coldTime, cost)
	return nil
}

// timed is perf that returns the queries answered per second, and the processor time of the server for each, in microseconds.
func (b *bench) timed(s *server, queries, rcode string, options ...string) (rate, cost float64, err error) {
	before, err := s.cpuTime()
	if err != nil {
		return 0, 0, err
	}
	a, err := b.perf(s, queries, rcode, options...)
	if err != nil {
		return 0, 0, err
	}
	after, err := s.cpuTime()
	return a.rate, float64((after - before).Nanoseconds()) / 1000 / float64(a.count), err
}

// seconds returns d for an option of dnsperf, which takes whole seconds.
func seconds(d time.Duration) string { return strconv.Itoa(max(1, int(d.Seconds()))) }

// launchMeasured starts a contestant, and measures that. It returns when the server is quiet.
func (r *zoneRun) launchMeasured(c zoneContestant, h hosted, f *zoneFigures) (*server, error) {
	s, err := c.launch(r.bench, h, r.resolver.addr)
	if err != nil {
		return s, err
	}
	random := rand.New(rand.NewPCG(5, 6)) // #nosec G404 -- the same each time
	for range min(sampled, h.zones) {
		name := h.zone(random.IntN(h.zones)) + "."
		if err := r.await(name+" answers", 10*time.Millisecond, func() (bool, error) {
			m, err := ask(s.addr, "mail."+name)
			return err == nil && (m.Rcode == dns.RcodeSuccess || m.Rcode == dns.RcodeNameError), s.alive()
		}); err != nil {
			return s, err
		}
	}
	f.first, f.last = s.startup.Seconds(), time.Since(s.began).Seconds()
	used, err := s.cpuTime()
	if err != nil {
		return s, err
	}
	f.started = used.Seconds()
	if err := r.settle(c.pause, s); err != nil {
		return s, err
	}
	used, err = s.cpuTime()
	f.quiet = used.Seconds()
	return s, err
}

// measureRates makes all answers fresh, and then measures the throughput of the servers, which take turns.
func (r *zoneRun) measureRates(size int, h hosted, servers []*server) error {
	fresh := make([]bool, len(servers))
	for i, s := range servers {
		if s == nil {
			continue
		}
		r.figures[i][size].rates = make([]series, len(questions))
		if !r.contestant[i].expands {
			fresh[i] = true // it has the addresses
			continue
		}
		a, err := r.perf(s, h.file(questions[0].name), questions[0].rcode, "-n", "1", "-t", "60", "-l", seconds(warmLimit))
		if err != nil {
			return fmt.Errorf("%s, first queries: %w", r.contestant[i].name, err)
		}
		fresh[i] = a.count == h.zones
	}
	for range r.rounds {
		for q, question := range questions {
			for i, s := range servers {
				if s == nil || q == 0 && !fresh[i] {
					continue
				}
				a, err := r.perf(s, h.file(question.name), question.rcode, "-t", "60", "-l", seconds(r.length/3))
				if err != nil {
					return fmt.Errorf("%s, %s: %w", r.contestant[i].name, question.name, err)
				}
				f := &r.figures[i][size]
				f.rates[q], f.measured = append(f.rates[q], a.rate), true
			}
		}
	}
	return nil
}

// measureIdle measures the processor time of all servers without queries, and then their memory.
func (r *zoneRun) measureIdle(size int, servers []*server) error {
	before, err := usage(servers)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := wait(r.ctx, r.idle); err != nil {
		return err
	}
	after, err := usage(servers)
	if err != nil {
		return err
	}
	length := time.Since(began)
	for i, s := range servers {
		f := &r.figures[i][size]
		f.idle = (after[i] - before[i]).Seconds() / length.Seconds()
		memory, err := s.resident()
		if err != nil {
			return err
		}
		f.resident, f.settled = memory, true
		if s.monitor == "" {
			continue
		}
		if f.inUse, err = r.inUse(s.monitor); err != nil {
			return err
		}
	}
	return nil
}
