package test

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// unsaid are the messages in the source that nobody gets to see, and why.
var unsaid = map[string]string{
	"no client":                              "the plugin's own questions have none, and it does not look at the error",
	"%T is not the RDATA of an ALIAS record": "the DNS library copies RDATA to RDATA of the same type",
}

// The page on troubleshooting has each message, each value of the metrics and each Extended DNS Error, and no others.
func TestTroubleshooting(t *testing.T) {
	t.Parallel()
	page := read(t, "../docs/troubleshooting.md")
	s := readSource(t)

	t.Run("messages", func(t *testing.T) {
		section := sectionOf(t, page, "Messages of the log")
		var said []string
		for _, m := range regexp.MustCompile("(?m)^\\| (`.*?) \\| ").FindAllStringSubmatch(section, -1) {
			said = append(said, codeSpans(m[1])...)
		}
		patterns := make(map[string]*regexp.Regexp)
		for _, format := range s.messages {
			if _, ok := unsaid[format]; !ok {
				patterns[format] = asWritten(format)
			}
		}
		if len(patterns) < 40 {
			t.Errorf("Found %d messages in the source", len(patterns))
		}
		for format, pattern := range patterns {
			if !slices.ContainsFunc(said, pattern.MatchString) {
				t.Errorf("The page lacks %q", format)
			}
		}
		for _, text := range said {
			matches := func(pattern *regexp.Regexp) bool { return pattern.MatchString(text) }
			if !slices.ContainsFunc(slices.Collect(maps.Values(patterns)), matches) {
				t.Errorf("The source does not say %q", text)
			}
		}
		for format := range unsaid {
			if !slices.Contains(s.messages, format) {
				t.Errorf("The source does not say %q any more", format)
			}
		}
	})

	t.Run("configuration", func(t *testing.T) {
		section := sectionOf(t, page, "Start and reload")
		for _, format := range s.mistakes {
			if !slices.ContainsFunc(literals(format), func(part string) bool { return strings.Contains(section, part) }) {
				t.Errorf("The page has no part of %q", format)
			}
		}
	})

	t.Run("metrics", func(t *testing.T) {
		section := codeSpans(sectionOf(t, page, "Metrics"))
		wanted := slices.Concat(s.outcomes, documentedValues(t))
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
		section := sectionOf(t, page, "Extended DNS Errors")
		for code, text := range dns.ExtendedErrorCodeToString {
			row := fmt.Sprintf("| %d (%s) |", code, text)
			used := slices.Contains(s.errors, strings.ReplaceAll(text, " ", ""))
			if used != strings.Contains(section, row) {
				t.Errorf("%s: %t in the source, %t in the page", row, used, !used)
			}
		}
	})

	for _, anchor := range []string{ // to which the alerts lead
		"#stale-answers", "#target-failing", "#upstream-slow", "#transfers-aborted", "#secondaries-behind", "#persist", "#overload",
	} {
		if !slices.Contains(anchors(page), anchor) {
			t.Errorf("The page lacks the heading for %s", anchor)
		}
	}
}

// source is what the source of the plugin says to operators.
type source struct {
	messages []string // the formats of messages and of the errors in them
	mistakes []string // those of errors about the Corefile
	outcomes []string // of lookups that fail
	metrics  []string // without coredns_alias_
	errors   []string // the names of Extended DNS Errors, without spaces
}

// readSource reads it.
func readSource(t *testing.T) *source {
	t.Helper()
	s := new(source)
	for _, dir := range []string{"..", "../plugin/rdata", "../plugin/store"} {
		files, err := filepath.Glob(dir + "/*.go")
		check(t, err)
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			f, err := parser.ParseFile(token.NewFileSet(), file, nil, 0)
			check(t, err)
			ast.Inspect(f, func(n ast.Node) bool {
				s.note(filepath.Base(file), n)
				return true
			})
		}
	}
	return s
}

// note notes what n says, a part of file.
func (s *source) note(file string, n ast.Node) {
	switch n := n.(type) {
	case *ast.SelectorExpr:
		if name, ok := strings.CutPrefix(n.Sel.Name, "ExtendedErrorCode"); ok {
			s.errors = append(s.errors, name)
		}
	case *ast.KeyValueExpr:
		if key, ok := n.Key.(*ast.Ident); ok && key.Name == "Name" && file == "metrics.go" {
			s.metrics = append(s.metrics, text(n.Value))
		}
	case *ast.CallExpr:
		s.noteCall(file, n)
	}
}

func (s *source) noteCall(file string, call *ast.CallExpr) {
	at, list := 0, &s.messages
	switch function(call) {
	case "log.Infof", "log.Warningf", "log.Errorf", "log.Info", "log.Warning", "log.Error", ".tellOnce":
	case ".tell":
		at = 1
	case ".once":
		at = 1
		if len(call.Args) > 1 {
			if formatted, ok := call.Args[1].(*ast.CallExpr); ok {
				call, at = formatted, 0
			}
		}
	case "fmt.Errorf", "errors.New":
		switch file {
		case "setup.go":
			list = &s.mistakes
		case "pages.go":
			return // the details of a damaged file
		}
	case "c.Errf":
		list = &s.mistakes
	case "networkFailure", "unusable":
		list = &s.outcomes
	default:
		return
	}
	if len(call.Args) > at {
		if format := text(call.Args[at]); len(literals(format)) > 0 {
			*list = append(*list, format)
		}
	}
}

// function returns the name of the function that is called: with the package or, for what is known by its method
// alone, with a dot.
func function(call *ast.CallExpr) string {
	switch f := call.Fun.(type) {
	case *ast.Ident:
		return f.Name
	case *ast.SelectorExpr:
		switch f.Sel.Name {
		case "tell", "tellOnce", "once":
			return "." + f.Sel.Name
		}
		if x, ok := f.X.(*ast.Ident); ok {
			return x.Name + "." + f.Sel.Name
		}
	}
	return ""
}

// text returns the string that e is, if it is written out.
func text(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.BinaryExpr:
		return text(e.X) + text(e.Y)
	case *ast.BasicLit:
		s, _ := strconv.Unquote(e.Value)
		return s
	}
	return ""
}

// verb is one of a format.
var verb = regexp.MustCompile(`%[.0-9#]*[a-zA-Z]`)

// literals returns the parts of a format that are longer than what stands between two verbs.
func literals(format string) []string {
	var parts []string
	for _, part := range verb.Split(format, -1) {
		if part = strings.Trim(part, " ':,;"); len(part) > 3 {
			parts = append(parts, part)
		}
	}
	return parts
}

// asWritten returns what a format looks like in the page: with words in capitals in place of the verbs, and anything
// in place of a wrapped error.
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

// documentedValues returns the metrics' values of the labels status and outcome, as the README has them.
func documentedValues(t *testing.T) []string {
	t.Helper()
	section := sectionOf(t, read(t, "../README.md"), "Metrics")
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
