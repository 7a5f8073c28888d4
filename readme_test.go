package alias

import (
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
)

func readme(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("README.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// matches returns what the first group of pattern matches in s, sorted and each once.
func matches(pattern, s string) []string {
	found := make(map[string]bool)
	for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(s, -1) {
		found[m[1]] = true
	}
	return slices.Sorted(maps.Keys(found))
}

// The README shows each property with its arguments, and explains it.
func TestReadmeSyntax(t *testing.T) {
	_, syntax, _ := strings.Cut(readme(t), "\n## Syntax\n")
	syntax, _, _ = strings.Cut(syntax, "\n## ")
	block, text, _ := strings.Cut(strings.TrimPrefix(strings.TrimSpace(syntax), "~~~"), "~~~")
	var want, explained []string
	for name, p := range properties {
		want = append(want, strings.TrimRight("    "+name+" "+p.usage, " "))
		explained = append(explained, name)
	}
	got := slices.Sorted(slices.Values(regexp.MustCompile(`(?m)^    .*$`).FindAllString(block, -1)))
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the syntax (-code +README):\n%s", diff)
	}
	slices.Sort(explained)
	if diff := cmp.Diff(explained, slices.DeleteFunc(matches("(?m)`([a-z_]+)`", text), func(s string) bool { return properties[s].set == nil })); diff != "" {
		t.Errorf("the properties explained (-code +README):\n%s", diff)
	}
}

// The README names each metric with its labels, and each value of the label status.
func TestReadmeMetrics(t *testing.T) {
	text := readme(t)
	var want []string
	descriptions := make(chan *prometheus.Desc, 10)
	for _, c := range []prometheus.Collector{&answersCount, staleAge, upstreamRequests, requestDuration, refreshesCount, addressChanges, failovers, networksCapped, targetsDenied, notifiesCount, transfersCount, persistWrites, shareOperations, cacheEntries} {
		c.Describe(descriptions)
		d := (<-descriptions).String()
		labels := strings.NewReplacer(",", ", ", "{}", "").Replace("{" + strings.Join(matches(`variableLabels: \{([^}]*)\}`, d), "") + "}")
		want = append(want, matches(`fqName: "([^"]*)"`, d)[0]+labels)
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, matches("(?m)^\\* `(coredns_alias_[^`]*)`", text)); diff != "" {
		t.Errorf("the metrics (-code +README):\n%s", diff)
	}
	for s := range statuses {
		if !strings.Contains(text, "`"+s.String()+"`") {
			t.Errorf("status %s is not explained", s)
		}
	}
}

func TestReadmeSections(t *testing.T) {
	want := []string{"Name", "Description", "Syntax", "Aliases", "Caching", "Client Subnet", "Zone Transfers", "Metrics", "Ready", "Metadata", "Log",
		"Examples", "Limits", "Checking a zone", "Compatibility", "Bugs", "See Also"}
	var got []string
	for _, m := range regexp.MustCompile(`(?m)^## (.*)$`).FindAllStringSubmatch(readme(t), -1) {
		got = append(got, m[1])
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("sections (-want +got):\n%s", diff)
	}
}

// The first screen is no longer than that, and the syntax begins on the second one of the man page.
func TestReadmeScreens(t *testing.T) {
	const first, second = 52, 100 // lines
	text := readme(t)
	line := func(heading string) int {
		return 1 + strings.Count(text[:strings.Index(text, "\n## "+heading+"\n")+1], "\n")
	}
	if n := line("Name"); n > first {
		t.Errorf("the first screen has %d lines", n-1)
	}
	if n := line("Syntax"); n > second {
		t.Errorf("the syntax begins in line %d", n)
	}
}

// What CI runs is what the README says.
func TestReadmeTestCommand(t *testing.T) {
	ci, err := os.ReadFile(".ci/run")
	if err != nil {
		t.Fatal(err)
	}
	commands := matches(`(?m)^(go test .*)$`, readme(t))
	if len(commands) != 1 || !strings.Contains(string(ci), "\n"+commands[0]+"\n") {
		t.Errorf("CI does not run %q", commands)
	}
}
