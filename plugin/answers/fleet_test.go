package answers_test

import (
	"context"
	"fmt"
	"runtime"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// fleet is the store of a fleet that has one other server.
type fleet struct {
	entries *answers.Entries
	records map[string]string
	puts    []string
}

func (f *fleet) Open()                      {}
func (f *fleet) Loaded(ctx context.Context) {}
func (f *fleet) Flush()                     {}
func (f *fleet) Close()                     {}

func (f *fleet) Put(key, value string, stored time.Time, keep time.Duration) {
	f.records[key] = value
	f.puts = append(f.puts, fmt.Sprintf("%s at %s for %s", key, start.Sub(stored), keep))
}

func (f *fleet) Get(_ context.Context, key string) bool {
	value, ok := f.records[key]
	if ok {
		f.entries.Adopt(key, value, start.Add(-time.Minute))
	}
	return ok
}

func (f *fleet) Claim(context.Context, string, time.Time, time.Duration) (bool, time.Duration) {
	return true, 0
}

// join returns the Entries of a server whose fleet has those records.
func join(records map[string]string) (*answers.Entries, *fleet) {
	f := &fleet{records: records}
	r := answers.NewRegistry(nil, func(_ answers.Source, es *answers.Entries) answers.Fleet {
		f.entries = es
		return f
	}, at(start))
	share := r.NewShare(answers.Source{Fleet: "redis"}, answers.Size{Everybody: 10, Networks: 10}, nil)
	share.Keep(time.Hour)
	return share.Join(1), f
}

// An answer of one server is adopted by another, with its age.
func TestFetch(t *testing.T) {
	first, f := join(make(map[string]string))
	questions := []lookup.Question{target, {Name: lookup.Canonical(`a\ b\}.example.`), Type: dns.TypeAAAA}, target.For(network("192.0.2.0/24")), target.For(lookup.Global)}
	for i, q := range questions {
		store(first, q, answers.NewEntry(lookup.Outcome{Data: make([]byte, lookup.AddrLen(q.Type)*i), TTL: 300, Scope: uint8(q.Net.Bits())}, start.Add(-time.Minute)))
	}
	fail(first, target, start.Add(time.Minute))
	store(first, numbered(1), expired(answer(addrs1, 0)))
	if len(f.puts) != len(questions) || f.puts[0] != "target.example. A at 1m0s for 1h0m0s" {
		t.Errorf("the fleet has %q", f.puts)
	}
	second, _ := join(f.records)
	for _, q := range questions {
		want, got := first.Load(q), second.Fetch(t.Context(), q)
		if string(got.Data) != string(want.Data) || got.Stored != want.Stored || got.TTL != 300 || !got.Answered || !got.Adopted || got.Scope != want.Scope {
			t.Errorf("%v: %+v, want %+v", q, got, want)
		}
	}
	if e := second.Fetch(t.Context(), numbered(2)); e != answers.None {
		t.Errorf("the fleet knows nothing of it: %+v", e)
	}
}

// What is adopted is what is newer. A fresh answer of another server ends a back-off, and one that has expired does not.
func TestAdopt(t *testing.T) {
	of := func(addrs []byte) string {
		es, f := join(make(map[string]string))
		store(es, target, answer(addrs, 0))
		return f.records["target.example. A"]
	}
	for name, tc := range map[string]struct {
		prepare func(es *answers.Entries)
		age     time.Duration // of what the other server has
		want    string
	}{
		"nothing":                   {func(*answers.Entries) {}, time.Minute, "other"},
		"from the future":           {func(*answers.Entries) {}, -time.Minute, "other"},
		"older":                     {func(es *answers.Entries) { store(es, target, answer(addrs1, time.Hour)) }, time.Minute, "other"},
		"newer":                     {func(es *answers.Entries) { store(es, target, answer(addrs1, 0)) }, time.Minute, "own"},
		"the same time":             {func(es *answers.Entries) { store(es, target, answer(addrs1, time.Minute)) }, time.Minute, "own"},
		"of other upstreams":        {func(es *answers.Entries) { store(es, target, expired(answer(addrs1, 0))) }, time.Minute, "other"},
		"of other upstreams, stale": {func(es *answers.Entries) { store(es, target, expired(answer(addrs1, 0))) }, time.Hour, "own"},
		"failed":                    {func(es *answers.Entries) { fail(es, target, start.Add(time.Minute)) }, time.Minute, "other"},
		"failed, and stale":         {func(es *answers.Entries) { fail(es, target, start.Add(time.Minute)) }, time.Hour, "other, failing"},
		"older, and failed": {func(es *answers.Entries) {
			store(es, target, answer(addrs1, 2*time.Hour))
			fail(es, target, start.Add(time.Minute))
		}, time.Minute, "other"},
		"older, failed, and stale": {func(es *answers.Entries) {
			store(es, target, answer(addrs1, 2*time.Hour))
			fail(es, target, start.Add(time.Minute))
		}, time.Hour, "other, failing"},
		"newer, and failed for long": {func(es *answers.Entries) {
			store(es, target, answer(addrs1, 0))
			fail(es, target, start.Add(time.Minute))
		}, time.Minute, "own, failing"},
	} {
		es, f := join(make(map[string]string))
		tc.prepare(es)
		puts := len(f.puts)
		es.Adopt("target.example. A", of(addrs2), start.Add(-tc.age))
		e := es.Load(target)
		got := map[string]string{string(addrs1): "own", string(addrs2): "other"}[string(e.Data)]
		if e.Failing() {
			got += ", failing"
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
		if len(f.puts) != puts {
			t.Errorf("%s: what is adopted is put", name)
		}
		if age := start.Sub(e.Stored); age < 0 {
			t.Errorf("%s: the answer is from the future", name)
		}
	}
}

// BenchmarkAdoptMillion has a server adopt a million answers of others. It reports the time for each, and how
// much memory they take.
func BenchmarkAdoptMillion(b *testing.B) {
	const million = 1_000_000
	source, f := join(make(map[string]string))
	store(source, target, answer([]byte{192, 0, 2, 1}, 0))
	value := f.records["target.example. A"]
	keys := make([]string, million)
	for i := range keys {
		keys[i] = fmt.Sprintf("customer%08d.example. A", i)
	}
	var memory float64
	for b.Loop() {
		b.StopTimer()
		es := answers.NewRegistry(nil, func(answers.Source, *answers.Entries) answers.Fleet { return f }, at(start)).
			NewShare(answers.Source{Fleet: "redis"}, answers.Size{Everybody: million}, nil).Join(1)
		before := heap()
		b.StartTimer()
		for _, key := range keys {
			es.Adopt(key, value, start)
		}
		b.StopTimer()
		memory += heap() - before
		if e := es.Load(lookup.Question{Name: "customer00000000.example.", Type: dns.TypeA}); !e.Adopted {
			b.Error("the first answer is not there")
		}
		runtime.KeepAlive(es)
		b.StartTimer()
	}
	n := float64(b.N) * million
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/n, "ns/answer")
	b.ReportMetric(memory/n, "B/answer")
	b.ReportMetric(0, "ns/op")
}

// heap returns the memory of all that is in use.
func heap() float64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return float64(m.HeapAlloc)
}

// Nothing in a store of a fleet is taken for an answer that is none.
func TestReadFleetRecord(t *testing.T) {
	es, f := join(make(map[string]string))
	store(es, target, answer(addrs1, 0))
	good := f.records["target.example. A"]
	for key, value := range map[string]string{
		"target.example. A":                      good[:5],
		"target.example. AAAA":                   good,
		"target.example. MX":                     good,
		"target.example. A for":                  good,
		"target.example. A for 192.0.2.1/24":     good,
		"target.example. A for 192.0.2.0/24 for": good,
		"target.example A":                       good,
		"Target.example. A":                      good,
		"target.example.":                        good,
		"target.example.  A":                     good,
		"..example. A":                           good,
		"":                                       good,
		"a.example. A":                           good + "x",
		"b.example. A":                           "",
		"c.example. A":                           "garbage",
	} {
		other, _ := join(make(map[string]string))
		other.Adopt(key, value, start)
		if n := other.Len(); n > 0 {
			t.Errorf("%q=%q is taken for an answer", key, value)
		}
	}
}
