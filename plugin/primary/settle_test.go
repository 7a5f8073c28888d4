package primary_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
)

// manyAliases puts a zone with this many aliases into b.
func manyAliases(t *testing.T, b *backend, n int) {
	t.Helper()
	var lines []string
	for i := range n {
		lines = append(lines, fmt.Sprintf("n%d.example.org. 60 IN ALIAS t%d.example.", i, i))
	}
	b.put(t, 7, lines...)
}

// When the lookups take long, a transfer does not wait for them, and has the addresses that secondaries have. The lookups
// count as neither tried nor failed: the job makes them, when they are due, and finds the change.
func TestTransferDoesNotWait(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		const aliases = 200
		r := newResolver(nil)
		for i := range aliases {
			r.set(fmt.Sprintf("t%d.example.", i), target{v4: []string{v4}, ttl: 60})
		}
		b := new(backend)
		manyAliases(t, b, aliases)
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(settled)
		before, serial := s.transferred(t)
		if len(before) != aliases {
			t.Fatalf("%d records", len(before))
		}
		r.mu.Lock()
		r.delay = 10 * time.Second
		r.mu.Unlock()
		r.set("t7.example.", target{v4: []string{"192.0.2.7"}, ttl: 60})
		time.Sleep(60 * time.Second) // all have expired, and the job has begun to look them up
		began := time.Now()
		after, now := s.transferred(t)
		if took := time.Since(began); took > 500*time.Millisecond {
			t.Errorf("the transfer took %s", took)
		}
		if !slices.Equal(before, after) || now != serial {
			t.Errorf("%d records under %d, want the same as before, under %d", len(after), now, serial)
		}
		if n := s.counted("transfer example.org. success"); n != 2 {
			t.Errorf("%d transfers were counted", n)
		}
		time.Sleep(aliases * 2 * 10 * time.Second / 10) // ten lookups at a time
		after, now = s.transferred(t)
		if !slices.Contains(after, "n7.example.org. 60 IN A 192.0.2.7") || now == serial {
			t.Errorf("the job has not found the change: serial %d, then %d", serial, now)
		}
	})
}

// A transfer that gives a lookup up does not put off the job's.
func TestGivenUpStaysDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 60}})
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.transferred(t)
		r.mu.Lock()
		r.delay = 2 * time.Second
		r.mu.Unlock()
		r.set("target.example.", target{v4: []string{"192.0.2.7"}, ttl: 60})
		time.Sleep(59 * time.Second)
		for range 30 { // each gives up
			if rrs, _ := s.transferred(t); len(rrs) != 1 {
				t.Fatalf("transferred %v", rrs)
			}
			s.Refresh()
			time.Sleep(100 * time.Millisecond)
		}
		time.Sleep(time.Second)
		s.Refresh()
		if rrs, _ := s.transferred(t); !slices.Equal(rrs, []string{"example.org. 60 IN A 192.0.2.7"}) {
			t.Errorf("transferred %v", rrs)
		}
	})
}

// A transfer waits for an alias of which nothing is known. With abort, the first that fails ends the wait; with omit, all are
// looked up.
func TestTransferWaitsForTheUnknown(t *testing.T) {
	for _, omit := range []bool{false, true} {
		for _, fails := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				r := newResolver(nil)
				for i := range 100 {
					r.set(fmt.Sprintf("t%d.example.", i), target{v4: []string{v4}, ttl: 60})
				}
				if fails {
					r.set("t7.example.", target{err: errServfail})
				}
				r.delay = 2 * time.Second
				b := new(backend)
				manyAliases(t, b, 100)
				s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Omit, cfg.Concurrent = omit, 200 })
				began := time.Now()
				out, err := s.Transfer("example.org.", 0)
				took := time.Since(began)
				if fails && !omit {
					if !errors.Is(err, errServfail) || !strings.Contains(err.Error(), "n7.example.org.") || took != 2*time.Second {
						t.Errorf("%v, after %s", err, took)
					}
					return
				}
				if err != nil || took != 2*time.Second {
					t.Fatalf("omit %t: %v, after %s", omit, err, took)
				}
				want := 100 + 2
				if fails {
					want--
				}
				if n := len(slices.Concat(slices.Collect(values(out))...)); n != want {
					t.Errorf("omit %t: %d records, want %d", omit, n, want)
				}
			})
		}
	}
}

// The first failure ends the wait at once, although thousands of others would take long.
func TestFirstFailureAborts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(map[string]target{"t0.example.": {err: errServfail}}) // the first in the zone
		r.delay = 2 * time.Second
		b := new(backend)
		manyAliases(t, b, 2000)
		s := newServer(t, r, b, nil)
		for _, most := range []time.Duration{2 * time.Second, 0} { // and then it is known to fail
			began := time.Now()
			if _, err := s.Transfer("example.org.", 0); !errors.Is(err, errServfail) || time.Since(began) > most {
				t.Errorf("%v, after %s", err, time.Since(began))
			}
		}
	})
}

// What Lookup has in the end of the wait counts, although it is not finished: stale addresses are transferred, unless
// secondaries have others, and a failure is one.
func TestUnfinishedLookups(t *testing.T) {
	al := primary.Found{Data: []byte{192, 0, 2, 1}, TTL: 30}
	synctest.Test(t, func(t *testing.T) {
		var found primary.Found
		var failure error
		var zones sync.Map
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, newResolver(nil), b, func(cfg *primary.Config) {
			cfg.Lookup = func(ctx context.Context, zone, _ string, _ *records.Alias, qtype uint16) (primary.Found, error) {
				zones.Store(zone, true)
				if qtype == dns.TypeAAAA {
					return primary.Found{Next: time.Now().Add(time.Hour), Stored: time.Now()}, nil
				}
				if found.Unfinished {
					<-ctx.Done()
				}
				return found, failure
			}
		})
		found, failure = primary.Found{Unfinished: true}, errServfail
		began := time.Now()
		if _, err := s.Transfer("example.org.", 0); !errors.Is(err, errServfail) || err == transfer.ErrNotAuthoritative {
			t.Errorf("a failure that is known: %v", err)
		}
		found, failure = al, nil
		found.Unfinished = true
		stale := []string{"example.org. 30 IN A 192.0.2.1"}
		rrs, serial := s.transferred(t)
		if !slices.Equal(rrs, stale) || time.Since(began) != time.Second {
			t.Errorf("stale addresses: %v after %s", rrs, time.Since(began))
		}
		found.Data = []byte{192, 0, 2, 2}
		if rrs, now := s.transferred(t); !slices.Equal(rrs, stale) || now != serial {
			t.Errorf("with other addresses in the cache: %v", rrs)
		}
		found, failure = primary.Found{Unfinished: true}, lookup.NetworkFailure(lookup.Canceled, nil)
		if rrs, now := s.transferred(t); !slices.Equal(rrs, stale) || now != serial {
			t.Errorf("with nothing in the cache: %v", rrs)
		}
		for zone := range zones.Range {
			if zone != "example.org." {
				t.Errorf("a lookup for the zone %v", zone)
			}
		}
	})
}

// The job's lookups of a zone do not wait for those of another.
func TestZonesOfTheJob(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		b := new(backend)
		dead := []string{}
		for i := range 100 {
			dead = append(dead, fmt.Sprintf("n%d.dead.example.org. 60 IN ALIAS t%d.dead.", i, i))
		}
		b.set("dead.example.org.", zoneOf(t, "dead.example.org.", 7, dead...))
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 30}})
		s := newServer(t, r, b, func(cfg *primary.Config) {
			inner := cfg.Lookup
			cfg.Lookup = func(ctx context.Context, zone, owner string, al *records.Alias, qtype uint16) (primary.Found, error) {
				if zone == "dead.example.org." {
					<-ctx.Done()
					return primary.Found{Unfinished: true}, lookup.NetworkFailure(lookup.Canceled, nil)
				}
				return inner(ctx, zone, owner, al, qtype)
			}
		})
		s.Start()
		time.Sleep(settled)
		serial := s.published(t)
		r.set("target.example.", target{v4: []string{"192.0.2.7"}, ttl: 30})
		time.Sleep(30*time.Second + settled)
		if now := s.published(t); !before(serial, now) {
			t.Errorf("published serial %d, then %d", serial, now)
		}
	})
}
