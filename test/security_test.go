package test

import (
	"regexp"
	"strings"
	"testing"
)

// The page on security names a test for each threat, and each test that it names exists. So do the constants that it names.
func TestSecurityPage(t *testing.T) {
	t.Parallel()
	page := read(t, "../docs/security.md")
	checkNamed(t, page, 80)
	rows := 0
	for line := range strings.Lines(page) {
		if !strings.HasPrefix(line, "| ") || strings.HasPrefix(line, "| --- ") || strings.HasSuffix(line, "| Tests |\n") {
			continue
		}
		rows++
		cells := strings.Split(line, " | ")
		if len(cells) != 3 || !strings.HasPrefix(cells[2], "`Test") {
			t.Errorf("No threat, bound and tests: %q", line)
		}
	}
	if rows < 35 {
		t.Errorf("The page has %d threats", rows)
	}
	code := ""
	for _, file := range sourceFiles(t) {
		code += read(t, file)
	}
	constants := regexp.MustCompile("\\(`(\\w+)`\\)").FindAllStringSubmatch(page, -1)
	if len(constants) < 8 {
		t.Errorf("The page names %d constants", len(constants))
	}
	for _, c := range constants {
		if !strings.HasPrefix(c[1], "Test") && !regexp.MustCompile(`(?m)^(const )?\t?`+c[1]+` += `).MatchString(code) {
			t.Errorf("There is no constant %s", c[1])
		}
	}
}
