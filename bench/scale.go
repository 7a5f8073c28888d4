package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// sizes are the numbers of aliases that are compared.
var sizes = []int{1, 1000, 100_000, 1_000_000}

// settled is the time from the start of a server until its memory is read. The garbage collector runs every two minutes at least, and
// has freed by then what the start has left behind.
const settled = 150 * time.Second

// kinds are the servers that are compared at each size.
var kinds = []struct {
	name    string
	plugins func(dir, resolver string) (string, error)
}{
	{"`record`s", func(dir, resolver string) (string, error) { return recordsBlock(dir, resolver, 4_000_000) }},
	{"ALIAS in a zone", func(dir, resolver string) (string, error) {
		return fmt.Sprintf("alias {\ncache_size 4000000\nupstream %s\n}\nfile %s/alias.zone example", resolver, dir), nil
	}},
	{"*file*, static", func(dir, _ string) (string, error) { return fmt.Sprintf("file %s/static.zone example", dir), nil }},
}

// recordsBlock returns the alias plugin with the records in dir, for a Corefile.
func recordsBlock(dir, resolver string, cacheSize int) (string, error) {
	records, err := os.ReadFile(filepath.Join(dir, "records")) // #nosec G304 -- generated
	return fmt.Sprintf("alias {\n%scache_size %d\nupstream %s\n}", records, cacheSize, resolver), err
}

// launchSized starts a server with the aliases in dir.
func (b *bench) launchSized(name, dir, resolver string, plugins func(dir, resolver string) (string, error)) (*server, error) {
	text, err := plugins(dir, resolver)
	if err != nil {
		return nil, err
	}
	return b.launchCoreDNS(name, owner(0), "example.:PORT {\nbind 127.0.0.1\n"+text+"\n}\n")
}

// launchTargets starts the resolver that answers for the generated targets.
func (b *bench) launchTargets(ttl time.Duration, more ...string) (*server, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	return b.launch(clientCore, addr, target(0), nil, self, append([]string{"targets", addr, ttl.String()}, more...)...)
}

// measureScale measures servers of all sizes, and returns the tables.
func (b *bench) measureScale() (string, error) {
	resolver, err := b.launchTargets(time.Hour)
	if err != nil {
		return "", err
	}
	dirs := make([]string, len(sizes))
	for i, n := range sizes {
		dirs[i] = filepath.Join(b.dir, fmt.Sprint(n))
		if err := makeDir(dirs[i], n); err != nil {
			return "", err
		}
	}
	starts, err := b.measureStarts(dirs, resolver.addr)
	if err != nil {
		return "", err
	}
	rates, err := b.measureOwners(dirs, resolver.addr)
	if err != nil {
		return "", err
	}
	memory, err := b.measureMemory(dirs[0], dirs[len(dirs)-1], sizes[len(sizes)-1], resolver.addr)
	b.stopAll()
	return strings.Join([]string{starts, rates, memory}, "\n"), err
}

// measureStarts measures the time from the start of a server to its first answer.
func (b *bench) measureStarts(dirs []string, resolver string) (string, error) {
	figures := newGrid()
	for range b.rounds {
		for k, kind := range kinds {
			for i, dir := range dirs {
				s, err := b.launchSized("start", dir, resolver, kind.plugins)
				if err != nil {
					return "", err
				}
				figures[k][i] = append(figures[k][i], s.startup.Seconds())
				b.stop(s)
			}
		}
	}
	return sizeTable("Seconds to the first answer", figures, "%.2f"), nil
}

// measureOwners measures how many queries a second for random owners are answered from the cache.
func (b *bench) measureOwners(dirs []string, resolver string) (string, error) {
	figures := newGrid()
	servers := make([][]*server, len(kinds))
	for k, kind := range kinds {
		for i, dir := range dirs {
			s, err := b.launchSized(fmt.Sprintf("owners-%d-%d", k, i), dir, resolver, kind.plugins)
			if err != nil {
				return "", err
			}
			servers[k] = append(servers[k], s)
			if _, err := b.throughput(s, filepath.Join(dir, "queries"), "-n", "1", "-l", "300"); err != nil {
				return "", err
			}
		}
	}
	for range b.rounds {
		for k := range kinds {
			for i, dir := range dirs {
				qps, err := b.throughput(servers[k][i], filepath.Join(dir, "queries"))
				if err != nil {
					return "", err
				}
				figures[k][i] = append(figures[k][i], qps)
			}
		}
	}
	for _, s := range servers {
		for _, s := range s {
			b.stop(s)
		}
	}
	var s strings.Builder
	s.WriteString(sizeTable("Queries per second, random owners", figures, "%.0f"))
	s.WriteString("\n" + sizeHead("Time of a query, as a multiple of that of one alias"))
	for k, kind := range kinds {
		fmt.Fprintf(&s, "| %s |", kind.name)
		for i := range sizes {
			fmt.Fprintf(&s, " %.2f |", figures[k][0].median()/figures[k][i].median())
		}
		fmt.Fprintln(&s)
	}
	return s.String(), nil
}

// measureMemory measures the resident memory of a server with all records and an empty cache, of one that has cached the answers of
// all records, and of one with a single record.
func (b *bench) measureMemory(one, all string, n int, resolver string) (string, error) {
	launch := func(name, dir string, cacheSize int) (*server, error) {
		return b.launchSized(name, dir, resolver, func(dir, resolver string) (string, error) {
			return recordsBlock(dir, resolver, cacheSize)
		})
	}
	empty, err := launch("empty", one, 1)
	if err != nil {
		return "", err
	}
	fresh, err := launch("fresh", all, 1)
	if err != nil {
		return "", err
	}
	queried, err := launch("queried", all, 4_000_000)
	if err != nil {
		return "", err
	}
	if _, err := b.throughput(queried, filepath.Join(all, "queries.both"), "-n", "1", "-l", "300"); err != nil {
		return "", err
	}
	if err := wait(b.ctx, settled); err != nil {
		return "", err
	}
	base, err := empty.resident()
	if err != nil {
		return "", err
	}
	var s strings.Builder
	s.WriteString(headRow(fmt.Sprintf("Resident memory of %d `record`s", n), "MiB", "octets for each, over a server with one", "MiB at the peak"))
	for _, row := range []struct {
		name string
		s    *server
	}{{"one record", empty}, {"never queried, nothing cached", fresh}, {"both answers of each cached, and queried", queried}} {
		rss, err := row.s.resident()
		if err != nil {
			return "", err
		}
		peak, err := row.s.peak()
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&s, "| %s | %d | %d | %d |\n", row.name, rss>>20, (rss-base)/n, peak>>20)
	}
	return s.String(), nil
}

// grid has the figures of each kind of server at each size.
type grid [][]series

func newGrid() grid {
	g := make(grid, len(kinds))
	for k := range g {
		g[k] = make([]series, len(sizes))
	}
	return g
}

func sizeHead(title string) string {
	var s strings.Builder
	fmt.Fprintf(&s, "| %s |", title)
	for _, n := range sizes {
		fmt.Fprintf(&s, " %d |", n)
	}
	io.WriteString(&s, "\n| --- |"+strings.Repeat(" --- |", len(sizes))+"\n")
	return s.String()
}

func sizeTable(title string, g grid, format string) string {
	var s strings.Builder
	s.WriteString(sizeHead(title))
	for k, kind := range kinds {
		fmt.Fprintf(&s, "| %s |", kind.name)
		for i := range sizes {
			s.WriteString(" " + g[k][i].format(format) + " |")
		}
		fmt.Fprintln(&s)
	}
	return s.String()
}
