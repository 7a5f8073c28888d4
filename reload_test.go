package alias

import (
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// instance returns the plugin as a reload starts it: beside the one before, which stop ends. Its server listens.
func instance(t *testing.T, number int, zones, properties string) *Alias {
	t.Helper()
	a := deafInstance(t, number, zones, properties)
	a.begun.Store(true)
	a.share.Serve()
	return a
}

// deafInstance is instance, but its server does not listen yet, and never will when the reload fails.
func deafInstance(t *testing.T, number int, zones, properties string) *Alias {
	t.Helper()
	cfg, err := parseBlock(zones, properties)
	if err != nil {
		t.Fatal(err)
	}
	a := cfg.build()
	a.instance = number
	a.start()
	t.Cleanup(a.stop)
	return a
}

// answers checks that a answers for the name with the status, and with the address if there is one.
func (s status) answers(t *testing.T, a *Alias, name, addr string) {
	t.Helper()
	var m *dns.Msg
	n := counted(t, answered(s), func() { m = query(t, a, name, dns.TypeA) })
	var got string
	if len(m.Answer) > 0 {
		got = m.Answer[0].(*dns.A).A.String()
	}
	if n != 1 || got != addr {
		t.Errorf("%s: got %q, want %q with status %s", name, got, addr, s)
	}
}

// What a reload keeps in the cache. The upstream is silent by then.
func TestReloadKeeps(t *testing.T) {
	file := filepath.Join(t.TempDir(), "db")
	const record = "record @ target.example\nrecord new target.example\ntimeout 50ms\nretries 0\n"
	tests := []struct {
		name          string
		before, after string // further properties
		zones         string // after
		other         bool   // another upstream, after
		want          status
	}{
		{name: "all", want: hit},
		{name: "another property", after: "max_ttl 30m", want: hit},
		{name: "another zone", zones: "example.org example.net", want: hit},
		{name: "with persist", before: "persist " + file, after: "persist " + file, want: hit},
		{name: "persist is new", after: "persist " + file + "-2", want: hit},
		{name: "persist is gone", before: "persist " + file, want: hit},
		{name: "another path", before: "persist " + file, after: "persist " + file + "-3", want: hit},
		{name: "another upstream", other: true, want: stale},
		{name: "another upstream, with persist", before: "persist " + file, after: "persist " + file, other: true, want: stale},
		{name: "another upstream, nothing stale", other: true, after: "stale 0", want: failed},
		{name: "another upstream and zone", other: true, zones: "example.org example.net", want: failed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			up := fake.New(t, good)
			addr := up.Addr
			before := instance(t, 1, "example.org", "record @ target.example\nupstream "+addr+"\n"+test.before)
			miss.answers(t, before, "example.org.", v4)

			up.Set(nil)
			if test.other {
				addr = fake.New(t, nil).Addr
			}
			zones := "example.org"
			if test.zones != "" {
				zones = test.zones
			}
			after := record
			if test.zones != "" {
				after = "record example.org. target.example\nrecord new.example.org. target.example\ntimeout 50ms\nretries 0\n"
			}
			a := instance(t, 2, zones, after+"upstream "+addr+"\n"+test.after)
			before.stop()
			addrWanted := v4
			if test.want == failed {
				addrWanted = ""
			}
			test.want.answers(t, a, "example.org.", addrWanted)
			test.want.answers(t, a, "new.example.org.", addrWanted)
		})
	}
}

// A reload changes to a wrong upstream, and the next one back.
func TestReloadThereAndBack(t *testing.T) {
	up, wrong := fake.New(t, good), fake.New(t, nil)
	properties := "record @ target.example\ntimeout 50ms\nretries 0\nupstream "
	a := instance(t, 1, "example.org", properties+up.Addr)
	miss.answers(t, a, "example.org.", v4)
	up.Set(nil)
	for i, addr := range []string{wrong.Addr, up.Addr} {
		b := instance(t, 2+i, "example.org", properties+addr)
		a.stop()
		stale.answers(t, b, "example.org.", v4)
		a = b
	}
	up.Set(good)
}

// Server blocks with other upstreams, or another file, do not share cache entries.
func TestMemoriesApart(t *testing.T) {
	up, silent := fake.New(t, good), fake.New(t, nil)
	file := filepath.Join(t.TempDir(), "db")
	properties := "record @ target.example\ntimeout 50ms\nretries 0\npersist " + file + "\nupstream "
	a := instance(t, 1, "example.org", properties+up.Addr)
	b := instance(t, 1, "example.org", properties+silent.Addr) // as with view
	c := instance(t, 1, "example.org", properties+up.Addr+"\ncache_size 7")
	miss.answers(t, a, "example.org.", v4)
	failed.answers(t, b, "example.org.", "")
	hit.answers(t, c, "example.org.", v4)
	if a.cache.entries != c.cache.entries || a.cache.entries.Size() != 100_007 {
		t.Error("two blocks with the same upstream share no entries of the size of both")
	}
	c.stop()
	if n := a.cache.entries.Size(); n != 100_000 {
		t.Errorf("there is room for %d answers after one block has ended", n)
	}
}

// 0.0.0.0 is an answer with allow_unspecified alone. Without it, what was cached with it is not even a stale answer.
func TestUnspecified(t *testing.T) {
	up := fake.New(t, fake.Zone("target.example. 300 IN A 0.0.0.0", "target.example. 300 IN AAAA ::",
		"mapped.example. 300 IN AAAA ::ffff:0.0.0.0", "mixed.example. 300 IN A 0.0.0.0", "mixed.example. 300 IN A "+v4))
	properties := "record @ target.example\nrecord mapped mapped.example\nrecord mixed mixed.example\nretries 0\nupstream " + up.Addr
	a := instance(t, 1, "example.org", properties+"\nallow_unspecified")
	miss.answers(t, a, "example.org.", "0.0.0.0")
	miss.answers(t, a, "mixed.example.org.", "0.0.0.0")
	b := instance(t, 2, "example.org", properties)
	a.stop()
	failed.answers(t, b, "example.org.", "")
	miss.answers(t, b, "mixed.example.org.", v4)
	for _, name := range []string{"example.org.", "mapped.example.org."} {
		if m := query(t, b, name, dns.TypeAAAA); len(m.Answer) > 0 || !slices.Equal(ede(m), []uint16{dns.ExtendedErrorCodeFiltered}) {
			t.Errorf("%s: %v", name, m)
		}
	}
}

// What was cached before an address was denied is not served after that, not even stale.
func TestDeniedByReload(t *testing.T) {
	up := fake.New(t, fake.Zone("target.example. 300 IN A "+v4, "good.example. 300 IN A 203.0.113.1"))
	properties := "record @ target.example\nrecord good good.example\nretries 0\nupstream " + up.Addr
	a := instance(t, 1, "example.org", properties)
	miss.answers(t, a, "example.org.", v4)
	miss.answers(t, a, "good.example.org.", "203.0.113.1")
	up.Set(nil)
	b := instance(t, 2, "example.org", properties+"\naddress_deny "+v4)
	a.stop()
	failed.answers(t, b, "example.org.", "")
	stale.answers(t, b, "good.example.org.", "203.0.113.1")
}

// A resolver that begins to filter the target is one that fails: the last answer stays.
func TestTargetIsFiltered(t *testing.T) {
	up := fake.New(t, fake.Zone("target.example. 60 IN A "+v4))
	a, c := newAlias(t, "example.org", "record @ target.example\nupstream "+up.Addr, nil)
	miss.answers(t, a, "example.org.", v4)
	c.Advance(61 * time.Second)
	up.Set(fake.Zone("target.example. 60 IN A 0.0.0.0"))
	stale.answers(t, a, "example.org.", v4)
	up.Set(fake.Zone(exampleSOA))
	c.Advance(minBackoff)
	query(t, a, "example.org.", dns.TypeA)
	a.cache.wg.Wait()
	nodata.answers(t, a, "example.org.", "")
	c.Advance(10 * time.Minute)
	up.Set(fake.Zone("target.example. 60 IN A 0.0.0.0"))
	stale.answers(t, a, "example.org.", "") // NXDOMAIN was an answer too
}

// An instance is ready when the file has the answers for all records, whatever the upstream does.
func TestReadyFromFile(t *testing.T) {
	up := fake.New(t, good)
	properties := "record @ target.example\nupstream " + up.Addr + "\npersist " + filepath.Join(t.TempDir(), "db")
	a := deafInstance(t, 1, "example.org", properties)
	running.prime(1)
	a.priming.Wait()
	a.stop()
	up.Set(nil)
	b := deafInstance(t, 2, "example.org", properties)
	running.prime(2)
	wait(t, 400*time.Millisecond, "it is not ready", b.Ready)
	hit.answers(t, b, "example.org.", v4)
}

// Answers are served whatever is wrong with the file.
func TestUnusableFile(t *testing.T) {
	dir := t.TempDir()
	up := fake.New(t, good)
	if err := os.WriteFile(filepath.Join(dir, "zone"), []byte(exampleSOA), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{dir, filepath.Join(dir, "zone"), filepath.Join(dir, "zone", "db"), filepath.Join(dir, "no", "db"), "/dev/null"} {
		a := instance(t, 1, "example.org", "record @ target.example\nupstream "+up.Addr+"\npersist "+path)
		miss.answers(t, a, "example.org.", v4)
		a.stop()
	}
}

// Instances of reloads that failed have no part in the next reload.
func TestReloadAfterFailure(t *testing.T) {
	up, wrong, silent := fake.New(t, good), fake.New(t, nil), fake.New(t, nil)
	properties := "record @ target.example\ntimeout 50ms\nretries 0\nupstream "
	a := instance(t, 1, "example.org", properties+up.Addr)
	miss.answers(t, a, "example.org.", v4)
	var left []*Alias
	for i, addr := range []string{wrong.Addr, silent.Addr} {
		left = append(left, deafInstance(t, 2+i, "example.org", properties+addr))
	}
	// The next reload takes over what the running instance has learned meanwhile.
	settled(a.cache, question("target.example.", dns.TypeA), answers.None, lookup.Outcome{Data: addrs2, TTL: 300}, nil)
	b := instance(t, 4, "example.org", properties+silent.Addr)
	a.stop()
	stale.answers(t, b, "example.org.", "192.0.2.2")
	runtime.KeepAlive(left)
}

// A wrong resolver's answers do not replace those of the right one, when a reload brings that back while it is down.
func TestReloadFromWrong(t *testing.T) {
	up, wrong := fake.New(t, good), fake.New(t, fake.Rcode(dns.RcodeNameError))
	properties := "record @ target.example\ntimeout 50ms\nretries 0\npersist " + filepath.Join(t.TempDir(), "db") + "\nupstream "
	a := instance(t, 1, "example.org", properties+up.Addr)
	miss.answers(t, a, "example.org.", v4)
	b := instance(t, 2, "example.org", properties+wrong.Addr)
	a.stop()
	nodata.answers(t, b, "example.org.", "")
	up.Set(nil)
	c := instance(t, 3, "example.org", properties+up.Addr)
	b.stop()
	hit.answers(t, c, "example.org.", v4) // its own answer, and fresh
	c.stop()
	d := instance(t, 4, "example.org", properties+up.Addr) // after a restart
	hit.answers(t, d, "example.org.", v4)
}
