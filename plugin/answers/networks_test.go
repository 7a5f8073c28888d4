package answers_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/race"

	"github.com/miekg/dns"
)

// network returns the network with that prefix.
func network(prefix string) lookup.Network {
	p := netip.MustParsePrefix(prefix)
	return lookup.NetworkOf(p.Addr(), p.Bits())
}

// nth returns the i-th of 2^24 networks.
func nth(i int) lookup.Network {
	return lookup.NetworkOf(netip.AddrFrom4([4]byte{byte(i >> 16), byte(i >> 8), byte(i), 0}), 24) // #nosec G115 -- octets
}

// newEntries returns Entries with room for so many answers of each kind.
func newEntries(everybody, networks int) *answers.Entries {
	return answers.New(answers.Size{Everybody: everybody, Networks: networks}, at(start))
}

// The answer for the most specific network counts, of the client's family, and never that for everybody.
func TestFind(t *testing.T) {
	es := newEntries(100, 100)
	kept := []string{"192.0.0.0/16", "192.0.2.0/24", "2001:db8::/32", "2001:db8:1::/48", "128.0.0.0/1"}
	store(es, target, answer(addrs1, 0))
	for _, n := range kept {
		store(es, target.For(network(n)), answer(addrs2, 0))
	}
	check := func(client, want string) {
		t.Helper()
		q := target.For(network(client))
		found, e := es.Find(q)
		if want == "" {
			if found != q || e != answers.None {
				t.Errorf("%s gets the answer for %s", client, found.Net)
			}
		} else if found != target.For(network(want)) || e != es.Load(found) || !e.Answered {
			t.Errorf("%s gets the answer for %s, want %s", client, found.Net, want)
		}
	}
	check("192.0.2.0/24", "192.0.2.0/24")
	check("192.0.2.128/25", "192.0.2.0/24")
	check("192.0.2.0/23", "192.0.0.0/16") // it has more clients than the /24
	check("192.0.3.0/24", "192.0.0.0/16")
	check("198.0.0.0/24", "128.0.0.0/1")
	check("10.0.0.0/24", "")
	check("2001:db8:1:100::/56", "2001:db8:1::/48")
	check("2001:db8:2::/56", "2001:db8::/32")
	check("2001:db8::/31", "")
	check("c000:200::/56", "") // the octets of 192.0.2.0
	store(es, target.For(lookup.Global), answer(addrs1, 0))
	check("10.0.0.0/24", "0.0.0.0/0")
	check("c000:200::/56", "0.0.0.0/0")
	check("192.0.2.0/24", "192.0.2.0/24")

	es.Remove(target.For(network("192.0.2.0/24")))
	check("192.0.2.0/24", "192.0.0.0/16")
	if e := es.Load(target); !e.Answered {
		t.Error("the answer for everybody is gone")
	}
	other := lookup.Question{Name: "other.example.", Type: dns.TypeA, Net: network("192.0.2.0/24")}
	if found, e := es.Find(other); found != other || e != answers.None {
		t.Error("another target has an answer")
	}
}

// An exact answer is for the clients of its network itself, and outlives the process as such.
func TestFindExact(t *testing.T) {
	es := newEntries(10, 10)
	store(es, target.For(network("192.0.0.0/16")), answer(addrs1, 0))
	exact := answers.NewEntry(lookup.Outcome{Data: addrs2, TTL: 300, Scope: 20, Exact: true}, start)
	store(es, target.For(network("192.0.0.0/20")), exact)
	again := newEntries(10, 10)
	for key, value := range es.All() {
		if got := again.Restore(key, value); got != value {
			t.Errorf("the record is replaced with %q", got)
		}
	}
	for _, es := range []*answers.Entries{es, again} {
		for client, want := range map[string]string{"192.0.0.0/20": "192.0.0.0/20", "192.0.2.0/24": "192.0.0.0/16", "192.0.0.0/21": "192.0.0.0/16"} {
			if found, _ := es.Find(target.For(network(client))); found.Net != network(want) {
				t.Errorf("%s gets the answer for %s, want %s", client, found.Net, want)
			}
		}
	}
	_, value := recordOf(t, target.For(network("192.0.0.0/20")), answers.NewEntry(exact.Outcome, start), start)
	if key, _ := recordOf(t, target, answer(addrs1, 0), start); newEntries(10, 10).Restore(key, value) != "" {
		t.Error("an exact answer for everybody is restored")
	}
}

// A failure without an answer is found by all networks that have none, until one of them gets an answer.
func TestFailureForNetworks(t *testing.T) {
	es := newEntries(100, 100)
	fail(es, target.For(lookup.Global), start.Add(time.Minute))
	find := func(n string) *answers.Entry {
		_, e := es.Find(target.For(network(n)))
		return e
	}
	if e := find("192.0.2.0/24"); !e.Failing() {
		t.Errorf("got %+v", e)
	}
	store(es, target.For(network("192.0.2.0/24")), answer(addrs1, 0))
	if e := find("192.0.2.0/24"); e.Failing() || !e.Answered {
		t.Errorf("got %+v", e)
	}
	if e := find("2001:db8::/56"); e.Failing() {
		t.Error("lookups fail still")
	}
}

// No question has more than MaxNetworks, whoever stores them at the same time; the rest is returned and not kept.
func TestMaxNetworks(t *testing.T) {
	es := newEntries(10, 100_000)
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			for i := worker; i < answers.MaxNetworks+200; i += 8 {
				e := answer(addrs1, 0)
				if got := es.Update(target.For(nth(i)), 0, func(*answers.Entry) *answers.Entry { return e }); got != e {
					t.Errorf("network %d: another entry was returned", i)
				}
			}
		})
	}
	all.Wait()
	if n := es.Len(); n != answers.MaxNetworks {
		t.Errorf("%d entries, want %d", n, answers.MaxNetworks)
	}
	other := lookup.Question{Name: "other.example.", Type: dns.TypeA}
	store(es, other.For(nth(1)), answer(addrs1, 0))
	if e := es.Load(other.For(nth(1))); !e.Answered {
		t.Error("another target has no room")
	}
}

// There is room below the cap, and at it when some answer is expired: that goes when there is another.
func TestHasRoom(t *testing.T) {
	es := newEntries(10, 10_000)
	never := func(*answers.Entry) bool { return false }
	always := func(*answers.Entry) bool { return true }
	for i := range answers.MaxNetworks {
		if !es.HasRoom(target.For(nth(i)), never) {
			t.Fatalf("no room for network %d", i)
		}
		store(es, target.For(nth(i)), answer(addrs1, 0))
	}
	next := target.For(nth(answers.MaxNetworks))
	if es.HasRoom(next, never) || es.Len() != answers.MaxNetworks {
		t.Errorf("there is room, with %d entries", es.Len())
	}
	if !es.HasRoom(next, always) || es.Len() != answers.MaxNetworks {
		t.Errorf("there is no room, with %d entries", es.Len())
	}
	es.MakeRoom(next, never)
	es.MakeRoom(target.For(nth(0)), always) // which has an entry
	if es.Len() != answers.MaxNetworks {
		t.Errorf("room was made, with %d entries", es.Len())
	}
	es.MakeRoom(next, always)
	es.MakeRoom(next, always)
	if es.Len() != answers.MaxNetworks-1 {
		t.Errorf("no room was made, with %d entries", es.Len())
	}
	store(es, next, answer(addrs1, 0))
	if e := es.Load(next); !e.Answered {
		t.Error("the answer is not kept")
	}
}

// Answers for networks evict each other, and none for everybody.
func TestNetworksEvictNoAnswerForEverybody(t *testing.T) {
	const everybody, networks = 200, 100
	random := 200_000
	if race.Enabled {
		random /= 10
	}
	es := newEntries(everybody, networks)
	owner := func(i int) lookup.Question {
		return lookup.Question{Name: fmt.Sprintf("t%d.example.", i), Type: dns.TypeA}
	}
	for i := range everybody {
		store(es, owner(i), answer(addrs1, 0))
	}
	for i := range random {
		q := owner(i % everybody).For(nth(i))
		if i%7 == 0 {
			fail(es, q.For(lookup.Global), start)
			continue
		}
		store(es, q, answer(addrs1, 0))
	}
	for i := range everybody {
		if e := es.Load(owner(i)); !e.Answered {
			t.Fatalf("answer %d for everybody is gone", i)
		}
	}
	if n := es.Len(); n > everybody+networks+networks { // as many failures as answers
		t.Errorf("%d entries", n)
	}
	if n := indexed(es, everybody, owner); n > networks {
		t.Errorf("%d networks are indexed", n)
	}
}

// indexed returns how many of the networks of so many questions have an answer that Find finds.
func indexed(es *answers.Entries, questions int, owner func(int) lookup.Question) (n int) {
	for i := range questions {
		n += es.Indexed(owner(i))
	}
	return n
}

// A million random networks take no memory beyond the size.
func TestRandomNetworks(t *testing.T) {
	if race.Enabled {
		t.Skip("takes too long with the race detector")
	}
	const size = 1000
	es := newEntries(size, size)
	heap := func() int {
		runtime.GC()
		runtime.GC() // what the first finds unused of package unique, the second frees
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int(m.HeapAlloc) // #nosec G115 -- a size
	}
	before := 0
	for i := range 1_000_000 {
		q := lookup.Question{Name: fmt.Sprintf("t%d.example.", i%5000), Type: dns.TypeA}
		store(es, q.For(nth(rand.IntN(1<<24))), answer(addrs1, 0)) // #nosec G404 -- no secret
		if i == 50_000 {
			es.Len()
			before = heap()
		}
	}
	if n := es.Len(); n > size {
		t.Errorf("%d entries", n)
	}
	if grown := heap() - before; grown > 1<<20 {
		t.Errorf("the heap has grown by %d kB", grown>>10)
	}
	runtime.KeepAlive(es)
}

// slowFile is a copy that stores an answer while a record is removed from it, if the cache lets it.
type slowFile struct {
	answers.File
	store func()
}

func (f slowFile) Delete(key string) {
	stored := make(chan struct{})
	go func() {
		f.store()
		close(stored)
	}()
	select {
	case <-stored:
	case <-time.After(50 * time.Millisecond):
	}
	f.File.Delete(key)
}

// An answer that is stored while the one before is removed is in the copy.
func TestRemoveAndStore(t *testing.T) {
	d := newDisk()
	var es *answers.Entries
	var all sync.WaitGroup
	q, src := target.For(nth(1)), answers.Source{Path: "file"}
	all.Add(1)
	r := answers.NewRegistry(func(s answers.Source, es *answers.Entries) answers.File {
		d.records[s] = make(map[string]string)
		return slowFile{&file{disk: d, source: s, entries: es}, func() {
			defer all.Done()
			store(es, q, answer(addrs2, 0))
		}}
	}, nil, at(start))
	share := r.NewShare(src, answers.Size{Everybody: 10, Networks: 10}, nil)
	es = share.Join(1)
	store(es, q, answer(addrs1, 0))
	es.Remove(q)
	all.Wait()
	if n := len(d.of(src)); n != 1 || !es.Load(q).Answered {
		t.Errorf("%d records in the copy, and the answer is kept: %t", n, es.Load(q).Answered)
	}
	share.Leave(true)
}

// Whatever is stored, removed and evicted at the same time: Find finds each answer that is kept, no other is indexed, and the
// copy has the same ones.
func TestIndexUnderConcurrency(t *testing.T) {
	d := newDisk()
	src := answers.Source{Upstreams: "u", Path: "file"}
	share := d.registry(at(start)).NewShare(src, answers.Size{Everybody: 10, Networks: 60}, map[string]struct{}{"example.org.": {}})
	es := share.Join(1)
	const questions = 5
	owner := func(i int) lookup.Question {
		return lookup.Question{Name: fmt.Sprintf("t%d.example.", i), Type: dns.TypeA}
	}
	nets := make([]lookup.Network, 40)
	for i := range nets {
		nets[i] = nth(i)
	}
	nets[0] = lookup.Global
	rounds := 40_000
	if race.Enabled {
		rounds /= 10
	}
	var all sync.WaitGroup
	for worker := range 8 {
		all.Go(func() {
			random := rand.New(rand.NewPCG(uint64(worker), 1)) // #nosec G404 G115 -- no secret
			for range rounds {
				q := owner(random.IntN(questions)).For(nets[random.IntN(len(nets))])
				switch random.IntN(4) {
				case 0:
					es.Remove(q)
				case 1:
					es.Find(q)
				default:
					store(es, q, answers.NewEntry(lookup.Outcome{Data: []byte{192, 0, 2, byte(worker)}, TTL: 300}, start)) // #nosec G115
				}
			}
		})
	}
	all.Wait()
	es.Len() // makes the evictions that are due
	kept := 0
	for i := range questions {
		n := 0
		for _, net := range nets {
			q := owner(i).For(net)
			e := es.Load(q)
			if !e.Answered {
				continue
			}
			n++
			if found, got := es.Find(q); found != q || got != e {
				t.Errorf("the answer to %s is kept, and not found", q)
			}
		}
		if indexed := es.Indexed(owner(i)); indexed != n {
			t.Errorf("%d networks of %s are indexed, %d have an answer", indexed, owner(i), n)
		}
		kept += n
	}
	records := d.of(src)
	if kept == 0 || kept != len(records) {
		t.Errorf("%d answers are kept, %d are in the copy", kept, len(records))
	}
	share.Leave(true)
	if n := countRecords(es); n != len(records) {
		t.Errorf("%d records of the entries, %d in the copy", n, len(records))
	}
}

func countRecords(es *answers.Entries) (n int) {
	for range es.All() {
		n++
	}
	return n
}

// The record of an answer for a network has the network in its key, and no other key stands for it.
func TestRecordsOfNetworks(t *testing.T) {
	for _, tc := range []struct{ net, key string }{
		{"", "\x00\x01target.example."},
		{"0.0.0.0/0", "\x80\x01\x04\x00target.example."},
		{"192.0.2.0/24", "\x80\x01\x04\x18\xc0\x00\x02target.example."},
		{"192.0.2.0/23", "\x80\x01\x04\x17\xc0\x00\x02target.example."},
		{"128.0.0.0/1", "\x80\x01\x04\x01\x80target.example."},
		{"192.0.2.1/32", "\x80\x01\x04\x20\xc0\x00\x02\x01target.example."},
		{"2001:db8::/56", "\x80\x01\x06\x38\x20\x01\x0d\xb8\x00\x00\x00target.example."},
		{"2001:db8::/32", "\x80\x01\x06\x20\x20\x01\x0d\xb8target.example."},
	} {
		q := target
		if tc.net != "" {
			q = q.For(network(tc.net))
		}
		key, value := recordOf(t, q, answer(addrs1, time.Minute), start)
		if key != tc.key {
			t.Errorf("%s: key %q, want %q", q, key, tc.key)
		}
		es := newEntries(10, 10)
		if again := es.Restore(key, value); again != value {
			t.Errorf("%s: the record is replaced with %q", q, again)
		}
		if e := es.Load(q); !e.Answered || string(e.Data) != string(addrs1) || int(e.Scope) != q.Net.Bits() {
			t.Errorf("%s: restored as %+v", q, e)
		}
	}
}

// A record whose key no server writes is removed from the copy.
func TestHostileKeys(t *testing.T) {
	_, value := recordOf(t, target, answer(addrs1, time.Minute), start)
	for _, key := range []string{
		"\x80\x01", "\x80\x01\x04", "\x80\x01\x04\x18\xc0\x00", // too short
		"\x80\x01\x04\x18\xc0\x00\x02",                        // without a name
		"\x80\x01\x04\x18\xc0\x00\x02target.example",          // not absolute
		"\x80\x01\x04\x18\xc0\x00\x02Target.example.",         // not canonical
		"\x80\x01\x05\x18\xc0\x00\x02target.example.",         // of no family
		"\x80\x01\x00\x00target.example.",                     // likewise
		"\x80\x01\x04\x21\xc0\x00\x02\x01\x01target.example.", // more than 32 bits
		"\x80\x01\x06\x81" + string(make([]byte, 17)) + "target.example.",
		"\x80\x01\x04\x17\xc0\x00\x03target.example.", // bits beyond the prefix
		"\x80\x01\x06\x00target.example.",             // Global has one key
		"\x80\x10\x04\x18\xc0\x00\x02target.example.", // a type that is not looked up
		"\xff\xff\x04\x18\xc0\x00\x02target.example.",
	} {
		es := newEntries(10, 10)
		if again := es.Restore(key, value); again != "" || es.Len() != 0 {
			t.Errorf("%q is restored", key)
		}
	}
}

// The copy has no more networks of a question than the cache keeps.
func TestRestoreTooManyNetworks(t *testing.T) {
	es := newEntries(10, 10_000)
	kept := 0
	for i := range answers.MaxNetworks + 10 {
		key, value := recordOf(t, target.For(nth(i)), answer(addrs1, time.Minute), start)
		if es.Restore(key, value) != "" {
			kept++
		}
	}
	if kept != answers.MaxNetworks || es.Len() != answers.MaxNetworks {
		t.Errorf("%d records are kept, and %d entries", kept, es.Len())
	}
}

// Answers for networks are handed over at a reload. A server block without client_subnet gives their room back.
func TestReloadWithNetworks(t *testing.T) {
	d := newDisk()
	r := d.registry(at(start))
	zones := map[string]struct{}{"example.org.": {}}
	before := r.NewShare(answers.Source{Upstreams: "a"}, answers.Size{Everybody: 50, Networks: 50}, zones)
	es := before.Join(1)
	before.Serve()
	store(es, target, answer(addrs1, 0))
	for i := range 20 {
		store(es, target.For(nth(i)), answer(addrs2, 0))
	}
	after := r.NewShare(answers.Source{Upstreams: "b"}, answers.Size{Everybody: 50, Networks: 50}, zones)
	others := after.Join(2)
	for i := range 20 {
		if e := others.Load(target.For(nth(i))); !e.Answered || !e.Expired {
			t.Errorf("network %d is handed over as %+v", i, e)
		}
	}
	if n := others.Indexed(target); n != 20 {
		t.Errorf("%d networks are indexed", n)
	}
	before.Leave(false)
	after.Serve()

	without := r.NewShare(answers.Source{Upstreams: "b"}, answers.Size{Everybody: 50}, zones)
	if without.Join(3) != others {
		t.Fatal("the same upstreams have other entries")
	}
	after.Leave(false)
	if n := others.Len(); n > 2 || !others.Load(target).Answered { // the pool has room for one, in use or not
		t.Errorf("%d entries without client_subnet", n)
	}
	if n := others.Indexed(target); n > 1 {
		t.Errorf("%d networks are indexed", n)
	}
	without.Leave(true)
}
