package answers_test

import (
	"bytes"
	"slices"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// An answer is as old as it was, and expired if nobody can know its age.
func TestRestoredAge(t *testing.T) {
	const maxAge = answers.MaxStale + answers.MaxTTL
	for _, tc := range []struct {
		name    string
		stored  time.Duration // before now
		age     time.Duration
		expired bool
	}{
		{"just now", 0, 0, false},
		{"a while ago", 100 * time.Second, 100 * time.Second, false},
		{"a day ago", 24 * time.Hour, 24 * time.Hour, false},
		{"in the future", -24 * time.Hour, 0, true},
		{"as long ago as can be", maxAge, maxAge, false},
		{"long ago", 200 * 365 * 24 * time.Hour, maxAge, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stored := start.Add(-tc.stored)
			key, value := recordOf(t, target, answers.NewEntry(lookup.Outcome{Data: addrs1, TTL: 300, Links: 3}, stored), stored)
			es := answers.New(answers.Size{Everybody: 10}, at(start))
			if again := es.Restore(key, value); again != value {
				t.Errorf("the record is replaced with %q", again)
			}
			e := es.Load(target)
			if !e.Answered || !slices.Equal(e.Data, addrs1) || e.TTL != 300 || e.Links != 3 || e.Failing() {
				t.Errorf("restored as %+v", e)
			}
			if age := start.Sub(e.Stored); age != tc.age || e.Expired != tc.expired {
				t.Errorf("age %s, expired %v; want %s, %v", age, e.Expired, tc.age, tc.expired)
			}
		})
	}
}

// Whether an answer counts as expired outlives the process too.
func TestRestoredExpired(t *testing.T) {
	key, value := recordOf(t, target, expired(answer(nil, time.Minute)), start)
	es := answers.New(answers.Size{Everybody: 10}, at(start))
	if again := es.Restore(key, value); again != value {
		t.Errorf("the record is replaced with %q", again)
	}
	if e := es.Load(target); !e.Answered || !e.Expired || len(e.Data) > 0 || !e.Stored.Equal(start.Add(-time.Minute)) {
		t.Errorf("restored as %+v", e)
	}
}

// A record that comes late gives way to a newer answer, and is taken when there is none.
func TestRestoredLate(t *testing.T) {
	failing := answers.None.Fail(answers.Backoff{Failures: 3, Retry: start.Add(time.Minute), Cause: errDown})
	old := answer(addrs1, time.Hour)
	key, kept := recordOf(t, target, old, start)
	value := func(e *answers.Entry) string {
		_, v := recordOf(t, target, e, start)
		return v
	}
	future := value(answer(addrs1, -time.Hour))
	fresh := value(answer(addrs1, 2*time.Minute))
	links := answers.NewEntry(lookup.Outcome{Data: addrs1, TTL: 300, Links: 1}, start.Add(-time.Hour))
	for _, tc := range []struct {
		name    string
		current *answers.Entry
		record  string
		addrs   []byte
		expired bool
		want    string // the record, afterwards
	}{
		{name: "no entry", record: kept, addrs: addrs1, want: kept},
		{name: "a failure", current: failing, record: kept, addrs: addrs1, want: kept},
		{name: "an older answer", current: answer(addrs2, 2*time.Hour), record: kept, addrs: addrs1, want: kept},
		{name: "other addresses", current: answer(addrs2, time.Minute), record: kept, addrs: addrs2, want: value(answer(addrs2, time.Minute))},
		{name: "more links", current: links, record: kept, addrs: addrs1, want: value(links)},
		{name: "newer", current: answer(addrs1, time.Minute), record: kept, addrs: addrs1, want: value(answer(addrs1, time.Minute))},
		{name: "hardly newer", current: answer(addrs1, time.Hour-answers.MaxLag), record: kept, addrs: addrs1, want: kept},
		{name: "expired, from other upstreams", current: expired(answer(addrs2, time.Minute)), record: kept, addrs: addrs2, expired: true,
			want: value(expired(answer(addrs2, time.Minute)))},
		{name: "expired, and the record is fresh", current: expired(answer(addrs2, time.Minute)), record: fresh, addrs: addrs1, want: fresh},
		{name: "an old answer, and the record is from the future", current: answer(addrs2, time.Minute), record: future, addrs: addrs2,
			want: value(answer(addrs2, time.Minute))},
	} {
		t.Run(tc.name, func(t *testing.T) {
			es := answers.New(answers.Size{Everybody: 10}, at(start))
			if tc.current != nil {
				store(es, target, tc.current)
			}
			if got := es.Restore(key, tc.record); got != tc.want {
				t.Errorf("the record is %q, want %q", got, tc.want)
			}
			e := es.Load(target)
			if !slices.Equal(e.Data, tc.addrs) || e.Expired != tc.expired || e.Failing() != (tc.current == failing) || es.Len() != 1 {
				t.Errorf("cached: %+v", e)
			}
		})
	}
	// The back-off goes on, although a newer answer came out of the copy.
	es := answers.New(answers.Size{Everybody: 10}, at(start))
	store(es, target, answer(addrs2, 2*time.Hour).Fail(*failing.Backoff))
	es.Restore(key, kept)
	if e := es.Load(target); e.LastFailure() != errDown || e.Failures != 3 || !slices.Equal(e.Data, addrs1) {
		t.Errorf("after a failure: %+v", e)
	}
}

// A record that is restored in place of another answer is written again: that answer may be on its way to the copy.
func TestRestoredIsWritten(t *testing.T) {
	d := newDisk()
	s := answers.Source{Path: "db"}
	share := d.registry(at(start)).NewShare(s, answers.Size{Everybody: 10}, nil)
	es := share.Join(1)
	defer share.Leave(false)
	store(es, target, answer(addrs2, time.Hour))
	key, value := recordOf(t, target, answer(addrs1, time.Minute), start)
	d.written()
	if es.Restore(key, value); d.written() != 1 || d.of(s)[key] != value {
		t.Errorf("the copy has %q, want %q", d.of(s)[key], value)
	}
	// What is restored counts as written.
	es.Update(target, answers.MaxLag, func(*answers.Entry) *answers.Entry { return answer(addrs1, 0) })
	if n := d.written(); n != 0 {
		t.Errorf("an answer of the same age as the copy's, but for %s, is written", answers.MaxLag)
	}
}

// What is no record of an answer is removed from the copy.
func TestRestoredGarbage(t *testing.T) {
	key, value := recordOf(t, target, answer(addrs1, 0), start)
	change := func(s string, at int, b byte) string { return s[:at] + string(b) + s[at+1:] }
	for name, r := range map[string][2]string{
		"no key":                  {"", value},
		"no name":                 {key[:2], value},
		"no value":                {key, ""},
		"short value":             {key, value[:13]},
		"no type of address":      {change(key, 1, byte(dns.TypeMX)), value},
		"upper case":              {change(key, 2, 'T'), value},
		"no final dot":            {key[:len(key)-1], value},
		"no domain name":          {key[:2] + "a..example.", value},
		"two spellings":           {key[:2] + `\097.example.`, value},
		"neither expired nor not": {key, change(value, 12, 2)},
		"too many links":          {key, change(value, 13, lookup.MaxLinks+1)},
		"half an address":         {key, value[:len(value)-1]},
	} {
		es := answers.New(answers.Size{Everybody: 10}, at(start))
		if again := es.Restore(r[0], r[1]); again != "" || es.Len() != 0 {
			t.Errorf("%s: kept as %q, and %d entries", name, again, es.Len())
		}
	}
}

// Lookups that find the same addresses write once in a while, others at once.
func TestWrites(t *testing.T) {
	const lag = 30 * time.Second
	d := newDisk()
	s := answers.Source{Path: "db"}
	now := start
	share := d.registry(func() time.Time { return now }).NewShare(s, answers.Size{Everybody: 100}, nil)
	es := share.Join(1)
	defer share.Leave(false)
	for i, step := range []struct {
		after time.Duration
		addrs []byte
		fails bool
		write bool
	}{
		{fails: true}, // a failure alone is not in the copy
		{addrs: addrs1, write: true},
		{after: 10 * time.Second, addrs: addrs1},
		{after: 19 * time.Second, addrs: addrs1},
		{after: time.Second, fails: true},
		{after: time.Second, addrs: addrs1, write: true}, // the copy would be older by 31 s
		{after: lag, addrs: addrs1},
		{after: 1, addrs: addrs1, write: true},
		{after: time.Second, addrs: addrs2, write: true},
		{after: time.Second, write: true}, // NODATA
		{after: time.Second},
	} {
		now = now.Add(step.after)
		e := es.Update(target, lag, func(current *answers.Entry) *answers.Entry {
			if step.fails {
				return current.Fail(answers.Backoff{Failures: 1, Retry: now, Cause: errDown})
			}
			return answers.NewEntry(lookup.Outcome{Data: step.addrs, TTL: 5}, now)
		})
		if n := d.written(); (n == 1) != step.write {
			t.Errorf("step %d: %d writes", i, n)
		}
		if step.write {
			key, value := recordOf(t, target, e, now)
			if got := d.of(s); len(got) != 1 || got[key] != value {
				t.Errorf("step %d: the copy has %q, want %q", i, got, value)
			}
		}
	}
}

// An answer of the right upstreams is written at once in place of the same one that was handed over from others.
func TestWritesExpired(t *testing.T) {
	d := newDisk()
	s := answers.Source{Path: "db"}
	share := d.registry(at(start)).NewShare(s, answers.Size{Everybody: 10}, nil)
	es := share.Join(1)
	defer share.Leave(false)
	store(es, target, expired(answer(addrs1, time.Second)))
	e := es.Update(target, time.Minute, func(*answers.Entry) *answers.Entry { return answer(addrs1, 0) })
	key, value := recordOf(t, target, e, start)
	if got := d.of(s)[key]; got != value {
		t.Errorf("the copy has %q, want %q", got, value)
	}
}

// What is evicted is removed from the copy.
func TestEvictedFromCopy(t *testing.T) {
	const size = 100
	d := newDisk()
	s := answers.Source{Path: "db"}
	share := d.registry(at(start)).NewShare(s, answers.Size{Everybody: size}, nil)
	es := share.Join(1)
	defer share.Leave(false)
	for i := range 1000 {
		store(es, numbered(i), answer(addrs1, 0))
	}
	n, records := es.Len(), d.of(s)
	if n < size/2 || n > size || len(records) != n {
		t.Errorf("%d answers are cached, and %d are in the copy, with room for %d", n, len(records), size)
	}
	for key, value := range es.All() {
		if records[key] != value {
			t.Errorf("%q is cached, the copy has %q", value, records[key])
		}
	}
}

// All yields each answer, as long as it is wanted, and no failure.
func TestAll(t *testing.T) {
	es := answers.New(answers.Size{Everybody: 10}, at(start))
	for i := range 5 {
		store(es, numbered(i), answer(addrs1, 0))
	}
	fail(es, numbered(5), start)
	for want := 1; want <= 6; want++ {
		n := 0
		for range es.All() {
			if n++; n == want {
				break
			}
		}
		if n != min(want, 5) {
			t.Errorf("got %d records, want %d", n, min(want, 5))
		}
	}
}

// HTTPS records come back from the copy as they were. A record with octets that are none is dropped.
func TestRestoredHTTPS(t *testing.T) {
	q := lookup.Question{Name: "target.example.", Type: dns.TypeHTTPS}
	data, err := lookup.NewChain(q.Name).Follow(upstream.RRs(
		`target.example. 60 IN HTTPS 1 . alpn="h3,h2" ipv4hint=192.0.2.1 ech="AAX+DQABAQ=="`, "target.example. 60 IN HTTPS 2 backup.example."), q.Type)
	if err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		name string
		data []byte
		want bool
	}{
		{"two records", data, true}, {"none", nil, true}, {"AliasMode", lookup.AliasMode("svc.example."), true},
		{"cut off", data[:len(data)-1], false}, {"addresses", addrs1, false},
	} {
		key, value := recordOf(t, q, answers.NewEntry(lookup.Outcome{Data: tc.data, TTL: 300, Links: 2}, start), start)
		if key[:2] != "\x00\x41" {
			t.Errorf("%s: key %q", tc.name, key)
		}
		es := answers.New(answers.Size{Everybody: 10}, at(start))
		again := es.Restore(key, value)
		e := es.Load(q)
		if e.Answered != tc.want || (again == value) != tc.want || tc.want && (!bytes.Equal(e.Data, tc.data) || e.Links != 2 || e.TTL != 300) {
			t.Errorf("%s: restored as %+v, and the copy is to have %q", tc.name, e, again)
		}
	}
}
