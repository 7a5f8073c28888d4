//go:build linux

package test

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// Each alert has unit tests, a row in the page, and a link to the page on troubleshooting.
func TestAlerts(t *testing.T) {
	t.Parallel()
	promtool := need(t, "promtool")
	for _, args := range [][]string{{"check", "rules", "--lint=all", "--lint-fatal", rulesFile}, {"test", "rules", rulesTests}} {
		if out, err := exec.Command(promtool, args...).CombinedOutput(); err != nil {
			t.Errorf("promtool %v: %v\n%s", args, err, out)
		}
	}
	rules, tests, page := read(t, rulesFile), read(t, rulesTests), read(t, monitoringPage)
	known := anchors(read(t, "../docs/troubleshooting.md"))
	alert := regexp.MustCompile(`(?s)- alert: (\w+)\n.*?severity: (\w+)\n.*?runbook_url: \S+/docs/troubleshooting\.md(#[a-z-]+)\n`)
	alerts := alert.FindAllStringSubmatch(rules, -1)
	if n := strings.Count(rules, "- alert: "); n == 0 || n != len(alerts) {
		t.Fatalf("Found %d of %d alerts", len(alerts), n)
	}
	var rows []string
	for _, a := range alerts {
		name, severity, anchor := a[1], a[2], a[3]
		if !slices.Contains(known, anchor) {
			t.Errorf("%s: troubleshooting.md has no %s", name, anchor)
		}
		for what, alerts := range map[string]string{"no alert": ` \[\]`, "an alert": `( &\w+)?\n +- exp_labels: `} {
			if !regexp.MustCompile(`alertname: ` + name + `\n +exp_alerts:` + alerts).MatchString(tests) {
				t.Errorf("%s has no test that expects %s", name, what)
			}
		}
		rows = append(rows, fmt.Sprintf("| [`%s`](troubleshooting.md%s) | %s | ", name, anchor, severity))
	}
	checkRows(t, page, "| Alert | Severity | What it means |\n| --- | --- | --- |\n", rows)
}

// checkRows checks that the rows of the table below head have these beginnings.
func checkRows(t *testing.T, page, head string, beginnings []string) {
	t.Helper()
	_, table, found := strings.Cut(page, head)
	if !found {
		t.Fatalf("The page has no table %s", head)
	}
	table, _, _ = strings.Cut(table, "\n\n")
	rows := strings.Split(strings.TrimSpace(table), "\n")
	if len(rows) != len(beginnings) {
		t.Errorf("The table has %d rows, want %d", len(rows), len(beginnings))
	}
	for i, row := range rows[:min(len(rows), len(beginnings))] {
		if !strings.HasPrefix(row, beginnings[i]) {
			t.Errorf("The table has\n\t%s\nwant\n\t%s", row, beginnings[i])
		}
	}
}
