// Command bench measures the speed of alias beside that of other servers, over loopback on one machine, which should have nothing
// else to do. See README.md.
//
//	go -C bench run . [-rounds N] [-length DURATION] [-load QUERIES] [-write] [throughput] [scale] [storm] [zones] [cores] [job] [subnet] [tenants] [share]
//	go -C bench run . [-rounds N] [-length DURATION] [-idle DURATION] [-zones N,...] [-only REGEXP] [-server PATH] zones
//	go -C bench run . [-rounds N] [-ttl DURATION] job
//	go -C bench run . [-rounds N] [-length DURATION] -old PATH compare
//	go -C bench run . [-rounds N] [-length DURATION] [-zones N,...] catalogs
//	go -C bench run . generate ALIASES DIRECTORY
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	rounds := flag.Int("rounds", 5, "how many turns each contestant has")
	length := flag.Duration("length", 3*time.Second, "the length of a turn, in whole seconds")
	load := flag.Int("load", 5000, "queries a second for random aliases in storm and tenants")
	old := flag.String("old", "", "the server that compare measures beside the built one")
	zones := flag.String("zones", "1,1000,10000,100000", "the numbers of zones in the measurements zones and catalogs")
	only := flag.String("only", "", "a regular expression: zones measures only the contestants whose names match")
	idle := flag.Duration("idle", settled, "how long zones watches the servers without queries")
	ttl := flag.Duration("ttl", 300*time.Second, "the TTL of the targets in job, in whole seconds")
	server := flag.String("server", "", "a CoreDNS with alias to measure in place of the one that is built")
	write := flag.Bool("write", false, "write the tables into README.md too")
	flag.Parse()

	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{
		ctx: ctx, rounds: *rounds, length: *length, stormLoad: *load, zones: *zones, only: *only, idle: *idle, ttl: *ttl, old: *old, coredns: *server,
		readme: *write,
	}
	if err := run(ctx, b, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// run runs the command that args name.
func run(ctx context.Context, b *bench, args []string) error {
	switch {
	case len(args) == 3 && args[0] == "generate":
		aliases, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return generate(args[2], aliases)
	case len(args) >= 3 && args[0] == "targets": // the bench starts this itself
		ttl, err := time.ParseDuration(args[2])
		if err != nil {
			return err
		}
		return serveTargets(ctx, args[1], ttl, len(args) > 3)
	case len(args) == 2 && args[0] == "subnets": // likewise
		return serveSubnets(ctx, args[1])
	case len(args) == 3 && args[0] == "probe": // the bench starts this itself
		return runProbe(ctx, args[1], args[2], os.Stdout)
	case len(args) == 2 && args[0] == "tenants-resolver": // likewise
		return serveTenants(ctx, args[1])
	case len(args) == 2 && args[0] == "tenants-probe": // likewise
		return runTenantsProbe(ctx, args[1], os.Stdout)
	case len(args) == 4 && args[0] == "followed": // likewise
		return serveFollowed(ctx, args[1], args[2], args[3])
	case len(args) == 5 && args[0] == "pull": // likewise
		return runPull(ctx, args[1], args[2], args[3], args[4], os.Stdout)
	}
	return b.measure(args)
}

// measurement is one of the measurements; measure returns its tables.
type measurement struct {
	name    string
	measure func(b *bench) (string, error)
}

// measurements are those that are taken when the arguments name none. README.md has their tables.
var measurements = []measurement{
	{"throughput", (*bench).measureThroughput}, {"scale", (*bench).measureScale}, {"storm", (*bench).measureStorm},
	{"zones", (*bench).measureZones}, {"cores", (*bench).measureCores}, {"job", (*bench).measureJob}, {"subnet", (*bench).measureSubnet},
	{"tenants", (*bench).measureTenants}, {"share", (*bench).measureShare},
}

// optional are those that are taken only when the arguments name them. Their tables are not in README.md.
var optional = []measurement{{"compare", (*bench).measureCompare}, {"catalogs", (*bench).measureCatalogs}}

// measure takes the measurements that are named.
func (b *bench) measure(names []string) (err error) {
	var chosen []measurement
	for _, name := range names {
		known := append(slices.Clone(measurements), optional...)
		i := slices.IndexFunc(known, func(m measurement) bool { return m.name == name })
		if i < 0 {
			return fmt.Errorf("%q is not known: throughput, scale, storm, zones, cores, job, subnet, tenants, share, compare or catalogs", name)
		}
		chosen = append(chosen, known[i])
	}
	if len(chosen) == 0 {
		chosen = measurements
	}
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	defer b.stopAll()
	if err := b.install(); err != nil {
		return err
	}
	if err := b.buildServer(); err != nil {
		return err
	}
	for _, m := range chosen {
		tables, err := m.measure(b)
		if err != nil {
			return err
		}
		tables = fmt.Sprintf("%s, %d rounds, %s\n\n%s", processor(), b.rounds, time.Now().Format(time.DateOnly), tables)
		fmt.Println(tables)
		if b.readme && !slices.ContainsFunc(optional, func(o measurement) bool { return o.name == m.name }) {
			if err := writeTables("README.md", m.name, tables); err != nil {
				return err
			}
		}
	}
	return nil
}

// buildServer builds the server, unless one is given.
func (b *bench) buildServer() (err error) {
	if b.coredns == "" {
		b.coredns, err = b.build("..", "./cmd/coredns")
		return err
	}
	b.coredns, err = filepath.Abs(b.coredns)
	b.bounded = b.coredns
	return err
}

// processor returns the processor of this machine and the version of Go.
func processor() string {
	info, _ := os.ReadFile("/proc/cpuinfo")
	_, rest, _ := strings.Cut(string(info), "model name")
	model, _, _ := strings.Cut(strings.TrimLeft(rest, "\t: "), "\n")
	build, _ := debug.ReadBuildInfo()
	return model + ", " + build.GoVersion
}

// writeTables replaces the text between the markers of name in a file with tables.
func writeTables(path, name, tables string) error {
	text, err := os.ReadFile(path) // #nosec G304 -- a constant
	if err != nil {
		return err
	}
	begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
	head, rest, ok := strings.Cut(string(text), begin)
	_, tail, closed := strings.Cut(rest, end)
	if !ok || !closed {
		return fmt.Errorf("%s: no place for %s", path, name)
	}
	return os.WriteFile(path, []byte(head+begin+tables+"\n"+end+tail), 0o644) // #nosec G306 -- a public document
}

// format returns the median of s, and its least and largest figure.
func (s series) format(format string) string {
	return fmt.Sprintf(format+" ", s.median()) + s.spread(format)
}

// spread returns the least and the largest figure of s, in parentheses.
func (s series) spread(format string) string {
	return fmt.Sprintf("("+format+"-"+format+")", slices.Min(s), slices.Max(s))
}

func (s series) median() float64 {
	sorted := slices.Sorted(slices.Values(s))
	return (sorted[(len(sorted)-1)/2] + sorted[len(sorted)/2]) / 2
}
