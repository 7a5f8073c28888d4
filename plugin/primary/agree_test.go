package primary

import (
	"fmt"
	"maps"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var fleetNow = time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC)

// numbersOf returns what makes the numbers of the server with that id at fleetNow.
func numbersOf(id uint32) numbering { return numbering{now: fleetNow, class: id, of: classes} }

func TestNumber(t *testing.T) {
	now := base(7, fleetNow)
	for name, c := range map[string]struct {
		n      numbering
		latest uint32 // after now
		some   bool
		want   uint32 // after now
		ok     bool
	}{
		"no other":            {numbersOf(now % classes), 0, false, 0, true},
		"of the next class":   {numbersOf((now + 1) % classes), 0, false, 1, true},
		"of the class before": {numbersOf((now - 1) % classes), 0, false, 15, true},
		"after now":           {numbersOf((now + 1) % classes), 1, true, 17, false},
		"just before now":     {numbersOf(now % classes), ^uint32(0), true, 0, true},
		"now":                 {numbersOf(now % classes), 0, true, 16, true},
		"long ago":            {numbersOf(now % classes), ^uint32(1 << 29), true, 0, true},
		"far ahead":           {numbersOf(now % classes), 1 << 30, true, 1 << 30, true},
		"a long jump":         {numbersOf(now % classes), 1<<31 + 1<<20, true, 3<<30 + 1<<20, true},
		"a wrong clock":       {numbersOf(now % classes), 100_000, true, 100_000, true},
		"no class":            {numbering{now: fleetNow}, 0, false, 0, false},
	} {
		got, ok := c.n.number(7, now+c.latest, c.some)
		off := got - now - c.want
		if ok != c.ok || ok && off > classes {
			t.Errorf("%s: %d %v after now, want %d to %d more, %v", name, got-now, ok, c.want, classes, c.ok)
		}
		if ok && (got%c.n.of != c.n.class || c.some && !serialBefore(now+c.latest, got)) {
			t.Errorf("%s: %d, which is of class %d", name, got, got%c.n.of)
		}
	}
	if base(2026112805, fleetNow) != base(2026112899, fleetNow) {
		t.Error("a newer zone has other numbers")
	}
	if own := uint32(2026112805); serialBefore(base(own, fleetNow), own+offsetAt(fleetNow)) {
		t.Error("the number is before that of a server without share")
	}
}

// found returns what a server has found: an answer that came at that time, in ms.
func found(own uint32, address string, stored int64) *local {
	return &local{own: own, aliases: "same", keys: []string{modelKey}, data: map[string]datum{modelKey: {address, 60, stored}}}
}

func registerOf(number, own uint32, address string, stored int64) snapshot {
	r := &register{number: number, own: own, aliases: "same", data: map[string]datum{modelKey: {address, 60, stored}}}
	return snapshot{known: true, number: formatNumber(number), is: r}
}

// publishes has a do a session with a store that has the register, and returns the registers that it writes there.
func (a *agreement) publishes(l *local, stored snapshot, makes numbering) (written []string) {
	var s session
	for {
		switch q := a.next(&s, l, makes); q.kind {
		case askNothing:
			return written
		case askNumber:
			a.hasNumber(&s, stored.number)
		case askLoad:
			a.hasLoaded(stored, makes.now)
		case askSwap:
			written = append(written, fmt.Sprint(q.to.own, q.to.data[modelKey].rdata))
			a.hasSwapped(&s, q, true)
		}
	}
}

// What a server publishes, with the register that the store has.
func TestAgreement(t *testing.T) {
	now := base(7, fleetNow)
	for name, c := range map[string]struct {
		local  *local
		stored snapshot
		want   string
		serves bool
	}{
		"nothing in the store":   {found(7, "a", 10), snapshot{known: true}, "7a", true},
		"garbage in the store":   {found(7, "a", 10), snapshot{known: true, number: "?"}, "7a", true},
		"the same":               {found(7, "a", 10), registerOf(now-100, 7, "a", 5), "", true},
		"a newer answer":         {found(7, "b", 10), registerOf(now-100, 7, "a", 5), "7b", true},
		"an older answer":        {found(7, "b", 4), registerOf(now-100, 7, "a", 5), "", true},
		"an answer as old":       {found(7, "b", 5), registerOf(now-100, 7, "a", 5), "", true},
		"stale":                  {found(7, "b", 0), registerOf(now-100, 7, "a", 5), "", true},
		"a newer zone":           {found(8, "a", 10), registerOf(now-100, 7, "a", 5), "8a", true},
		"with an older answer":   {found(8, "b", 4), registerOf(now-100, 7, "a", 5), "8a", true},
		"an older zone":          {found(6, "b", 10), registerOf(now-100, 7, "a", 5), "", false},
		"nothing known":          {&local{own: 7, aliases: "same", keys: []string{modelKey}}, snapshot{known: true}, "", false},
		"nothing known here":     {&local{own: 7, aliases: "same", keys: []string{modelKey}}, registerOf(now-100, 7, "a", 5), "", true},
		"no aliases":             {&local{own: 7, aliases: "none"}, snapshot{known: true}, "", false},
		"no aliases any more":    {&local{own: 8, aliases: "none"}, registerOf(now-100, 7, "a", 5), "8", true},
		"earlier aliases":        {&local{own: 7, aliases: "other", since: -1}, registerOf(now-100, 7, "a", 5), "", false},
		"later aliases":          {&local{own: 7, aliases: "other", since: 1}, registerOf(now-100, 7, "a", 5), "7", true},
		"the zone is not known":  {nil, registerOf(now-100, 7, "a", 5), "", false},
		"the number has to wait": {found(7, "b", 10), registerOf(now+15, 7, "a", 5), "", true},
	} {
		var a agreement
		got := strings.Join(a.publishes(c.local, c.stored, numbersOf(3)), " ")
		if serves := a.serve(c.local, true) != nil; got != c.want || serves != c.serves {
			t.Errorf("%s: published %q, and serves %v; want %q, %v", name, got, serves, c.want, c.serves)
		}
	}
}

// When the store has lost writes, the server writes its own register again, at once, and then one with a later number, also when it
// has published alone meanwhile.
func TestLostWrites(t *testing.T) {
	now := base(7, fleetNow)
	for _, lost := range []snapshot{{known: true}, registerOf(now-200, 7, "z", 1)} {
		for _, alone := range []bool{false, true} {
			var a agreement
			l := found(7, "a", 10)
			a.publishes(l, registerOf(now-100, 7, "a", 5), numbersOf(3))
			want := "7a"
			if alone {
				l = found(7, "b", 20)
				a.publishAlone(l, numbersOf(3))
				want = "7b"
			}
			number := a.published.number
			makes := numbersOf(3)
			if got := strings.Join(a.publishes(l, lost, makes), " "); got != want || a.published.number != number {
				t.Errorf("alone %v: published %q under %d, want %s again under %d", alone, got, a.published.number, want, number)
			}
			makes.now = fleetNow.Add(time.Minute)
			stored := snapshot{known: true, number: formatNumber(number), is: a.published}
			if got := strings.Join(a.publishes(l, stored, makes), " "); got != want || !serialBefore(now+maxEarly, a.published.number) {
				t.Errorf("alone %v: a minute later, published %q under %d after %d", alone, got, a.published.number, number)
			}
			stored = snapshot{known: true, number: formatNumber(a.published.number), is: a.published}
			if got := a.publishes(l, stored, makes); len(got) > 0 {
				t.Errorf("alone %v: and then %q", alone, got)
			}
		}
	}
}

// An earlier register in the store, which has lost writes, is not taken over.
func TestEarlierRegister(t *testing.T) {
	now := base(7, fleetNow)
	var a agreement
	a.publishes(found(7, "a", 10), registerOf(now-100, 7, "a", 10), numbersOf(3))
	a.publishes(nil, registerOf(now-200, 7, "z", 1), numbersOf(3))
	if l := found(7, "a", 10); a.serve(l, false) == nil || a.serve(l, false).number != now-100 {
		t.Errorf("without the store it has %v", a.serve(l, false))
	}
}

// A swap without an answer that was done is one of this server: it notifies.
func TestSwapWithoutAnswer(t *testing.T) {
	var a agreement
	var s session
	l := found(7, "a", 10)
	a.hasNumber(&s, "")
	a.hasLoaded(snapshot{known: true}, fleetNow)
	q := a.next(&s, l, numbersOf(3))
	a.hasFailed(q)
	if a.serve(l, false) != nil || a.notify {
		t.Error("it is not known whether it was done")
	}
	a.publishes(l, snapshot{known: true, number: formatNumber(q.to.number), is: q.to}, numbersOf(3))
	if r := a.serve(l, true); r == nil || r.number != q.to.number || !a.notify {
		t.Errorf("it was done: serves %v, notifies %v", r, a.notify)
	}
}

// A register is in the store what it is here.
func TestRegisterFields(t *testing.T) {
	r := &register{number: 1, own: 2, aliases: "x", since: 3, data: map[string]datum{
		"A k example.org.": {"\xc0\x00\x02\x01\xc0\x00\x02\x02", 60, 5}, "AAAA k example.org.": {"", 0, 0},
	}}
	compare := cmp.AllowUnexported(register{}, datum{})
	fields := r.fields()
	if diff := cmp.Diff(r, snapshotOf(fields).is, compare); diff != "" {
		t.Error(diff)
	}
	for name, text := range map[string]string{
		"number": "-1", "own": "", "since": "x", "A k example.org.": "5 60 wAAC", "AAAA k example.org.": "x 0 ", "A k other.": "", "TXT k x.": "5 60 ",
	} {
		broken := maps.Clone(fields)
		broken[name] = text
		s := snapshotOf(broken)
		if s.is != nil || !s.known || s.number != broken["number"] {
			t.Errorf("%s %q: %+v", name, text, s.is)
		}
		set, remove := s.changes(r)
		for _, gone := range remove {
			delete(broken, gone)
		}
		maps.Copy(broken, set)
		if diff := cmp.Diff(fields, broken); diff != "" {
			t.Errorf("%s %q is not mended: %s", name, text, diff)
		}
	}
}

// Which id a server takes.
func TestMemberPlan(t *testing.T) {
	entryAt := func(token string, ago time.Duration) string { return formatEntry(token, fleetNow.Add(-ago)) }
	m := newMember("me", fleetNow)
	first := int(m.hash() % ids)
	all := func(change func(map[string]string)) map[string]string {
		table := make(map[string]string)
		for id := range ids {
			table[strconv.Itoa(id)] = entryAt(fmt.Sprint("other", id), time.Second)
		}
		change(table)
		return table
	}
	lost, other := strconv.Itoa(first), strconv.Itoa((first+5)%ids)
	for name, c := range map[string]struct {
		has   int // -1: no id
		table map[string]string
		want  int
		gone  bool
	}{
		"an empty table":          {-1, nil, first, false},
		"its own is taken":        {first, all(func(m map[string]string) { delete(m, other) }), (first + 5) % ids, false},
		"its own was lost":        {first, all(func(m map[string]string) { delete(m, lost) }), first, false},
		"it has one in the table": {-1, all(func(m map[string]string) { m[other] = entryAt("me", time.Hour) }), (first + 5) % ids, false},
		"all are in use":          {-1, all(func(map[string]string) {}), -1, false},
		"one is gone":             {-1, all(func(m map[string]string) { m[other] = entryAt("gone", 40*time.Second) }), -1, true},
		"one is gone for long":    {-1, all(func(m map[string]string) { m[other] = entryAt("gone", 70*time.Second) }), (first + 5) % ids, true},
		"the one that is gone for longest": {-1, all(func(m map[string]string) {
			m[lost], m[other] = entryAt("gone", 70*time.Second), entryAt("gone2", 80*time.Second)
		}), (first + 5) % ids, true},
		"garbage": {-1, all(func(m map[string]string) { m[other] = "?" }), (first + 5) % ids, true},
	} {
		m := newMember("me", fleetNow)
		m.id = c.has
		e, ok := m.plan(c.table, fleetNow)
		if ok != (c.want >= 0) || ok && e.id != c.want || m.renewed.IsZero() == c.gone {
			t.Errorf("%s: id %d %v, want %d; somebody is gone: %v, want %v", name, e.id, ok, c.want, !m.renewed.IsZero(), c.gone)
		}
		if m.id >= 0 && m.id != e.id {
			t.Errorf("%s: it still uses %d", name, m.id)
		}
		if m.wrote(e, false, fleetNow); m.id != c.has && m.id >= 0 {
			t.Errorf("%s: it uses %d, which it has not got", name, m.id)
		}
		m.wrote(e, true, fleetNow)
		if ok && m.id != c.want {
			t.Errorf("%s: it uses %d, and has %d", name, m.id, c.want)
		}
	}
}

// When a server may make numbers.
func TestMemberNumbering(t *testing.T) {
	m := newMember("me", fleetNow)
	at := func(after time.Duration) uint32 { return m.numbering(fleetNow.Add(after)).of }
	if at(29*time.Second) != 0 || at(30*time.Second) != lanes*classes || m.numbering(fleetNow.Add(time.Minute)).class%classes != ids {
		t.Error("a server that has not reached the store")
	}
	m.wrote(entry{id: 4}, true, fleetNow.Add(time.Minute))
	if at(time.Minute+9*time.Second) != 0 || at(time.Minute+10*time.Second) != classes {
		t.Error("a server with an id")
	}
	m.id = -1
	if at(time.Hour) != 0 {
		t.Error("a server that has lost its id")
	}
}
