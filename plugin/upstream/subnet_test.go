package upstream_test

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/upstream"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// about returns question for the clients of prefix.
func about(prefix string) lookup.Question {
	p := netip.MustParsePrefix(prefix)
	return question.For(lookup.NetworkOf(p.Addr(), p.Bits()))
}

// resolveScope returns the scope of the answer to q, and the outcome of a failure.
func resolveScope(t *testing.T, us *upstream.Upstreams, q lookup.Question, attempts int) (scope int, outcome string) {
	t.Helper()
	o, err := us.Resolve(context.Background(), q, attempts)
	if err != nil {
		return -1, failure(t, err).Outcome
	}
	if got := int(o.Scope); o.Exact && got != q.Net.Bits() {
		t.Errorf("exact, with scope %d", got)
	}
	return int(o.Scope), ""
}

// An answer is exact when the scope is longer than what was sent, or not known.
func TestExact(t *testing.T) {
	t.Parallel()
	h := &fake.ByNetwork{TTL: 300}
	us, _ := start(t, patient, fake.New(t, h.ServeDNS).Addr)
	for _, tc := range []struct {
		scope int
		exact bool
	}{{0, false}, {16, false}, {17, true}, {32, true}, {-1, true}} {
		h.Scope(tc.scope)
		o, err := us.Resolve(context.Background(), about("192.0.0.0/16"), 1)
		if err != nil || o.Exact != tc.exact || int(o.Scope) > 16 {
			t.Errorf("scope %d: %+v, %v", tc.scope, o, err)
		}
		if o, err := us.Resolve(context.Background(), question, 1); err != nil || o.Exact || o.Scope != 0 {
			t.Errorf("everybody: %+v, %v", o, err)
		}
	}
}

// An upstream gets the network of the question, and nothing about clients that are in none.
func TestNetworkIsSent(t *testing.T) {
	t.Parallel()
	h := &fake.ByNetwork{TTL: 300}
	h.Scope(24)
	us, _ := start(t, patient, fake.New(t, h.ServeDNS).Addr)
	for _, prefix := range []string{"192.0.2.0/24", "192.0.0.0/17", "128.0.0.0/1", "192.0.2.1/32", "2001:db8:1:200::/56", "2001:db8::1/128", "8000::/1",
		"::ffff:192.0.2.0/120"} {
		resolve(t, us, about(prefix), 1)
		if diff := cmp.Diff(fmt.Sprint([]string{prefix}), fmt.Sprint(h.Asked())); diff != "" {
			t.Errorf("-want +got:\n%s", diff)
		}
	}
	resolve(t, us, question, 1) // the query may be one that had an option before
	if asked := h.Asked(); len(asked) != 1 || asked[0].IsValid() {
		t.Errorf("a query for everybody: %v", asked)
	}
}

// The scope is that of the response, but not longer than what was sent. Without the option it is 0, unless the upstream has
// sent it before: then it is not known, and the answer is for the network of the question.
func TestScope(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		prefix      string
		scope, want int
		again       int // after a response with the option
	}{
		{"192.0.2.0/24", 0, 0, 0}, {"192.0.2.0/24", 8, 8, 8}, {"192.0.2.0/24", 24, 24, 24}, {"192.0.2.0/24", 32, 24, 24}, {"192.0.2.0/24", -1, 0, 24},
		{"2001:db8::/56", 0, 0, 0}, {"2001:db8::/56", 48, 48, 48}, {"2001:db8::/56", 56, 56, 56}, {"2001:db8::/56", 128, 56, 56}, {"2001:db8::/56", -1, 0, 56},
	} {
		h := &fake.ByNetwork{TTL: 300}
		us, _ := start(t, patient, fake.New(t, h.ServeDNS).Addr)
		h.Scope(tc.scope)
		for i := range 2 {
			if scope, outcome := resolveScope(t, us, about(tc.prefix), 1); scope != tc.want {
				t.Errorf("%s, scope %d of the response, lookup %d: %d %s", tc.prefix, tc.scope, i, scope, outcome)
			}
		}
		if scope, outcome := resolveScope(t, us, question, 1); scope != 0 { // a question for everybody has none
			t.Errorf("everybody: %d %s", scope, outcome)
		}
		h.Scope(0)
		resolveScope(t, us, about(tc.prefix), 1)
		h.Scope(tc.scope)
		if scope, outcome := resolveScope(t, us, about(tc.prefix), 1); scope != tc.again {
			t.Errorf("%s, scope %d of the response, after one of 0: %d %s", tc.prefix, tc.scope, scope, outcome)
		}
	}
}

// subnetted returns a handler that changes the option of the good response, with scope 24.
func subnetted(change func(s *dns.EDNS0_SUBNET)) fake.Handler {
	return func(w dns.ResponseWriter, r *dns.Msg) {
		respond(func(m *dns.Msg) {
			if s := fake.Subnet(r); s != nil {
				option := *s
				option.Address = slices.Clone(s.Address)
				option.SourceScope = 24
				change(&option)
				m.SetEdns0(1232, false)
				m.IsEdns0().Option = []dns.EDNS0{&option}
			}
		})(w, r)
	}
}

// A response for another network than that of the query is dropped (RFC 7871, section 7.3).
func TestResponseForAnotherNetwork(t *testing.T) {
	t.Parallel()
	for _, prefix := range []string{"192.0.2.0/24", "2001:db8::/56"} {
		for name, tc := range map[string]struct {
			change func(s *dns.EDNS0_SUBNET)
			want   string
		}{
			"the same":         {func(*dns.EDNS0_SUBNET) {}, ""},
			"another network":  {func(s *dns.EDNS0_SUBNET) { s.Address[map[uint16]int{1: 13, 2: 1}[s.Family]]++ }, "mismatch"},
			"a longer prefix":  {func(s *dns.EDNS0_SUBNET) { s.SourceNetmask++ }, "mismatch"},
			"a shorter prefix": {func(s *dns.EDNS0_SUBNET) { s.SourceNetmask -= 8 }, "mismatch"},
			"no prefix":        {func(s *dns.EDNS0_SUBNET) { s.SourceNetmask = 0 }, "mismatch"},
			"the other family": {func(s *dns.EDNS0_SUBNET) {
				if s.Family = 3 - s.Family; s.Family == 1 {
					s.Address, s.SourceNetmask = s.Address[:4], 24
				} else {
					s.Address = append(make([]byte, 12), s.Address[len(s.Address)-4:]...)
				}
			}, "mismatch"},
			"no family": {func(s *dns.EDNS0_SUBNET) { s.Family, s.SourceNetmask = 0, 0 }, "mismatch"},
		} {
			us, reports := start(t, patient, fake.New(t, subnetted(tc.change)).Addr)
			scope, outcome := resolveScope(t, us, about(prefix), 1)
			if outcome != tc.want || tc.want == "" && scope != 24 {
				t.Errorf("%s, %s: scope %d, %s", prefix, name, scope, outcome)
			}
			if got := reports.outcomes(); tc.want != "" && !slices.Equal(got, []string{tc.want}) {
				t.Errorf("%s, %s: reports %v", prefix, name, got)
			}
		}
	}
}

// On a chain of several requests each has the network, and the longest scope counts.
func TestScopeOfAChain(t *testing.T) {
	t.Parallel()
	part := func(scope uint8, records ...string) fake.Handler {
		return func(w dns.ResponseWriter, r *dns.Msg) {
			m := new(dns.Msg).SetReply(r)
			m.Answer = fake.RRs(records...)
			if s := fake.Subnet(r); s != nil {
				s.SourceScope = scope
				m.SetEdns0(1232, false)
				m.IsEdns0().Option = []dns.EDNS0{s}
			}
			w.WriteMsg(m)
		}
	}
	for _, tc := range []struct {
		scopes [3]uint8
		want   int
	}{
		{[3]uint8{0, 0, 0}, 0}, {[3]uint8{24, 16, 0}, 24}, {[3]uint8{0, 16, 8}, 16}, {[3]uint8{0, 0, 32}, 24},
	} {
		us, _ := start(t, patient, fake.New(t, byName(map[string]fake.Handler{
			"target.example.": part(tc.scopes[0], "target.example. 300 IN CNAME b.example."),
			"b.example.":      part(tc.scopes[1], "b.example. 300 IN CNAME c.example."),
			"c.example.":      part(tc.scopes[2], "c.example. 300 IN A 192.0.2.1"),
		})).Addr)
		if scope, outcome := resolveScope(t, us, about("192.0.2.0/24"), 1); scope != tc.want {
			t.Errorf("%v: scope %d, %s", tc.scopes, scope, outcome)
		}
	}
}

// An upstream that refuses the option is asked again without it, in the same attempt, and the operator is warned. The
// answer is for everybody.
func TestOptionRefused(t *testing.T) {
	t.Parallel()
	for name, refusal := range map[string]fake.Handler{
		"FORMERR": fake.Rcode(dns.RcodeFormatError), "NOTIMP": fake.Rcode(dns.RcodeNotImplemented), "REFUSED": fake.Rcode(dns.RcodeRefused),
		"BADVERS": extended(dns.RcodeBadVers),
	} {
		var with, without atomic.Int64
		us, reports := start(t, patient, fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
			if fake.Subnet(r) != nil {
				with.Add(1)
				refusal(w, r)
				return
			}
			without.Add(1)
			good(w, r)
		}).Addr)
		if scope, outcome := resolveScope(t, us, about("192.0.2.0/24"), 1); scope != 0 {
			t.Errorf("%s: scope %d, %s", name, scope, outcome)
		}
		if with.Load() != 1 || without.Load() != 1 {
			t.Errorf("%s: %d queries with the option, %d without", name, with.Load(), without.Load())
		}
		if len(reports.warnings) != 1 || !strings.Contains(reports.warnings[0], name+" to queries with a client subnet") {
			t.Errorf("%s: warnings %q", name, reports.warnings)
		}
	}
}

// An upstream that refuses whatever it is asked is not blamed for the option.
func TestAllRefused(t *testing.T) {
	t.Parallel()
	up := fake.New(t, fake.Rcode(dns.RcodeRefused))
	us, reports := start(t, patient, up.Addr)
	if _, outcome := resolveScope(t, us, about("192.0.2.0/24"), 1); outcome != "refused" || up.AskedAll() != 2 {
		t.Errorf("%s, %d queries", outcome, up.AskedAll())
	}
	if len(reports.warnings) > 0 {
		t.Errorf("warnings %q", reports.warnings)
	}
}

// An upstream that refuses EDNS itself gets queries without it, and its answers are for everybody.
func TestEDNSRefusedWithNetwork(t *testing.T) {
	t.Parallel()
	h, queries, _ := withOPT(fake.Rcode(dns.RcodeFormatError), good)
	us, _ := start(t, patient, fake.New(t, h).Addr)
	for i := range 3 {
		if scope, outcome := resolveScope(t, us, about("192.0.2.0/24"), 1); scope != 0 {
			t.Errorf("lookup %d: scope %d, %s", i, scope, outcome)
		}
	}
	if n := queries.Load(); n != 2 { // with the network, and with EDNS alone
		t.Errorf("%d queries with EDNS", n)
	}
}

// When a packet is lost, the next query is one without EDNS, and thus without the network: its answer says nothing about other
// networks.
func TestScopeAfterALostPacket(t *testing.T) {
	t.Parallel()
	h, _, plain := withOPT(silent, good)
	us, _ := start(t, short, fake.New(t, h).Addr)
	for prefix, want := range map[string]int{"192.0.2.0/24": 24, "2001:db8::/56": 56} {
		if scope, outcome := resolveScope(t, us, about(prefix), 2); scope != want {
			t.Errorf("%s: scope %d, %s", prefix, scope, outcome)
		}
	}
	if n := plain.Load(); n != 2 {
		t.Errorf("%d queries without EDNS", n)
	}
}

// A response whose option cannot be parsed is asked for again without EDNS, and that answer says nothing about other networks.
func TestMalformedOptionOfAResponse(t *testing.T) {
	t.Parallel()
	for name, data := range map[string][]byte{
		"too short":               {0, 1, 24},
		"a prefix of 33 bits":     {0, 1, 33, 0, 192, 0, 2, 0},
		"a scope of 129 bits":     {0, 2, 56, 129, 0x20, 1, 0xd, 0xb8, 0, 0, 0},
		"family 3":                {0, 3, 24, 24, 192, 0, 2},
		"no family with a prefix": {0, 0, 24, 24, 192, 0, 2},
	} {
		h, _, plain := withOPT(respond(func(m *dns.Msg) {
			m.SetEdns0(1232, false)
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0SUBNET, Data: data}}
		}), good)
		us, _ := start(t, patient, fake.New(t, h).Addr)
		if scope, outcome := resolveScope(t, us, about("192.0.2.0/24"), 1); scope != 24 || plain.Load() != 1 {
			t.Errorf("%s: scope %d, %s, %d queries without EDNS", name, scope, outcome, plain.Load())
		}
	}
}
