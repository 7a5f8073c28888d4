package alias

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	_ "github.com/coredns/coredns/plugin/auto" // for Corefiles in tests

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// questions are those that reach the backend of a server block in which count is a directive, after alias.
var questions countedQuestions

func init() {
	dnsserver.Directives = append(dnsserver.Directives, "count")
	caddy.RegisterPlugin("count", caddy.Plugin{ServerType: "dns", Action: func(c *caddy.Controller) error {
		c.Next()
		block := dnsserver.GetConfig(c)
		c.OnStartup(func() error { // the directive comes after alias, which knows its backend by now
			a := block.Handler("alias").(*Alias)
			a.backend.Next = countingHandler{a.backend.Next}
			if a.backend.ByName != nil {
				a.backend.ByName = countingHandler{a.backend.ByName}
			}
			return nil
		})
		return nil
	}})
}

type countedQuestions struct {
	mu  sync.Mutex
	all []string
}

func (qs *countedQuestions) add(q string) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	qs.all = append(qs.all, q)
}

// take returns the questions since the last call.
func (qs *countedQuestions) take() []string {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	all := qs.all
	qs.all = nil
	return all
}

// countingHandler counts the questions for a backend, and hands them on.
type countingHandler struct{ plugin.Handler }

func (h countingHandler) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	questions.add(lookup.Question{Name: r.Question[0].Name, Type: r.Question[0].Qtype}.String())
	return h.Handler.ServeDNS(ctx, w, r)
}

const coldZone = exampleSOA + `
example.org.        60 IN NS    ns.example.org.
ns.example.org.     60 IN A     192.0.2.53
own.example.org.    60 IN A     192.0.2.2
own.example.org.    60 IN AAAA  2001:db8::2
empty.example.org.  60 IN TXT   "no address"
to.example.org.     60 IN CNAME www.example.org.
www.example.org.    60 IN ALIAS target.example.
inside.example.org. 60 IN ALIAS own.example.org.
void.example.org.   60 IN ALIAS empty.example.org.
none.example.org.   60 IN ALIAS v4only.example.
dead.example.org.   60 IN ALIAS dead.example.
*.w.example.org.    60 IN ALIAS target.example.
`

// The first query for an alias causes at most three questions to the backend, with that of the client. Where it leads from one
// name inside ZONES to another, these are at most four.
func TestFirstQuery(t *testing.T) {
	zone := fake.Zone("target.example. 300 IN A "+v4, "target.example. 300 IN AAAA "+v6, "v4only.example. 300 IN A "+v4)
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "dead.example." {
			fake.Rcode(dns.RcodeServerFailure)(w, r)
			return
		}
		zone(w, r)
	})
	const apexALIAS, apexCNAME = "example.org. 60 IN ALIAS target.example.\n", "example.org. 60 IN CNAME target.example.\n"
	for _, tc := range []struct {
		what       string
		zones      string // of alias
		properties string
		zone       string
		name       string
		v4, v6     []string // the answers
		asked      []string // %s stands for the type of the query
		most       int      // questions, instead of three
	}{
		{what: "apex", zone: apexALIAS, name: "example.org.", v4: []string{v4}, v6: []string{v6},
			asked: []string{"example.org. %s", "example.org. ALIAS"}},
		{what: "below the apex", name: "www.example.org.", v4: []string{v4}, v6: []string{v6},
			asked: []string{"www.example.org. %s", "www.example.org. ALIAS"}},
		{what: "wildcard", name: "x.w.example.org.", v4: []string{v4}, v6: []string{v6},
			asked: []string{"x.w.example.org. %s", "x.w.example.org. ALIAS"}},
		{what: "target without AAAA", name: "none.example.org.", v4: []string{v4},
			asked: []string{"none.example.org. %s", "none.example.org. ALIAS"}},
		{what: "target that fails", name: "dead.example.org.",
			asked: []string{"dead.example.org. %s", "dead.example.org. ALIAS"}},
		{what: "target inside ZONES", name: "inside.example.org.", v4: []string{"192.0.2.2"}, v6: []string{"2001:db8::2"},
			asked: []string{"inside.example.org. %s", "inside.example.org. ALIAS", "own.example.org. %s"}},
		{what: "target inside ZONES without addresses", name: "void.example.org.", most: 4, // it may be an alias too
			asked: []string{"void.example.org. %s", "void.example.org. ALIAS", "empty.example.org. %s", "empty.example.org. ALIAS"}},
		{what: "NODATA, no alias", name: "empty.example.org.",
			asked: []string{"empty.example.org. %s", "empty.example.org. ALIAS"}},
		{what: "NODATA, flatten", properties: "flatten all", name: "empty.example.org.",
			asked: []string{"empty.example.org. %s", "empty.example.org. ALIAS", "empty.example.org. %s"}},
		{what: "CNAME to an alias", name: "to.example.org.", v4: []string{v4}, v6: []string{v6},
			asked: []string{"to.example.org. %s", "www.example.org. %s", "www.example.org. ALIAS"}},
		{what: "CNAME to an alias, flatten apex", properties: "flatten apex", name: "to.example.org.", v4: []string{v4}, v6: []string{v6},
			most: 4, asked: []string{"to.example.org. %s", "to.example.org. SOA", "www.example.org. %s", "www.example.org. ALIAS"}},
		{what: "CNAME to an alias, flatten all", properties: "flatten all", name: "to.example.org.", v4: []string{v4}, v6: []string{v6},
			asked: []string{"to.example.org. %s", "www.example.org. %s", "www.example.org. ALIAS"}},
		{what: "CNAME at the apex", properties: "flatten apex", zone: apexCNAME, name: "example.org.", v4: []string{v4}, v6: []string{v6},
			asked: []string{"example.org. %s"}},
		{what: "CNAME at the apex, zone below ZONES", zones: "org", properties: "flatten apex", zone: apexCNAME, name: "example.org.",
			v4: []string{v4}, v6: []string{v6}, asked: []string{"example.org. %s", "example.org. SOA"}},
		{what: "ALIAS at the apex, flatten", properties: "flatten apex", zone: apexALIAS, name: "example.org.", v4: []string{v4}, v6: []string{v6},
			asked: []string{"example.org. %s", "example.org. ALIAS"}},
		{what: "record at the apex", properties: "record @ target.example", name: "example.org.", v4: []string{v4}, v6: []string{v6}},
	} {
		for kind, start := range map[string]func(t *testing.T, zone, block string) *caddy.Instance{
			"file": startFile, "auto": startAuto, "secondary": startSecondary,
		} {
			for qtype, want := range map[uint16][]string{dns.TypeA: tc.v4, dns.TypeAAAA: tc.v6} {
				t.Run(strings.Join([]string{tc.what, kind, dns.TypeToString[qtype]}, "/"), func(t *testing.T) {
					i := start(t, coldZone+tc.zone, fmt.Sprintf("alias %s {\ntimeout 200ms\n%s\nupstream %s\n}", tc.zones, tc.properties, up.Addr))
					questions.take()
					m, err := dns.Exchange(new(dns.Msg).SetQuestion(tc.name, qtype), i.Servers()[0].LocalAddr().String())
					if err != nil || m.Rcode != dns.RcodeSuccess || !slices.Equal(addressesIn(m), want) {
						t.Errorf("%v, and as the answer:\n%v", err, m)
					}
					var asked []string
					for _, q := range tc.asked {
						asked = append(asked, strings.ReplaceAll(q, "%s", dns.TypeToString[qtype]))
					}
					got := questions.take()
					if diff := gocmp.Diff(asked, got); diff != "" || len(got) > cmp.Or(tc.most, 3) {
						t.Errorf("%d questions (-want +got):\n%s", len(got), diff)
					}
				})
			}
		}
	}
}

// addressesIn returns the addresses in the answer section of m.
func addressesIn(m *dns.Msg) (addrs []string) {
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			addrs = append(addrs, rr.A.String())
		case *dns.AAAA:
			addrs = append(addrs, rr.AAAA.String())
		}
	}
	return addrs
}

// startFile starts a server block with file, which has the zone, and the directives.
func startFile(t *testing.T, zone, directives string) *caddy.Instance {
	return startCounted(t, directives+"\nfile "+writeZone(t, zone)+"\ncount")
}

// startAuto is startFile with auto.
func startAuto(t *testing.T, zone, directives string) *caddy.Instance {
	return startCounted(t, fmt.Sprintf("%s\nauto {\ndirectory %s\n}\ncount", directives, filepath.Dir(writeZone(t, zone))))
}

// startSecondary is startFile with secondary, and a server that is the primary.
func startSecondary(t *testing.T, zone, directives string) *caddy.Instance {
	primary := startCounted(t, "transfer {\nto *\n}\nfile "+writeZone(t, zone))
	return startCounted(t, fmt.Sprintf("%s\nsecondary {\ntransfer from %s\n}\ncount", directives, primary.Servers()[0].Addr()))
}

// writeZone writes the zone example.org to a file, and returns its path.
func writeZone(t *testing.T, zone string) string {
	path := filepath.Join(t.TempDir(), "db.example.org")
	if err := os.WriteFile(path, []byte(zone), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startCounted starts a server block, and waits until it has its zone.
func startCounted(t *testing.T, directives string) *caddy.Instance {
	i := startServers(t, input(directives))
	t.Cleanup(func() { stopServers(t, i) })
	wait(t, 10*time.Second, "there is no zone", func() bool {
		m, err := dns.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeNS), i.Servers()[0].LocalAddr().String())
		return err == nil && len(m.Answer) == 1
	})
	return i
}
