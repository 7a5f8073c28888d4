// Command bench measures alias beside other servers, over loopback on this machine, which should have nothing else to do.
//
//	go run ./bench [-write] [throughput] [scale] [storm]
//	go run ./bench generate ALIASES DIRECTORY
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strconv"
	"syscall"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "how often each contestant has its turn")
	length := flag.Duration("length", 3*time.Second, "how long a turn is")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, &bench{ctx: ctx, rounds: *rounds, length: *length}, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, b *bench, what []string) (err error) {
	switch {
	case len(what) == 3 && what[0] == "generate":
		aliases, err := strconv.Atoi(what[1])
		if err != nil {
			return err
		}
		return generate(what[2], aliases)
	case len(what) >= 3 && what[0] == "targets":
		ttl, err := time.ParseDuration(what[2])
		if err != nil {
			return err
		}
		return serveTargets(ctx, what[1], ttl, len(what) > 3)
	case len(what) == 3 && what[0] == "probe":
		return runProbe(ctx, what[1], what[2], os.Stdout)
	}
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.stopAll()
	if err := b.install(); err != nil {
		return err
	}
	if b.coredns, err = b.build("./cmd/coredns"); err != nil {
		return err
	}
	for _, m := range []struct {
		name    string
		measure func() (string, error)
	}{{"throughput", b.measureThroughput}, {"scale", b.measureScale}, {"storm", b.measureStorm}} {
		if len(what) > 0 && !slices.Contains(what, m.name) {
			continue
		}
		tables, err := m.measure()
		if err != nil {
			return err
		}
		fmt.Println(tables)
	}
	return nil
}

// format returns the median of s, and its least and largest figure.
func (s series) format(format string) string {
	return fmt.Sprintf(format+" ("+format+"-"+format+")", s.median(), slices.Min(s), slices.Max(s))
}

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
