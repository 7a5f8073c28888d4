package backend_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/file"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const soa = "example.org. 3600 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300"

// parseZone returns the zone at origin with the records, and the SOA record of example.org when that is the origin.
func parseZone(t testing.TB, origin string, rrs ...string) *file.Zone {
	t.Helper()
	rrs = append(rrs, strings.Replace(soa, "example.org.", origin, 1))
	z, err := file.Parse(strings.NewReader(strings.Join(rrs, "\n")), origin, "stdin", -1)
	if err != nil {
		t.Fatal(err)
	}
	return z
}

// serve returns the file plugin with the zones.
func serve(zones map[string]*file.Zone) file.File {
	f := file.File{Zones: file.Zones{Z: zones}}
	for name := range zones {
		f.Names = append(f.Names, name)
	}
	return f
}

// zone returns the file plugin with the zone example.org.
func zone(t testing.TB, rrs ...string) file.File {
	return serve(map[string]*file.Zone{"example.org.": parseZone(t, "example.org.", rrs...)})
}

// respond returns a plugin with one response, of which change fills in what is not the usual.
func respond(change func(m *dns.Msg)) plugin.Handler {
	return plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		m := new(dns.Msg).SetReply(r)
		change(m)
		return m.Rcode, w.WriteMsg(m)
	})
}

// tested is a Backend, whose clock and whose next plugin the test moves.
type tested struct {
	*backend.Backend
	mu       sync.Mutex
	now      time.Time
	next     plugin.Handler
	delay    time.Duration // of each query
	queries  []string      // that came since the test took them last
	warnings []string
}

// newBackend returns the Backend for example.org with next. change may be nil.
func newBackend(t testing.TB, next plugin.Handler, change func(*backend.Config)) *tested {
	t.Helper()
	b := &tested{now: time.Now(), next: next}
	cfg := backend.Config{
		Zones: records.Zones{"example.org.": {}}, Timeout: 5 * time.Second, Concurrent: 1000, Size: 1000, Now: b.clock,
		Warn: func(format string, v ...any) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.warnings = append(b.warnings, fmt.Sprintf(format, v...))
		},
	}
	if change != nil {
		change(&cfg)
	}
	b.Backend = backend.New(cfg)
	b.Next = plugin.HandlerFunc(b.serveDNS)
	return b
}

func (b *tested) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.now
}

func (b *tested) advance(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.now = b.now.Add(d)
}

// become replaces the next plugin.
func (b *tested) become(next plugin.Handler) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.next = next
}

func (b *tested) serveDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	b.mu.Lock()
	b.queries = append(b.queries, lookup.Question{Name: r.Question[0].Name, Type: r.Question[0].Qtype}.String())
	next, delay := b.next, b.delay
	b.mu.Unlock()
	time.Sleep(delay)
	return next.ServeDNS(ctx, w, r)
}

// asked checks which queries the next plugin has got since the last call.
func (b *tested) asked(t testing.TB, what string, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if diff := cmp.Diff(want, b.queries); diff != "" {
		t.Errorf("%s: queries (-want +got):\n%s", what, diff)
	}
	b.queries = nil
}

// warned checks which warnings there were since the last call.
func (b *tested) warned(t testing.TB, what string, want ...string) {
	t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if diff := cmp.Diff(want, b.warnings); diff != "" {
		t.Errorf("%s: warnings (-want +got):\n%s", what, diff)
	}
	b.warnings = nil
}

// a returns the question for the A records of name; aaaa and alias those of the other types.
func a(name string) lookup.Question     { return lookup.Question{Name: name, Type: dns.TypeA} }
func aaaa(name string) lookup.Question  { return lookup.Question{Name: name, Type: dns.TypeAAAA} }
func alias(name string) lookup.Question { return lookup.Question{Name: name, Type: rdata.TypeALIAS} }

// targetOf returns the target of al, or "".
func targetOf(al *records.Alias) string {
	return strings.Join(al.Targets(), " ")
}

// text returns the records of a section with single spaces.
func text(rrs []dns.RR) (s []string) {
	for _, rr := range rrs {
		s = append(s, strings.Join(strings.Fields(rr.String()), " "))
	}
	return s
}

// rrs parses records.
func rrs(s ...string) []dns.RR { return upstream.RRs(s...) }
