package subnet_test

import (
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/subnet"

	"github.com/miekg/dns"
)

// option returns the option with those fields; an IPv4 address is in 16 octets, as the library has it.
func option(family uint16, addr string, bits, scope uint8) *dns.EDNS0_SUBNET {
	return &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, Family: family, Address: net.ParseIP(addr), SourceNetmask: bits, SourceScope: scope}
}

// message returns a message with those options in its OPT record, and without one when there are none.
func message(options ...dns.EDNS0) *dns.Msg {
	m := new(dns.Msg)
	if len(options) > 0 {
		m.SetEdns0(1232, false)
		m.IsEdns0().Option = options
	}
	return m
}

func network(prefix string) lookup.Network {
	p := netip.MustParsePrefix(prefix)
	return lookup.NetworkOf(p.Addr(), p.Bits())
}

func TestOf(t *testing.T) {
	one, nsid := option(1, "192.0.2.0", 24, 0), &dns.EDNS0_NSID{Code: dns.EDNS0NSID}
	for _, tc := range []struct {
		name string
		m    *dns.Msg
		want *dns.EDNS0_SUBNET
	}{
		{"no EDNS", message(), nil},
		{"another option", message(nsid), nil},
		{"one", message(nsid, one), one},
		{"two: the first", message(one, option(1, "198.51.100.0", 24, 0)), one},
	} {
		if got := subnet.Of(tc.m); got != tc.want {
			t.Errorf("%s: got %v", tc.name, got)
		}
	}
}

func TestNetwork(t *testing.T) {
	lengths, none := subnet.Lengths{V4: 24, V6: 56}, subnet.Lengths{}
	for _, tc := range []struct {
		option *dns.EDNS0_SUBNET
		want   string // with lengths; "": everybody
	}{
		{option(1, "192.0.2.7", 32, 0), "192.0.2.0/24"},
		{option(1, "192.0.2.0", 24, 0), "192.0.2.0/24"},
		{option(1, "192.0.0.0", 9, 0), "192.0.0.0/9"},
		{option(1, "0.0.0.0", 0, 0), ""},
		{option(2, "2001:db8:1:2:3::", 80, 0), "2001:db8:1::/56"},
		{option(2, "2001:db8::", 48, 0), "2001:db8::/48"},
		{option(2, "::ffff:192.0.2.7", 128, 0), "::/56"}, // it is in the form of an IPv6 address
		{option(2, "::", 0, 0), ""},
		{option(0, "0.0.0.0", 0, 0), ""},
		{&dns.EDNS0_SUBNET{Family: 1, SourceNetmask: 24, Address: net.IP{192, 0, 2, 0}}, "192.0.2.0/24"},
	} {
		n, ok := lengths.Network(tc.option)
		got := ""
		if !n.IsEverybody() {
			got = n.String()
		}
		if !ok || got != tc.want {
			t.Errorf("%v of family %d: %q, %v; want %q", tc.option, tc.option.Family, got, ok, tc.want)
		}
		if n, ok := none.Network(tc.option); !ok || !n.IsEverybody() {
			t.Errorf("%v: %v, %v where no bits are used", tc.option, n, ok)
		}
	}
}

func TestMalformed(t *testing.T) {
	for name, o := range map[string]*dns.EDNS0_SUBNET{
		"a scope":                       option(1, "192.0.2.0", 24, 24),
		"a scope without address":       option(1, "0.0.0.0", 0, 1),
		"a scope without family":        option(0, "0.0.0.0", 0, 1),
		"a prefix without family":       option(0, "0.0.0.0", 1, 0),
		"a bit beyond the prefix":       option(1, "192.0.2.1", 31, 0),
		"a bit beyond an IPv6 prefix":   option(2, "2001:db8::1", 127, 0),
		"an address without a prefix":   option(1, "192.0.2.0", 0, 0),
		"a prefix that is too long":     option(1, "192.0.2.0", 33, 0),
		"an IPv6 prefix that is, too":   option(2, "2001:db8::", 129, 0),
		"an unknown family":             option(3, "192.0.2.0", 24, 0),
		"an IPv6 address as IPv4":       option(1, "2001:db8::", 24, 0),
		"no address":                    {Family: 1, SourceNetmask: 24},
		"an IPv4 address as IPv6":       {Family: 2, SourceNetmask: 24, Address: net.IP{192, 0, 2, 0}},
		"an address of three octets":    {Family: 1, SourceNetmask: 24, Address: net.IP{192, 0, 2}},
		"an address of twenty octets":   {Family: 2, SourceNetmask: 24, Address: make(net.IP, 20)},
		"a long address without family": {Family: 0, SourceNetmask: 24, Address: make(net.IP, 20)},
	} {
		if n, ok := (subnet.Lengths{V4: 32, V6: 128}).Network(o); ok || !n.IsEverybody() {
			t.Errorf("%s: %v", name, n)
		}
	}
}

// The option of a query is packed as RFC 7871 says, and a response that repeats it is about the same network.
func TestOption(t *testing.T) {
	for prefix, want := range map[string]string{
		"192.0.2.0/24": "[0 1 24 0 192 0 2]", "192.0.2.128/25": "[0 1 25 0 192 0 2 128]", "128.0.0.0/1": "[0 1 1 0 128]",
		"2001:db8::/56": "[0 2 56 0 32 1 13 184 0 0 0]", "2001:db8::/32": "[0 2 32 0 32 1 13 184]",
	} {
		n := network(prefix)
		wire, err := message(subnet.Option(n)).Pack()
		if err != nil {
			t.Fatal(err)
		}
		const before = 12 + 11 + 4 // header, OPT record, code and length
		if got := fmt.Sprint(wire[before:]); got != want {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
		m := new(dns.Msg)
		if err := m.Unpack(wire); err != nil {
			t.Fatal(err)
		}
		if got := subnet.Of(m); !subnet.IsAbout(got, n) || !subnet.IsAbout(subnet.Option(n), n) {
			t.Errorf("%s: %v is not about it", prefix, got)
		}
	}
}

func TestIsAbout(t *testing.T) {
	n := network("192.0.2.0/24")
	for _, tc := range []struct {
		option *dns.EDNS0_SUBNET
		want   bool
	}{
		{option(1, "192.0.2.0", 24, 0), true},
		{option(1, "192.0.2.0", 24, 32), true}, // whatever the scope
		{option(1, "192.0.3.0", 24, 24), false},
		{option(1, "192.0.2.1", 24, 24), false},
		{option(1, "192.0.2.0", 23, 24), false},
		{option(2, "2001:db8::", 24, 24), false},
		{option(2, "::ffff:192.0.2.0", 24, 24), false},
		{option(0, "0.0.0.0", 0, 0), false},
		{&dns.EDNS0_SUBNET{Family: 1, SourceNetmask: 24}, false},
	} {
		if got := subnet.IsAbout(tc.option, n); got != tc.want {
			t.Errorf("%v of family %d: %v", tc.option, tc.option.Family, got)
		}
	}
}

// The option of a backend gives way, and its other records and options stay.
func TestWith(t *testing.T) {
	ours, nsid := option(1, "192.0.2.0", 24, 16), &dns.EDNS0_NSID{Code: dns.EDNS0NSID}
	theirs := message(option(1, "198.51.100.0", 24, 0), nsid)
	theirs.Extra = append(theirs.Extra, &dns.A{Hdr: dns.RR_Header{Name: "ns.example.org.", Rrtype: dns.TypeA, Class: dns.ClassINET}, A: net.IP{192, 0, 2, 53}})
	before := fmt.Sprint(theirs)
	m := &dns.Msg{Extra: subnet.With(theirs.Extra, ours)}
	if opt := m.IsEdns0(); len(m.Extra) != 2 || len(opt.Option) != 2 || opt.Option[0] != nsid || subnet.Of(m) != ours || opt.UDPSize() != 1232 {
		t.Errorf("got %v", m)
	}
	if fmt.Sprint(theirs) != before {
		t.Errorf("the response has changed: %v", theirs)
	}
	if m := (&dns.Msg{Extra: subnet.With(nil, ours)}); subnet.Of(m) != ours || len(m.Extra) != 1 {
		t.Errorf("got %v", m)
	}
}
