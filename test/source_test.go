package test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// kind is what a message is about, and so where the page on troubleshooting explains it.
type kind int

const (
	logMessage   kind = iota // a message of the log, or an error that is part of one
	configError              // an error in the Corefile
	lookupFailed             // the outcome of a failed lookup, which is the value of a label
)

// call says which argument of a function is a message.
type call struct {
	argument int // its index
	kind     kind
}

// calls are the functions that log or make an error. A name that begins with a period is a method or a field of
// function type, of whatever value.
var calls = map[string]call{
	"log.Info":     {0, logMessage},
	"log.Infof":    {0, logMessage},
	"log.Warning":  {0, logMessage},
	"log.Warningf": {0, logMessage},
	"log.Error":    {0, logMessage},
	"log.Errorf":   {0, logMessage},
	".warnOnce":    {0, logMessage},
	".warnOnceFor": {1, logMessage},
	".Warn":        {0, logMessage},
	".warn":        {0, logMessage},
	".limited":     {1, logMessage},
	".Limited":     {1, logMessage},

	"fmt.Errorf": {0, logMessage}, // but see filesOf
	"errors.New": {0, logMessage},
	"c.Errf":     {0, configError},

	"NetworkFailure":        {0, lookupFailed},
	"Unusable":              {0, lookupFailed},
	"Filtered":              {0, lookupFailed},
	"lookup.NetworkFailure": {0, lookupFailed},
	"lookup.Unusable":       {0, lookupFailed},
	"lookup.Filtered":       {0, lookupFailed},
}

// filesOf says what the errors of a file are about, by its path in the repository. The errors of other files are parts
// of messages.
var filesOf = map[string]kind{
	"setup.go":                   configError,
	"properties.go":              configError,
	"filters.go":                 configError,
	"plugin/records/names.go":    configError,
	"plugin/upstream/address.go": configError,
	"plugin/store/location.go":   configError,
}

// source has the names and messages in the source code that operators see.
type source struct {
	messages map[kind][]string // formats, and the outcomes of lookups
	metrics  []string          // names, without coredns_alias_
	errors   []string          // names of Extended DNS Errors, without spaces
}

// sourceFiles returns the paths of the code in the root package, and in all packages below plugin.
func sourceFiles(t *testing.T) []string {
	t.Helper()
	files, err := filepath.Glob("../*.go")
	check(t, err)
	check(t, filepath.WalkDir("../plugin", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "testdata":
			return filepath.SkipDir
		case filepath.Ext(path) == ".go":
			files = append(files, path)
		}
		return nil
	}))
	return slices.DeleteFunc(files, func(file string) bool { return strings.HasSuffix(file, "_test.go") })
}

// readSource reads the root package, and all packages below plugin.
func readSource(t *testing.T) *source {
	t.Helper()
	s := &source{messages: make(map[kind][]string)}
	for _, file := range sourceFiles(t) {
		path, err := filepath.Rel("..", file)
		check(t, err)
		s.read(t, filepath.ToSlash(path), read(t, file))
	}
	return s
}

// read reads the code of a file.
func (s *source) read(t *testing.T, file, code string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, code, 0)
	check(t, err)
	ast.Inspect(f, func(n ast.Node) bool {
		s.note(file, n)
		return true
	})
}

// Each form of a message is found, and nothing else.
func TestReadSource(t *testing.T) {
	t.Parallel()
	const code = `package p

var count = prometheus.NewCounter(prometheus.CounterOpts{Name: "things_total", Help: "Counter of things."})
var desc = prometheus.NewDesc(prometheus.BuildFQName(plugin.Namespace, subsystem, "others_total"), "Counter of others.", nil, nil)

func f() {
	log.Infof("logged %d", 1)
	l.warnings.warnOnce("logged "+
		"once %s", name)
	s.cfg.Warn("warned of %s", name)
	s.limiter.Limited(log.Infof, "limited %s", name)
	notifier.tell(notification, source)
	x := T{Name: "no metric"}
	return NetworkFailure("timeout", fmt.Errorf("wrapped: %w", err)), lookup.Unusable("refused", nil), ede(dns.ExtendedErrorCodeStaleAnswer)
}
`
	s := &source{messages: make(map[kind][]string)}
	s.read(t, "plugin/p/p.go", code)
	s.read(t, "plugin/records/names.go", "package records\n\nvar err = errors.New(\"not a name\")\n")
	want := &source{
		messages: map[kind][]string{
			logMessage:   {"logged %d", "logged once %s", "warned of %s", "limited %s", "wrapped: %w"},
			configError:  {"not a name"},
			lookupFailed: {"timeout", "refused"},
		},
		metrics: []string{"things_total", "others_total"},
		errors:  []string{"StaleAnswer"},
	}
	if diff := cmp.Diff(want, s, cmp.AllowUnexported(source{})); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// note notes a node of the syntax tree of file.
func (s *source) note(file string, n ast.Node) {
	switch n := n.(type) {
	case *ast.SelectorExpr:
		if name, ok := strings.CutPrefix(n.Sel.Name, "ExtendedErrorCode"); ok {
			s.errors = append(s.errors, name)
		}
	case *ast.CompositeLit:
		s.noteMetric(n)
	case *ast.CallExpr:
		s.noteCall(file, n)
	}
}

// noteMetric notes the name in the options of a metric, such as prometheus.CounterOpts.
func (s *source) noteMetric(options *ast.CompositeLit) {
	if name := nameOf(options.Type); !strings.HasPrefix(name, "prometheus.") || !strings.HasSuffix(name, "Opts") {
		return
	}
	for _, element := range options.Elts {
		if field, ok := element.(*ast.KeyValueExpr); ok && nameOf(field.Key) == "Name" {
			s.metrics = append(s.metrics, text(field.Value))
		}
	}
}

// noteCall notes the message, or the name of a metric, in the arguments of a call.
func (s *source) noteCall(file string, expr *ast.CallExpr) {
	name := nameOf(expr.Fun)
	if name == "prometheus.BuildFQName" {
		s.metrics = append(s.metrics, text(expr.Args[2]))
		return
	}
	c, ok := calls[name]
	if !ok {
		_, method, _ := strings.Cut(name, ".")
		if c, ok = calls["."+method]; !ok {
			return
		}
	}
	if of, ok := filesOf[file]; ok && (name == "fmt.Errorf" || name == "errors.New") {
		c.kind = of
	}
	if len(expr.Args) <= c.argument {
		return
	}
	message := expr.Args[c.argument]
	if formatted, ok := message.(*ast.CallExpr); ok && nameOf(formatted.Fun) == "fmt.Sprintf" {
		message = formatted.Args[0]
	}
	if format := text(message); len(literals(format)) > 0 {
		s.messages[c.kind] = append(s.messages[c.kind], format)
	}
}

// nameOf returns the name that e is: that of a function or type with its package, and that of a method or field with
// a period.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		if x, ok := e.X.(*ast.Ident); ok {
			return x.Name + "." + e.Sel.Name
		}
		return "." + e.Sel.Name
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

// verb matches a verb of a format.
var verb = regexp.MustCompile(`%[.0-9#]*[a-zA-Z]`)

// literals returns the parts of a format between its verbs, without those that are too short to be searched for.
func literals(format string) []string {
	var parts []string
	for _, part := range verb.Split(format, -1) {
		if part = strings.Trim(part, " ':,;"); len(part) > 3 {
			parts = append(parts, part)
		}
	}
	return parts
}
