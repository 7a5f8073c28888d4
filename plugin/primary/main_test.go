package primary_test

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	v4 = "192.0.2.1"
	v6 = "2001:db8::1"

	// settled is how long it takes until what is due is published, and more: up to 2 s until a zone that has changed is
	// read, and then, or for what has expired, up to 1 s because lookups are spread, up to 1 s until the lookup begins
	// and up to 1 s until its result is published.
	settled = 5500 * time.Millisecond
)

var (
	errServfail = lookup.Unusable("servfail", nil)
	errTimeout  = lookup.NetworkFailure(lookup.Timeout, nil)
)

// before reports whether serial a is before b (RFC 1982, section 3.2).
func before(a, b uint32) bool { return int32(b-a) > 0 }

// target is what a lookup of a name finds.
type target struct {
	v4, v6 []string
	ttl    uint32 // in seconds
	err    error
}

// resolver has a Lookup with a cache, which keeps the rules of primary.Lookup. Its clock is time.Now.
type resolver struct {
	mu      sync.Mutex
	targets map[string]target             // a name that is not in it has no addresses, for 300 s
	inside  map[string]target             // data of the zones of this server
	delay   time.Duration                 // of a lookup
	lookups map[lookup.Question]int       // how often each was looked up, or read from data of this server
	began   map[lookup.Question]time.Time // when the last lookup began
	givenUp map[lookup.Question]time.Time // when a lookup ends whose caller has given up: the next caller joins it
	calls   int                           // of lookup
	cached  map[lookup.Question]cached
}

type cached struct {
	addrs  []byte
	ttl    uint32
	stored time.Time
	known  bool // there is an answer
	retry  time.Time
	err    error // of the last lookup
}

func newResolver(targets map[string]target) *resolver {
	r := &resolver{
		targets: make(map[string]target), lookups: make(map[lookup.Question]int), began: make(map[lookup.Question]time.Time),
		givenUp: make(map[lookup.Question]time.Time), cached: make(map[lookup.Question]cached),
	}
	maps.Copy(r.targets, targets)
	return r
}

// set changes what a target has.
func (r *resolver) set(name string, t target) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.targets[name] = t
}

// count returns how many lookups of the A records of a name there were.
func (r *resolver) count(name string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lookups[lookup.Question{Name: name, Type: dns.TypeA}]
}

// looked returns when the last lookup began.
func (r *resolver) looked() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.MaxFunc(slices.Collect(maps.Values(r.began)), time.Time.Compare)
}

// lookup is a primary.Lookup.
func (r *resolver) lookup(ctx context.Context, _, _ string, al *records.Alias, qtype uint16) (primary.Found, error) {
	q := lookup.Question{Name: al.Target, Type: qtype}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.calls++
	now := time.Now()
	if t, ok := r.inside[q.Name]; ok {
		r.lookups[q]++
		return primary.Found{Data: pack(t, qtype), TTL: min(t.ttl, al.TTL), Own: true, Next: now.Add(time.Second), Stored: now}, t.err
	}
	c := r.cached[q]
	ttl := func() time.Duration { return time.Duration(min(c.ttl, al.TTL)) * time.Second }
	due := !(c.known && now.Before(c.stored.Add(ttl()))) && !now.Before(c.retry)
	unfinished := due && ctx.Err() != nil
	if due && !unfinished {
		end, given := r.givenUp[q]
		if !given {
			r.lookups[q]++
			r.began[q] = now
			end = now.Add(r.delay)
		}
		if end.After(now) {
			r.mu.Unlock()
			select {
			case <-time.After(end.Sub(now)):
			case <-ctx.Done():
			}
			r.mu.Lock()
		}
		now = time.Now()
		if unfinished = ctx.Err() != nil; unfinished {
			r.givenUp[q] = end
		} else {
			delete(r.givenUp, q)
			c = answer(c, r.targets, q, now)
			r.cached[q] = c
		}
	}
	left := c.stored.Add(ttl()).Sub(now)
	switch {
	case !c.known && c.err == nil:
		return primary.Found{Next: now, Stored: now, Unfinished: true}, lookup.NetworkFailure(lookup.Canceled, nil)
	case !c.known:
		return primary.Found{Next: c.retry, Unfinished: unfinished}, c.err
	case left <= 0:
		return primary.Found{Data: c.addrs, TTL: 30, Next: now, Stored: now, Unfinished: unfinished}, nil
	}
	return primary.Found{Data: c.addrs, TTL: min(c.ttl, al.TTL), Next: now.Add(left), Stored: c.stored}, nil
}

// answer returns the cache entry for q after a lookup. A failure keeps the addresses.
func answer(c cached, targets map[string]target, q lookup.Question, now time.Time) cached {
	t, ok := targets[q.Name]
	if !ok {
		t.ttl = 300
	}
	if t.err != nil {
		c.err, c.retry = t.err, now.Add(5*time.Second)
		return c
	}
	return cached{addrs: pack(t, q.Type), ttl: t.ttl, stored: now, known: true}
}

// pack returns the addresses of a family, one after the other.
func pack(t target, qtype uint16) []byte {
	texts := t.v4
	if qtype == dns.TypeAAAA {
		texts = t.v6
	}
	var addrs []byte
	for _, text := range texts {
		switch rr := mustRR(fmt.Sprintf("x. %s %s", dns.TypeToString[qtype], text)).(type) {
		case *dns.A:
			addrs = append(addrs, rr.A.To4()...)
		case *dns.AAAA:
			addrs = append(addrs, rr.AAAA...)
		}
	}
	return addrs
}

func mustRR(text string) dns.RR {
	rr, err := dns.NewRR(text)
	if err != nil {
		panic(err)
	}
	return rr
}

// backend has zones of the file plugin, and answers with their SOA records.
type backend struct {
	mu     sync.Mutex
	zones  map[string]*file.Zone
	listed bool          // List has the zones themselves, and not just the names
	err    error         // of SOA
	broken error         // of Transfer
	walk   func(n int)   // called before Transfer takes the records of a zone, for the nth time
	walked func(n int)   // called after that
	asked  int           // calls of SOA
	pause  time.Duration // before the first record of a transfer
	walks  int
}

// zoneOf returns a zone of the file plugin with this SOA serial.
func zoneOf(t testing.TB, name string, serial uint32, records ...string) *file.Zone {
	t.Helper()
	soa := fmt.Sprintf("%s 3600 IN SOA ns.example.net. host.example.net. %d 7200 900 1209600 60", name, serial)
	z, err := file.Parse(strings.NewReader(strings.Join(append([]string{soa}, records...), "\n")), name, "stdin", -1)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// put makes the backend have these records in example.org, with that serial.
func (b *backend) put(t testing.TB, serial uint32, records ...string) {
	t.Helper()
	b.set("example.org.", zoneOf(t, "example.org.", serial, records...))
}

// set makes the backend have z under that name, or no longer, if z is nil.
func (b *backend) set(name string, z *file.Zone) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.zones == nil {
		b.zones = make(map[string]*file.Zone)
	}
	b.zones[name] = z
}

func (b *backend) zone(name string) *file.Zone {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.zones[name]
}

// fail makes SOA return err.
func (b *backend) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.err = err
}

// soa returns the SOA record of a zone, as for primary.Config.
func (b *backend) soa(name string) (*dns.SOA, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.asked++
	if z := b.zones[name]; b.err == nil && z != nil {
		return z.SOA, nil
	}
	return nil, b.err
}

// list returns the zones, as for primary.Config.
func (b *backend) list() map[string]*file.Zone {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := make(map[string]*file.Zone)
	for name, z := range b.zones {
		if all[name] = nil; b.listed {
			all[name] = z
		}
	}
	return all
}

// Transfer implements transfer.Transferer.
func (b *backend) Transfer(name string, serial uint32) (<-chan []dns.RR, error) {
	b.mu.Lock()
	b.walks++
	n, walk, walked := b.walks, b.walk, b.walked
	b.mu.Unlock()
	if walk != nil {
		walk(n)
	}
	b.mu.Lock()
	z, broken, pause := b.zones[name], b.broken, b.pause
	b.mu.Unlock()
	if z == nil || broken != nil {
		return nil, cmpOr(broken, transfer.ErrNotAuthoritative)
	}
	rrs, err := z.Transfer(serial)
	if walked != nil {
		walked(n)
	}
	if pause == 0 || err != nil {
		return rrs, err
	}
	late := make(chan []dns.RR)
	go func() {
		defer close(late)
		time.Sleep(pause)
		for batch := range rrs {
			late <- batch
		}
	}()
	return late, nil
}

func cmpOr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// server is a Primary and what it is tested with.
type server struct {
	*primary.Primary
	resolver *resolver
	backend  *backend

	mu       sync.Mutex
	outcomes map[string]int // of transfers and of NOTIFY messages, by zone
	logged   []string
}

// newServer returns a server for example.org. configure, unless it is nil, changes its configuration. It is stopped when the
// test ends.
func newServer(t testing.TB, r *resolver, b *backend, configure func(*primary.Config)) *server {
	t.Helper()
	s := &server{resolver: r, backend: b, outcomes: make(map[string]int)}
	cfg := primary.Config{
		Zones:    records.Zones{"example.org.": {}},
		Types:    []uint16{dns.TypeA, dns.TypeAAAA},
		Records:  corefile(),
		Backends: []transfer.Transferer{b},
		List:     b.list, SOA: b.soa, Lookup: r.lookup,
		Concurrent: 10, Timeout: 500 * time.Millisecond, Now: time.Now,
		Warn:        func(format string, v ...any) { s.log(format, v...) },
		Limited:     func(_ func(string, ...any), format string, v ...any) { s.log(format, v...) },
		Transferred: func(zone, outcome string) { s.count("transfer " + zone + " " + outcome) },
		Notified:    func(zone, outcome string) { s.count("notify " + zone + " " + outcome) },
	}
	if configure != nil {
		configure(&cfg)
	}
	s.Primary = primary.New(cfg)
	t.Cleanup(s.Stop)
	return s
}

// corefile returns the records of example.org with these owners, targets and a TTL of 100 s.
func corefile(pairs ...string) *records.Records {
	rs := records.New(records.Zones{"example.org.": {}})
	for pair := range slices.Chunk(pairs, 2) {
		rs.Add(pair[0], 100, false, pair[1])
	}
	rs.Seal()
	return rs
}

func (s *server) log(format string, v ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.logged = append(s.logged, fmt.Sprintf(format, v...))
}

// messages returns what was logged.
func (s *server) messages() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Join(s.logged, "\n")
}

func (s *server) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.outcomes[what]++
}

// counted returns how often what was counted.
func (s *server) counted(what string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.outcomes[what]
}

// transferred returns the records of a transfer of example.org, sorted, without the SOA records, and the serial of these.
func (s *server) transferred(t testing.TB) (rrs []string, serial uint32) {
	t.Helper()
	out, err := s.Transfer("example.org.", 0)
	if err != nil {
		t.Fatalf("transfer: %v", err)
	}
	all := slices.Concat(slices.Collect(values(out))...)
	if len(all) < 2 {
		t.Fatalf("transfer without SOA records: %v", all)
	}
	first, ok1 := all[0].(*dns.SOA)
	last, ok2 := all[len(all)-1].(*dns.SOA)
	if !ok1 || !ok2 || first.Serial != last.Serial {
		t.Fatalf("transfer not between two equal SOA records: %v", all)
	}
	return texts(all[1 : len(all)-1]), first.Serial
}

// values yields what comes out of ch.
func values[T any](ch <-chan T) func(func(T) bool) {
	return func(yield func(T) bool) {
		for v := range ch {
			if !yield(v) {
				return
			}
		}
	}
}

// texts returns records in presentation form, sorted.
func texts(rrs []dns.RR) []string {
	out := make([]string, 0, len(rrs))
	for _, rr := range rrs {
		out = append(out, strings.ReplaceAll(rr.String(), "\t", " "))
	}
	slices.Sort(out)
	return out
}

// published returns the serial of example.org that clients get.
func (s *server) published(t testing.TB) uint32 {
	t.Helper()
	return s.Serial(s.backend.zone("example.org.").SOA)
}
