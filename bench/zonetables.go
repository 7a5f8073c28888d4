package main

import (
	"fmt"
	"strings"
)

// tables returns all tables of the measurement.
func (r *zoneRun) tables() string {
	var parts []string
	for q, question := range questions {
		parts = append(parts, r.rateTable("Queries per second, "+question.name, "%.0f", func(f zoneFigures) series { return f.rate(q) }))
	}
	parts = append(parts,
		r.rateTable("Queries per second, cold A", "%.0f", func(f zoneFigures) series { return f.cold }),
		r.rateTable("Processor time of a cold A, microseconds", "%.0f", func(f zoneFigures) series { return f.coldTime }),
		r.growthTable())
	for size := range r.sizes {
		parts = append(parts, r.ratioTable(size))
	}
	parts = append(parts, r.startTable(), r.memoryTable())
	return strings.Join(parts, "\n")
}

// rate returns the figures for a question.
func (f zoneFigures) rate(q int) series {
	if !f.measured {
		return nil
	}
	return f.rates[q]
}

// columns returns the figures of all columns of a ratio table.
func (f zoneFigures) columns() []series {
	all := make([]series, 0, len(questions)+1)
	for q := range questions {
		all = append(all, f.rate(q))
	}
	return append(all, f.cold)
}

// headRow returns the first two lines of a table.
func headRow(cells ...string) string {
	return "| " + strings.Join(cells, " | ") + " |\n|" + strings.Repeat(" --- |", len(cells)) + "\n"
}

// zoneHead returns the first two lines of a table with a column for each number of zones.
func (r *zoneRun) zoneHead(title string) string {
	cells := []string{title}
	for _, n := range r.sizes {
		cells = append(cells, fmt.Sprint(n))
	}
	return headRow(cells...)
}

// questionHead returns the first two lines of a table with a column for each question.
func questionHead(title string) string {
	cells := []string{title}
	for _, q := range questions {
		cells = append(cells, q.name)
	}
	return headRow(append(cells, "cold A")...)
}

// cell returns s for a table: a dash if nothing was measured.
func (s series) cell(format string) string {
	if len(s) == 0 {
		return " - |"
	}
	return " " + s.format(format) + " |"
}

// ratioCell returns the ratio of two medians for a table.
func ratioCell(a, b series) string {
	if len(a) == 0 || len(b) == 0 {
		return " - |"
	}
	switch ratio := a.median() / b.median(); {
	case ratio >= 10:
		return fmt.Sprintf(" %.0f |", ratio)
	case ratio < 0.1:
		return fmt.Sprintf(" %.4f |", ratio)
	default:
		return fmt.Sprintf(" %.2f |", ratio)
	}
}

// rateTable returns a table of what of selects.
func (r *zoneRun) rateTable(title, format string, of func(zoneFigures) series) string {
	var s strings.Builder
	s.WriteString(r.zoneHead(title))
	for i, c := range r.contestant {
		if c.transfer {
			continue
		}
		fmt.Fprintf(&s, "| %s |", c.name)
		for _, f := range r.figures[i] {
			s.WriteString(of(f).cell(format))
		}
		fmt.Fprintln(&s)
	}
	return s.String()
}

// growthTable returns the ratios of the figures with the most zones to those with the fewest.
func (r *zoneRun) growthTable() string {
	var s strings.Builder
	last := len(r.sizes) - 1
	s.WriteString(questionHead(fmt.Sprintf("Queries per second, %d zones / %d", r.sizes[last], r.sizes[0])))
	for i, c := range r.contestant {
		if c.transfer {
			continue
		}
		fmt.Fprintf(&s, "| %s |", c.name)
		few := r.figures[i][0].columns()
		for j, many := range r.figures[i][last].columns() {
			s.WriteString(ratioCell(many, few[j]))
		}
		fmt.Fprintln(&s)
	}
	return s.String()
}

// ratioTable returns the ratios of each contestant that has alias to the others, with one number of zones.
func (r *zoneRun) ratioTable(size int) string {
	var s strings.Builder
	s.WriteString(questionHead(fmt.Sprintf("Ratio of medians, zones: %d", r.sizes[size])))
	index := make(map[string]int)
	for i, c := range r.contestant {
		index[c.name] = i
	}
	for i, c := range r.contestant {
		if c.base == "" || c.transfer {
			continue
		}
		for _, other := range []string{c.base, hostedPowerDNS, uncachedPower, hostedNSD, ceiling} {
			j, ok := index[other]
			if !ok {
				continue
			}
			fmt.Fprintf(&s, "| %s / %s |", c.name, other)
			theirs := r.figures[j][size].columns()
			for k, ours := range r.figures[i][size].columns() {
				s.WriteString(ratioCell(ours, theirs[k]))
			}
			fmt.Fprintln(&s)
		}
	}
	return s.String()
}

// startTable returns the times of the starts.
func (r *zoneRun) startTable() string {
	var s strings.Builder
	s.WriteString(r.zoneHead("Seconds until the first zone answers / the last; of processor time until then / until the server is quiet"))
	for i, c := range r.contestant {
		fmt.Fprintf(&s, "| %s |", c.name)
		for _, f := range r.figures[i] {
			fmt.Fprintf(&s, " %.2f / %.2f; %.2f / %.2f |", f.first, f.last, f.started, f.quiet)
		}
		fmt.Fprintln(&s)
	}
	return s.String()
}

// memoryTable returns the memory and the idle time with the most zones. Of the Go servers it also has the memory that is in use after a
// garbage collection: resident memory depends on when that was.
func (r *zoneRun) memoryTable() string {
	var s strings.Builder
	last := len(r.sizes) - 1
	n := r.sizes[last]
	s.WriteString(headRow(fmt.Sprintf("Without queries, zones: %d", n), "resident, MiB", "octets for each zone", "beyond the server without *alias*",
		"in use, MiB", "octets for each zone", "beyond the server without *alias*", "% of a core"))
	base := make(map[string]zoneFigures)
	for i, c := range r.contestant {
		base[c.name] = r.figures[i][last]
	}
	for i, c := range r.contestant {
		f := r.figures[i][last]
		if !f.settled {
			continue
		}
		without := base[c.base] // empty if there is none
		fmt.Fprintf(&s, "| %s |%s%s %.2f |\n", c.name, memoryCells(f.resident, without.resident, n), memoryCells(f.inUse, without.inUse, n), 100*f.idle)
	}
	return s.String()
}

// memoryCells returns the cells for memory of n zones, and what is beyond that of a server without alias. 0 is unknown.
func memoryCells(memory, without, n int) string {
	switch {
	case memory == 0:
		return " - | - | - |"
	case without == 0:
		return fmt.Sprintf(" %d | %d | - |", memory>>20, memory/n)
	default:
		return fmt.Sprintf(" %d | %d | %d |", memory>>20, memory/n, (memory-without)/n)
	}
}
