package alias

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// instance returns the plugin as a reload starts it: beside the one before, which stop ends.
func instance(t *testing.T, number int, zones, properties string) *Alias {
	t.Helper()
	cfg, err := parseBlock(zones, properties)
	if err != nil {
		t.Fatal(err)
	}
	a := cfg.build()
	a.instance = number
	a.start()
	a.begun.Store(true) // the servers listen
	t.Cleanup(a.stop)
	return a
}

// answers checks how a answers for the name: with the status and the address, if any.
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

// What a reload keeps. The upstream is silent by then.
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

// An upstream that turns out to be the wrong one, and the way back.
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

// What one resolver says is no business of a server block that has another, or of another file.
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
	if a.cache.memory != c.cache.memory || a.cache.memory.answers.GetMaximum() != 100_007 {
		t.Error("two blocks with the same upstream share no memory, of the size of both")
	}
	c.stop()
	if n := a.cache.memory.answers.GetMaximum(); n != 100_000 {
		t.Errorf("the memory is for %d answers, after one block has gone", n)
	}
}

// What a lookup that began before another server block's ends in does not undo it.
func TestMemoryShared(t *testing.T) {
	m := newMemory(source{}, 10)
	cs := []*cache{newCache(1, 1), newCache(1, 1)}
	for _, c := range cs {
		c.memory, c.lifetime = m, lifetime{min: 5, max: 3600, stale: time.Hour}
	}
	old := cs[0].settle(target, "", nothing, outcome{addrs: addrs1, ttl: 60}, nil)
	newer := cs[1].settle(target, "", old, outcome{addrs: addrs2, ttl: 60}, nil)
	if e := cs[0].settle(target, "", old, outcome{}, errDown); e != newer || m.load(target) != newer {
		t.Errorf("%+v is remembered", m.load(target))
	}
	if e := cs[0].settle(target, "", newer, outcome{}, errDown); !e.failing() || !slices.Equal(e.addrs, addrs2) {
		t.Errorf("%+v after a failure", e)
	}
}

// The records that are in the file make it ready, whatever the upstream does.
func TestReadyFromFile(t *testing.T) {
	up := fake.New(t, good)
	properties := "record @ target.example\nupstream " + up.Addr + "\npersist " + filepath.Join(t.TempDir(), "db")
	a := instance(t, 1, "example.org", properties)
	a.begun.Store(false)
	running.prime(1)
	a.priming.Wait()
	a.stop()
	up.Set(nil)
	b := instance(t, 2, "example.org", properties)
	b.begun.Store(false)
	running.prime(2)
	wait(t, 400*time.Millisecond, "it is not ready", b.Ready)
	hit.answers(t, b, "example.org.", v4)
}

// An answer is as old as it was, by whatever clock it came, and asked anew if nobody can know.
func TestRestoredAge(t *testing.T) {
	wall := time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
	record := func(stored time.Time) (key, value string) {
		m := newMemory(source{}, 1)
		m.now = func() time.Time { return stored }
		return recordKey(target), m.recordValue(&entry{outcome: outcome{addrs: addrs1, ttl: 300}, answered: true, stored: stored})
	}
	tests := []struct {
		name   string
		stored time.Duration // before now
		left   time.Duration
		status status
	}{
		{"just now", 0, 300 * time.Second, hit},
		{"a while ago", 100 * time.Second, 200 * time.Second, hit},
		{"a day ago", 24 * time.Hour, 300*time.Second - 24*time.Hour, stale},
		{"in the future", -24 * time.Hour, 0, stale},
		{"long ago", 200 * 365 * 24 * time.Hour, 300*time.Second - maxAge, failed},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			c := newCache(10, 10)
			c.lifetime = lifetime{min: 5, max: 3600, stale: 72 * time.Hour}
			c.now = func() time.Time { return wall }
			c.memory.now = c.now
			c.resolve = func(context.Context, question, int) (outcome, error) { return outcome{}, errDown }
			key, value := record(wall.Add(-test.stored))
			if again := c.memory.Restore(key, value); again != value {
				t.Errorf("the record is replaced with %q", again)
			}
			e := c.memory.load(target)
			if left := c.left(e, noLimit, wall); left != test.left {
				t.Errorf("%s left, want %s", left, test.left)
			}
			if _, _, s := c.get(target, noLimit, "", nil); s != test.status {
				t.Errorf("status %s, want %s", s, test.status)
			}
			c.stop()
		})
	}
}

// What comes out of the file late gives way to what is newer, and fills in what is not known.
func TestRestoredLate(t *testing.T) {
	now := time.Now()
	answer := func(addrs []byte, ago time.Duration) *entry {
		return &entry{outcome: outcome{addrs: addrs, ttl: 300}, answered: true, stored: now.Add(-ago)}
	}
	past := func(e *entry) *entry {
		e.past = true
		return e
	}
	failing := &entry{trouble: &trouble{3, now.Add(time.Minute), errDown}}
	m := newMemory(source{}, 10)
	m.now = func() time.Time { return now }
	future := m.recordValue(answer(addrs1, -time.Hour))
	kept := m.recordValue(answer(addrs1, time.Hour))
	tests := []struct {
		name    string
		current *entry
		addrs   []byte
		value   string // the record, afterwards
	}{
		{"nothing", nil, addrs1, kept},
		{"past", past(answer(addrs2, time.Minute)), addrs2, m.recordValue(past(answer(addrs2, time.Minute)))},
		{"other addresses", answer(addrs2, time.Minute), addrs2, m.recordValue(answer(addrs2, time.Minute))},
		{"newer", answer(addrs1, time.Minute), addrs1, m.recordValue(answer(addrs1, time.Minute))},
		{"hardly newer", answer(addrs1, time.Hour-time.Second), addrs1, kept},
		{"a failure", failing, addrs1, kept},
	}
	m.answers.Set(target, answer(addrs2, time.Minute))
	if m.Restore(recordKey(target), future); !slices.Equal(m.load(target).addrs, addrs2) {
		t.Error("a record from the future replaces an answer")
	}
	m.answers.Set(target, past(answer(addrs2, time.Minute)))
	own := m.recordValue(answer(addrs1, 2*time.Minute))
	if again := m.Restore(recordKey(target), own); !slices.Equal(m.load(target).addrs, addrs1) || again != own {
		t.Error("what others have said stays although there is a fresh answer of one's own")
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m.answers.InvalidateAll()
			m.failures.InvalidateAll()
			switch {
			case test.current == failing:
				m.failures.Set(target, failing)
			case test.current != nil:
				m.answers.Set(target, test.current)
			}
			if got := m.Restore(recordKey(target), kept); got != test.value {
				t.Errorf("the record is %q, want %q", got, test.value)
			}
			e := m.load(target)
			if !slices.Equal(e.addrs, test.addrs) || e.failing() != (test.current == failing) {
				t.Errorf("%+v is remembered", e)
			}
		})
	}
}

// Lookups that find the same addresses write once in a while, others at once, and what has to make room leaves the file.
func TestWrites(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	a := instance(t, 1, "example.org", "upstream 127.0.0.1:1\ncache_size 100\nstale 5m\npersist "+path)
	now := time.Now()
	a.cache.now = func() time.Time { return now }
	m := a.cache.memory
	m.now = a.cache.now
	saved := func() time.Time { return m.load(target).saved }
	first := now
	for _, step := range []struct {
		after time.Duration
		addrs []byte
		err   error
		write bool
	}{
		{0, addrs1, nil, true},
		{10 * time.Second, addrs1, nil, false},
		{19 * time.Second, addrs1, nil, false},
		{time.Second, nil, errDown, false},
		{time.Second, addrs1, nil, true}, // 31 s, more than a tenth of 5 minutes
		{time.Second, addrs2, nil, true},
		{time.Second, nil, nil, true}, // NODATA
	} {
		now = now.Add(step.after)
		a.cache.settle(target, "", m.load(target), outcome{addrs: step.addrs, ttl: 5}, step.err)
		if saved().Equal(now) != step.write {
			t.Errorf("after %s: written %s ago", now.Sub(first), now.Sub(saved()))
		}
	}

	for i := range 1000 {
		q := question{fmt.Sprintf("t%d.example.", i), dns.TypeA}
		a.cache.settle(q, "", nothing, outcome{addrs: addrs1, ttl: 5}, nil)
	}
	m.answers.CleanUp()
	a.stop()
	b := instance(t, 2, "example.org", "upstream 127.0.0.1:1\npersist "+path)
	if n := b.cache.memory.len(); n < 50 || n > 100 {
		t.Errorf("%d answers are in the file, for 100 places", n)
	}
}

// However many addresses a target has, what is remembered of it is bounded by cache_size.
func TestLargeAnswersWeighMore(t *testing.T) {
	c := newCache(1000, 1)
	heap := func() uint64 {
		runtime.GC()
		var stats runtime.MemStats
		runtime.ReadMemStats(&stats)
		return stats.HeapAlloc
	}
	before := heap()
	for i := range 10_000 {
		q := question{fmt.Sprintf("t%d.example.", i), dns.TypeAAAA}
		c.settle(q, "", nothing, outcome{addrs: make([]byte, 16*500), ttl: 5}, nil)
	}
	c.memory.answers.CleanUp()
	if grown := int64(heap()) - int64(before); grown > 2<<20 { // 1000 times 256 octets, what is beside them, and what the heap likes
		t.Errorf("10,000 answers of 8000 octets take %d octets", grown)
	}
	runtime.KeepAlive(c)
}

// A file that cannot be used keeps nothing from being served.
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

// A restart brings everything back, in whatever order the server blocks that share it, with different sizes, start and stop.
func TestRestartShared(t *testing.T) {
	path := filepath.Join(t.TempDir(), "db")
	for round, sizes := range [][]int{{10, 1000}, {1000, 10}, {10, 1000}, {10, 1000}} {
		var as []*Alias
		for i, size := range sizes {
			cfg, err := parseBlock([]string{"example.org", "example.net"}[i], fmt.Sprintf("upstream 127.0.0.1:1\npersist %s\ncache_size %d", path, size))
			if err != nil {
				t.Fatal(err)
			}
			a := cfg.build()
			memories.expect(a)
			as = append(as, a)
		}
		for _, a := range as {
			a.start()
		}
		m := as[0].cache.memory
		for i := range 900 {
			if round == 0 {
				as[0].cache.settle(question{fmt.Sprintf("t%d.example.", i), dns.TypeA}, "", nothing, outcome{addrs: addrs1, ttl: 300}, nil)
			}
		}
		m.answers.CleanUp()
		if n, size := m.len(), m.answers.GetMaximum(); n != 900 || size != 1010 {
			t.Errorf("round %d: %d answers of 900, there is room for %d", round, n, size)
		}
		for _, a := range as {
			a.end(true)
		}
	}
}

// Blocks that share a memory count an outage once.
func TestBackoffShared(t *testing.T) {
	m := newMemory(source{}, 10)
	now := time.Now()
	var e *entry
	for range 5 { // their lookups are under way at the same time
		c := newCache(1, 1)
		c.memory, c.now = m, func() time.Time { return now }
		e = c.settle(target, "", nothing, outcome{}, errDown)
	}
	if left := e.retry.Sub(now); left != minBackoff {
		t.Errorf("the target is left alone for %s after the first failure", left)
	}
}

// An answer that comes out of the file during a lookup that fails is no new one.
func TestRestoredDuringLookup(t *testing.T) {
	for _, test := range []struct {
		stale time.Duration
		want  status
	}{{0, failed}, {72 * time.Hour, stale}} {
		now := time.Now()
		c := newCache(10, 10)
		c.lifetime = lifetime{min: 5, max: 3600, stale: test.stale}
		c.now = func() time.Time { return now }
		c.memory.now = c.now
		old := &entry{outcome: outcome{addrs: addrs1, ttl: 300}, answered: true, stored: now.Add(-24 * time.Hour)}
		c.resolve = func(context.Context, question, int) (outcome, error) {
			c.memory.Restore(recordKey(target), c.memory.recordValue(old))
			return outcome{}, errDown
		}
		if _, _, s := c.get(target, noLimit, "", nil); s != test.want || !c.memory.load(target).failing() {
			t.Errorf("stale %s: status %s, failing %v", test.stale, s, c.memory.load(target).failing())
		}
		c.stop()
	}
}

// Reloads that fail late leave instances behind, which have no part in the next.
func TestReloadAfterFailure(t *testing.T) {
	up, wrong, silent := fake.New(t, good), fake.New(t, nil), fake.New(t, nil)
	properties := "record @ target.example\ntimeout 50ms\nretries 0\nupstream "
	a := instance(t, 1, "example.org", properties+up.Addr)
	miss.answers(t, a, "example.org.", v4)
	var left []*Alias
	for i, addr := range []string{wrong.Addr, silent.Addr} {
		b := instance(t, 2+i, "example.org", properties+addr)
		b.begun.Store(false)
		left = append(left, b)
	}
	// What is learned meanwhile is taken over by the next that tries.
	a.cache.settle(question{"target.example.", dns.TypeA}, "", nothing, outcome{addrs: addrs2, ttl: 300}, nil)
	b := instance(t, 4, "example.org", properties+silent.Addr)
	a.stop()
	stale.answers(t, b, "example.org.", "192.0.2.2")
	runtime.KeepAlive(left)
}

// What a wrong resolver said does not replace what the right one has, when that comes back and is down.
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

// A large answer would outlive being forgotten, at each alias that keeps it.
func TestKeptAnswerSize(t *testing.T) {
	m := newMemory(source{}, 10)
	var place atomic.Pointer[entry]
	for size, want := range map[int]bool{ordinarySize: true, ordinarySize + 4: false} {
		m.update(target, 0, func(*entry) *entry { return &entry{outcome: outcome{addrs: make([]byte, size)}, answered: true} })
		if e := m.loadAt(target, &place); len(e.addrs) != size {
			t.Errorf("%d octets, want %d", len(e.addrs), size)
		}
		if got := place.Load() != nil; got != want {
			t.Errorf("%d octets: kept %v, want %v", size, got, want)
		}
	}
}

// An alias that keeps an answer uses it no longer than the memory has it.
func TestKeptAnswers(t *testing.T) {
	const size, names = 20, 400
	var records strings.Builder
	for i := range names {
		fmt.Fprintf(&records, "record r%d t%d.example\n", i, i)
	}
	a, c := newAlias(t, "example.org", records.String()+fmt.Sprintf("cache_size %d\nupstream 127.0.0.1", size), nil)
	changed := byte(0)
	a.cache.resolve = func(_ context.Context, q question, _ int) (outcome, error) {
		return outcome{addrs: []byte{192, 0, 2, changed}, ttl: 60}, nil
	}
	for range 3 {
		for i := range names {
			for range 2 * searches {
				m := query(t, a, fmt.Sprintf("r%d.example.org.", i), dns.TypeA)
				if len(m.Answer) != 1 || m.Answer[0].(*dns.A).A.To4()[3] != changed {
					t.Fatalf("r%d: got %v, want 192.0.2.%d", i, m.Answer, changed)
				}
			}
		}
		a.cache.memory.answers.CleanUp()
		held := 0
		for i := range a.records.aliases {
			if e := a.records.aliases[i].answers[family(dns.TypeA)].Load(); e != nil && !e.gone.Load() {
				held++
			}
		}
		if held == 0 || held > size {
			t.Errorf("%d answers are held, want 1 to %d", held, size)
		}
		changed++
		c.Advance(2 * time.Minute)
		for _, q := range []string{"r0", "r399"} { // one that is long gone, and one that has expired
			query(t, a, q+".example.org.", dns.TypeA)
		}
	}
}
