package answers_test

import (
	"math"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// FuzzRecord restores a record of the copy: what is taken over is an answer to a question that can be asked, and goes back
// to the copy as it was.
func FuzzRecord(f *testing.F) {
	now := time.Now()
	for q, o := range map[lookup.Question]lookup.Outcome{
		{Name: "app.hosting.example.", Type: dns.TypeA}:     {Data: addrs1, TTL: 60},
		{Name: "app.hosting.example.", Type: dns.TypeAAAA}:  {Data: make([]byte, 32), TTL: math.MaxUint32, Links: lookup.MaxLinks},
		{Name: `a\.b\200.example.`, Type: dns.TypeA}:        {},
		{Name: "app.hosting.example.", Type: dns.TypeHTTPS}: {Data: lookup.AliasMode("svc.example."), TTL: 60},

		{Name: "app.hosting.example.", Type: dns.TypeA, Net: network("192.0.2.0/23")}:     {Data: addrs1, TTL: 60},
		{Name: "app.hosting.example.", Type: dns.TypeAAAA, Net: network("2001:db8::/56")}: {TTL: 60},
		{Name: "app.hosting.example.", Type: dns.TypeA, Net: lookup.Global}:               {Data: addrs2, TTL: 60},
	} {
		key, value := recordOf(f, q, answers.NewEntry(o, now), now)
		f.Add(key, value)
	}
	f.Add("", "")
	f.Fuzz(func(t *testing.T, key, value string) {
		es := answers.New(answers.Size{Everybody: 10, Networks: 10}, at(now))
		again := es.Restore(key, value)
		records := 0
		for gotKey, got := range es.All() {
			records++
			if len(gotKey) < 3 {
				t.Fatalf("key %q", gotKey)
			}
			q, _ := answers.ReadKey(gotKey)
			e := es.Load(q)
			if _, ok := dns.IsDomainName(q.Name); !ok || q.Name != lookup.Canonical(q.Name) || !lookup.IsFollowed(q.Type) {
				t.Errorf("the question %q is cached", q)
			}
			if !e.Answered || e.Failing() || !lookup.IsData(e.Data, q.Type) || e.Links > lookup.MaxLinks || int(e.Scope) != q.Net.Bits() {
				t.Errorf("%q: %+v is cached", q, e)
			}
			if !q.Net.IsEverybody() {
				if found, got := es.Find(q); found != q || got != e {
					t.Errorf("%q is cached and not found", q)
				}
			}
			if age := now.Sub(e.Stored); age < 0 || age > answers.MaxStale+answers.MaxTTL {
				t.Errorf("%q: the age is %s", q, age)
			}
			lookup.Records(q, 1, e.Data)
			if gotKey != key || !e.Expired && got != value {
				t.Errorf("%q=%q comes back as %q=%q", key, value, gotKey, got)
			}
		}
		if again != value && again != "" {
			t.Errorf("%q is replaced with %q", value, again)
		}
		if kept := again != ""; kept != (records == 1) {
			t.Errorf("%q=%q: %d records, and the copy is to have %q", key, value, records, again)
		}
	})
}
