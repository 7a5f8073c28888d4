package alias

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	_ "github.com/coredns/coredns/plugin/cache" // for Corefiles in tests

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// prefix parses a prefix. "" stands for none.
func prefix(text string) netip.Prefix {
	if text == "" {
		return netip.Prefix{}
	}
	return netip.MustParsePrefix(text)
}

// askFrom queries h as a client that tells its prefix; "" stands for a query without the option. It returns the first
// address, the status, and the scope of the response, -1 without the option.
func askFrom(t testing.TB, a *Alias, name string, qtype uint16, from string) (addr, status string, scope int) {
	t.Helper()
	r := new(dns.Msg).SetQuestion(name, qtype)
	r.SetEdns0(1232, false)
	if from != "" {
		fake.WithSubnet(r, prefix(from))
	}
	ctx, statusOf := withStatus()
	m := exchange(t, ctx, a, r)
	scope = -1
	if s := fake.Subnet(m); s != nil {
		scope = int(s.SourceScope)
	}
	return firstAddress(m), statusOf(), scope
}

func firstAddress(m *dns.Msg) string {
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			return rr.A.String()
		case *dns.AAAA:
			return rr.AAAA.String()
		}
	}
	return ""
}

// subnetServer starts a server with client_subnet for an upstream, and returns its addresses by network.
func subnetServer(t *testing.T, properties string) map[string]string {
	t.Helper()
	zone := filepath.Join(t.TempDir(), "zone")
	if err := os.WriteFile(zone, []byte(exampleSOA+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	i := startServers(t, input("alias {\nrecord @ target.example\n"+properties+"\n}\nfile "+zone))
	t.Cleanup(func() { stopServers(t, i) })
	s := i.Servers()[0]
	return map[string]string{"udp": s.LocalAddr().String(), "tcp": s.Addr().String()}
}

// The upstream gets the network, cut to the configured length. The response repeats the option and has the scope of the
// answer, and clients outside of that get another answer (RFC 7871, sections 7.2.1 and 7.3).
func TestClientSubnet(t *testing.T) {
	for _, tc := range []struct {
		properties string
		from       string
		scope      int    // of the upstream
		asked      string // the network that the upstream gets
		answered   string // the network whose answer the client gets
		want       int    // the scope of the response
		near       string // a client who gets the same answer, without a lookup
		far        string // a client who does not
	}{
		{"client_subnet", "192.0.2.0/24", 24, "192.0.2.0/24", "192.0.2.0/24", 24, "192.0.2.128/25", "192.0.3.0/24"},
		{"client_subnet", "192.0.2.1/32", 24, "192.0.2.0/24", "192.0.2.0/24", 24, "192.0.2.255/32", "192.0.3.0/24"},
		{"client_subnet", "192.0.2.0/24", 8, "192.0.2.0/24", "192.0.0.0/8", 8, "192.255.0.0/16", "193.0.0.0/24"},
		{"client_subnet", "192.0.2.0/24", 0, "192.0.2.0/24", "0.0.0.0/0", 0, "2001:db8::/56", ""},
		{"client_subnet", "192.0.2.0/24", 32, "192.0.2.0/24", "192.0.2.0/24", 24, "192.0.2.7/32", "192.0.3.0/24"}, // longer than the source
		{"client_subnet", "192.0.2.0/24", -1, "192.0.2.0/24", "", 0, "198.51.100.0/24", ""},                       // no option in the response
		{"client_subnet", "192.0.0.0/16", 24, "192.0.0.0/16", "192.0.0.0/16", 16, "192.0.0.0/16", "192.0.3.0/24"}, // which may have its own
		{"client_subnet", "128.0.0.0/1", 24, "128.0.0.0/1", "128.0.0.0/1", 1, "128.0.0.0/1", "192.0.2.0/24"},
		{"client_subnet 16", "192.0.2.0/24", 24, "192.0.0.0/16", "192.0.0.0/16", 16, "192.0.3.0/24", "192.1.0.0/24"},
		{"client_subnet 32 128", "192.0.2.7/32", 32, "192.0.2.7/32", "192.0.2.7/32", 32, "192.0.2.7/32", "192.0.2.0/24"},
		{"client_subnet", "2001:db8:102:300::/56", 56, "2001:db8:102:300::/56", "2001:db8:102:300::/56", 56, "2001:db8:102:3ff::/64", "2001:db8:102:400::/56"},
		{"client_subnet", "2001:db8:102:300::/64", 48, "2001:db8:102:300::/56", "2001:db8:102::/48", 48, "2001:db8:102:ff00::/56", "2001:db8:103::/56"},
		{"client_subnet", "2001:db8:102:300::1/128", 128, "2001:db8:102:300::/56", "2001:db8:102:300::/56", 56, "2001:db8:102:3ff::/64", "2001:db8:102:400::/56"},
		{"client_subnet 24 32", "2001:db8:102:300::1/128", 32, "2001:db8::/32", "2001:db8::/32", 32, "2001:db8:ffff::/48", "2001:db9::/56"},
		{"client_subnet 0", "192.0.2.0/24", 24, "", "", 0, "198.51.100.0/24", ""},
		{"client_subnet 24 0", "2001:db8::/56", 24, "", "", 0, "2001:db9::/56", ""},
	} {
		for network := range map[string]bool{"udp": true, "tcp": true} {
			t.Run(fmt.Sprintf("%s/%s/%s/%d", network, tc.properties, tc.from, tc.scope), func(t *testing.T) {
				h := &fake.ByNetwork{TTL: 300}
				h.Scope(tc.scope)
				up := fake.New(t, h.ServeDNS)
				addrs := subnetServer(t, tc.properties+"\nupstream "+up.Addr)
				wait(t, 10*time.Second, "the lookups at the start are not over", func() bool {
					return up.Asked("target.example.", dns.TypeAAAA) > 0 && up.Asked("target.example.", dns.TypeA) > 0
				})
				time.Sleep(50 * time.Millisecond) // for their responses
				h.Asked()

				send := func(from string) *dns.Msg {
					t.Helper()
					r := fake.WithSubnet(new(dns.Msg).SetQuestion("example.org.", dns.TypeA), prefix(from))
					client := dns.Client{Net: network}
					m, _, err := client.Exchange(r, addrs[network])
					if err != nil || len(m.Answer) != 1 {
						t.Fatalf("%v: %v", err, m)
					}
					return m
				}
				m := send(tc.from)
				if want := fake.AddressFor(prefix(tc.answered), dns.TypeA).String(); firstAddress(m) != want {
					t.Errorf("address %s, want %s", firstAddress(m), want)
				}
				if diff := cmp.Diff(wantAsked(tc.asked), fmt.Sprint(h.Asked())); diff != "" {
					t.Errorf("asked (-want +got):\n%s", diff)
				}
				want := fake.Subnet(fake.WithSubnet(new(dns.Msg), prefix(tc.from)))
				got := fake.Subnet(m)
				if got == nil || got.Family != want.Family || got.SourceNetmask != want.SourceNetmask || !got.Address.Equal(want.Address) ||
					int(got.SourceScope) != tc.want {
					t.Errorf("option %v, want %v with scope %d", got, want, tc.want)
				}
				if near := send(tc.near); firstAddress(near) != firstAddress(m) || len(h.Asked()) != 0 {
					t.Errorf("a client of %s got %s", tc.near, firstAddress(near))
				}
				if tc.far == "" {
					return
				}
				if far := send(tc.far); len(h.Asked()) != 1 { // the address may be the same
					t.Errorf("a client of %s got %s", tc.far, firstAddress(far))
				}
			})
		}
	}
}

// wantAsked returns the text of a list of that network, or of none.
func wantAsked(network string) string {
	if network == "" {
		return "[]"
	}
	return "[" + network + "]"
}

// Nothing of a client goes to the upstream that does not want it, that says nothing, or that does not use EDNS (RFC 7871,
// section 7.1.2).
func TestNothingOfTheClient(t *testing.T) {
	h := &fake.ByNetwork{TTL: 300}
	h.Scope(24)
	a, _ := newAlias(t, "example.org", "record @ target.example\nclient_subnet\nupstream "+fake.New(t, h.ServeDNS).Addr, nil)
	everybody := fake.AddressFor(netip.Prefix{}, dns.TypeA).String()
	for _, option := range []*dns.EDNS0_SUBNET{
		{Code: dns.EDNS0SUBNET, Family: 1, Address: make(net.IP, 4)},
		{Code: dns.EDNS0SUBNET, Family: 2, Address: make(net.IP, 16)},
		{Code: dns.EDNS0SUBNET, Family: 0, Address: make(net.IP, 4)}, // as dig +subnet=0
		nil,
	} {
		a.cache.entries.Remove(target)
		r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
		r.SetEdns0(1232, false)
		if option != nil {
			r.IsEdns0().Option = []dns.EDNS0{option}
		}
		m := exchange(t, context.Background(), a, r)
		if asked := h.Asked(); len(asked) != 1 || asked[0].IsValid() || firstAddress(m) != everybody {
			t.Errorf("%v: asked %v, got %s", option, asked, firstAddress(m))
		}
		switch s := fake.Subnet(m); {
		case option == nil && s != nil:
			t.Errorf("an option in the response: %v", s)
		case option != nil && (s == nil || s.Family != option.Family || s.SourceNetmask != 0 || s.SourceScope != 0):
			t.Errorf("%v: the response has %v", option, s)
		}
	}
	m := exchange(t, context.Background(), a, new(dns.Msg).SetQuestion("example.org.", dns.TypeA))
	if m.IsEdns0() != nil || firstAddress(m) != everybody {
		t.Errorf("without EDNS: %v", m)
	}
}

// A malformed option gets FORMERR (RFC 7871, section 7.1.2), and no lookup. Other malformed options are refused by the DNS
// library.
func TestMalformedOption(t *testing.T) {
	for name, option := range map[string]*dns.EDNS0_SUBNET{
		"scope":                  {Family: 1, SourceNetmask: 24, SourceScope: 24, Address: net.IP{192, 0, 2, 0}},
		"scope without a prefix": {Family: 1, SourceScope: 1, Address: net.IP{0, 0, 0, 0}},
		"scope without a family": {Family: 0, SourceScope: 1},
		"bits beyond":            {Family: 1, SourceNetmask: 23, Address: net.IP{192, 0, 3, 0}},
		"bits beyond, IPv6":      {Family: 2, SourceNetmask: 55, Address: net.ParseIP("2001:db8:0:100::")},
		"no prefix, but bits":    {Family: 1, Address: net.IP{192, 0, 2, 0}},
		"unknown family":         {Family: 3, SourceNetmask: 8, Address: net.IP{192, 0, 0, 0}},
		"too long":               {Family: 1, SourceNetmask: 33, Address: net.IP{192, 0, 2, 0}},
		"too long, IPv6":         {Family: 2, SourceNetmask: 129, Address: net.ParseIP("2001:db8::")},
	} {
		for _, owner := range []string{"example.org.", "www.example.org."} { // the latter is a CNAME record to the alias
			h := &fake.ByNetwork{TTL: 300}
			a, _ := newAlias(t, "example.org", "record @ target.example\nclient_subnet\nupstream "+fake.New(t, h.ServeDNS).Addr,
				zoneFile(t, nil, "www.example.org. 300 IN CNAME example.org."))
			option.Code = dns.EDNS0SUBNET
			r := new(dns.Msg).SetQuestion(owner, dns.TypeA)
			r.SetEdns0(1232, false)
			r.IsEdns0().Option = []dns.EDNS0{option}
			w := &recorder{}
			rcode, err := a.ServeDNS(context.Background(), w, r)
			if w.m != nil {
				rcode = w.m.Rcode
			}
			if err != nil || rcode != dns.RcodeFormatError || len(h.Asked()) > 0 {
				t.Errorf("%s, %s: %s, %v", name, owner, dns.RcodeToString[rcode], err)
			}
		}
	}
}

// Without the property the option is not looked at.
func TestWithoutClientSubnet(t *testing.T) {
	h := &fake.ByNetwork{TTL: 300}
	a, _ := newAlias(t, "example.org", "record @ target.example\nupstream "+fake.New(t, h.ServeDNS).Addr, nil)
	addr, _, scope := askFrom(t, a, "example.org.", dns.TypeA, "192.0.2.0/24")
	if asked := h.Asked(); len(asked) != 1 || asked[0].IsValid() || scope != -1 || addr != "10.0.0.255" {
		t.Errorf("asked %v, got %s with scope %d", asked, addr, scope)
	}
}

// Negative answers, failures and this server's own data have scope 0; a CNAME record of the zone that leads to the alias
// has its scope.
func TestScopeOfTheResponse(t *testing.T) {
	h := &fake.ByNetwork{TTL: 300}
	h.Scope(24)
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		switch {
		case strings.HasPrefix(r.Question[0].Name, "down."):
			fake.Rcode(dns.RcodeServerFailure)(w, r)
		case r.Question[0].Name != "gone.example.":
			h.ServeDNS(w, r)
		default:
			m := new(dns.Msg).SetRcode(r, dns.RcodeNameError)
			if s := fake.Subnet(r); s != nil {
				s.SourceScope = 24
				m.SetEdns0(1232, false).IsEdns0().Option = []dns.EDNS0{s}
			}
			w.WriteMsg(m)
		}
	})
	a, _ := newAlias(t, "example.org", "record @ target.example\nrecord inside own.example.org\nrecord gone gone.example\nrecord down down.example\n"+
		"retries 0\nclient_subnet\nupstream "+up.Addr,
		zoneFile(t, nil, "own.example.org. 300 IN A 192.0.2.80", "www.example.org. 300 IN CNAME example.org."))
	for _, tc := range []struct {
		name, addr string
		scope      int
	}{
		{"example.org.", "11.192.0.2", 24}, {"www.example.org.", "11.192.0.2", 24}, {"inside.example.org.", "192.0.2.80", 0},
		{"gone.example.org.", "", 0}, {"down.example.org.", "", 0},
	} {
		if addr, status, scope := askFrom(t, a, tc.name, dns.TypeA, "192.0.2.0/24"); addr != tc.addr || scope != tc.scope {
			t.Errorf("%s: %s, %s, scope %d", tc.name, status, addr, scope)
		}
	}
}

// With several targets, the longest scope counts.
func TestScopeOfSeveralTargets(t *testing.T) {
	near, far := &fake.ByNetwork{TTL: 300}, &fake.ByNetwork{TTL: 300}
	near.Scope(24)
	far.Scope(8)
	up := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "near.example." {
			near.ServeDNS(w, r)
		} else {
			far.ServeDNS(w, r)
		}
	})
	a, _ := newAlias(t, "example.org", "record @ far.example near.example\nfailover f far.example near.example\nclient_subnet\nupstream "+up.Addr, nil)
	for name, want := range map[string]int{"example.org.": 24, "f.example.org.": 8} {
		if _, _, scope := askFrom(t, a, name, dns.TypeA, "192.0.2.0/24"); scope != want {
			t.Errorf("%s: scope %d, want %d", name, scope, want)
		}
	}
}

// In wire form the response is the same as the message.
func TestSubnetInWireForm(t *testing.T) {
	h := &fake.ByNetwork{TTL: 300}
	h.Scope(20)
	a, _ := newAlias(t, "example.org", "record @ target.example\nclient_subnet\nupstream "+fake.New(t, h.ServeDNS).Addr, nil)
	for _, from := range []string{"192.0.2.0/24", "2001:db8:1::/48", "0.0.0.0/0", "::/0"} {
		for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
			r := fake.WithSubnet(new(dns.Msg).SetQuestion("example.org.", qtype), prefix(from))
			var responses [2]*wireWriter
			for i := range responses {
				responses[i] = new(wireWriter)
				a.wireForm = i == 1
				a.ServeDNS(overPlainDNS, responses[i], r)
				if responses[i].raw != a.wireForm {
					t.Errorf("%s: written in wire form: %t", from, responses[i].raw)
				}
			}
			got := make([]*dns.Msg, 2)
			for i, w := range responses {
				if got[i] = new(dns.Msg); got[i].Unpack(w.wire) != nil {
					t.Fatalf("%x", w.wire)
				}
			}
			if !bytes.Equal(packed(fake.Subnet(got[0])), packed(fake.Subnet(got[1]))) || firstAddress(got[0]) != firstAddress(got[1]) {
				t.Errorf("%s: the message has %v, the wire form %v", from, got[0], got[1])
			}
		}
	}
}

func packed(s *dns.EDNS0_SUBNET) []byte {
	m := new(dns.Msg).SetEdns0(1232, false)
	m.IsEdns0().Option = []dns.EDNS0{s}
	b, err := m.Pack()
	if err != nil {
		return []byte(err.Error())
	}
	return b
}

// cache before alias gives one network's answer to all clients: the log has a warning, unless all get the same.
func TestWarningAboutCache(t *testing.T) {
	for properties, want := range map[string]bool{"client_subnet": true, "client_subnet 0 56": true, "client_subnet 0 0": false, "": false} {
		text := logged(t)
		i := startServers(t, input("cache\nalias {\nupstream 127.0.0.1\n"+properties+"\n}"))
		stopServers(t, i)
		if got := strings.Contains(text.String(), "cache gives the answer for one client subnet to all clients"); got != want {
			t.Errorf("%q: the warning is logged: %t\n%s", properties, got, text)
		}
	}
}
