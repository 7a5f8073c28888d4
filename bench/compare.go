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

// measureCompare compares the throughput of the built server with that of the server at b.old. Both run with each Corefile, and
// take turns.
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
	figures := make([][2]series, len(compared))
	queries := filepath.Join(b.dir, zoneName(compareAddresses)+"queries")
	for range b.rounds {
		for i := range compared {
			for j, s := range servers[i] {
				qps, err := b.throughput(s, queries)
				if err != nil {
					return "", err
				}
				figures[i][j] = append(figures[i][j], qps)
			}
		}
	}
	b.stopAll()
	return compareTable(figures), nil
}

// inFront returns the lines of a Corefile for these plugins.
func inFront(plugins string) string {
	return strings.NewReplacer(" ", "\n", "prometheus", "prometheus MONITOR").Replace(plugins) + "\n"
}

// compareTable returns the figures of the old and the new server, the ratio of their medians, and the least and the largest
// ratio of a round.
func compareTable(figures [][2]series) string {
	var s strings.Builder
	s.WriteString("| Queries per second, *alias* with | old | new | new / old |\n| --- | --- | --- | --- |\n")
	for i, plugins := range compared {
		before, after := figures[i][0], figures[i][1]
		ratios := make(series, len(before))
		for round := range ratios {
			ratios[round] = after[round] / before[round]
		}
		fmt.Fprintf(&s, "| *%s* | %s | %s | %.3f %s |\n", strings.ReplaceAll(plugins, " ", "*, *"), before.format("%.0f"), after.format("%.0f"),
			after.median()/before.median(), ratios.spread("%.3f"))
	}
	return s.String()
}
