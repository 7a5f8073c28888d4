package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	jobZones       = 100_000
	jobAliases     = 1_000_000
	jobSecondaries = 100
	jobSlack       = 5 * time.Second // after the TTL: the job begins each lookup within two seconds after that
)

// jobFigures are those of the server that follows the targets.
type jobFigures struct {
	answers, known       float64 // seconds from the start until the first answer, and until all addresses have been looked up
	knownTime            float64 // seconds of processor time until then
	peak, resident       int     // octets, when all addresses have been looked up
	share                series  // of a core, %
	lookups              series  // per second
	median, p99, worst   series  // seconds between two lookups for the same question
	late                 series  // questions that were not asked for longer than their TTL
	quietProbe, jobProbe series  // p99 in microseconds, without and with secondaries that pull
	pull                 series  // transfers per second
	wrong, failed        int     // address records that were not current, and transfers
}

// measureJob measures a server with a million aliases in 100,000 zones, and transfer.
func (b *bench) measureJob() (string, error) {
	h := hosted{filepath.Join(b.dir, "job"), jobZones, jobAliases}
	if err := h.generate(0); err != nil {
		return "", err
	}
	defer os.RemoveAll(h.dir)
	defer b.stopAll()
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	resolver, err := freeAddr()
	if err != nil {
		return "", err
	}
	if _, err := b.launch(clientCore, resolver, hostedTarget(0), nil, self, "followed", resolver, strconv.Itoa(jobAliases), b.ttl.String()); err != nil {
		return "", err
	}
	s, err := backends[0].launch(true, "transfer {\nto *\n}\n")(b, h, resolver)
	if err != nil {
		return "", err
	}
	var f jobFigures
	if err := b.jobStart(s, resolver, &f); err != nil {
		return "", err
	}
	for range b.rounds {
		if err := b.jobRound(s, resolver, &f); err != nil {
			return "", err
		}
	}
	for move := range b.rounds {
		if err := b.jobPull(s, resolver, self, move+1, &f); err != nil {
			return "", err
		}
	}
	return f.tables(b.ttl), nil
}

// jobStart waits until all targets have been looked up.
func (b *bench) jobStart(s *server, resolver string, f *jobFigures) error {
	f.answers = s.startup.Seconds()
	err := b.await("all targets have been looked up", time.Second, func() (bool, error) {
		r, err := control(resolver, reportName)
		return r.Never == 0, err
	})
	if err != nil {
		return err
	}
	f.known = time.Since(s.began).Seconds()
	used, err := s.cpuTime()
	if err != nil {
		return err
	}
	f.knownTime = used.Seconds()
	if f.peak, err = s.peak(); err != nil {
		return err
	}
	f.resident, err = s.resident()
	return err
}

// jobRound measures how the server follows the targets for one TTL.
func (b *bench) jobRound(s *server, resolver string, f *jobFigures) error {
	if _, err := control(resolver, beginName); err != nil {
		return err
	}
	before, err := s.cpuTime()
	if err != nil {
		return err
	}
	began := time.Now()
	if err := wait(b.ctx, b.ttl+jobSlack); err != nil {
		return err
	}
	after, err := s.cpuTime()
	if err != nil {
		return err
	}
	length := time.Since(began).Seconds()
	r, err := control(resolver, reportName)
	f.share = append(f.share, 100*(after-before).Seconds()/length)
	f.lookups = append(f.lookups, float64(r.Queries)/length)
	f.median, f.p99, f.worst = append(f.median, r.Median), append(f.p99, r.P99), append(f.worst, r.Worst)
	f.late = append(f.late, float64(r.Late))
	return err
}

// jobPull has all addresses change. When the job has had time to see that, secondaries pull all zones.
func (b *bench) jobPull(s *server, resolver, self string, move int, f *jobFigures) error {
	if _, err := control(resolver, moveName); err != nil {
		return err
	}
	if err := wait(b.ctx, b.ttl+jobSlack-probeLength); err != nil {
		return err
	}
	fresh := hosted{}.zone(0) + "."
	quiet, err := b.probe(s.addr, fresh)
	if err != nil {
		return err
	}
	var out strings.Builder
	pull := b.client(self, "pull", s.addr, strconv.Itoa(jobZones), strconv.Itoa(jobSecondaries), strconv.Itoa(move))
	pull.Stdout, pull.Stderr = &out, os.Stderr
	if err := pull.Start(); err != nil {
		return err
	}
	during, err := b.probe(s.addr, fresh)
	if err != nil {
		return err
	}
	if err := pull.Wait(); err != nil {
		return err
	}
	var r pullReport
	if err := json.Unmarshal([]byte(out.String()), &r); err != nil {
		return err
	}
	f.quietProbe, f.jobProbe = append(f.quietProbe, quiet), append(f.jobProbe, during)
	f.pull = append(f.pull, float64(r.Zones)/r.Seconds)
	f.failed += r.Failed
	f.wrong += 2*jobAliases - r.Current
	return nil
}

// tables returns the figures.
func (f jobFigures) tables(ttl time.Duration) string {
	var s strings.Builder
	s.WriteString(headRow(fmt.Sprintf("%d aliases in %d zones, each with a target of its own, TTL %s", jobAliases, jobZones, ttl), ""))
	row := func(name, format string, values ...any) {
		fmt.Fprintf(&s, "| %s | %s |\n", name, fmt.Sprintf(format, values...))
	}
	row("seconds to the first answer", "%.1f", f.answers)
	row("seconds until all targets are looked up", "%.0f", f.known)
	row("seconds of processor time until then", "%.0f", f.knownTime)
	row("peak of the resident memory until then, MiB", "%d", f.peak>>20)
	row("resident memory then, MiB", "%d", f.resident>>20)
	row("lookups per second, for one TTL", "%s", f.lookups.format("%.0f"))
	row("% of a core", "%s", f.share.format("%.1f"))
	row("seconds between two lookups of a target, median", "%s", f.median.format("%.1f"))
	row("99th percentile", "%s", f.p99.format("%.1f"))
	row("longest", "%s", f.worst.format("%.1f"))
	row("targets that were not looked up for longer than the TTL", "%s", f.late.format("%.0f"))
	row(fmt.Sprintf("transfers per second, %d secondaries pull all zones", jobSecondaries), "%s", f.pull.format("%.0f"))
	row("transfers that failed", "%d", f.failed)
	row("addresses in transfers that were not those of the target", "%d", f.wrong)
	row("p99 of fresh answers, microseconds", "%s", f.quietProbe.format("%.0f"))
	row("while the secondaries pull", "%s", f.jobProbe.format("%.0f"))
	return s.String()
}
