package primary_test

import (
	"runtime"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/primary"
)

// Primaries that share a Beat take no goroutine for each, and one that stops does not stop the others.
func TestSharedBeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var beat primary.Beat
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 60}})
		var servers []*server
		before := 0
		for i := range 50 {
			b := new(backend)
			b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
			s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Beat, cfg.Secondaries = &beat, nil })
			s.Start()
			servers = append(servers, s)
			time.Sleep(settled)
			least := runtime.NumGoroutine()
			for range 20 { // those of a poll or a lookup end
				time.Sleep(10 * time.Millisecond)
				synctest.Wait()
				least = min(least, runtime.NumGoroutine())
			}
			if i == 0 {
				before = least
			} else if least > before+5 { // the runtime has some too
				t.Fatalf("%d goroutines with %d primaries, and %d with one", least, i+1, before)
			}
		}
		for _, s := range servers[1:] {
			s.Stop()
		}
		first := servers[0].published(t)
		r.set("target.example.", target{v4: []string{"192.0.2.2"}, ttl: 60})
		time.Sleep(90*time.Second + settled)
		if again := servers[0].published(t); again == first {
			t.Errorf("the published serial is still %d", again)
		}
		servers[0].Stop()
		servers[0].Stop()
		again := newServer(t, r, new(backend), func(cfg *primary.Config) { cfg.Beat, cfg.Secondaries = &beat, nil })
		again.Start()
		again.Stop()
	})
}
