package alias

import (
	"strings"
	"testing"
)

func TestZonesMatch(t *testing.T) {
	zs := zones{"example.org.": {}, "sub.example.org.": {}, "example.net.": {}}
	withRoot := zones{"example.org.": {}, ".": {}}
	for _, tc := range []struct {
		zs         zones
		name, want string
	}{
		{zs, "example.org.", "example.org."},
		{zs, "www.example.org.", "example.org."},
		{zs, "a.b.sub.example.org.", "sub.example.org."},
		{zs, "anexample.org.", ""},
		{zs, "org.", ""},
		{zs, ".", ""},
		{withRoot, "www.example.org.", "example.org."},
		{withRoot, "org.", "."},
		{withRoot, ".", "."},
	} {
		if got := tc.zs.match(tc.name); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestRecordsFind(t *testing.T) {
	long := strings.Repeat(`\000.`, 100) // a name with escapes can be longer than others
	zs := zones{"example.org.": {}, "sub.example.org.": {}, long: {}}
	rs := newRecords(zs)
	for _, owner := range []string{"example.org.", "a.b.example.org.", "*.example.org.", "*.shop.example.org.", "x.shop.example.org.", "sub.example.org."} {
		s := said{target: owner, zone: zs.match(owner)}
		if !rs.add(owner, s) {
			t.Fatalf("%s is there already", owner)
		}
		if rs.add(owner, s) {
			t.Errorf("%s was added twice", owner)
		}
	}
	rs.seal()
	const none, empty = "", "exists"
	for name, want := range map[string]string{
		"example.org.":               "example.org.",
		"a.b.example.org.":           "a.b.example.org.",
		"b.example.org.":             empty, // an empty non-terminal
		"c.b.example.org.":           none,  // and the wildcard does not reach below it
		"www.example.org.":           "*.example.org.",
		"a.www.example.org.":         "*.example.org.",
		"*.example.org.":             "*.example.org.",
		"shop.example.org.":          empty, // because of its own wildcard
		"y.shop.example.org.":        "*.shop.example.org.",
		"y.z.shop.example.org.":      "*.shop.example.org.",
		"x.shop.example.org.":        "x.shop.example.org.",
		"y.x.shop.example.org.":      none,
		"sub.example.org.":           "sub.example.org.",
		"y.sub.example.org.":         none, // another zone
		"example.net.":               none,
		long:                         empty,
		"x." + long:                  none,
		"org.":                       none,
		".":                          none,
		`a\.b.example.org.`:          "*.example.org.",
		`\000\255.shop.example.org.`: "*.shop.example.org.",
	} {
		got := none
		r, exists := rs.find(name)
		if exists {
			got = empty
		}
		if r.alias != nil {
			got = r.target
			if r.wildcard != (got[0] == '*') {
				t.Errorf("%s: wildcard: %v", name, r.wildcard)
			}
		}
		if got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}

func TestRootWildcard(t *testing.T) {
	rs := newRecords(zones{".": {}})
	rs.add("*.", said{target: "*.", zone: "."})
	rs.add("example.org.", said{target: "example.org.", zone: "."})
	rs.seal()
	for name, want := range map[string]string{"net.": "*.", "a.net.": "*.", "example.org.": "example.org."} {
		if r, _ := rs.find(name); r.alias == nil || r.target != want {
			t.Errorf("%s: %v, want %s", name, r, want)
		}
	}
	for _, name := range []string{"org.", "a.org.", "a.example.org."} {
		if r, _ := rs.find(name); r.alias != nil {
			t.Errorf("%s: %s, want none", name, r.target)
		}
	}
}
