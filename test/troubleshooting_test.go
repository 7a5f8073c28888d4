package test

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// The page on troubleshooting, and what it has in which section.
const (
	troubleshootingPage = "../docs/troubleshooting.md"

	messagesSection       = "Messages of the log"
	configurationSection  = "Start and reload"
	metricsSection        = "Metrics"
	extendedErrorsSection = "Extended DNS Errors"
)

// The page with the list of the metrics, and its section.
const (
	metricsPage        = "../README.md"
	metricsPageSection = "Metrics"
)

// neverSeen are the messages in the source that no operator sees, and why.
var neverSeen = map[string]string{
	"the store fails":                        "it is not logged: what failed before it is",
	"no client":                              "the plugin's own queries have none, and it does not look at the error",
	"%T is not the RDATA of an ALIAS record": "the DNS library copies RDATA to RDATA of the same type",
}

// The page on troubleshooting has each message, each value of the metrics and each Extended DNS Error, and no others.
func TestTroubleshooting(t *testing.T) {
	t.Parallel()
	page := read(t, troubleshootingPage)
	s := readSource(t)

	t.Run("messages", func(t *testing.T) {
		section := sectionOf(t, page, messagesSection)
		var documented []string
		for _, m := range regexp.MustCompile("(?m)^\\| (`.*?) \\| ").FindAllStringSubmatch(section, -1) {
			documented = append(documented, codeSpans(m[1])...)
		}
		patterns := make(map[string]*regexp.Regexp)
		for _, format := range s.messages[logMessage] {
			if _, ok := neverSeen[format]; !ok {
				patterns[format] = asWritten(format)
			}
		}
		if len(patterns) < 40 {
			t.Errorf("Found %d messages in the source", len(patterns))
		}
		for format, pattern := range patterns {
			if !slices.ContainsFunc(documented, pattern.MatchString) {
				t.Errorf("The page lacks %q", format)
			}
		}
		for _, text := range documented {
			matches := func(pattern *regexp.Regexp) bool { return pattern.MatchString(text) }
			if !slices.ContainsFunc(slices.Collect(maps.Values(patterns)), matches) {
				t.Errorf("The source does not have the message %q", text)
			}
		}
		for format := range neverSeen {
			if !slices.Contains(s.messages[logMessage], format) {
				t.Errorf("The source no longer has %q", format)
			}
		}
	})

	t.Run("configuration", func(t *testing.T) {
		section := sectionOf(t, page, configurationSection)
		if n := len(s.messages[configError]); n < 20 {
			t.Errorf("Found %d errors about the Corefile in the source", n)
		}
		for _, format := range s.messages[configError] {
			if !slices.ContainsFunc(literals(format), func(part string) bool { return strings.Contains(section, part) }) {
				t.Errorf("The page has no part of %q", format)
			}
		}
	})

	t.Run("metrics", func(t *testing.T) {
		section := codeSpans(sectionOf(t, page, metricsSection))
		wanted := slices.Concat(s.messages[lookupFailed], documentedValues(t))
		for _, value := range wanted {
			if !slices.Contains(section, value) {
				t.Errorf("The page lacks the value %q", value)
			}
		}
		for _, name := range s.metrics {
			full := "coredns_alias_" + name
			if !slices.ContainsFunc(section, func(span string) bool { return span == full || strings.HasPrefix(span, full+"{") }) {
				t.Errorf("The page lacks the metric %s", full)
			}
		}
		if len(s.metrics) < 10 || len(wanted) < 30 {
			t.Errorf("Found %d metrics and %d values", len(s.metrics), len(wanted))
		}
	})

	t.Run("extended errors", func(t *testing.T) {
		section := sectionOf(t, page, extendedErrorsSection)
		for code, text := range dns.ExtendedErrorCodeToString {
			row := fmt.Sprintf("| %d (%s) |", code, text)
			used := slices.Contains(s.errors, strings.ReplaceAll(text, " ", ""))
			if used != strings.Contains(section, row) {
				t.Errorf("%s: %t in the source, %t in the page", row, used, !used)
			}
		}
	})

	for _, anchor := range []string{ // the runbooks of the alerts
		"#stale-answers", "#target-failing", "#upstream-slow", "#transfers-aborted", "#secondaries-behind", "#persist", "#overload",
	} {
		if !slices.Contains(anchors(page), anchor) {
			t.Errorf("The page lacks the heading for %s", anchor)
		}
	}
}

// asWritten returns a pattern for a format as the page writes it: words in capitals in place of verbs, and any text in
// place of a wrapped error.
func asWritten(format string) *regexp.Regexp {
	verbs := verb.FindAllString(format, -1)
	pattern := "^"
	for i, part := range verb.Split(format, -1) {
		pattern += regexp.QuoteMeta(part)
		switch {
		case i == len(verbs):
		case verbs[i] == "%w":
			pattern += ".+"
		default:
			pattern += `"?[A-Z]+( TYPE)?"?`
		}
	}
	return regexp.MustCompile(pattern + "$")
}

// documentedValues returns the values of the labels status and outcome that the list of metrics has.
func documentedValues(t *testing.T) []string {
	t.Helper()
	section := sectionOf(t, read(t, metricsPage), metricsPageSection)
	var values []string
	for _, item := range strings.Split(section, "\n* ")[1:] {
		labels := regexp.MustCompile("^`\\w+\\{(.*)\\}`").FindStringSubmatch(item)
		for _, span := range codeSpans(strings.SplitN(item, "\n\n", 2)[0]) {
			isLabel := labels != nil && slices.Contains(strings.Split(labels[1], ", "), span)
			if regexp.MustCompile(`^[a-z]+$`).MatchString(span) && !isLabel && span != "persist" {
				values = append(values, span)
			}
		}
	}
	return values
}
