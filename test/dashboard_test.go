//go:build linux

package test

import (
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// dashboard is the part of Grafana's model that the tests read.
type dashboard struct {
	UID           string
	SchemaVersion int
	Templating    struct {
		List []struct {
			Name, Type, Query string
			Datasource        datasource
		}
	}
	Panels []panel
}

type panel struct {
	ID                       int
	Type, Title, Description string
	Datasource               datasource
	GridPos                  struct{ X, Y, W, H int }
	Targets                  []struct{ RefID, Expr, LegendFormat, Format string }
	FieldConfig              struct{ Defaults struct{ Unit string } }
}

type datasource struct{ Type, UID string }

func readDashboard(t *testing.T) *dashboard {
	t.Helper()
	d := new(dashboard)
	check(t, json.Unmarshal([]byte(read(t, dashboardFile)), d))
	return d
}

// charts returns the panels that are not headings.
func (d *dashboard) charts() []panel {
	return slices.DeleteFunc(slices.Clone(d.Panels), func(p panel) bool { return p.Type == "row" })
}

// The dashboard follows the model of Grafana, and each panel has a description, a unit and legends.
func TestDashboard(t *testing.T) {
	t.Parallel()
	d := readDashboard(t)
	if d.UID == "" || d.SchemaVersion < 36 { // before that, data sources had no uid
		t.Errorf("The dashboard has uid %q and schemaVersion %d", d.UID, d.SchemaVersion)
	}
	prometheus := datasource{"prometheus", "${datasource}"}
	var names []string
	for _, v := range d.Templating.List {
		names = append(names, v.Name)
		if v.Type == "query" && v.Datasource != prometheus {
			t.Errorf("Variable %s comes from %v", v.Name, v.Datasource)
		}
	}
	if want := []string{"datasource", "job", "instance", "zone"}; !slices.Equal(names, want) {
		t.Errorf("The variables are %v, want %v", names, want)
	}
	ids, titles, taken := make(map[int]bool), make(map[string]bool), make(map[[2]int]string)
	for _, p := range d.Panels {
		if p.Title == "" || titles[p.Title] || p.ID == 0 || ids[p.ID] {
			t.Errorf("Panel %d %q lacks an id or a title of its own", p.ID, p.Title)
		}
		ids[p.ID], titles[p.Title] = true, true
		p.checkPlace(t, taken)
	}
	for _, p := range d.charts() {
		if p.Description == "" || p.FieldConfig.Defaults.Unit == "" || p.Datasource != prometheus || len(p.Targets) == 0 {
			t.Errorf("%s lacks a description, a unit, the data source of the variable, or queries", p.Title)
		}
		p.checkQueries(t)
	}
}

// checkPlace checks that p is inside the grid and does not overlap another panel.
func (p panel) checkPlace(t *testing.T, taken map[[2]int]string) {
	t.Helper()
	g := p.GridPos
	if g.X < 0 || g.Y < 0 || g.W < 1 || g.H < 1 || g.X+g.W > 24 {
		t.Errorf("%s is at %+v", p.Title, g)
	}
	for x := g.X; x < g.X+g.W; x++ {
		for y := g.Y; y < g.Y+g.H; y++ {
			if other := taken[[2]int{x, y}]; other != "" {
				t.Fatalf("%s lies over %s", p.Title, other)
			}
			taken[[2]int{x, y}] = p.Title
		}
	}
}

// checkQueries checks that the queries of p follow the variables and have legends.
func (p panel) checkQueries(t *testing.T) {
	t.Helper()
	refs := make(map[string]bool)
	for _, q := range p.Targets {
		if q.RefID == "" || refs[q.RefID] {
			t.Errorf("%s: query %q has no refId of its own", p.Title, q.Expr)
		}
		refs[q.RefID] = true
		if q.LegendFormat == "" && q.Format != "table" {
			t.Errorf("%s: query %q has no legend", p.Title, q.Expr)
		}
		for _, selector := range regexp.MustCompile(`(\w+)(\{[^}]*\})?`).FindAllStringSubmatch(q.Expr, -1) {
			if isMetric.MatchString(selector[1]) && !strings.HasPrefix(selector[2], `{job=~"$job", instance=~"$instance"`) {
				t.Errorf("%s: %s does not follow the variables", p.Title, selector[0])
			}
		}
		if strings.Contains(q.Expr, "rate(") && !strings.Contains(q.Expr, "[$__rate_interval]") {
			t.Errorf("%s: %s does not use $__rate_interval", p.Title, q.Expr)
		}
	}
}

// isMetric matches the names of metrics in an expression.
var isMetric = regexp.MustCompile(`\b(coredns|process|go)_[a-z_]+`)

// asGrafana returns an expression as Grafana sends it with "All" chosen for every variable.
func asGrafana(expr string) string {
	return strings.NewReplacer("$__rate_interval", rateInterval.String(), "$job", ".+", "$instance", ".+", "$zone", ".+").Replace(expr)
}

// rows returns the first columns of the table in the page, a row for each query.
func (d *dashboard) rows() []string {
	var rows []string
	chosen := regexp.MustCompile(`job=~"\$job", instance=~"\$instance"(, )?|zone=~"\$zone"(, )?`)
	for _, p := range d.charts() {
		for _, q := range p.Targets {
			expr := strings.NewReplacer("{}", "", "|", `\|`).Replace(chosen.ReplaceAllString(q.Expr, ""))
			rows = append(rows, fmt.Sprintf("| %s | `%s` | ", p.Title, expr))
		}
	}
	return rows
}
