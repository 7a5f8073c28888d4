//go:build linux

package test

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

const tableHead = `| Drill | Asked | Answered | of these stale | Empty | Lost | Slowest | p99 before | p99 during | p99 of MX | Fresh again after |
| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |
`

// checkTable checks that the table in README.md has a row for each drill, in their order.
func checkTable(t *testing.T) {
	t.Helper()
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, found := strings.Cut(string(readme), tableHead)
	if !found {
		t.Fatal("README.md has no table of drills")
	}
	var rows, names []string
	for line := range strings.Lines(table) {
		rows = append(rows, strings.TrimSpace(strings.Split(line+"|", "|")[1]))
	}
	for _, d := range drills {
		names = append(names, d.name)
	}
	if !slices.Equal(rows, names) {
		t.Errorf("The table in README.md is not up to date, run with -update. It has\n\t%s\nwant\n\t%s",
			strings.Join(rows, "\n\t"), strings.Join(names, "\n\t"))
	}
}

// writeTable writes the table into README.md, which ends with it.
func writeTable(t *testing.T, results []result) {
	readme, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	text, _, found := strings.Cut(string(readme), tableHead)
	if !found {
		t.Fatal("README.md has no table of drills")
	}
	text += tableHead
	for i, r := range results {
		if r.asked == 0 {
			t.Errorf("%s did not run, so README.md is left as it is", drills[i].name)
			return
		}
		text += fmt.Sprintf("| %s %s\n", drills[i].name, r)
	}
	if err := os.WriteFile("README.md", []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// String returns the columns of the table with the figures.
func (r result) String() string {
	ms := func(d time.Duration) string { return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000) }
	return fmt.Sprintf("| %d | %d | %d | %d | %d | %s | %s | %s | %s | %.1f s |", r.asked, r.answered, r.stale, r.empty, r.lost,
		ms(r.slowest), ms(r.before), ms(r.during), ms(r.control), r.fresh.Seconds())
}
