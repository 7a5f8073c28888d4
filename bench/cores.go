package main

import (
	"fmt"
	"path/filepath"
	"strings"
	"time"
)

// coreContestants are the servers that are measured with one core and with two.
var coreContestants = []struct {
	name     string
	corefile func(resolver, front string) string
}{
	{"*alias*, fresh", aliasCorefile},
	{"*file*, static records", func(_, front string) string { return blocks(front + "file ZONEzone ZONE") }},
}

// coreCounts are the numbers of cores, with the cores of the server and those of the clients. This machine may have no more than two,
// so with two cores the server and the clients share them.
var coreCounts = []struct {
	cores          int
	server, client string
}{{1, serverCore, clientCore}, {2, serverCore + "," + clientCore, serverCore + "," + clientCore}}

// coreTurn is what was measured in one turn.
type coreTurn struct {
	queries int
	length  time.Duration
	server  time.Duration // processor time of the server
	client  time.Duration // of the clients, on cores that the server shares
	cores   int           // of the server
}

// perQuery returns the microseconds of processor time that the server took for each query.
func (t coreTurn) perQuery() float64 { return t.server.Seconds() * 1e6 / float64(t.queries) }

// idle returns which share of the server's cores neither the server nor the clients used.
func (t coreTurn) idle() float64 {
	return max(0, 1-(t.server+t.client).Seconds()/(t.length.Seconds()*float64(t.cores)))
}

// capacity returns how many queries a second the server would answer if it had its cores for itself: processor time that it has used
// grows to all that there is. With pessimism, idle time counts as time that the server needs: it may have waited for a lock.
func (t coreTurn) capacity(pessimism bool) float64 {
	needed := t.server.Seconds()
	if pessimism {
		needed = t.length.Seconds()*float64(t.cores) - t.client.Seconds()
	}
	return float64(t.queries) * float64(t.cores) / needed
}

// coreFigures are the figures of a contestant on so many cores.
type coreFigures struct{ rate, perQuery, client, idle, high, low series }

func (f *coreFigures) add(t coreTurn) {
	f.rate = append(f.rate, float64(t.queries)/t.length.Seconds())
	f.perQuery = append(f.perQuery, t.perQuery())
	f.client = append(f.client, 100*t.client.Seconds()/(t.length.Seconds()*float64(t.cores)))
	f.idle = append(f.idle, 100*t.idle())
	f.high = append(f.high, t.capacity(false))
	f.low = append(f.low, t.capacity(true))
}

// measureCores measures servers with multisocket on one core and on two.
func (b *bench) measureCores() (string, error) {
	if err := b.writeZones(); err != nil {
		return "", err
	}
	resolver, err := b.launchUnbound(3600)
	if err != nil {
		return "", err
	}
	servers := make([][]*server, len(coreContestants))
	figures := make([][]coreFigures, len(coreContestants))
	for i, c := range coreContestants {
		figures[i] = make([]coreFigures, len(coreCounts))
		for _, n := range coreCounts {
			corefile := c.corefile(resolver.addr, fmt.Sprintf("multisocket %d\n", n.cores))
			s, err := b.startCorefile(n.server, b.coredns, nil, nil, fmt.Sprintf("cores-%d-%d", i, n.cores), corefile)
			if err != nil {
				return "", err
			}
			if err := b.awaitAnswer(s, zoneName(2)); err != nil {
				return "", err
			}
			servers[i] = append(servers[i], s)
		}
	}
	for range b.rounds {
		for i := range coreContestants {
			for j, s := range servers[i] {
				t, err := b.coreTurn(s, j)
				if err != nil {
					return "", err
				}
				figures[i][j].add(t)
			}
		}
	}
	b.stopAll()
	return coreTables(figures), nil
}

// coreTurn measures one turn. The clients have several sockets, so that the kernel spreads their queries over the server's.
func (b *bench) coreTurn(s *server, count int) (coreTurn, error) {
	n := coreCounts[count]
	t := coreTurn{cores: n.cores}
	before, err := s.cpuTime()
	if err != nil {
		return t, err
	}
	a, client, err := b.perfOn(n.client, s, filepath.Join(b.dir, zoneName(2)+"queries"), "NOERROR", "-c", "16", "-T", "2")
	if err != nil {
		return t, err
	}
	after, err := s.cpuTime()
	t.queries, t.server = a.count, after-before
	t.length = time.Duration(float64(a.count) / a.rate * float64(time.Second))
	if n.client == n.server {
		t.client = client
	}
	return t, err
}

// coreTables returns the figures and the ratios.
func coreTables(figures [][]coreFigures) string {
	var s strings.Builder
	s.WriteString(headRow("Contestant", "cores", "queries per second", "processor time of a query, microseconds", "clients, % of the cores", "idle, %",
		"capacity, queries per second", "capacity if the server needs the idle time too"))
	for i, c := range coreContestants {
		for j, n := range coreCounts {
			f := figures[i][j]
			fmt.Fprintf(&s, "| %s | %d | %s | %s | %s | %s | %s | %s |\n", c.name, n.cores, f.rate.format("%.0f"), f.perQuery.format("%.2f"),
				f.client.format("%.0f"), f.idle.format("%.1f"), f.high.format("%.0f"), f.low.format("%.0f"))
		}
	}
	s.WriteString("\n" + headRow("Capacity on two cores / on one", "ratio of medians", "if the server needs the idle time too"))
	for i, c := range coreContestants {
		one, two := figures[i][0], figures[i][1]
		fmt.Fprintf(&s, "| %s | %.2f | %.2f |\n", c.name, two.high.median()/one.high.median(), two.low.median()/one.low.median())
	}
	return s.String()
}
