package alias

import (
	"slices"
	"strings"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/google/go-cmp/cmp"
)

// primaryOf returns a plugin for transfers of a zone with these records, and its clock. It has not looked anything up.
func primaryOf(t *testing.T, up *fake.Server, properties string, zone ...string) (*Alias, *clock) {
	t.Helper()
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, zone...))
	return newPrimaryAlias(t, "retries 0\nupstream "+up.Addr+"\n"+properties, backend)
}

// transferredAddresses returns the addresses of A records that the zone is transferred with, sorted, and the published serial.
func transferredAddresses(t *testing.T, a *Alias) (addrs []string, serial uint32) {
	t.Helper()
	records, serial := transferred(t, a)
	for _, rr := range records {
		if fields := strings.Fields(rr); fields[3] == "A" {
			addrs = append(addrs, fields[4])
		}
	}
	slices.Sort(addrs)
	return addrs, serial
}

// Transfers carry what answers carry.
func TestTransferSeveralTargets(t *testing.T) {
	u, up := newStates(t)
	u.say("t2.example.", "gone")
	u.say("t3.example.", "fails")
	u.say("t5.example.", "empty")
	a, _ := primaryOf(t, up, `
		record u t0.example t1.example t2.example t3.example 50
		failover over t3.example t2.example t1.example t0.example
		failover first t0.example t1.example
		record in u.example.org over.example.org t4.example
		record circle circle2.example.org t0.example
		record circle2 circle.example.org t1.example
		record none t2.example t5.example`,
		"example.org. 60 IN ALIAS t1.example.", "example.org. 40 IN ALIAS t0.example.",
		"www.example.org. 60 IN ALIAS t0.example.", "www.example.org. 60 IN ALIAS t1.example.", "www.example.org. 60 IN A 203.0.113.1")
	got, _ := transferred(t, a)
	got = slices.DeleteFunc(got, func(rr string) bool { return strings.Contains(rr, " AAAA ") })
	want := []string{
		"circle.example.org. 59 IN A 192.0.2.1", "circle.example.org. 59 IN A 192.0.2.10", "circle.example.org. 59 IN A 192.0.2.11",
		"circle2.example.org. 59 IN A 192.0.2.1", "circle2.example.org. 59 IN A 192.0.2.10", "circle2.example.org. 59 IN A 192.0.2.11",
		"example.org. 40 IN A 192.0.2.1", "example.org. 40 IN A 192.0.2.10", "example.org. 40 IN A 192.0.2.11",
		"first.example.org. 60 IN A 192.0.2.1", "first.example.org. 60 IN A 192.0.2.10",
		"in.example.org. 50 IN A 192.0.2.1", "in.example.org. 50 IN A 192.0.2.10", "in.example.org. 50 IN A 192.0.2.11", "in.example.org. 50 IN A 192.0.2.14",
		"over.example.org. 59 IN A 192.0.2.1", "over.example.org. 59 IN A 192.0.2.11",
		"u.example.org. 50 IN A 192.0.2.1", "u.example.org. 50 IN A 192.0.2.10", "u.example.org. 50 IN A 192.0.2.11",
		"www.example.org. 60 IN A 203.0.113.1",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the transfer (-want +got):\n%s", diff)
	}
}

// The serial grows when the addresses of all targets together change, or a failover goes over or back, and neither with the
// order of the addresses nor with their TTL.
func TestSerialOfSeveralTargets(t *testing.T) {
	const own, other = "192.0.2.1", "192.0.2.2"
	union := fake.Zone("a.example. 60 IN A "+own, "b.example. 60 IN A "+other)
	for _, tc := range []struct {
		name, properties string
		before, after    fake.Handler
		addrs            []string // after
		grows            bool
	}{
		{"a target of a union changes", "record @ a.example b.example", union,
			fake.Zone("a.example. 60 IN A 192.0.2.3", "b.example. 60 IN A "+other), []string{other, "192.0.2.3"}, true},
		{"the last target of a union changes", "record @ a.example b.example", union,
			fake.Zone("a.example. 60 IN A "+own, "b.example. 60 IN A 192.0.2.3"), []string{own, "192.0.2.3"}, true},
		{"a target of a union is gone", "record @ a.example b.example", union, fake.Zone("a.example. 60 IN A " + own), []string{own}, true},
		{"TTL and order", "record @ a.example b.example", union, fake.Zone("a.example. 50 IN A "+other, "b.example. 40 IN A "+own), []string{own, other}, false},
		{"an address that another target has too", "record @ a.example b.example", union,
			fake.Zone("a.example. 60 IN A "+own, "b.example. 60 IN A "+other, "b.example. 60 IN A "+own), []string{own, other}, false},
		{"failover goes over", "failover @ a.example b.example", union, fake.Zone("b.example. 60 IN A " + other), []string{other}, true},
		{"failover goes back", "failover @ a.example b.example", fake.Zone("b.example. 60 IN A " + other), union, []string{own}, true},
		{"a target of a failover that does not count changes", "failover @ a.example b.example", union,
			fake.Zone("a.example. 60 IN A "+own, "b.example. 60 IN A 192.0.2.3"), []string{own}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			up := fake.New(t, tc.before)
			a, c := primaryOf(t, up, tc.properties)
			transferredAddresses(t, a)
			refresh(a)
			before := published(t, a)
			up.Set(tc.after)
			c.Advance(5 * time.Minute) // negative answers have expired too
			refresh(a)
			addrs, after := transferredAddresses(t, a)
			if !slices.Equal(addrs, tc.addrs) {
				t.Errorf("transferred %v, want %v", addrs, tc.addrs)
			}
			if grown := int32(after-before) > 0; grown != tc.grows || !tc.grows && after != before {
				t.Errorf("the serial was %d and is %d", before, after)
			}
		})
	}
}

// A target that fails, and of which nothing is cached, takes nothing from what the others have. Only when all fail,
// transfer_on_failure counts. The target that comes back is noticed after its back-off.
func TestTransferWithADeadTarget(t *testing.T) {
	for _, how := range []string{"silent", "fails"} {
		for _, properties := range []string{
			"record @ t0.example t1.example", "record @ t1.example t0.example", "failover @ t0.example t1.example",
		} {
			t.Run(properties+" "+how, func(t *testing.T) {
				logged(t)
				u, up := newStates(t)
				u.say("t0.example.", how)
				u.say("t1.example.", how)
				a, c := primaryOf(t, up, "timeout 200ms\n"+properties)
				if _, err := a.Transfer("example.org.", 0); err == nil || !strings.Contains(err.Error(), "example.org. A") {
					t.Errorf("with all targets dead: %v", err)
				}
				u.say("t1.example.", "well")
				a.cache.wg.Wait()
				c.Advance(minBackoff + time.Second)
				refresh(a)
				addrs, before := transferredAddresses(t, a)
				if want := []string{"192.0.2.1", "192.0.2.11"}; !slices.Equal(addrs, want) {
					t.Errorf("transferred %v, want %v", addrs, want)
				}
				u.say("t0.example.", "well")
				a.cache.wg.Wait()
				c.Advance(2*minBackoff + time.Second)
				refresh(a)
				addrs, after := transferredAddresses(t, a)
				want := []string{"192.0.2.1", "192.0.2.10", "192.0.2.11"}
				if strings.HasPrefix(properties, "failover") {
					want = want[:2]
				}
				if !slices.Equal(addrs, want) || int32(after-before) <= 0 {
					t.Errorf("transferred %v, want %v; the serial was %d and is %d", addrs, want, before, after)
				}
			})
		}
	}
}
