package primary_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/plugin/transfer"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// A transfer has addresses in place of aliases.
func TestTransfer(t *testing.T) {
	r := newResolver(map[string]target{
		"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 300},
		"v4only.example.": {v4: []string{v4}, ttl: 7200},
	})
	r.inside = map[string]target{"own.example.org.": {v4: []string{"203.0.113.1"}, v6: []string{v6}, ttl: 60}}
	b := new(backend)
	b.put(t, 7,
		"example.org. 60 IN ALIAS target.example.",
		"example.org. 3600 IN NS ns.example.net.",
		"example.org. 3600 IN MX 10 mail.example.org.",
		"own.example.org. 60 IN A 203.0.113.1",
		"own.example.org. 60 IN ALIAS target.example.",
		"both.example.org. 60 IN A 203.0.113.1",
		"both.example.org. 60 IN AAAA 2001:db8::9",
		"both.example.org. 60 IN ALIAS target.example.",
		"two.example.org. 9000 IN ALIAS zzzzzzz.example.",
		"two.example.org. 9000 IN ALIAS v4only.example.",
		"CASE.example.org. 60 IN ALIAS V4Only.Example.",
		"*.shop.example.org. 60 IN ALIAS v4only.example.",
		"in.example.org. 40 IN ALIAS own.example.org.",
		"gone.example.org. 40 IN ALIAS gone.example.",
		"cname.example.org. 60 IN CNAME target.example.",
		"rec.example.org. 60 IN A 203.0.113.2",
		"rec.example.org. 60 IN AAAA 2001:db8::2",
		"rec.example.org. 60 IN TXT rec",
		"recalias.example.org. 60 IN ALIAS a.example.",
		"recname.example.org. 60 IN CNAME elsewhere.example.",
		"sub.example.org. 60 IN NS ns.sub.example.org.",
		"ns.sub.example.org. 60 IN A 203.0.113.53",
		"www.sub.example.org. 60 IN ALIAS target.example.",
		"rec.sub.example.org. 60 IN A 203.0.113.2",
	)
	s := newServer(t, r, b, func(cfg *primary.Config) {
		cfg.FlattenApex = true // the zone has none there
		cfg.Records = corefile(
			"rec.example.org.", "v4only.example.", "new.example.org.", "v4only.example.", "*.w.example.org.", "v4only.example.",
			"recalias.example.org.", "v4only.example.", "recname.example.org.", "v4only.example.", "rec.sub.example.org.", "v4only.example.",
		)
	})
	got, serial := s.transferred(t)
	want := []string{
		"*.shop.example.org. 60 IN A " + v4,
		"*.w.example.org. 100 IN A " + v4,
		"both.example.org. 60 IN A 203.0.113.1",
		"both.example.org. 60 IN AAAA 2001:db8::9",
		"case.example.org. 60 IN A " + v4,
		"cname.example.org. 60 IN CNAME target.example.",
		"example.org. 3600 IN MX 10 mail.example.org.",
		"example.org. 3600 IN NS ns.example.net.",
		"example.org. 60 IN A " + v4,
		"example.org. 60 IN AAAA " + v6,
		"in.example.org. 40 IN A 203.0.113.1",
		"in.example.org. 40 IN AAAA " + v6,
		"new.example.org. 100 IN A " + v4,
		"ns.sub.example.org. 60 IN A 203.0.113.53",
		"own.example.org. 60 IN A 203.0.113.1",
		"own.example.org. 60 IN AAAA " + v6,
		"rec.example.org. 100 IN A " + v4,
		"rec.example.org. 60 IN TXT \"rec\"",
		"rec.sub.example.org. 100 IN A " + v4,
		"recalias.example.org. 100 IN A " + v4,
		"recname.example.org. 100 IN A " + v4,
		"sub.example.org. 60 IN NS ns.sub.example.org.",
		"two.example.org. 7200 IN A " + v4,
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("transferred (-want +got):\n%s", diff)
	}
	if serial == 7 || serial != s.published(t) {
		t.Errorf("transferred under %d, published %d", serial, s.published(t))
	}
	if n := b.zone("example.org.").SOA.Serial; n != 7 {
		t.Errorf("the backend's own record has the serial %d now", n)
	}
	if n := s.counted("transfer example.org. success"); n != 1 {
		t.Errorf("%d transfers were counted", n)
	}
	upper, err := s.Transfer("Example.ORG.", 0)
	if err != nil {
		t.Fatalf("upper case: %v", err)
	}
	if n := len(slices.Concat(slices.Collect(values(upper))...)); n != len(want)+2 {
		t.Errorf("upper case: %d records", n)
	}
}

// Names are the same however the zone file escapes them. The file plugin gives a name with a backslash the spelling of
// messages, and leaves any other as it is.
func TestTransferEscaped(t *testing.T) {
	r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 300}})
	b := new(backend)
	b.put(t, 7,
		`\097lias.example.org. 60 IN ALIAS \116arget.example.`,
		`own'er.example.org. 60 IN ALIAS target.example.`,
		`own\039er.example.org. 60 IN A 203.0.113.1`,
		`two'.example.org. 60 IN ALIAS target.example.`,
		`two\'.example.org. 60 IN ALIAS zzzzzzz.example.`,
		`sub'zone.example.org. 60 IN NS ns.example.net.`,
		`www.sub\'zone.example.org. 60 IN ALIAS target.example.`,
		`\114ec.example.org. 60 IN A 203.0.113.2`,
		`recnam\101.example.org. 60 IN CNAME elsewhere.example.`,
	)
	s := newServer(t, r, b, func(cfg *primary.Config) {
		cfg.Records = corefile("rec.example.org.", "target.example.", "recname.example.org.", "target.example.")
	})
	got, _ := s.transferred(t)
	want := []string{
		"alias.example.org. 60 IN A " + v4,
		"alias.example.org. 60 IN AAAA " + v6,
		`own\'er.example.org. 60 IN A 203.0.113.1`,
		`own\'er.example.org. 60 IN AAAA ` + v6,
		`sub\'zone.example.org. 60 IN NS ns.example.net.`,
		`two\'.example.org. 60 IN A ` + v4,
		`two\'.example.org. 60 IN AAAA ` + v6,
		"rec.example.org. 100 IN A " + v4,
		"rec.example.org. 100 IN AAAA " + v6,
		"recname.example.org. 100 IN A " + v4,
		"recname.example.org. 100 IN AAAA " + v6,
	}
	slices.Sort(want)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("transferred (-want +got):\n%s", diff)
	}
}

// A secondary with the published serial, or a later one, gets the SOA record alone, and any other the zone.
func TestTransferIXFR(t *testing.T) {
	r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}})
	b := new(backend)
	b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
	s := newServer(t, r, b, nil)
	_, serial := s.transferred(t)
	for client, want := range map[uint32]int{serial: 1, serial + 1: 1, serial + 1<<30: 1, serial - 1: 3, 7: 3, serial - 1<<30: 3} {
		out, err := s.Transfer("example.org.", client)
		if err != nil {
			t.Fatal(err)
		}
		rrs := slices.Concat(slices.Collect(values(out))...)
		if soa, ok := rrs[0].(*dns.SOA); !ok || soa.Serial != serial || len(rrs) != want {
			t.Errorf("serial %d, IXFR from %d: %v, want %d records", serial, client, rrs, want)
		}
	}
	if n := s.counted("transfer example.org. success"); n != 4 {
		t.Errorf("%d transfers were counted, want those of the whole zone", n)
	}
	b.fail(errTimeout)
	if _, err := s.Transfer("example.org.", serial); err == nil || err == transfer.ErrNotAuthoritative {
		t.Errorf("IXFR without a SOA record from the backend: %v", err)
	}
}

// A zone without aliases, a signed one, and what is no zone are left to the backend.
func TestTransferUntouched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, zone := range map[string][]string{
			"no alias": {"example.org. 60 IN A 203.0.113.1"},
			"signed": {"example.org. 60 IN ALIAS target.example.",
				"example.org. 3600 IN RRSIG SOA 13 2 3600 20300101000000 20200101000000 1 example.org. c2ln"},
		} {
			b := new(backend)
			b.put(t, 7, zone...)
			r := newResolver(nil)
			s := newServer(t, r, b, nil)
			s.Start()
			time.Sleep(settled)
			for _, serial := range []uint32{7, 8, 5} { // the backend's, in whatever direction it goes
				b.put(t, serial, zone...)
				time.Sleep(settled)
				if _, err := s.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
					t.Errorf("%s: %v", name, err)
				}
				if got := s.published(t); got != serial {
					t.Errorf("%s: published serial %d, want %d", name, got, serial)
				}
			}
			if warned := strings.Contains(s.messages(), "example.org. is signed already"); warned != (name == "signed") {
				t.Errorf("%s: logged %q", name, s.messages())
			}
			if r.calls > 0 {
				t.Errorf("%s: %d lookups", name, r.calls)
			}
			for _, other := range []string{"example.net.", "sub.example.org.", "org."} {
				if _, err := s.Transfer(other, 0); err != transfer.ErrNotAuthoritative {
					t.Errorf("%s: %v", other, err)
				}
			}
		}
	})
}

// A zone outside Config.Zones is left to the backend, aliases or not.
func TestTransferOutside(t *testing.T) {
	b := new(backend)
	b.set("example.net.", zoneOf(t, "example.net.", 7, "example.net. 60 IN ALIAS target.example."))
	s := newServer(t, newResolver(nil), b, nil)
	if _, err := s.Transfer("example.net.", 0); err != transfer.ErrNotAuthoritative {
		t.Error(err)
	}
	if serial := s.Serial(b.zone("example.net.").SOA); serial != 7 {
		t.Errorf("published serial %d", serial)
	}
}

// An alias that fails aborts the transfer, or is omitted, unless an answer is cached. A name that is omitted comes under
// a later serial when its lookup succeeds.
func TestTransferOnFailure(t *testing.T) {
	for _, omit := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			good := target{v4: []string{v4}, v6: []string{v6}, ttl: 60}
			r := newResolver(map[string]target{"target.example.": good, "bad.example.": {err: errServfail}})
			b := new(backend)
			b.put(t, 7, "example.org. 60 IN ALIAS target.example.", "bad.example.org. 60 IN ALIAS bad.example.")
			s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Omit = omit })
			addresses := []string{"example.org. 60 IN A " + v4, "example.org. 60 IN AAAA " + v6}
			if !omit {
				_, err := s.Transfer("example.org.", 0)
				if err == nil || !errors.Is(err, errServfail) || !strings.Contains(err.Error(), "transfer of example.org.: bad.example.org. A") { // or AAAA
					t.Errorf("abort: %v", err)
				}
			} else {
				if got, _ := s.transferred(t); !slices.Equal(got, addresses) {
					t.Errorf("omit: %v", got)
				}
				if logged := s.messages(); !strings.Contains(logged, "Zone example.org. is transferred without bad.example.org. A: servfail") {
					t.Errorf("omit: logged %q", logged)
				}
			}
			s.Start()
			time.Sleep(settled)
			last := s.published(t)
			r.set("bad.example.", target{v4: []string{"192.0.2.2"}, ttl: 60})
			time.Sleep(30*time.Second + settled)
			got, serial := s.transferred(t)
			if !slices.Equal(got, append([]string{"bad.example.org. 60 IN A 192.0.2.2"}, addresses...)) || before(last, serial) != omit || serial-last > 1 {
				t.Errorf("omit %v: published serial %d, then %d with %v", omit, last, serial, got)
			}
			r.set("target.example.", target{err: errServfail})
			r.set("bad.example.", target{err: errServfail})
			time.Sleep(2 * time.Minute)
			if got, again := s.transferred(t); len(got) != 3 || !strings.Contains(got[0], " 30 IN A ") || again != serial {
				t.Errorf("omit %v: stale: %v under %d", omit, got, again)
			}
		})
	}
}

// Addresses that secondaries have are transferred further when the lookup fails and the cache has lost them.
func TestTransferKeepsAddresses(t *testing.T) {
	for _, omit := range []bool{false, true} {
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 60}})
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Omit = omit })
		_, serial := s.transferred(t)
		r.mu.Lock()
		clear(r.cached)
		r.mu.Unlock()
		r.set("target.example.", target{err: errServfail})
		got, again := s.transferred(t)
		if !slices.Equal(got, []string{"example.org. 60 IN A " + v4, "example.org. 60 IN AAAA " + v6}) || again != serial {
			t.Errorf("omit %v: %v under %d, was %d", omit, got, again, serial)
		}
		if n := s.counted("transfer example.org. success"); n != 2 {
			t.Errorf("omit %v: %d transfers were counted as successes, want both", omit, n)
		}
	}
}

// Transfers are counted by their outcome, also when it is known already that a target fails.
func TestTransfersCounted(t *testing.T) {
	for omit, want := range map[bool]string{false: "failure", true: "omitted"} {
		synctest.Test(t, func(t *testing.T) {
			r := newResolver(map[string]target{"target.example.": {err: errServfail}})
			b := new(backend)
			b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
			s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Omit = omit })
			s.Start()
			for _, outcome := range []string{want, "success"} {
				if outcome == "success" {
					r.set("target.example.", target{v4: []string{v4}, ttl: 60})
				}
				time.Sleep(30*time.Second + settled)
				for range 2 {
					if out, err := s.Transfer("example.org.", 0); err == nil {
						for range out {
						}
					}
				}
				if n := s.counted("transfer example.org. " + outcome); n != 2 {
					t.Errorf("omit %v: %d transfers are %s, want 2", omit, n, outcome)
				}
			}
		})
	}
}

// When the backend cannot transfer, the secondary gets the error, and keeps what it has.
func TestTransferBackendFails(t *testing.T) {
	b := new(backend)
	b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
	s := newServer(t, newResolver(nil), b, nil)
	s.transferred(t)
	b.broken = errors.New("broken")
	if _, err := s.Transfer("example.org.", 0); !errors.Is(err, b.broken) {
		t.Errorf("got %v", err)
	}
	if n := s.counted("transfer example.org. failure"); n != 1 {
		t.Errorf("%d transfers were counted", n)
	}
	b.put(t, 8, "example.org. 60 IN ALIAS target.example.") // now it is the reading that fails
	if _, err := s.Transfer("example.org.", 0); !errors.Is(err, b.broken) {
		t.Errorf("got %v", err)
	}
}

// The first backend that has the zone counts, and one that cannot transfer it is passed over.
func TestTransferFirstBackend(t *testing.T) {
	none, first, second := new(backend), new(backend), new(backend)
	first.put(t, 7, "example.org. 60 IN ALIAS target.example.", "example.org. 60 IN TXT first")
	second.put(t, 7, "example.org. 60 IN ALIAS target.example.", "example.org. 60 IN TXT second")
	s := newServer(t, newResolver(nil), first, func(cfg *primary.Config) { cfg.Backends = []transfer.Transferer{none, first, second} })
	if got, _ := s.transferred(t); !slices.Equal(got, []string{`example.org. 60 IN TXT "first"`}) {
		t.Errorf("got %v", got)
	}
	unable := newServer(t, newResolver(nil), first, func(cfg *primary.Config) { cfg.Backends = []transfer.Transferer{none} })
	if _, err := unable.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
		t.Errorf("no backend can transfer it: %v", err)
	}
	if serial := unable.published(t); serial != 7 {
		t.Errorf("no backend can transfer it: published serial %d", serial)
	}
}

// A zone whose aliases are not known is not transferred as it is in the backend.
func TestTransferUnknown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for name, spoil := range map[string]func(*server){
			"late":     func(s *server) { s.backend.fail(errTimeout) },
			"servfail": func(s *server) { s.backend.fail(errServfail) },
			"late, and it is known that there is such a zone": func(s *server) {
				s.backend.listed = true
				s.backend.fail(errTimeout)
				s.Start()
				time.Sleep(settled)
			},
			"late, and it was gone": func(s *server) {
				s.transferred(t)
				z := s.backend.zone("example.org.")
				s.backend.set("example.org.", nil)
				if _, err := s.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
					t.Errorf("gone: %v", err)
				}
				s.backend.set("example.org.", z)
				s.backend.fail(errTimeout)
			},
			"late, and it has gone back since it was read": func(s *server) {
				s.transferred(t)
				s.backend.put(t, 3, "www.example.org. 60 IN ALIAS target.example.")
				s.backend.broken = errors.New("broken")
				if _, err := s.Transfer("example.org.", 0); !errors.Is(err, s.backend.broken) {
					t.Errorf("broken: %v", err)
				}
				s.backend.broken = nil
				s.backend.fail(errTimeout)
			},
			"stopped": func(s *server) { s.Stop() },
			"stopped while it is read": func(s *server) {
				s.backend.pause = time.Second
				time.AfterFunc(500*time.Millisecond, s.Stop)
			},
		} {
			b := new(backend)
			b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
			s := newServer(t, newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 60}}), b, nil)
			spoil(s)
			if _, err := s.Transfer("example.org.", 0); err == nil || err == transfer.ErrNotAuthoritative {
				t.Errorf("%s: %v", name, err)
			}
			s.Stop()
		}
		time.Sleep(time.Minute) // the backend ends its transfers: somebody takes their records
	})
}

// When the backend is too slow to answer with the SOA record, the zone as it was read is transferred, with the records
// that the backend has.
func TestTransferSlowBackend(t *testing.T) {
	b := new(backend)
	b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
	s := newServer(t, newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 60}}), b, nil)
	want, serial := s.transferred(t)
	b.fail(errTimeout)
	if got, again := s.transferred(t); !slices.Equal(got, want) || again != serial {
		t.Errorf("%v under %d, was %v under %d", got, again, want, serial)
	}
	b.fail(errServfail)
	if _, err := s.Transfer("example.org.", 0); err == nil || err == transfer.ErrNotAuthoritative {
		t.Errorf("servfail: %v", err)
	}
}

// A stop in the middle of a transfer fails it, rather than to omit addresses.
func TestTransferStopped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(nil)
		r.delay = time.Hour
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Omit = true })
		time.AfterFunc(time.Minute, s.Stop)
		if _, err := s.Transfer("example.org.", 0); err == nil || err == transfer.ErrNotAuthoritative {
			t.Errorf("the transfer went on: %v", err)
		}
		if n := s.counted("transfer example.org. failure"); n != 1 {
			t.Errorf("%d transfers failed, want 1", n)
		}
	})
}

// No ALIAS record is transferred, even one that is never used, and a zone that comes signed is left as it is.
func TestTransferShadowed(t *testing.T) {
	for _, zone := range [][]string{
		{"example.org. 60 IN ALIAS target.example.", "example.org. 60 IN A 203.0.113.1", "example.org. 60 IN AAAA 2001:db8::5"},
		{"sub.example.org. 60 IN NS ns.example.net.", "x.sub.example.org. 60 IN ALIAS target.example."},
	} {
		b := new(backend)
		b.put(t, 7, zone...)
		s := newServer(t, newResolver(nil), b, nil)
		got, serial := s.transferred(t)
		if strings.Contains(strings.Join(got, " "), "ALIAS") || len(got) == 0 || serial != 7 {
			t.Errorf("published serial %d: %v", serial, got)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := newServer(t, newResolver(nil), b, nil)
		s.Start()
		time.Sleep(settled)
		if serial := s.published(t); serial == 7 {
			t.Error("the published serial is the zone's own")
		}
		b.put(t, 8, "example.org. 60 IN A 203.0.113.1",
			"example.org. 3600 IN RRSIG SOA 13 2 3600 20300101000000 20200101000000 1 example.org. c2ln")
		time.Sleep(settled)
		if serial := s.published(t); serial != 8 {
			t.Errorf("the signed SOA record has the serial %d", serial)
		}
		if logged := s.messages(); logged != "" {
			t.Errorf("a signed zone without aliases is all right, but: %s", logged)
		}
	})
}

// A CNAME record at the apex, which other servers refuse, is flattened in a transfer too. One at another name is not.
func TestTransferFlattened(t *testing.T) {
	r := newResolver(map[string]target{
		"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 300}, "v4only.example.": {v4: []string{"192.0.2.4"}, ttl: 300},
	})
	apex, www := "example.org. 60 IN CNAME T\\097rget.Example.", "www.example.org. 60 IN CNAME target.example."
	b := new(backend)
	b.put(t, 7, apex, www)
	s := newServer(t, r, b, func(cfg *primary.Config) { cfg.FlattenApex = true })
	got, _ := s.transferred(t)
	want := []string{"example.org. 60 IN A " + v4, "example.org. 60 IN AAAA " + v6, www}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("transferred (-want +got):\n%s", diff)
	}
	s = newServer(t, r, b, func(cfg *primary.Config) {
		cfg.FlattenApex, cfg.Records = true, corefile("example.org.", "v4only.example.")
	})
	want = []string{"example.org. 100 IN A 192.0.2.4", www}
	if got, _ := s.transferred(t); !slices.Equal(got, want) {
		t.Errorf("a record of the Corefile wins: transferred %v, want %v", got, want)
	}
	s = newServer(t, r, b, nil)
	if _, err := s.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
		t.Errorf("not flattened, and so without aliases: %v", err)
	}
}

// The root zone is transferred with the records of the Corefile, too.
func TestTransferRoot(t *testing.T) {
	r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}})
	b := new(backend)
	b.set(".", zoneOf(t, ".", 7))
	root := records.Zones{".": {}}
	rs := records.New(root)
	rs.Add("a.example.org.", 100, false, "target.example.")
	rs.Seal()
	s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Zones, cfg.Records = root, rs })
	out, err := s.Transfer(".", 0)
	if err != nil {
		t.Fatal(err)
	}
	rrs := slices.Concat(slices.Collect(values(out))...)
	if got := texts(rrs[1 : len(rrs)-1]); !slices.Equal(got, []string{"a.example.org. 100 IN A " + v4}) {
		t.Errorf("transferred: %v", got)
	}
}

// A record of the Corefile is transferred in the closest zone of the backend that encloses it, in whatever order they are
// read, and after a reload as before it.
func TestTransferClosest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for range 10 { // for there is no order
			b := &backend{listed: true}
			b.put(t, 7)
			b.set("sub.example.org.", zoneOf(t, "sub.example.org.", 7))
			start := func(before *primary.Primary) *server {
				s := newServer(t, newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}}), b, func(cfg *primary.Config) {
					cfg.Records = corefile("a.example.org.", "target.example.", "a.sub.example.org.", "target.example.")
					cfg.Before = before
				})
				s.Start()
				time.Sleep(settled)
				return s
			}
			s := start(nil)
			a, aSub := "a.example.org. 100 IN A "+v4, "a.sub.example.org. 100 IN A "+v4
			if got, _ := s.transferred(t); !slices.Equal(got, []string{a}) {
				t.Errorf("example.org.: %v", got)
			}
			out, err := s.Transfer("sub.example.org.", 0)
			if err != nil {
				t.Fatal(err)
			}
			rrs := slices.Concat(slices.Collect(values(out))...)
			if got := texts(rrs[1 : len(rrs)-1]); !slices.Equal(got, []string{aSub}) {
				t.Errorf("sub.example.org.: %v", got)
			}
			b.set("sub.example.org.", nil)
			time.Sleep(settled)
			b.put(t, 8)
			time.Sleep(settled)
			if got, _ := s.transferred(t); !slices.Equal(got, []string{a, aSub}) {
				t.Errorf("example.org. without sub.example.org.: %v", got)
			}
			after := start(s.Primary)
			if got, _ := after.transferred(t); !slices.Equal(got, []string{a, aSub}) {
				t.Errorf("example.org. without sub.example.org., after a reload: %v", got)
			}
			s.Stop()
			after.Stop()
		}
	})
}
