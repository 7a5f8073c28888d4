package upstream_test

import (
	"context"
	"crypto/tls"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/upstream"
	fake "github.com/coredns/alias/test/upstream"
)

// Those with the same key share upstreams: their goroutines, and what is known about them. They end with the last.
func TestShare(t *testing.T) {
	h, queries, plain := withOPT(refusals["FORMERR"], good)
	up := fake.New(t, h)
	addrs, err := upstream.ParseAddresses([]string{up.Addr})
	if err != nil {
		t.Fatal(err)
	}
	var r upstream.Registry
	cfg := upstream.Config{Addresses: addrs, TLS: new(tls.Config), Timeout: patient, Reporter: new(reports).reporter}
	var shares []*upstream.Share
	goroutines := 0
	for i := range 100 {
		s := r.Share("one", cfg)
		s.Start()
		if i == 0 {
			goroutines = runtime.NumGoroutine()
		}
		if o, err := s.Resolve(context.Background(), question, 1); err != nil || len(o.Data) != 4 {
			t.Fatalf("share %d: %v, %v", i, o, err)
		}
		shares = append(shares, s)
	}
	if queries.Load() != 1 || plain.Load() != 100 {
		t.Errorf("%d queries with and %d without EDNS, want 1 and 100", queries.Load(), plain.Load())
	}
	if n := runtime.NumGoroutine() - goroutines; n > 10 {
		t.Errorf("%d more goroutines for 99 more shares", n)
	}
	for _, s := range shares[1:] {
		s.Stop()
	}
	if _, err := shares[0].Resolve(context.Background(), question, 1); err != nil {
		t.Errorf("with one share left: %v", err)
	}
	other := r.Share("other", cfg)
	other.Start()
	if _, err := other.Resolve(context.Background(), question, 1); err != nil || queries.Load() != 2 {
		t.Errorf("with another key: %v, and %d queries with EDNS", err, queries.Load())
	}
	other.Stop()
	shares[0].Stop()
	again := r.Share("one", cfg)
	again.Start()
	defer again.Stop()
	if _, err := again.Resolve(context.Background(), question, 1); err != nil || queries.Load() != 3 {
		t.Errorf("started again: %v, and %d queries with EDNS", err, queries.Load())
	}
}

// Server blocks start and stop beside each other.
func TestSharesComeAndGo(t *testing.T) {
	addrs, err := upstream.ParseAddresses([]string{fake.New(t, good).Addr})
	if err != nil {
		t.Fatal(err)
	}
	var r upstream.Registry
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 20 {
				s := r.Share("one", upstream.Config{Addresses: addrs, TLS: new(tls.Config), Timeout: patient, Reporter: new(reports).reporter})
				s.Start()
				if _, err := s.Resolve(context.Background(), question, 1); err != nil {
					t.Error(err)
				}
				s.Stop()
			}
		})
	}
	wg.Wait()
}

// A reload that fails late leaves server blocks behind that nobody stops.
func TestShareIsLost(t *testing.T) {
	up := fake.New(t, good)
	addrs, err := upstream.ParseAddresses([]string{up.Addr})
	if err != nil {
		t.Fatal(err)
	}
	var r upstream.Registry
	rs := new(reports)
	before := runtime.NumGoroutine()
	r.Share("one", upstream.Config{Addresses: addrs, TLS: new(tls.Config), Timeout: patient, Reporter: rs.reporter}).Start()
	wait(t, 10*time.Second, "the upstreams of a share that is lost go on", func() bool {
		runtime.GC()
		return runtime.NumGoroutine() <= before
	})
}
