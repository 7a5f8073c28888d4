package alias

import (
	"context"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// newPrimaryAlias returns a plugin whose zone can be transferred. It looks its aliases up when refresh is called.
func newPrimaryAlias(t testing.TB, properties string, backend *zoneBackend) (*Alias, *clock) {
	t.Helper()
	a, c := newAlias(t, "example.org", properties, backend)
	cfg, err := parseBlock("example.org", properties)
	if err != nil {
		t.Fatal(err)
	}
	cfg.now = c.Now
	a.primary = primary.New(cfg.primaryConfig(a, primary.Config{
		Backends: []transfer.Transferer{backend},
		List:     func() map[string]*file.Zone { return map[string]*file.Zone{"example.org.": nil} },
	}))
	return a, c
}

// Transfer implements transfer.Transferer.
func (b *zoneBackend) Transfer(zone string, serial uint32) (<-chan []dns.RR, error) {
	return b.zone.Load().Transfer(zone, serial)
}

// zoneWith returns file serving example.org with this serial number.
func zoneWith(t testing.TB, serial uint32, records ...string) *file.File {
	t.Helper()
	z := zoneFile(t, nil, records...)
	z.Z["example.org."].SOA.Serial = serial
	return z
}

// transferred returns the records of the outgoing transfer, in order and without the SOA records, and the published serial.
func transferred(t testing.TB, a *Alias) (records []string, serial uint32) {
	t.Helper()
	out, err := a.Transfer("example.org.", 0)
	if err != nil {
		t.Fatal(err)
	}
	var rrs []dns.RR
	for batch := range out {
		rrs = append(rrs, batch...)
	}
	first, ok1 := rrs[0].(*dns.SOA)
	last, ok2 := rrs[len(rrs)-1].(*dns.SOA)
	if !ok1 || !ok2 || first.Serial != last.Serial || len(rrs) < 2 {
		t.Fatalf("not between SOA records: %v", rrs)
	}
	records = text(rrs[1 : len(rrs)-1])
	slices.Sort(records)
	return records, first.Serial
}

// refresh looks up what is due, and publishes what has changed.
func refresh(a *Alias) {
	for range 2 {
		a.primary.Refresh()
		if out, err := a.Transfer("example.org.", 0); err == nil { // which waits for the lookups
			for range out {
			}
		}
	}
	a.primary.Refresh()
}

// published returns the published serial.
func published(t *testing.T, a *Alias) uint32 {
	t.Helper()
	return query(t, a, "example.org.", dns.TypeSOA).Answer[0].(*dns.SOA).Serial
}

func TestTransfer(t *testing.T) {
	up := fake.New(t, fake.Zone(
		"target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6,
		"v4only.example. 7200 IN A "+v4, "example. 60 IN SOA ns.example. host.example. 1 2 3 4 60",
	))
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7,
		"example.org. 60 IN ALIAS target.example.",
		"example.org. 3600 IN MX 10 mail.example.org.",
		"own.example.org. 60 IN A 203.0.113.1",
		"own.example.org. 60 IN ALIAS target.example.",
		"both.example.org. 60 IN A 203.0.113.1",
		"both.example.org. 60 IN AAAA 2001:db8::9",
		"both.example.org. 60 IN ALIAS target.example.",
		"two.example.org. 9000 IN ALIAS v4only.example.",
		"two.example.org. 9000 IN ALIAS zzzzzzz.example.",
		"*.shop.example.org. 60 IN ALIAS v4only.example.",
		"in.example.org. 40 IN ALIAS own.example.org.",
		"gone.example.org. 40 IN ALIAS gone.example.",
		"cname.example.org. 60 IN CNAME target.example.",
		"rec.example.org. 60 IN A 203.0.113.2",
		"rec.example.org. 60 IN TXT rec",
		"recname.example.org. 60 IN CNAME elsewhere.example.",
		"sub.example.org. 60 IN NS ns.sub.example.org.",
		"ns.sub.example.org. 60 IN A 203.0.113.53",
		"www.sub.example.org. 60 IN ALIAS target.example.",
	))
	a, _ := newPrimaryAlias(t, `
		record rec v4only.example 100
		record new v4only.example 100
		record *.w v4only.example 100
		record recname v4only.example 100
		flatten all
		upstream `+up.Addr, backend)
	got, serial := transferred(t, a)
	want := []string{
		"*.shop.example.org. 60 IN A " + v4,
		"*.w.example.org. 100 IN A " + v4,
		"both.example.org. 60 IN A 203.0.113.1",
		"both.example.org. 60 IN AAAA 2001:db8::9",
		"cname.example.org. 60 IN CNAME target.example.",
		"example.org. 3600 IN MX 10 mail.example.org.",
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
		"recname.example.org. 100 IN A " + v4,
		"sub.example.org. 60 IN NS ns.sub.example.org.",
		"two.example.org. 3600 IN A " + v4,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the transfer (-want +got):\n%s", diff)
	}
	// The published serial is the same everywhere.
	if serial == 7 {
		t.Error("the serial number is the backend's")
	}
	for _, q := range []lookup.Question{question("example.org.", dns.TypeSOA), question("nowhere.example.org.", dns.TypeA),
		question("new.example.org.", dns.TypeAAAA), question("rec.example.org.", dns.TypeMX)} {
		m := query(t, a, q.Name, q.Type)
		soas := slices.Concat(m.Answer, m.Ns)
		if len(soas) != 1 || soas[0].(*dns.SOA).Serial != serial {
			t.Errorf("%v: %v, want the serial number %d", q, soas, serial)
		}
	}
	if n := backend.zone.Load().Z["example.org."].SOA.Serial; n != 7 {
		t.Errorf("the backend's serial number was changed to %d", n)
	}
	for client, want := range map[uint32]int{serial: 1, serial + 1: 1, serial - 1: len(got) + 2, 7: len(got) + 2} { // IXFR
		out, err := a.Transfer("example.org.", client)
		if err != nil {
			t.Fatal(err)
		}
		n := 0
		for batch := range out {
			n += len(batch)
			if soa, ok := batch[0].(*dns.SOA); ok && soa.Serial != serial {
				t.Errorf("IXFR from %d: serial number %d", client, soa.Serial)
			}
		}
		if n != want {
			t.Errorf("IXFR from %d: %d records, want %d", client, n, want)
		}
	}
	if _, err := a.Transfer("example.net.", 0); err != transfer.ErrNotAuthoritative {
		t.Errorf("another zone: %v", err)
	}
}

// Zones without aliases, and signed ones, are transferred by the backend.
func TestTransferUntouched(t *testing.T) {
	up := fake.New(t, good)
	for name, records := range map[string][]string{
		"no alias": {"example.org. 60 IN A 203.0.113.1"},
		"signed": {"example.org. 60 IN ALIAS target.example.",
			"example.org. 3600 IN RRSIG SOA 13 2 3600 20300101000000 20200101000000 1 example.org. c2ln"},
	} {
		backend := new(zoneBackend)
		backend.zone.Store(zoneWith(t, 7, records...))
		a, _ := newPrimaryAlias(t, "upstream "+up.Addr, backend)
		refresh(a)
		if _, err := a.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
			t.Errorf("%s: %v", name, err)
		}
		if m := query(t, a, "example.org.", dns.TypeSOA); m.Answer[0].(*dns.SOA).Serial != 7 {
			t.Errorf("%s: %v", name, m.Answer)
		}
	}
}

// A target that fails aborts the transfer, or is omitted, unless an answer is cached.
func TestTransferOnFailure(t *testing.T) {
	for _, omit := range []bool{false, true} {
		up := fake.New(t, good)
		backend := new(zoneBackend)
		backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example.", "bad.example.org. 60 IN ALIAS bad.example."))
		properties := "retries 0\nmax_ttl 60\nupstream " + up.Addr
		if omit {
			properties += "\ntransfer_on_failure omit"
		}
		a, c := newPrimaryAlias(t, properties, backend)
		up.Set(func(w dns.ResponseWriter, r *dns.Msg) {
			if r.Question[0].Name == "bad.example." {
				fake.Rcode(dns.RcodeServerFailure)(w, r)
				return
			}
			good(w, r)
		})
		addresses := []string{"example.org. 60 IN A " + v4, "example.org. 60 IN AAAA " + v6}
		if !omit {
			if _, err := a.Transfer("example.org.", 0); err == nil || !strings.Contains(err.Error(), "bad.example.org. A") || !strings.Contains(err.Error(), ": servfail") {
				t.Errorf("abort: %v", err)
			}
		} else if got, _ := transferred(t, a); !slices.Equal(got, addresses) {
			t.Errorf("omit: %v", got)
		}
		a.cache.wg.Wait() // for the lookup of the other family, which an abort does not wait for
		before := published(t, a)
		// The target answers again, and secondaries are notified, with a later serial if they have the zone without it.
		up.Set(fake.Zone("target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6, "bad.example. 300 IN A 192.0.2.2"))
		c.Advance(31 * time.Second)
		refresh(a)
		got, after := transferred(t, a)
		if !slices.Equal(got, append([]string{"bad.example.org. 60 IN A 192.0.2.2"}, addresses...)) || before != after != omit {
			t.Errorf("omit %v: serial number %d, then %d, with %v", omit, before, after, got)
		}
		// A stale answer is good enough.
		up.Set(fake.Rcode(dns.RcodeServerFailure))
		c.Advance(2 * time.Minute)
		if got, _ := transferred(t, a); len(got) != 3 || !strings.Contains(got[0], " 30 IN A ") {
			t.Errorf("omit %v: stale: %v", omit, got)
		}
	}
}

// Transfers are counted by how they end, also when it is known already that a target fails.
func TestTransfersCounted(t *testing.T) {
	for properties, want := range map[string]string{"": "failure", "transfer_on_failure omit": "omitted"} {
		up := fake.New(t, fake.Rcode(dns.RcodeServerFailure))
		backend := new(zoneBackend)
		backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
		a, c := newPrimaryAlias(t, "retries 0\nupstream "+up.Addr+"\n"+properties, backend)
		transfer := func() {
			if out, err := a.Transfer("example.org.", 0); err == nil {
				for range out {
				}
			}
		}
		for _, outcome := range []string{want, "success"} {
			if outcome == "success" {
				// A lookup from before would fail after the clock has moved, and its target would back off from then on.
				wait(t, 5*time.Second, "a lookup does not end", func() bool { return inFlightIn(a) == 0 })
				up.Set(good)
			}
			c.Advance(31 * time.Second)
			refresh(a)
			if n := counted(t, transfersCount.WithLabelValues("example.org.", outcome), func() { transfer(); transfer() }); n != 2 {
				t.Errorf("%q: %g transfers are %s, want 2", properties, n, outcome)
			}
		}
	}
}

// inFlightIn returns how many lookups of a are in flight.
func inFlightIn(a *Alias) int {
	a.cache.mu.Lock()
	defer a.cache.mu.Unlock()
	return len(a.cache.inFlight)
}

// An instance that is stopped while it looks aliases up leaves no goroutine behind.
func TestPrimaryStops(t *testing.T) {
	up := fake.New(t, fake.Late(2*time.Second, good))
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
	a, _ := newPrimaryAlias(t, "timeout 200ms\nupstream "+up.Addr, backend)
	a.primary.Start()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for up.AskedAll() == 0 && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	began := time.Now()
	a.stop()
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the stop took %s", took)
	}
}

// When the aliases of a zone are not known, the zone is not transferred as the backend has it.
func TestTransferUnknown(t *testing.T) {
	up := fake.New(t, good)
	for name, spoil := range map[string]func(*Alias, *zoneBackend){
		"late":    func(_ *Alias, b *zoneBackend) { b.delay = 100 * time.Millisecond },
		"expired": func(_ *Alias, b *zoneBackend) { b.zone.Load().Z["example.org."].Expired = true },
		"stopped": func(a *Alias, _ *zoneBackend) { a.stop() },
	} {
		backend := new(zoneBackend)
		backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
		a, _ := newPrimaryAlias(t, "timeout 50ms\nupstream "+up.Addr, backend)
		spoil(a, backend)
		if _, err := a.Transfer("example.org.", 0); err == nil || err == transfer.ErrNotAuthoritative {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A stop in the middle of a transfer aborts it, and does not omit addresses.
func TestTransferStopped(t *testing.T) {
	up := fake.New(t, nil) // silent
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
	a, _ := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	done := make(chan error)
	go func() {
		_, err := a.Transfer("example.org.", 0)
		done <- err
	}()
	for up.AskedAll() == 0 {
		time.Sleep(time.Millisecond)
	}
	a.stop()
	if err := <-done; err == nil {
		t.Error("the transfer went on")
	}
}

// No ALIAS record is transferred, not even one that is never used; a zone that comes signed is transferred as it is.
func TestTransferShadowed(t *testing.T) {
	up := fake.New(t, good)
	for _, records := range [][]string{
		{"example.org. 60 IN ALIAS target.example.", "example.org. 60 IN A 203.0.113.1", "example.org. 60 IN AAAA 2001:db8::5"},
		{"sub.example.org. 60 IN NS ns.example.net.", "x.sub.example.org. 60 IN ALIAS target.example."},
	} {
		backend := new(zoneBackend)
		backend.zone.Store(zoneWith(t, 7, records...))
		a, _ := newPrimaryAlias(t, "upstream "+up.Addr, backend)
		got, serial := transferred(t, a)
		if strings.Contains(strings.Join(got, " "), "ALIAS") || serial != 7 {
			t.Errorf("serial number %d: %v", serial, got)
		}
	}
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
	a, c := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	refresh(a)
	backend.zone.Store(zoneWith(t, 8, "example.org. 60 IN A 203.0.113.1",
		"example.org. 3600 IN RRSIG SOA 13 2 3600 20300101000000 20200101000000 1 example.org. c2ln"))
	c.Advance(2 * time.Second)
	refresh(a)
	if m := query(t, a, "example.org.", dns.TypeSOA); m.Answer[0].(*dns.SOA).Serial != 8 {
		t.Errorf("the signed SOA record goes out as %v", m.Answer)
	}
}

// A CNAME record at the apex, which other servers refuse, is transferred as addresses.
func TestTransferFlattened(t *testing.T) {
	up := fake.New(t, good)
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN CNAME target.example.", "www.example.org. 60 IN CNAME target.example."))
	a, _ := newPrimaryAlias(t, "flatten apex\nupstream "+up.Addr, backend)
	got, _ := transferred(t, a)
	want := []string{"example.org. 60 IN A " + v4, "example.org. 60 IN AAAA " + v6, "www.example.org. 60 IN CNAME target.example."}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the transfer (-want +got):\n%s", diff)
	}
}
