package alias

import (
	"fmt"
	"maps"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/alias/test/race"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// However many goroutines ask for the counters of a zone, these are the same ones, and are found without a lock soon.
func TestAnswerCounters(t *testing.T) {
	const zones = 1000
	var c answerCounters
	var all sync.Map
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 3 {
				for i := range zones {
					zone := fmt.Sprint("z", i%zones)
					cs := c.of("server", zone)
					if first, ok := all.LoadOrStore(zone, cs); ok && first != cs {
						t.Errorf("%s has counters twice", zone)
					}
				}
			}
		})
	}
	wg.Wait()
	for sz := range maps.Clone(c.more) { // what is not known yet becomes known when it has been asked for often enough
		for range 2 * zones {
			c.of(sz.server, sz.zone)
		}
	}
	if n := len(*c.known.Load()); n != zones || c.more != nil {
		t.Errorf("%d of %d are known, and %d wait", n, zones, len(c.more))
	}
	if c.of("server", "z1") == c.of("other", "z1") {
		t.Error("two servers have the same counters")
	}
	if !race.Enabled {
		if n := testing.AllocsPerRun(100, func() { c.of("server", "z1") }); n != 0 {
			t.Errorf("%v allocations", n)
		}
	}
}

// All statuses of a zone are collected from its first answer on, and each zone once, whether its counters are found without
// a lock yet or not.
func TestAnswerCountersCollected(t *testing.T) {
	var c answerCounters
	c.of("dns://:53", "a.example.")[hit].Add(2)
	b := c.of("dns://:53", "b.example.")
	b[stale].Add(3)
	b[failed].Add(1)
	if len(*c.known.Load()) != 1 || len(c.more) != 1 {
		t.Fatalf("%d known, %d more: want one of each", len(*c.known.Load()), len(c.more))
	}
	const want = `
# HELP coredns_alias_answers_total Counter of answers synthesized for aliases.
# TYPE coredns_alias_answers_total counter
coredns_alias_answers_total{server="dns://:53",status="failure",zone="a.example."} 0
coredns_alias_answers_total{server="dns://:53",status="failure",zone="b.example."} 1
coredns_alias_answers_total{server="dns://:53",status="fallback",zone="a.example."} 0
coredns_alias_answers_total{server="dns://:53",status="fallback",zone="b.example."} 0
coredns_alias_answers_total{server="dns://:53",status="hit",zone="a.example."} 2
coredns_alias_answers_total{server="dns://:53",status="hit",zone="b.example."} 0
coredns_alias_answers_total{server="dns://:53",status="miss",zone="a.example."} 0
coredns_alias_answers_total{server="dns://:53",status="miss",zone="b.example."} 0
coredns_alias_answers_total{server="dns://:53",status="nodata",zone="a.example."} 0
coredns_alias_answers_total{server="dns://:53",status="nodata",zone="b.example."} 0
coredns_alias_answers_total{server="dns://:53",status="stale",zone="a.example."} 0
coredns_alias_answers_total{server="dns://:53",status="stale",zone="b.example."} 3
`
	if err := testutil.CollectAndCompare(&c, strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}

// The time of the first answer of a zone does not grow with the number of zones.
func BenchmarkNewZone(b *testing.B) {
	for _, zones := range []int{100, 10_000} {
		b.Run(fmt.Sprint(zones), func(b *testing.B) {
			for range b.N {
				var c answerCounters
				for i := range zones {
					c.of("bench", fmt.Sprint(i))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*zones), "ns/zone")
		})
	}
}
