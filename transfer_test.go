package alias

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// newPrimaryAlias returns a plugin whose zone leaves. It follows its aliases when it is told to.
func newPrimaryAlias(t testing.TB, properties string, backend *zoneBackend) (*Alias, *clock) {
	t.Helper()
	a, c := newAlias(t, "example.org", properties, backend)
	a.primary = newPrimary(a, []transfer.Transferer{backend}, func() map[string]*file.Zone { return map[string]*file.Zone{"example.org.": nil} }, newNotifier(nil), strings.Contains(properties, "omit"))
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

// leaves returns the records that leave, in order but for the SOA records, without their serial numbers, which are returned
// too.
func leaves(t testing.TB, a *Alias) (records []string, serial uint32) {
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

// follow does what is due, and waits for it.
func follow(a *Alias) {
	a.primary.poll()
	for range 2 { // what was looked up is told the next time
		a.primary.follow()
		a.primary.wg.Wait()
	}
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
	got, serial := leaves(t, a)
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
		t.Errorf("what leaves (-want +got):\n%s", diff)
	}
	// One serial number, wherever it is seen.
	if serial == 7 {
		t.Error("the serial number is the backend's")
	}
	for _, q := range []question{{"example.org.", dns.TypeSOA}, {"nowhere.example.org.", dns.TypeA}, {"new.example.org.", dns.TypeAAAA}, {"rec.example.org.", dns.TypeMX}} {
		m := query(t, a, q.name, q.qtype)
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

// Zones without aliases, and signed ones, are the backend's business.
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
		follow(a)
		if _, err := a.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
			t.Errorf("%s: %v", name, err)
		}
		if m := query(t, a, "example.org.", dns.TypeSOA); m.Answer[0].(*dns.SOA).Serial != 7 {
			t.Errorf("%s: %v", name, m.Answer)
		}
	}
}

// A target that fails stops the transfer, or is left out, unless an answer is remembered.
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
			if _, err := a.Transfer("example.org.", 0); err == nil || !strings.Contains(err.Error(), "bad.example.org. A: servfail") {
				t.Errorf("abort: %v", err)
			}
		} else if got, _ := leaves(t, a); !slices.Equal(got, addresses) {
			t.Errorf("omit: %v", got)
		}
		before, _ := a.primary.zone("example.org.").current()
		// It comes back, and secondaries are told, under a new serial number if they have the zone without it.
		up.Set(fake.Zone("target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6, "bad.example. 300 IN A 192.0.2.2"))
		c.Advance(minRefresh + spread)
		follow(a)
		got, after := leaves(t, a)
		if !slices.Equal(got, append([]string{"bad.example.org. 60 IN A 192.0.2.2"}, addresses...)) || serialBefore(before, after) != omit {
			t.Errorf("omit %v: serial number %d, then %d, with %v", omit, before, after, got)
		}
		// What is remembered is good enough.
		up.Set(fake.Rcode(dns.RcodeServerFailure))
		c.Advance(2 * time.Minute)
		if got, _ := leaves(t, a); len(got) != 3 || !strings.Contains(got[0], " 30 IN A ") {
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
				up.Set(good)
			}
			c.Advance(minRefresh + spread)
			follow(a)
			if n := counted(t, transfersCount.WithLabelValues("example.org.", outcome), func() { transfer(); transfer() }); n != 2 {
				t.Errorf("%q: %g transfers are %s, want 2", properties, n, outcome)
			}
		}
	}
}

// The serial number grows when the addresses change, and only then.
func TestFollow(t *testing.T) {
	one, two := "target.example. 10 IN A 192.0.2.1", "target.example. 10 IN A 192.0.2.2"
	up := fake.New(t, fake.Zone(one, two))
	backend := new(zoneBackend)
	zone := []string{"example.org. 60 IN ALIAS target.example.", "www.example.org. 60 IN ALIAS target.example."}
	backend.zone.Store(zoneWith(t, 7, zone...))
	a, c := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	follow(a)
	_, last := leaves(t, a)
	for i, step := range []struct {
		upstream fake.Handler
		after    time.Duration
		lookups  int
		grows    bool
	}{
		{fake.Zone(two, one), 29 * time.Second, 0, false},
		{fake.Zone(two, one), 3 * time.Second, 1, false}, // another order
		{fake.Zone("target.example. 40 IN A 192.0.2.1", "target.example. 40 IN A 192.0.2.2"), 32 * time.Second, 1, false},
		{fake.Zone(one), 39 * time.Second, 0, false}, // fresh, with a TTL of 40
		{fake.Zone(one), 3 * time.Second, 1, true},
		{fake.Rcode(dns.RcodeServerFailure), 32 * time.Second, 3, false},                                  // with the retries
		{fake.Zone("example. 60 IN SOA ns.example. host.example. 1 2 3 4 60"), 32 * time.Second, 1, true}, // NXDOMAIN
		{fake.Zone(one), 302 * time.Second, 1, true},
	} {
		up.Set(step.upstream)
		before := up.Asked("target.example.", dns.TypeA)
		c.Advance(step.after)
		follow(a)
		if n := up.Asked("target.example.", dns.TypeA) - before; n != step.lookups {
			t.Errorf("step %d: %d lookups, want %d", i, n, step.lookups)
		}
		serial, _ := a.primary.zone("example.org.").current()
		if grows := serialBefore(last, serial); grows != step.grows || !grows && serial != last {
			t.Errorf("step %d: the serial number was %d, and is %d", i, last, serial)
		}
		last = serial
	}
	// The zone's own serial number counts, in whatever direction it goes, and so do aliases that come and go.
	for i, serial := range []uint32{8, 8 + math.MaxInt32, 20, 21, 21 + 1<<31, 5} {
		records := zone
		if i == 3 {
			records = nil
		}
		backend.zone.Store(zoneWith(t, serial, records...))
		c.Advance(time.Second)
		m := query(t, a, "example.org.", dns.TypeSOA) // which may come before the zone is looked at
		follow(a)
		got, leaving := leaves(t, a)
		if !serialBefore(last, leaving) || serialBefore(leaving, m.Answer[0].(*dns.SOA).Serial) {
			t.Errorf("own serial number %d: was %d, and is %d", serial, last, leaving)
		}
		if want := len(records); len(got) != want {
			t.Errorf("own serial number %d: %v", serial, got)
		}
		last = leaving
	}
}

// After a restart, with nothing kept, the serial number is ahead of all before.
func TestSerialAfterRestart(t *testing.T) {
	up := fake.New(t, good)
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 2026112301, "example.org. 60 IN ALIAS target.example."))
	var last uint32
	now := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	for i := range 5 {
		a, c := newPrimaryAlias(t, "upstream "+up.Addr, backend)
		c.mu.Lock()
		c.now = now
		c.mu.Unlock()
		for range 3 {
			up.Set(fake.Zone(fmt.Sprintf("target.example. 5 IN A 192.0.2.%d", now.Second())))
			c.Advance(minRefresh + spread)
			follow(a)
		}
		_, serial := leaves(t, a)
		if i > 0 && !serialBefore(last, serial) || serial < 2026112301 {
			t.Errorf("run %d: serial number %d after %d", i, serial, last)
		}
		last, now = serial, c.Now().Add(time.Second)
	}
}

// After a reload, which is another instance in the same process, secondaries notice nothing unless something has changed.
func TestSerialAfterReload(t *testing.T) {
	up := fake.New(t, good)
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
	old, c := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	follow(old)
	_, last := leaves(t, old)
	for i, address := range []string{v4, "192.0.2.2"} {
		up.Set(fake.Zone("target.example. 300 IN A "+address, "target.example. 300 IN AAAA "+v6))
		before := running.primaryFor(old.zones)
		if before != old.primary {
			t.Fatal("found another instance before")
		}
		a, _ := newPrimaryAlias(t, "upstream "+up.Addr, backend)
		a.cache.now, a.primary.before = c.Now, before
		c.Advance(time.Hour) // the answer that is remembered ends
		follow(a)
		_, serial := leaves(t, a)
		if grows := serialBefore(last, serial); grows != (i == 1) || !grows && serial != last {
			t.Errorf("reload %d: serial number %d after %d", i, serial, last)
		}
		old.stop()
		old, last = a, serial
	}
}

// A zone that goes, and comes back, goes on where it was.
func TestZoneGoes(t *testing.T) {
	up := fake.New(t, good)
	backend := new(zoneBackend)
	with := zoneWith(t, 7, "example.org. 60 IN ALIAS target.example.")
	backend.zone.Store(with)
	a, _ := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	follow(a)
	_, before := leaves(t, a)
	backend.zone.Store(&file.File{})
	follow(a)
	if _, err := a.Transfer("example.org.", 0); err != transfer.ErrNotAuthoritative {
		t.Errorf("gone: %v", err)
	}
	backend.zone.Store(with)
	if got, after := leaves(t, a); len(got) != 2 || serialBefore(after, before) {
		t.Errorf("back: %v, serial number %d after %d", got, after, before)
	}
}

// startSecondary starts a name server that takes NOTIFY, and answers or not.
func startSecondary(t *testing.T, answers bool) (addr string, told func() int) {
	t.Helper()
	var mu sync.Mutex
	n := 0
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Opcode == dns.OpcodeNotify && r.Question[0].Name == "example.org." {
			mu.Lock()
			n++
			mu.Unlock()
		}
		if answers {
			w.WriteMsg(new(dns.Msg).SetReply(r))
		}
	})
	return up.Addr, func() int {
		mu.Lock()
		defer mu.Unlock()
		return n
	}
}

// A secondary that does not answer holds up no other, and a stop not for long.
func TestNotify(t *testing.T) {
	deaf, heard := startSecondary(t, false)
	good, told := startSecondary(t, true)
	n := newNotifier([]secondaries{
		{zones: zones{"org.": {}}, to: []string{"192.0.2.1:53"}},
		{zones: zones{"example.org.": {}}, to: []string{deaf, good}, source: net.IPv4(127, 0, 0, 1)},
	})
	for range 10 {
		n.notify("example.org.")
	}
	n.notify("example.net.") // nobody's
	for deadline := time.Now().Add(5 * time.Second); told() < 2 || heard() < 1; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("the secondaries were told %d and %d times", heard(), told())
		}
	}
	stopped := time.Now()
	n.stop()
	if took := time.Since(stopped); took > time.Second {
		t.Errorf("the stop took %s", took)
	}
	if told() > 10 || heard() > 2 {
		t.Errorf("the secondaries were told %d and %d times", heard(), told())
	}
	n.notify("example.org.") // nothing any more
	n.wg.Wait()
}

// A failing transfer of the backend is the secondary's to see.
func TestTransferBackendFails(t *testing.T) {
	up := fake.New(t, good)
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
	a, _ := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	follow(a)
	broken := errors.New("broken")
	a.primary.backends = []transfer.Transferer{transferFunc(func(string, uint32) (<-chan []dns.RR, error) { return nil, broken })}
	if _, err := a.Transfer("example.org.", 0); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
}

type transferFunc func(zone string, serial uint32) (<-chan []dns.RR, error)

func (f transferFunc) Transfer(zone string, serial uint32) (<-chan []dns.RR, error) {
	return f(zone, serial)
}

// An instance that is stopped while it follows leaves nothing behind.
func TestPrimaryStops(t *testing.T) {
	up := fake.New(t, fake.Late(2*time.Second, good))
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
	a, _ := newPrimaryAlias(t, "timeout 200ms\nupstream "+up.Addr, backend)
	a.primary.start()
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

// A zone whose aliases cannot be known does not leave as the backend has it.
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

// A stop in the middle of a transfer fails it, rather than to leave addresses out.
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

// No ALIAS record leaves, be it one that is never used; and a zone that comes signed is left as it is.
func TestTransferShadowed(t *testing.T) {
	up := fake.New(t, good)
	for _, records := range [][]string{
		{"example.org. 60 IN ALIAS target.example.", "example.org. 60 IN A 203.0.113.1", "example.org. 60 IN AAAA 2001:db8::5"},
		{"sub.example.org. 60 IN NS ns.example.net.", "x.sub.example.org. 60 IN ALIAS target.example."},
	} {
		backend := new(zoneBackend)
		backend.zone.Store(zoneWith(t, 7, records...))
		a, _ := newPrimaryAlias(t, "upstream "+up.Addr, backend)
		got, serial := leaves(t, a)
		if strings.Contains(strings.Join(got, " "), "ALIAS") || serial != 7 {
			t.Errorf("serial number %d: %v", serial, got)
		}
	}
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN ALIAS target.example."))
	a, c := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	follow(a)
	backend.zone.Store(zoneWith(t, 8, "example.org. 60 IN A 203.0.113.1",
		"example.org. 3600 IN RRSIG SOA 13 2 3600 20300101000000 20200101000000 1 example.org. c2ln"))
	c.Advance(2 * time.Second)
	follow(a)
	if m := query(t, a, "example.org.", dns.TypeSOA); m.Answer[0].(*dns.SOA).Serial != 8 {
		t.Errorf("the signed SOA record goes out as %v", m.Answer)
	}
}

// A CNAME record at the apex, which other servers refuse, is flattened for them too.
func TestTransferFlattened(t *testing.T) {
	up := fake.New(t, good)
	backend := new(zoneBackend)
	backend.zone.Store(zoneWith(t, 7, "example.org. 60 IN CNAME target.example.", "www.example.org. 60 IN CNAME target.example."))
	a, _ := newPrimaryAlias(t, "flatten apex\nupstream "+up.Addr, backend)
	got, _ := leaves(t, a)
	want := []string{"example.org. 60 IN A " + v4, "example.org. 60 IN AAAA " + v6, "www.example.org. 60 IN CNAME target.example."}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what leaves (-want +got):\n%s", diff)
	}
}

// A zone that changes while it is read leaves under the serial number of what was read.
func TestTransferWhileZoneChanges(t *testing.T) {
	up := fake.New(t, good)
	backend := new(zoneBackend)
	kept, old := "example.org. 60 IN ALIAS target.example.", "old.example.org. 60 IN ALIAS target.example."
	backend.zone.Store(zoneWith(t, 7, kept, old))
	a, c := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	follow(a)
	backend.zone.Store(zoneWith(t, 8, kept, old))
	walks := 0
	a.primary.backends = []transfer.Transferer{transferFunc(func(zone string, serial uint32) (<-chan []dns.RR, error) {
		records, err := backend.Transfer(zone, serial)
		if walks++; walks == 2 { // it has what it will read
			backend.zone.Store(zoneWith(t, 9, kept))
			query(t, a, "example.org.", dns.TypeSOA)
		}
		return records, err
	})}
	c.Advance(time.Second)
	before, serial := leaves(t, a)
	c.Advance(time.Second)
	follow(a)
	after, now := leaves(t, a)
	if len(before) != 4 || len(after) != 2 || !serialBefore(serial, now) {
		t.Errorf("left as %v under %d, then as %v under %d", before, serial, after, now)
	}
}

// What is read from memory for a transfer does not put off the next lookup, and targets inside are looked at again soon.
func TestFollowSoon(t *testing.T) {
	up := fake.New(t, fake.Zone("target.example. 60 IN A 192.0.2.1"))
	backend := new(zoneBackend)
	zone := func(serial uint32, www string) *file.File {
		return zoneWith(t, serial, "out.example.org. 60 IN ALIAS target.example.", "in.example.org. 60 IN ALIAS www.example.org.", "www.example.org. 60 IN A "+www)
	}
	backend.zone.Store(zone(7, "203.0.113.1"))
	a, c := newPrimaryAlias(t, "upstream "+up.Addr, backend)
	follow(a)
	up.Set(fake.Zone("target.example. 60 IN A 192.0.2.2"))
	c.Advance(58 * time.Second)
	leaves(t, a)
	c.Advance(4 * time.Second)
	follow(a)
	if got, _ := leaves(t, a); !slices.Contains(got, "out.example.org. 60 IN A 192.0.2.2") {
		t.Errorf("62 s after the lookup: %v", got)
	}
	query(t, a, "in.example.org.", dns.TypeA) // www is known for a second
	backend.zone.Store(zone(8, "203.0.113.2"))
	follow(a)
	c.Advance(2 * time.Second)
	follow(a)
	z := a.primary.zone("example.org.")
	_, expansions := z.current()
	for _, x := range expansions {
		if rrs := text(z.records(x)); x.owner == "in.example.org." && x.qtype == dns.TypeA && !slices.Contains(rrs, "in.example.org. 60 IN A 203.0.113.2") {
			t.Errorf("2 s after the edit: %v", rrs)
		}
	}
}
