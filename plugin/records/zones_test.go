package records_test

import (
	"cmp"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/test/race"

	"github.com/miekg/dns"
)

func TestZonesMatch(t *testing.T) {
	zones := records.Zones{"example.org.": {}, "sub.example.org.": {}, "example.net.": {}}
	withRoot := records.Zones{"example.org.": {}, ".": {}}
	for _, tc := range []struct {
		zones  records.Zones
		name   string
		want   string
		inside bool
	}{
		{zones, "example.org.", "example.org.", true},
		{zones, "www.example.org.", "example.org.", true},
		{zones, "sub.example.org.", "sub.example.org.", true},
		{zones, "a.b.sub.example.org.", "sub.example.org.", true},
		{zones, "anexample.org.", "", false},
		{zones, `an\.example.org.`, "", false}, // a label with a dot in it
		{zones, "org.", "", false},
		{zones, ".", "", false},
		{withRoot, "www.example.org.", "example.org.", true},
		{withRoot, "org.", ".", false},
		{withRoot, ".", ".", false},
		{nil, "example.org.", "", false},
	} {
		if got := tc.zones.Match(tc.name); got != tc.want {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
		if got := records.Closest(tc.zones, tc.name); got != tc.want {
			t.Errorf("%s: closest %q, want %q", tc.name, got, tc.want)
		}
		if got := tc.zones.Inside(tc.name); got != tc.inside {
			t.Errorf("%s: inside %v", tc.name, got)
		}
	}
	if race.Enabled {
		return
	}
	if n := testing.AllocsPerRun(100, func() { zones.Match("a.b.sub.example.org.") }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func TestNewAlias(t *testing.T) {
	zones := records.Zones{"example.org.": {}, "sub.example.org.": {}}
	withRoot := records.Zones{"example.org.": {}, ".": {}}
	for _, tc := range []struct {
		zones         records.Zones
		owner, target string
		apex          string
		ttl           uint32
		zone          string
		inside        bool
	}{
		{zones, "www.example.org.", "app.example.net.", "", 60, "example.org.", false},
		{zones, "a.sub.example.org.", "www.example.org.", "sub.example.org.", lookup.NoLimit, "sub.example.org.", true},
		{withRoot, "www.example.org.", "app.example.net.", "www.example.org.", 0, "example.org.", false},
		{withRoot, "www.example.net.", "example.org.", "", 0, ".", true},
	} {
		a := tc.zones.NewAlias(tc.owner, tc.apex, tc.ttl, tc.target)
		if a.Target != tc.target || a.TTL != tc.ttl || *a.Zone != (records.Zone{Name: tc.zone, Apex: cmp.Or(tc.apex, tc.zone)}) || a.Inside != tc.inside {
			t.Errorf("%s: target %s, TTL %d, zone %v, inside %v", tc.owner, a.Target, a.TTL, a.Zone, a.Inside)
		}
	}
}

// An alias has one cached pointer for each type of address, which belongs to it alone.
func TestCached(t *testing.T) {
	zones := records.Zones{"example.org.": {}}
	a, b := zones.NewAlias("example.org.", "", 60, "app.example."), zones.NewAlias("example.org.", "", 60, "app.example.")
	v4, v6 := a.Cached(dns.TypeA), a.Cached(dns.TypeAAAA)
	if v4 == v6 || v4 == b.Cached(dns.TypeA) || v6 == b.Cached(dns.TypeAAAA) {
		t.Error("a cached pointer has two uses")
	}
	if v4 != a.Cached(dns.TypeA) || v6 != a.Cached(dns.TypeAAAA) {
		t.Error("a cached pointer is another one the second time")
	}
	if v4.Entry() != nil || v6.Entry() != nil {
		t.Error("a new alias has a cache entry")
	}
}
