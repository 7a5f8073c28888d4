package primary_test

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/primary"
)

// The published serial grows when the addresses change, and only then. There are at least 30 s between two lookups.
func TestFollow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		one, two := "192.0.2.1", "192.0.2.2"
		r := newResolver(map[string]target{"target.example.": {v4: []string{one, two}, ttl: 10}})
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.", "www.example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(settled)
		last := s.published(t)
		for i, step := range []struct {
			has     target
			after   time.Duration // since the last lookup
			lookups int
			grows   bool
		}{
			{target{v4: []string{two, one}, ttl: 10}, 29 * time.Second, 0, false}, // the TTL is 10 s
			{target{v4: []string{two, one}, ttl: 10}, 34 * time.Second, 1, false}, // another order
			{target{v4: []string{one, two}, ttl: 40}, 34 * time.Second, 1, false}, // another TTL
			{target{v4: []string{one}, ttl: 10}, 39 * time.Second, 0, false},      // fresh, with a TTL of 40 s
			{target{v4: []string{one}, ttl: 10}, 44 * time.Second, 1, true},
			{target{err: errServfail}, 34 * time.Second, 1, false},
			{target{ttl: 10}, 39 * time.Second, 1, true},                         // NXDOMAIN or NODATA, 30 s after the transfer
			{target{v4: []string{one}, ttl: 10}, 34 * time.Second, 1, true},      // and back
			{target{v4: []string{one, two}, ttl: 10}, 34 * time.Second, 1, true}, // one more
		} {
			r.set("target.example.", step.has)
			count := r.count("target.example.")
			time.Sleep(time.Until(r.looked().Add(step.after)))
			if n := r.count("target.example.") - count; n != step.lookups {
				t.Errorf("step %d: %d lookups, want %d", i, n, step.lookups)
			}
			serial := s.published(t)
			if grows := before(last, serial); grows != step.grows || !grows && serial != last {
				t.Errorf("step %d: the published serial was %d, and is %d", i, last, serial)
			}
			if _, transferred := s.transferred(t); transferred != serial {
				t.Errorf("step %d: transferred under %d, published %d", i, transferred, serial)
			}
			last = serial
		}
		if got, _ := s.transferred(t); len(got) != 4 {
			t.Errorf("in the end: %v", got)
		}
	})
}

// All changes that come within a second are one change of the published serial.
func TestFollowAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 10}})
		b := new(backend)
		b.put(t, 7, "a.example.org. 60 IN ALIAS target.example.", "b.example.org. 60 IN ALIAS target.example.", "c.example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(settled)
		first := s.published(t)
		r.set("target.example.", target{v4: []string{"192.0.2.2"}, v6: []string{"2001:db8::2"}, ttl: 10})
		time.Sleep(30*time.Second + settled)
		if serial := s.published(t); serial != first+1 {
			t.Errorf("the published serial was %d, and is %d after three aliases changed", first, serial)
		}
	})
}

// The published serial follows the zone's own, in whatever direction this goes, and so do aliases that come and go.
func TestFollowZone(t *testing.T) {
	for _, listed := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}})
			b := &backend{listed: listed}
			zone := []string{"example.org. 60 IN ALIAS target.example.", "www.example.org. 60 IN ALIAS target.example."}
			b.put(t, 7, zone...)
			s := newServer(t, r, b, nil)
			s.Start()
			time.Sleep(settled)
			_, last := s.transferred(t)
			for i, serial := range []uint32{8, 8 + math.MaxInt32, 20, 21, 21 + 1<<31, 5, 6} {
				has := zone
				if i == 3 {
					has = nil
				}
				b.put(t, serial, has...)
				early := s.published(t) // in the response to a query that comes before the zone is read
				time.Sleep(settled)
				got, transferred := s.transferred(t)
				if !before(last, transferred) || before(transferred, early) || before(early, last) {
					t.Errorf("own serial %d: the published serial was %d, and is %d, then %d", serial, last, early, transferred)
				}
				if published := s.published(t); published != transferred {
					t.Errorf("own serial %d: published %d, transferred under %d", serial, published, transferred)
				}
				if len(got) != len(has) {
					t.Errorf("own serial %d: %v", serial, got)
				}
				last = transferred
			}
		})
	}
}

// A transfer that takes addresses from the cache does not put off the next lookup.
func TestTransferKeepsLookupsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 60}})
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(settled)
		r.set("target.example.", target{v4: []string{"192.0.2.2"}, ttl: 60})
		time.Sleep(55 * time.Second)
		_, last := s.transferred(t)
		time.Sleep(2 * settled)
		got, serial := s.transferred(t)
		if !slices.Equal(got, []string{"example.org. 60 IN A 192.0.2.2"}) || serial != last+1 || r.count("target.example.") != 2 {
			t.Errorf("after the TTL: %v under %d, was %d; %d lookups", got, serial, last, r.count("target.example."))
		}
	})
}

// A target inside the server's zones is looked up again a moment after the zone was read: the backend answer may have been
// cached since before the zone changed. After that it is looked up as seldom as any other.
func TestFollowInside(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(nil)
		b := new(backend)
		own := func(address string) {
			r.mu.Lock()
			r.inside = map[string]target{"www.example.org.": {v4: []string{address}, ttl: 300}}
			r.mu.Unlock()
		}
		own("203.0.113.1")
		zone := func(serial uint32, address string) {
			b.put(t, serial, "in.example.org. 60 IN ALIAS www.example.org.", "www.example.org. 60 IN A "+address)
		}
		zone(7, "203.0.113.1")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(40 * time.Second)
		first := s.published(t)
		zone(8, "203.0.113.2")
		for n := r.count("www.example.org."); r.count("www.example.org.") == n; { // the old answer came from the backend's cache
			time.Sleep(100 * time.Millisecond)
		}
		own("203.0.113.2")
		time.Sleep(settled)
		if serial := s.published(t); serial != first+2 {
			t.Errorf("the published serial was %d, and is %d; want one more for the zone's own, and one for the address", first, serial)
		}
		own("203.0.113.3") // behind the zone's back, so without hurry
		time.Sleep(25 * time.Second)
		if serial := s.published(t); serial != first+2 {
			t.Errorf("looked up again after 25 s")
		}
		time.Sleep(10 * time.Second)
		if serial := s.published(t); serial != first+3 {
			t.Errorf("not looked up again after 35 s")
		}
	})
}

// An alias that fails without an answer in the cache is looked up again as soon as its back-off ends, and not every 30 s.
func TestFollowBackoff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(map[string]target{"target.example.": {err: errServfail}})
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(21 * time.Second)
		if n := r.count("target.example."); n < 4 || n > 5 {
			t.Errorf("%d lookups in 21 s with a back-off of 5 s", n)
		}
		r.set("target.example.", target{v4: []string{v4}, ttl: 300})
		time.Sleep(5*time.Second + settled)
		if got, _ := s.transferred(t); !slices.Equal(got, []string{"example.org. 60 IN A " + v4}) {
			t.Errorf("after the back-off: %v", got)
		}
	})
}

// Lookup is not called before what is cached expires.
func TestFollowSeldom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, listed := range []bool{false, true} {
			r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 300}})
			b := &backend{listed: listed}
			b.put(t, 7, "example.org. 300 IN ALIAS target.example.")
			s := newServer(t, r, b, nil)
			s.Start()
			time.Sleep(290 * time.Second)
			s.Stop()
			if r.calls != 2 {
				t.Errorf("%d calls for the two families, with a TTL of 300 s", r.calls)
			}
			if b.asked > 150 || listed && b.asked > 1 || b.walks != 2 {
				t.Errorf("listed %v: %d queries for the SOA record, and the zone was gone over %d times", listed, b.asked, b.walks)
			}
		}
	})
}

// Lookups that are due in the same moment are spread.
func TestFollowSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(nil)
		r.delay = 300 * time.Millisecond // or the lookups would end in the moment of another call of Refresh
		b := new(backend)
		var zone []string
		for i := range 30 {
			zone = append(zone, fmt.Sprintf("a%d.example.org. 3600 IN ALIAS t%[1]d.example.", i))
		}
		b.put(t, 7, zone...)
		s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Concurrent = 100 })
		s.Start()
		times := func() int {
			r.mu.Lock()
			defer r.mu.Unlock()
			began := slices.SortedFunc(maps.Values(r.began), time.Time.Compare)
			return len(slices.Compact(began))
		}
		time.Sleep(settled)
		if n := times(); n != 1 {
			t.Errorf("the first lookups began at %d times", n)
		}
		time.Sleep(300 * time.Second)
		first := times()
		time.Sleep(300 * time.Second)
		if n := times(); first > 2 || n != 2 {
			t.Errorf("the lookups after the TTL began at %d times, and then %d; want in two calls of Refresh", first, n)
		}
	})
}

// At most Config.Concurrent lookups of a zone are in flight.
func TestConcurrent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(nil)
		r.delay = time.Second
		b := new(backend)
		b.put(t, 7, "a.example.org. 60 IN ALIAS a.example.", "b.example.org. 60 IN ALIAS b.example.", "c.example.org. 60 IN ALIAS c.example.")
		s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Concurrent = 2 })
		began := time.Now()
		s.transferred(t)
		if took := time.Since(began); took != 3*time.Second {
			t.Errorf("6 lookups of 1 s took %s, two at a time", took)
		}
	})
}

// Stop does not wait for lookups to end by themselves.
func TestPrimaryStops(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(nil)
		r.delay = time.Hour
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(settled)
		if r.count("target.example.") == 0 {
			t.Error("nothing was in flight")
		}
		began := time.Now()
		s.Stop()
		if took := time.Since(began); took > 0 {
			t.Errorf("the stop took %s", took)
		}
		time.Sleep(time.Minute)
		if n := r.count("target.example."); n != 1 {
			t.Errorf("%d lookups after the stop", n-1)
		}
		s.Stop() // nothing any more
	})
}
