package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
)

// compared are the Corefiles in which two servers are compared: the plugins in front of alias.
var compared = []string{"errors", "errors prometheus", "errors prometheus log", "errors prometheus cache", "errors prometheus log cache"}

// compareAddresses is how many addresses the apex has.
const compareAddresses = 2

// measureCompare compares the built server with the server at b.old: throughput, and processor time of a query. Both run with each
// Corefile, and take turns.
func (b *bench) measureCompare() (string, error) {
	if b.old == "" {
		return "", errors.New("compare needs -old")
	}
	old, err := filepath.Abs(b.old)
	if err != nil {
		return "", err
	}
	if err := b.writeZones(); err != nil {
		return "", err
	}
	resolver, err := b.launchUnbound(3600)
	if err != nil {
		return "", err
	}
	programs := [2]string{old, b.coredns}
	servers := make([][2]*server, len(compared))
	for i, plugins := range compared {
		for j, program := range programs {
			corefile := aliasCorefile(resolver.addr, inFront(plugins))
			servers[i][j], err = b.launchCorefile(program, nil, fmt.Sprintf("compare-%d-%d", i, j), zoneName(compareAddresses), corefile)
			if err != nil {
				return "", err
			}
		}
	}
	figures := make([][2]turns, len(compared))
	queries := filepath.Join(b.dir, zoneName(compareAddresses)+"queries")
	for range b.rounds {
		for i := range compared {
			for j, s := range servers[i] {
				before, err := s.cpuTime()
				if err != nil {
					return "", err
				}
				qps, err := b.throughput(s, queries)
				if err != nil {
					return "", err
				}
				after, err := s.cpuTime()
				if err != nil {
					return "", err
				}
				f := &figures[i][j]
				f.rate = append(f.rate, qps)
				f.cost = append(f.cost, float64((after-before).Microseconds())/(qps*b.length.Seconds()))
			}
		}
	}
	b.stopAll()
	return compareTables(figures), nil
}

// inFront returns the lines of a Corefile for these plugins.
func inFront(plugins string) string {
	return strings.NewReplacer(" ", "\n", "prometheus", "prometheus MONITOR").Replace(plugins) + "\n"
}

// turns are the figures of a server: queries per second, and microseconds of processor time for each query.
type turns struct{ rate, cost series }

// compareTables returns a table for each of the two. Other load on the machine changes the processor time less than the throughput.
func compareTables(figures [][2]turns) string {
	return compareTable("Queries per second", "%.0f", figures, func(t turns) series { return t.rate }) + "\n" +
		compareTable("Processor time of a query, microseconds", "%.2f", figures, func(t turns) series { return t.cost })
}

// compareTable returns a table of the series that of selects: the figures of the old and the new server, the ratio of their medians,
// and the least and the largest ratio of a round.
func compareTable(title, format string, figures [][2]turns, of func(turns) series) string {
	var s strings.Builder
	fmt.Fprintf(&s, "| %s | old | new | new / old |\n| --- | --- | --- | --- |\n", title)
	for i, plugins := range compared {
		before, after := of(figures[i][0]), of(figures[i][1])
		ratios := make(series, len(before))
		for round := range ratios {
			ratios[round] = after[round] / before[round]
		}
		fmt.Fprintf(&s, "| *%s* | %s | %s | %.3f %s |\n", strings.ReplaceAll(plugins, " ", "*, *"), before.format(format), after.format(format),
			after.median()/before.median(), ratios.spread("%.3f"))
	}
	return s.String()
}
