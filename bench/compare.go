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
	figures, err := b.takeTurns(servers)
	if err != nil {
		return "", err
	}
	b.stopAll()
	return compareTables(figures), nil
}

// takeTurns has all servers answer queries for the apex with compareAddresses, one after the other in each round.
func (b *bench) takeTurns(servers [][2]*server) ([][2]turns, error) {
	figures := make([][2]turns, len(servers))
	queries := filepath.Join(b.dir, zoneName(compareAddresses)+"queries")
	for range b.rounds {
		for i := range servers {
			for j, s := range servers[i] {
				before, err := s.cpuTime()
				if err != nil {
					return nil, err
				}
				qps, err := b.throughput(s, queries)
				if err != nil {
					return nil, err
				}
				after, err := s.cpuTime()
				if err != nil {
					return nil, err
				}
				f := &figures[i][j]
				f.rate = append(f.rate, qps)
				f.cost = append(f.cost, float64((after-before).Microseconds())/(qps*b.length.Seconds()))
			}
		}
	}
	return figures, nil
}

// inFront returns the lines of a Corefile for these plugins.
func inFront(plugins string) string {
	return strings.NewReplacer(" ", "\n", "prometheus", "prometheus MONITOR").Replace(plugins) + "\n"
}

// turns are the figures of a server: queries per second, and microseconds of processor time for each query.
type turns struct{ rate, cost series }

// compareTables returns the tables of compare.
func compareTables(figures [][2]turns) string {
	return turnTables([2]string{"old", "new"}, compared, figures)
}

// turnTables returns a table for each of the two kinds of figures. Other load on the machine changes the processor time less than the
// throughput. sides are the two servers of each row; a row is named after the plugins in it.
func turnTables(sides [2]string, rows []string, figures [][2]turns) string {
	table := func(title, format string, of func(turns) series) string {
		var s strings.Builder
		s.WriteString(headRow(title, sides[0], sides[1], sides[1]+" / "+sides[0]))
		for i, plugins := range rows {
			before, after := of(figures[i][0]), of(figures[i][1])
			fmt.Fprintf(&s, "| *%s* | %s | %s | %.3f %s |\n", strings.ReplaceAll(plugins, " ", "*, *"), before.format(format),
				after.format(format), after.median()/before.median(), after.over(before).spread("%.3f"))
		}
		return s.String()
	}
	return table("Queries per second", "%.0f", func(t turns) series { return t.rate }) + "\n" +
		table("Processor time of a query, microseconds", "%.2f", func(t turns) series { return t.cost })
}

// over returns the ratios of the figures of s and those of other, round by round.
func (s series) over(other series) series {
	ratios := make(series, len(s))
	for round := range ratios {
		ratios[round] = s[round] / other[round]
	}
	return ratios
}
