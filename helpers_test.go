package alias

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/bind" // for Corefiles in tests
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/test"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

const exampleSOA = "example.org. 3600 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300"

const (
	v4 = "192.0.2.1"
	v6 = "2001:db8::1"
)

// good is an upstream where all is well.
// exampleZone is the zone of the aliases in most tests.
var exampleZone = zoneNamed("example.org.")

func zoneNamed(name string) *records.Zone { return &records.Zone{Name: name, Apex: name} }

var good = fake.Zone("target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6)

// clock is a clock that only a test moves.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) Advance(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// parseBlock returns the configuration that the properties make in a block of the given zones.
func parseBlock(zones, properties string) (*config, error) {
	c := caddy.NewTestController("dns", fmt.Sprintf("alias %s {\n%s\n}", zones, properties))
	return parseConfig(c)
}

// newAlias returns a started plugin and its clock. The records have not been looked up.
func newAlias(t testing.TB, zones, properties string, next plugin.Handler) (*Alias, *clock) {
	t.Helper()
	cfg, err := parseBlock(zones, properties)
	if err != nil {
		t.Fatal(err)
	}
	c := &clock{now: time.Now()}
	cfg.now = c.Now
	a := cfg.build()
	a.backend.Next = next
	a.start()
	t.Cleanup(a.stop)
	return a, c
}

// question returns a question, which is shorter than its literal.
func question(name string, qtype uint16) lookup.Question {
	return lookup.Question{Name: name, Type: qtype}
}

// query returns the response of h, or a message with just the returned code when h wrote none.
func query(t testing.TB, h plugin.Handler, name string, qtype uint16) *dns.Msg {
	t.Helper()
	r := new(dns.Msg).SetQuestion(name, qtype)
	r.SetEdns0(1232, false)
	return exchange(t, context.Background(), h, r)
}

func exchange(t testing.TB, ctx context.Context, h plugin.Handler, r *dns.Msg) *dns.Msg {
	t.Helper()
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	rcode, err := h.ServeDNS(ctx, w, r)
	if err != nil {
		t.Fatalf("%v: %v", r.Question, err)
	}
	if w.Msg == nil {
		return new(dns.Msg).SetRcode(r, rcode)
	}
	if !plugin.ClientWrite(rcode) {
		t.Errorf("%v: wrote a response and returned %s", r.Question, dns.RcodeToString[rcode])
	}
	if _, err := w.Msg.Pack(); err != nil {
		t.Errorf("%v: response cannot be packed: %v", r.Question, err)
	}
	return w.Msg
}

// text returns the records of a section, one a line, with single spaces.
func text(rrs []dns.RR) []string {
	var s []string
	for _, rr := range rrs {
		s = append(s, strings.Join(strings.Fields(rr.String()), " "))
	}
	return s
}

func wantText(t testing.TB, what string, got []dns.RR, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, text(got)); diff != "" {
		t.Errorf("%s (-want +got):\n%s", what, diff)
	}
}

// ede returns the Extended DNS Error codes in m.
func ede(m *dns.Msg) []uint16 {
	var codes []uint16
	if opt := m.IsEdns0(); opt != nil {
		for _, o := range opt.Option {
			if e, ok := o.(*dns.EDNS0_EDE); ok {
				codes = append(codes, e.InfoCode)
			}
		}
	}
	return codes
}

// zoneFile returns file serving example.org with the records, and next behind it for other zones.
func zoneFile(t testing.TB, next plugin.Handler, records ...string) *file.File {
	t.Helper()
	z, err := file.Parse(strings.NewReader(strings.Join(append(records, exampleSOA), "\n")), "example.org.", "stdin", -1)
	if err != nil {
		t.Fatal(err)
	}
	return &file.File{Next: next, Zones: file.Zones{Z: map[string]*file.Zone{"example.org.": z}, Names: []string{"example.org."}}}
}

// queryTest is a query and the response it is to get, which is authoritative.
type queryTest struct {
	name       string
	qtype      uint16
	rcode      int
	answer, ns []string
}

func (tc queryTest) check(t *testing.T, h plugin.Handler) {
	m := query(t, h, tc.name, tc.qtype)
	if m.Rcode != tc.rcode {
		t.Errorf("rcode %s, want %s", dns.RcodeToString[m.Rcode], dns.RcodeToString[tc.rcode])
	}
	if !m.Authoritative || !m.Response || m.Truncated || m.RecursionAvailable || !m.RecursionDesired {
		t.Errorf("flags: %v", m.MsgHdr)
	}
	if m.Question[0].Name != tc.name {
		t.Errorf("question %q, want it as asked: %q", m.Question[0].Name, tc.name)
	}
	wantText(t, "answer", m.Answer, tc.answer...)
	wantText(t, "authority", m.Ns, tc.ns...)
}

// withStatus returns a context with metadata, and a function that returns the status that alias set in it.
func withStatus() (context.Context, func() string) {
	ctx := metadata.ContextWithMetadata(context.Background())
	return ctx, func() string {
		if f := metadata.ValueFunc(ctx, "alias/status"); f != nil {
			return f()
		}
		return "none"
	}
}

// counted returns by how much do makes the counter grow.
func counted(t testing.TB, c prometheus.Collector, do func()) float64 {
	t.Helper()
	before := testutil.ToFloat64(c)
	do()
	return testutil.ToFloat64(c) - before
}

// answered returns the counter of answers with a status, for queries without a server.
func answered(s status) prometheus.Collector {
	count := func() float64 { return float64(answersCount.of("", "example.org.")[s].Load()) }
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "answers"}, count)
}
