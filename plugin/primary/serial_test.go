package primary_test

import (
	"fmt"
	"math"
	"runtime"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/primary"

	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
)

// in2026 makes the clock of a synctest bubble that of a server in use: published serials count from 2026.
func in2026(t *testing.T) {
	t.Helper()
	time.Sleep(time.Until(time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)))
}

// Published serial = the zone's own + the half seconds from 2026-01-01 to the start + 1 per change of addresses.
func TestSerial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 10}})
		b := new(backend)
		b.put(t, 2026112301, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(settled)
		const want = 2026112301 + 326*24*60*60*2 // 23 November is the 327th day of 2026
		first := s.published(t)
		if first < want || first > want+2 {
			t.Errorf("published serial %d, want %d", first, want)
		}
		r.set("target.example.", target{v4: []string{"192.0.2.2"}, ttl: 10})
		time.Sleep(30*time.Second + settled)
		b.put(t, 2026112305, "example.org. 60 IN ALIAS target.example.")
		if serial := s.published(t); serial != first+5 {
			t.Errorf("published serial %d after %d, one change of addresses and 4 more for the zone", serial, first)
		}
	})
}

// After a restart, with nothing kept, the published serial is later than all before, even when the addresses have changed as
// often as possible.
func TestSerialAfterRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		b := new(backend)
		b.put(t, 2026112301, "example.org. 60 IN ALIAS target.example.")
		var last uint32
		for run := range 5 {
			r := newResolver(nil)
			s := newServer(t, r, b, nil)
			s.Start()
			for i := range 3 {
				r.set("target.example.", target{v4: []string{fmt.Sprintf("192.0.2.%d", 1+10*run+i)}, ttl: 5})
				time.Sleep(30*time.Second + settled)
			}
			serial := s.published(t)
			if run > 0 && !before(last, serial) {
				t.Errorf("run %d: published serial %d after %d", run, serial, last)
			}
			last = serial
			s.Stop()
			time.Sleep(time.Second)
		}
	})
}

// A change is published when Refresh is called, so once a second: more slowly than the serial after a restart grows.
func TestSerialGrowsSlowly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}}}) // with a TTL of 0 s
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(settled)
		first, began := s.published(t), time.Now()
		for i := range 200 { // each transfer takes what has changed, five times a second
			r.set("target.example.", target{v4: []string{fmt.Sprintf("192.0.2.%d", i)}})
			s.transferred(t)
			time.Sleep(200 * time.Millisecond)
		}
		if grown := s.published(t) - first; grown < 30 || grown > uint32(time.Since(began)/time.Second)+1 {
			t.Errorf("the published serial grew by %d in %s", grown, time.Since(began))
		}
	})
}

// After a reload, which makes another Primary in the same process, secondaries notice nothing unless something has changed.
func TestSerialAfterReload(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 300}})
		for _, listed := range []bool{false, true} {
			b := &backend{listed: listed}
			b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
			record := corefile("rec.example.org.", "target.example.")
			for name, change := range map[string]struct {
				do        func()
				configure func(*primary.Config)
				grows     uint32
			}{
				"nothing":                     {func() {}, nil, 0},
				"addresses":                   {func() { r.set("target.example.", target{v4: []string{"192.0.2.2"}, v6: []string{v6}, ttl: 300}) }, nil, 1},
				"record":                      {func() {}, func(cfg *primary.Config) { cfg.Records = record }, 1},
				"the zone's serial":           {func() { b.put(t, 8, "example.org. 60 IN ALIAS target.example.") }, nil, 1},
				"the zone's serial goes back": {func() { b.put(t, 2, "example.org. 60 IN ALIAS target.example.") }, nil, 1},
			} {
				b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
				r.set("target.example.", target{v4: []string{v4}, v6: []string{v6}, ttl: 300})
				old := newServer(t, r, b, nil)
				old.Start()
				time.Sleep(time.Hour)
				last := old.published(t)
				change.do()
				s := newServer(t, r, b, func(cfg *primary.Config) {
					cfg.Before = old.Primary
					if change.configure != nil {
						change.configure(cfg)
					}
				})
				s.Start()
				old.Stop()
				time.Sleep(time.Hour)
				if serial := s.published(t); serial != last+change.grows {
					t.Errorf("%s changed: published serial %d after %d", name, serial, last)
				}
				s.Stop()
			}
		}
	})
}

// A zone that goes, and comes back, goes on where it was, with a new serial: nothing is known of what it was meanwhile.
func TestZoneGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, listed := range []bool{false, true} {
			r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}})
			b := &backend{listed: listed}
			b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
			z := b.zone("example.org.")
			s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Records = corefile("rec.example.org.", "target.example.") })
			s.Start()
			time.Sleep(settled)
			want, last := s.transferred(t)
			b.mu.Lock()
			delete(b.zones, "example.org.")
			b.mu.Unlock()
			time.Sleep(settled)
			if _, err := s.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
				t.Errorf("gone: %v", err)
			}
			time.Sleep(time.Hour)
			if n := r.count("target.example."); n != 1 {
				t.Errorf("%d lookups for a zone that is gone", n-1)
			}
			b.set("example.org.", z)
			time.Sleep(settled)
			if got, serial := s.transferred(t); len(got) != 2 || !slices.Equal(got, want) || serial != last+1 {
				t.Errorf("back: %v, published serial %d after %d", got, serial, last)
			}
		}
	})
}

// A zone that appears is noticed in a moment, and its serial is right from the first query for it.
func TestZoneAppears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, listed := range []bool{false, true} {
			r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}})
			b := &backend{listed: listed}
			s := newServer(t, r, b, nil)
			s.Start()
			time.Sleep(settled)
			b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
			early := s.published(t)
			time.Sleep(settled)
			if serial := s.published(t); early == 7 || serial != early {
				t.Errorf("published serial %d, then %d", early, serial)
			}
			if n := r.count("target.example."); n != 1 {
				t.Errorf("%d lookups", n)
			}
		}
	})
}

// The first query for a zone waits for its reading, but not for long. After a reload the published serial is known even so.
func TestSerialOfSlowZone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		fast := newServer(t, newResolver(nil), b, nil)
		_, want := fast.transferred(t)
		b.pause = 10 * time.Second
		for before, want := range map[*primary.Primary]uint32{nil: 7, fast.Primary: want} {
			s := newServer(t, newResolver(nil), b, func(cfg *primary.Config) { cfg.Before = before })
			began := time.Now()
			if serial := s.published(t); serial != want || time.Since(began) != 500*time.Millisecond {
				t.Errorf("published serial %d after %s, want %d after the timeout", serial, time.Since(began), want)
			}
		}
		time.Sleep(time.Minute) // the backend ends its transfers: somebody takes their records
	})
}

// Until a zone is read, an answer with its SOA record is SERVFAIL: its own serial is earlier than what secondaries have.
// A negative answer is not.
func TestWriterBeforeZoneIsRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		b.pause = 2 * time.Second // of each of the two readings
		s := newServer(t, newResolver(nil), b, nil)
		write := func(m dns.Msg) *dns.Msg {
			rec := dnstest.NewRecorder(new(test.ResponseWriter))
			m.Authoritative = true
			if err := s.Writer(rec).WriteMsg(&m); err != nil {
				t.Fatal(err)
			}
			return rec.Msg
		}
		soa := []dns.RR{b.zone("example.org.").SOA}
		if m := write(dns.Msg{Answer: soa}); m.Rcode != dns.RcodeServerFailure || len(m.Answer) > 0 {
			t.Errorf("before the zone is read: %v", m)
		}
		if m := write(dns.Msg{Ns: soa}); m.Rcode != dns.RcodeSuccess || len(m.Ns) != 1 {
			t.Errorf("negative answer before the zone is read: %v", m)
		}
		s.Start()
		time.Sleep(time.Minute)
		if m := write(dns.Msg{Answer: soa}); m.Rcode != dns.RcodeSuccess || m.Answer[0].(*dns.SOA).Serial == 7 {
			t.Errorf("after the zone was read: %v", m)
		}
		s.Stop()
	})
}

// A zone that changes while it is read is transferred under the serial of what was read, however far its own serial jumps.
func TestTransferWhileZoneChanges(t *testing.T) {
	for _, next := range []uint32{9, 8 + math.MaxInt32} {
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}})
		b := new(backend)
		kept, old := "example.org. 60 IN ALIAS target.example.", "old.example.org. 60 IN ALIAS target.example."
		b.put(t, 7, kept, old)
		s := newServer(t, r, b, nil)
		s.transferred(t)
		b.put(t, 8, kept, old)
		eight := s.published(t)
		b.walked = func(n int) {
			if n == 5 { // the second time that it is gone over for 8
				b.put(t, next, kept)
				s.published(t)
			}
		}
		old8, serial8 := s.transferred(t)
		new9, serial9 := s.transferred(t)
		if len(old8) != 2 || serial8 != eight {
			t.Errorf("while it changes: %v under %d, want the old names under %d", old8, serial8, eight)
		}
		if len(new9) != 1 || !before(serial8, serial9) || serial9 != s.published(t) {
			t.Errorf("after that: %v under %d, was %d, published %d", new9, serial9, serial8, s.published(t))
		}
	}
}

// A secondary that was shown a new serial gets the zone with it, although the zone had an older one when the transfer began.
func TestTransferAfterZoneChanges(t *testing.T) {
	b := new(backend)
	b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
	s := newServer(t, newResolver(nil), b, nil)
	s.transferred(t)
	b.put(t, 8, "example.org. 60 IN ALIAS target.example.")
	eight := s.published(t)
	b.walk = func(n int) {
		if n == 4 { // the first time that it is gone over for 8
			b.put(t, 9, "example.org. 60 IN ALIAS target.example.")
			s.published(t)
		}
	}
	out, err := s.Transfer("example.org.", eight)
	if err != nil {
		t.Fatal(err)
	}
	if rrs := slices.Concat(slices.Collect(values(out))...); len(rrs) != 2 || rrs[0].(*dns.SOA).Serial != eight+1 {
		t.Errorf("IXFR from %d: %v", eight, rrs)
	}
}

// Authoritative responses get the published serial, wherever their SOA record is, and the backend's record stays as it is.
func TestWriter(t *testing.T) {
	b := new(backend)
	b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
	s := newServer(t, newResolver(nil), b, nil)
	want := s.published(t)
	ns := mustRR("example.org. 60 IN NS ns.example.net.")
	soa := b.zone("example.org.").SOA
	upper := dns.Copy(soa).(*dns.SOA)
	upper.Hdr.Name = "EXAMPLE.org."
	other := mustRR("example.net. 60 IN SOA ns.example.net. host.example.net. 3 4 5 6 7").(*dns.SOA)
	for name, c := range map[string]struct {
		m    *dns.Msg
		want uint32
	}{
		"answer":            {&dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}, Answer: []dns.RR{soa}, Ns: []dns.RR{ns}}, want},
		"authority":         {&dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}, Ns: []dns.RR{ns, soa}}, want},
		"upper case":        {&dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}, Answer: []dns.RR{upper}}, want},
		"not authoritative": {&dns.Msg{Answer: []dns.RR{soa}}, 7},
		"another zone":      {&dns.Msg{MsgHdr: dns.MsgHdr{Authoritative: true}, Answer: []dns.RR{other}}, 3},
	} {
		before := c.m.Copy()
		rec := dnstest.NewRecorder(new(test.ResponseWriter))
		if err := s.Writer(rec).WriteMsg(c.m); err != nil {
			t.Fatal(err)
		}
		i := slices.IndexFunc(slices.Concat(rec.Msg.Answer, rec.Msg.Ns), func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeSOA })
		if got := slices.Concat(rec.Msg.Answer, rec.Msg.Ns)[i].(*dns.SOA); got.Serial != c.want {
			t.Errorf("%s: serial %d, want %d", name, got.Serial, c.want)
		}
		if len(rec.Msg.Answer) != len(before.Answer) || len(rec.Msg.Ns) != len(before.Ns) || rec.Msg.Authoritative != before.Authoritative {
			t.Errorf("%s: %v", name, rec.Msg)
		}
		if c.m.String() != before.String() {
			t.Errorf("%s: the response was changed in place: %v", name, c.m)
		}
	}
	if err := s.Writer(new(test.ResponseWriter)).WriteMsg(nil); err != nil { // as the DNS library's own writers allow
		t.Error(err)
	}
}

// waited says that AwaitSerial has waited, which it does once in the life of a process.
var waited bool

// AwaitSerial waits for the next half second since 2026-01-01, and only once.
func TestAwaitSerial(t *testing.T) {
	if waited {
		t.Skip("it has waited in this process")
	}
	waited = true
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		time.Sleep(123 * time.Millisecond)
		began := time.Now()
		if primary.AwaitSerial(); time.Since(began) != 377*time.Millisecond {
			t.Errorf("waited for %s, want until the next half second", time.Since(began))
		}
		began = time.Now()
		if primary.AwaitSerial(); time.Since(began) != 0 {
			t.Errorf("waited again, for %s", time.Since(began))
		}
	})
}

// A zone that changes while the backend is queried for it has not gone back, although the backend's answer is the older one.
func TestSerialOlderAnswer(t *testing.T) {
	for _, seen := range []bool{false, true} { // by a client, meanwhile
		synctest.Test(t, func(t *testing.T) {
			in2026(t)
			b := new(backend)
			b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
			var change func()
			s := newServer(t, newResolver(nil), b, func(cfg *primary.Config) {
				cfg.SOA = func(name string) (*dns.SOA, error) {
					soa, err := b.soa(name)
					if do := change; do != nil {
						change = nil
						do()
					}
					return soa, err
				}
			})
			s.transferred(t)
			b.put(t, 8, "example.org. 60 IN ALIAS target.example.")
			first := s.published(t)
			change = func() {
				b.put(t, 86408, "example.org. 60 IN ALIAS target.example.")
				if seen {
					s.published(t)
				}
			}
			s.transferred(t)
			s.Start()
			time.Sleep(settled)
			if _, serial := s.transferred(t); serial != first+86400 || s.published(t) != serial {
				t.Errorf("seen %v: published serial %d after %d, want 86400 more, and %d", seen, serial, first, s.published(t))
			}
		})
	}
}

// After the largest jump of the zone's own serial there is room for further changes in the half of the number space that
// counts as later: a secondary may have missed the jump (RFC 1982, section 3.2).
func TestSerialJump(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 10}})
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, nil)
		s.Start()
		time.Sleep(settled)
		_, first := s.transferred(t)
		b.put(t, 7+math.MaxInt32, "example.org. 60 IN ALIAS target.example.")
		s.published(t)
		b.put(t, 107+math.MaxInt32, "example.org. 60 IN ALIAS target.example.")
		r.set("target.example.", target{v4: []string{"192.0.2.2"}, ttl: 10})
		time.Sleep(30*time.Second + settled)
		if serial := s.published(t); serial != first+1<<30+101 {
			t.Errorf("published serial %d after %d, want 2^30 + 101 more", serial, first)
		}
	})
}

// A reload does not forget the published serial of a zone that is gone at the time, nor of one that is not listed.
func TestSerialAfterReloadUnlisted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in2026(t)
		for _, gone := range []bool{false, true} {
			b := new(backend)
			b.put(t, 2_000_000_000, "example.org. 60 IN ALIAS target.example.")
			z := b.zone("example.org.")
			list := func(cfg *primary.Config) {
				cfg.List = func() map[string]*file.Zone { return make(map[string]*file.Zone) }
			}
			old := newServer(t, newResolver(nil), b, list)
			old.Start()
			_, last := old.transferred(t)
			if gone {
				b.set("example.org.", nil)
			}
			time.Sleep(time.Hour)
			s := newServer(t, newResolver(nil), b, func(cfg *primary.Config) {
				list(cfg)
				cfg.Before = old.Primary
			})
			s.Start()
			old.Stop()
			time.Sleep(time.Hour)
			b.set("example.org.", z)
			time.Sleep(settled)
			_, serial := s.transferred(t)
			time.Sleep(settled)
			if want := map[bool]uint32{false: last, true: last + 1}[gone]; s.published(t) != want {
				t.Errorf("gone %v: published serial %d, then %d after %d", gone, serial, s.published(t), last)
			}
		}
	})
}

// After a reload the published serial is known before the backend has answered.
func TestSerialAfterReloadSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		old := newServer(t, newResolver(nil), b, nil)
		_, last := old.transferred(t)
		b.fail(errTimeout)
		s := newServer(t, newResolver(nil), b, func(cfg *primary.Config) { cfg.Before = old.Primary })
		s.Start()
		old.Stop()
		time.Sleep(settled)
		if serial := s.published(t); serial != last {
			t.Errorf("published serial %d after %d", serial, last)
		}
	})
}

// A Primary does not hold the one before it for longer than it needs it.
func TestReloadFrees(t *testing.T) {
	freed := new(atomic.Bool)
	s := newServer(t, newResolver(nil), new(backend), func(cfg *primary.Config) {
		cfg.Before = primary.New(*cfg)
		runtime.AddCleanup(cfg.Before, func(freed *atomic.Bool) { freed.Store(true) }, freed)
	})
	s.Start()
	eventually(t, "the one before is freed", func() bool {
		runtime.GC()
		return freed.Load()
	})
}
