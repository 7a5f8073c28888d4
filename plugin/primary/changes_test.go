package primary

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"github.com/coredns/alias/plugin/records"
)

// Whatever the order in which zones change and receivers take them: each receiver is notified of each zone after its last change, and
// of no zone twice at the same time; and the group has few changes more than zones that wait.
func TestChanges(t *testing.T) {
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 1))
		zones := 1 + random.IntN(30)
		g := newGroup(Secondaries{Zones: records.Zones{".": {}}, To: []string{"a", "b", "c"}})
		changed := make(map[string]int)                      // when each zone changed last
		sent := []map[string]int{{}, {}, {}}                 // when the last NOTIFY for each zone began
		sending := make([]map[string]bool, len(g.receivers)) // as send does it
		for i := range sending {
			sending[i] = make(map[string]bool)
		}
		now := 0
		begin := func(i int) bool {
			zone, ok := g.take(g.receivers[i])
			if ok && sending[i][zone] {
				t.Fatalf("seed %d: %s is sent twice at the same time", seed, zone)
			}
			if ok {
				sending[i][zone], sent[i][zone] = true, now
			}
			return ok
		}
		end := func(i int) {
			r := g.receivers[i]
			for zone := range sending[i] {
				if r.zones[zone] {
					r.zones[zone], sent[i][zone] = false, now
				} else {
					delete(r.zones, zone)
					delete(sending[i], zone)
				}
				break
			}
		}
		for range 400 {
			now++
			i := random.IntN(len(g.receivers))
			switch random.IntN(5) {
			case 0, 1:
				zone := fmt.Sprint(random.IntN(zones))
				changed[zone] = now
				g.add(zone)
			case 2, 3:
				if i > 0 || random.IntN(20) == 0 { // the first hardly ever does
					begin(i)
				}
			default:
				end(i)
			}
			g.trim()
			if most := 2*zones + maxNotifies; len(g.zones) > most {
				t.Fatalf("seed %d: %d changes of %d zones", seed, len(g.zones), zones)
			}
			for zone, at := range changed {
				unsent := false
				for i := range g.receivers {
					unsent = unsent || sent[i][zone] < at
				}
				if unsent && !g.waits(zone) {
					t.Fatalf("seed %d: %s does not wait", seed, zone)
				}
			}
		}
		for i := range g.receivers {
			for now++; begin(i) || len(sending[i]) > 0; now++ {
				end(i)
			}
			for zone, at := range changed {
				if sent[i][zone] < at {
					t.Errorf("seed %d: receiver %d was not notified of the last change of %s", seed, i, zone)
				}
			}
		}
		g.trim()
		for zone := range changed {
			if g.waits(zone) {
				t.Errorf("seed %d: %s waits still", seed, zone)
			}
		}
		if len(g.zones) > 0 || len(g.last) > 0 {
			t.Errorf("seed %d: %d changes are left, and %d zones", seed, len(g.zones), len(g.last))
		}
	}
}
