package alias

import (
	"fmt"
	"sync"
	"testing"

	"github.com/coredns/alias/test/race"
)

// However many goroutines ask for the counters of a zone, these are the same ones, and are found without a lock soon.
func TestCountersByZone(t *testing.T) {
	const zones = 1000
	var c countersByZone
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
	for i := range 100 * zones { // what is not known yet becomes known when it has been asked for often enough
		c.of("server", fmt.Sprint("z", i%zones))
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

// The time of the first answer of a zone does not grow with the number of zones.
func BenchmarkNewZone(b *testing.B) {
	for _, zones := range []int{100, 10_000} {
		b.Run(fmt.Sprint(zones), func(b *testing.B) {
			for range b.N {
				var c countersByZone
				for i := range zones {
					c.of("bench", fmt.Sprint(i))
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*zones), "ns/zone")
		})
	}
}
