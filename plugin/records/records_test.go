package records_test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/test/race"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// describe returns the text of what Find returns: none, exists, or the target with a * in front for a wildcard.
func describe(r records.Record, exists bool) string {
	switch {
	case r.Alias == nil && !exists:
		return "none"
	case r.Alias == nil:
		return "exists"
	case !exists:
		return "has a record, and does not exist"
	case r.Wildcard:
		return "*" + r.Target
	default:
		return r.Target
	}
}

func TestFind(t *testing.T) {
	long := strings.Repeat(`\000.`, 100) // a name with escapes can be longer than others
	rs := records.New(records.Zones{"example.org.": {}, "sub.example.org.": {}, long: {}})
	for owner, target := range map[string]string{
		"example.org.":        "apex.",
		"a.b.example.org.":    "ab.",
		"*.example.org.":      "wild.",
		"*.shop.example.org.": "shop.",
		"x.shop.example.org.": "x.",
		"sub.example.org.":    "sub.",
	} {
		if !rs.Add(owner, 60, false, target) {
			t.Errorf("%s has a record already", owner)
		}
		if rs.Add(owner, 60, false, "other.") {
			t.Errorf("%s was added twice", owner)
		}
	}
	rs.Seal()
	if rs.Len() != 6 {
		t.Errorf("%d records", rs.Len())
	}
	for name, want := range map[string]string{
		"example.org.":               "apex.",
		"a.b.example.org.":           "ab.",
		"b.example.org.":             "exists", // an empty non-terminal
		"c.b.example.org.":           "none",   // and the wildcard does not reach below it
		"c.a.b.example.org.":         "none",
		"www.example.org.":           "*wild.",
		"a.www.example.org.":         "*wild.",
		"*.example.org.":             "*wild.",
		"a.*.example.org.":           "*wild.",
		"shop.example.org.":          "exists", // because of its own wildcard
		"y.shop.example.org.":        "*shop.",
		"y.z.shop.example.org.":      "*shop.",
		"x.shop.example.org.":        "x.",
		"y.x.shop.example.org.":      "none",
		"sub.example.org.":           "sub.",
		"y.sub.example.org.":         "none", // another zone
		"example.net.":               "none",
		long:                         "exists",
		"x." + long:                  "none",
		long[5:]:                     "none",
		"org.":                       "none",
		".":                          "none",
		`a\.b.example.org.`:          "*wild.",
		`\000\255.shop.example.org.`: "*shop.",
	} {
		if got := describe(rs.Find(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestFindNoRecords(t *testing.T) {
	rs := records.New(records.Zones{"example.org.": {}})
	rs.Seal()
	for name, want := range map[string]string{"example.org.": "exists", "www.example.org.": "none", ".": "none"} {
		if got := describe(rs.Find(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if rs.Len() != 0 || len(maps.Collect(rs.All())) != 0 || len(slices.Collect(rs.ByZone())) != 0 {
		t.Error("there are records")
	}
}

func TestRootWildcard(t *testing.T) {
	rs := records.New(records.Zones{".": {}})
	rs.Add("*.", 60, false, "wild.")
	rs.Add("example.org.", 60, false, "own.")
	rs.Seal()
	for name, want := range map[string]string{
		"net.": "*wild.", "a.net.": "*wild.", "example.org.": "own.", ".": "exists",
		"org.": "exists", "a.org.": "none", "a.example.org.": "none",
	} {
		if got := describe(rs.Find(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
	if _, ok := maps.Collect(rs.All())["*."]; !ok {
		t.Error("the wildcard is not among the owners")
	}
}

// What a zone with such a name would match is outside of it: it has a record at its apex, and no wildcard.
func TestZoneNamedAsWildcard(t *testing.T) {
	rs := records.New(records.Zones{"*.example.org.": {}, "*.": {}})
	rs.Add("*.example.org.", 60, false, "apex.")
	rs.Add("*.", 60, false, "top.")
	rs.Add("*.*.example.org.", 60, false, "wild.")
	rs.Seal()
	for name, want := range map[string]string{
		"*.example.org.": "apex.", "a.example.org.": "none", "a.*.example.org.": "*wild.", "*.": "top.", "org.": "none", "a.*.": "none",
	} {
		if got := describe(rs.Find(name)); got != want {
			t.Errorf("%s: %s, want %s", name, got, want)
		}
	}
}

func TestAll(t *testing.T) {
	type record struct {
		Target, Zone     string
		TTL              uint32
		Inside, Wildcard bool
	}
	want := map[string]record{
		"a.b.example.org.":       {"one.", "example.org.", 60, false, false},
		"b.example.org.":         {"two.", "example.org.", 60, false, false}, // an empty non-terminal, before it was added
		"*.b.example.org.":       {"two.", "example.org.", 300, false, true},
		"example.org.":           {"b.example.org.", "example.org.", lookup.NoLimit, true, false},
		"www.sub.example.org.":   {"one.", "sub.example.org.", 60, false, false},
		"*.www.sub.example.org.": {"one.", "sub.example.org.", 60, false, true},
		"example.net.":           {"one.", ".", 60, false, false},
		"*.":                     {"sub.example.org.", ".", 0, true, true},
		`\000.example.net.`:      {"one.", ".", 60, false, false},
	}
	rs := records.New(records.Zones{"example.org.": {}, "sub.example.org.": {}, ".": {}})
	rs.Add("a.b.example.org.", 60, false, "one.")
	for owner, r := range want {
		rs.Add(owner, r.TTL, false, r.Target)
	}
	rs.Seal()
	got := make(map[string]record)
	for owner, r := range rs.All() {
		if _, twice := got[owner]; twice {
			t.Errorf("%s comes twice", owner)
		}
		got[owner] = record{r.Target, r.Zone.Name, r.TTL, r.Inside, r.Wildcard}
		if found, exists := rs.Find(owner); found != r || !exists {
			t.Errorf("%s: found %v, want %v", owner, found, r)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if rs.Len() != len(want) {
		t.Errorf("%d records, want %d", rs.Len(), len(want))
	}
}

// Records with the same target, TTL and zone share an alias, and with it what is cached.
func TestAliasesAreShared(t *testing.T) {
	rs := records.New(records.Zones{"example.org.": {}, "example.net.": {}})
	for _, owner := range []string{"a.example.org.", "b.example.org.", "*.example.org."} {
		rs.Add(owner, 60, false, "app.example.")
	}
	rs.Add("c.example.org.", 61, false, "app.example.")
	rs.Add("d.example.org.", 60, false, "other.example.")
	rs.Add("a.example.net.", 60, false, "app.example.")
	rs.Seal()
	aliases := make(map[*records.Alias]int)
	for _, r := range rs.All() {
		aliases[r.Alias]++
	}
	if uses := slices.Sorted(maps.Values(aliases)); !slices.Equal(uses, []int{1, 1, 1, 3}) {
		t.Errorf("the aliases have %v owners, want 1, 1, 1 and 3", uses)
	}
	for of := range rs.ByZone() {
		for i := range of {
			if a := &of[i]; aliases[a] == 0 {
				t.Errorf("%v comes twice, or has no owner", a.Target)
			}
			delete(aliases, &of[i])
		}
	}
	if len(aliases) > 0 {
		t.Errorf("%d aliases are not among all", len(aliases))
	}
}

// The aliases of a zone come together, in the order in which they were added, however they were mixed with others.
func TestByZone(t *testing.T) {
	rs := records.New(records.Zones{"a.": {}, "b.": {}, "c.": {}, "d.": {}})
	want := map[string][]string{}
	for i := range 100 {
		zone := []string{"b.", "a.", "a.", "c."}[i*i%11%4]
		target := fmt.Sprintf("t%d.example.", i)
		rs.Add(fmt.Sprintf("n%d.%s", i, zone), 60, false, target)
		rs.Add(fmt.Sprintf("*.n%d.%s", i, zone), 60, false, target)
		want[zone] = append(want[zone], target)
	}
	rs.Seal()
	got := map[string][]string{}
	for of := range rs.ByZone() {
		zone := of[0].Zone.Name
		if got[zone] != nil {
			t.Errorf("%s comes twice", zone)
		}
		for i := range of {
			if of[i].Zone.Name != zone {
				t.Errorf("an alias of %s comes with those of %s", of[i].Zone.Name, zone)
			}
			got[zone] = append(got[zone], of[i].Target)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" || len(want) != 3 {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range 100 {
		zone := []string{"b.", "a.", "a.", "c."}[i*i%11%4]
		for _, name := range []string{fmt.Sprintf("n%d.%s", i, zone), fmt.Sprintf("x.n%d.%s", i, zone)} {
			if r, _ := rs.Find(name); r.Alias == nil || r.Target != fmt.Sprintf("t%d.example.", i) {
				t.Errorf("%s: found %v", name, r)
			}
		}
	}
}

func TestStopEarly(t *testing.T) {
	rs := records.New(records.Zones{"example.org.": {}})
	for _, owner := range []string{"a.example.org.", "*.a.example.org.", "b.example.org."} {
		rs.Add(owner, 60, false, owner[2:])
	}
	rs.Seal()
	for most := 1; most <= 3; most++ {
		n := 0
		for range rs.All() {
			if n++; n == most {
				break
			}
		}
		if n != most {
			t.Errorf("%d records, want %d", n, most)
		}
	}
	for range rs.ByZone() {
		break
	}
}

// Random records are found as RFC 4592 has it, whatever their order and number.
func TestFindAsRFC4592(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	below := func(zone string) string { // a random name in zone
		for range random.IntN(4) {
			zone = child(string(rune('a'+random.IntN(4))), zone)
		}
		return zone
	}
	for range 200 {
		zones := records.Zones{"example.org.": {}, "b.example.org.": {}}
		if random.IntN(2) == 0 {
			zones["."] = struct{}{}
		}
		rs, stated := records.New(zones), make(map[string]string)
		origins := slices.Sorted(maps.Keys(zones))
		for i := range random.IntN(60) {
			owner := below(origins[random.IntN(len(origins))])
			if random.IntN(4) == 0 {
				owner = child("*", owner)
			}
			target := fmt.Sprintf("t%d.", i)
			_, already := stated[owner]
			if added := rs.Add(owner, 60, false, target); added == already {
				t.Fatalf("%s: added %v", owner, added)
			}
			if !already {
				stated[owner] = target
			}
		}
		rs.Seal()
		for range 200 {
			name := below([]string{"example.org.", "b.example.org.", "."}[random.IntN(3)])
			if got, want := describe(rs.Find(name)), reference(zones, stated, name); got != want {
				t.Fatalf("%s: %s, want %s\nzones %v\nrecords %v", name, got, want, origins, stated)
			}
		}
	}
}

// child and parent return the names below and above name.
func child(label, name string) string { return label + "." + strings.TrimPrefix(name, ".") }

func parent(name string) string {
	if off, end := dns.NextLabel(name, 0); !end {
		return name[off:]
	}
	return "."
}

// reference is what describe says of Find, by the words of RFC 4592, section 3.3.1.
func reference(zones records.Zones, stated map[string]string, name string) string {
	exists := maps.Clone(zones)
	for owner := range stated {
		for zone := zones.Match(owner); owner != zone; owner = parent(owner) {
			exists[owner] = struct{}{}
		}
	}
	if target, ok := stated[name]; ok {
		return target
	}
	if _, ok := exists[name]; ok {
		return "exists"
	}
	for name != "." {
		name = parent(name)
		if _, ok := exists[name]; !ok {
			continue
		}
		if target, ok := stated[child("*", name)]; ok { // name is the closest encloser
			return "*" + target
		}
		return "none"
	}
	return "none"
}

func TestConcurrentFind(t *testing.T) {
	const n = 100
	rs := records.New(records.Zones{"example.org.": {}})
	for i := range n {
		rs.Add(fmt.Sprintf("r%d.example.org.", i), 60, false, fmt.Sprintf("t%d.", i))
	}
	rs.Add("*.example.org.", 60, false, "wild.")
	rs.Seal()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for i := range n {
				if r, _ := rs.Find(fmt.Sprintf("r%d.example.org.", i)); r.Alias == nil || r.Target != fmt.Sprintf("t%d.", i) {
					t.Errorf("record %d: %v", i, r)
				}
				if r, _ := rs.Find(fmt.Sprintf("x%d.example.org.", i)); r.Alias == nil || !r.Wildcard {
					t.Errorf("wildcard for x%d: %v", i, r)
				}
			}
		})
	}
	wg.Wait()
}

func TestFindAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	rs := records.New(records.Zones{"example.org.": {}})
	rs.Add("a.b.example.org.", 60, false, "ab.")
	rs.Add("*.example.org.", 60, false, "wild.")
	rs.Seal()
	for _, name := range []string{"a.b.example.org.", "x.y.z.example.org.", "x.a.b.example.org.", "b.example.org.", "example.net."} {
		if n := testing.AllocsPerRun(100, func() { rs.Find(name) }); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
}

// A record takes little more memory than its name, and its target where it is another one.
func TestMemory(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector takes memory")
	}
	const n = 100_000
	for _, tc := range []struct {
		name    string
		targets int
		most    int64 // octets for each record
	}{
		{"one target", 1, 64},
		{"a target each", n, 176},
	} {
		before := heap()
		rs := records.New(records.Zones{"example.org.": {}})
		for i := range n {
			if !rs.Add(fmt.Sprintf("r%06d.example.org.", i), lookup.NoLimit, false, fmt.Sprintf("t%06d.example.", i%tc.targets)) {
				t.Fatalf("record %d takes the place of another", i) // with the same hash
			}
		}
		rs.Seal()
		each := (heap() - before) / n
		t.Logf("%s: %d octets for each record", tc.name, each)
		if each > tc.most {
			t.Errorf("%s: %d octets for each record, more than %d", tc.name, each, tc.most)
		}
		runtime.KeepAlive(rs)
	}
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// Below a name are the records at it and below it, and no others.
func TestBelow(t *testing.T) {
	random := rand.New(rand.NewPCG(7, 0))
	rs := records.New(records.Zones{".": {}})
	labels := []string{"a", "b", "a-b", "ab", "-", "0", "_", "x"}
	var names []string
	for range 500 {
		var name strings.Builder
		for range random.IntN(5) {
			name.WriteString(labels[random.IntN(len(labels))] + ".")
		}
		if name.Len() == 0 {
			name.WriteString(".")
		}
		names = append(names, name.String())
		rs.Add(name.String(), 60, false, "target.")
		if random.IntN(3) == 0 {
			rs.Add("*."+strings.TrimPrefix(name.String(), "."), 60, false, "target.")
		}
	}
	rs.Seal()
	for _, name := range append(names, "none.", "none.a.", "c.b.a.") {
		want := make(map[string]bool)
		for owner := range rs.All() {
			if dns.IsSubDomain(name, owner) {
				want[owner] = true
			}
		}
		got := make(map[string]bool)
		for owner, r := range rs.Below(name) {
			if got[owner] || r.Alias == nil {
				t.Errorf("%s is twice below %s, or without a record", owner, name)
			}
			got[owner] = true
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("below %s (-want +got):\n%s", name, diff)
		}
		for range rs.Below(name) { // it may end early
			break
		}
	}
}
