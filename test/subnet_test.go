package test

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// The resolvers of these tests are asked with client subnets, and pass them on to the authoritative server.

func TestSubnetUnbound(t *testing.T) {
	testSubnets(t, func(t *testing.T, addr string) *process {
		host, _, _ := strings.Cut(addr, ":")
		if out, err := exec.Command(need(t, "unbound"), "-V").Output(); err != nil || !strings.Contains(string(out), "subnetcache") {
			lack(t, "unbound has no subnetcache: %v", err)
		}
		return startUnboundFor(t, "example.", addr, fmt.Sprintf(`module-config: "subnetcache iterator"
    send-client-subnet: %s
    client-subnet-always-forward: yes
    max-client-subnet-ipv6: 56`, host))
	})
}

func TestSubnetRecursor(t *testing.T) {
	testSubnets(t, func(t *testing.T, addr string) *process {
		host, _, _ := strings.Cut(addr, ":")
		return startRecursorWith(t, addr, fmt.Sprintf(`edns-subnet-allow-list=%s,example
ecs-add-for=0.0.0.0/0,::/0
ecs-ipv4-bits=24
ecs-ipv6-bits=56
ecs-ipv6-cache-bits=56
use-incoming-edns-subnet=yes`, host))
	})
}

// constant answers the name same.hosting.example for everybody, and all others by network.
func constant(h *upstream.ByNetwork) upstream.Handler {
	same := &upstream.ByNetwork{TTL: 300}
	return func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "same.hosting.example." {
			same.ServeDNS(w, r)
		} else {
			h.ServeDNS(w, r)
		}
	}
}

// testSubnets checks that clients of each network get the answer for it, behind a resolver that asks a server that answers
// by network.
func testSubnets(t *testing.T, start func(t *testing.T, addr string) *process) {
	t.Parallel()
	dig := need(t, "dig")
	for _, scope := range []int{24, 16, 0} {
		h := &upstream.ByNetwork{TTL: 300}
		h.Scope(scope)
		resolver := start(t, upstream.New(t, constant(h)).Addr)
		port := freePort(t)
		server := serve(t, port, block("example.org", port, `
			record @ app.hosting.example
			record same same.hosting.example
			timeout 2s
			client_subnet
			upstream `+resolver.addr, ""))
		// The lookups at the start are over: the Recursor leaves the option out of a response to a query that waits for another's.
		query(t, server.addr, "udp", "same.example.org.", dns.TypeA)
		// The Recursor sends the option with scope 0, and otherwise leaves it out: the scope is that of the query then.
		r := upstream.WithSubnet(new(dns.Msg).SetQuestion("same.example.org.", dns.TypeA), netip.MustParsePrefix("192.0.2.0/24"))
		m, err := dns.Exchange(r, server.addr)
		if err != nil || upstream.Subnet(m) == nil || upstream.Subnet(m).SourceScope != 0 {
			t.Fatalf("%v\n%v", err, m)
		}
		known := scope
		if strings.Contains(resolver.Path, "recursor") && scope > 0 {
			known = 24
		}
		for _, prefix := range []string{"192.0.2.0/24", "192.0.3.0/24", "198.51.100.0/24", "192.0.2.0/24"} {
			for _, network := range []string{"", "+tcp"} {
				t.Run(fmt.Sprint(scope, "/", prefix, network), func(t *testing.T) {
					_, p, _ := strings.Cut(server.addr, ":")
					args := strings.Fields(fmt.Sprintf("@127.0.0.1 -p %s +subnet=%s %s example.org A", p, prefix, network))
					out, err := exec.Command(dig, args...).Output()
					if err != nil {
						t.Fatalf("dig: %v\n%s", err, out)
					}
					want := upstream.AddressFor(cutTo(prefix, scope), dns.TypeA).String()
					option := fmt.Sprintf("; CLIENT-SUBNET: %s/%d", prefix, known)
					if !strings.Contains(string(out), "\t"+want+"\n") || !strings.Contains(string(out), option+"\n") {
						t.Errorf("want %s and %q:\n%s", want, option, out)
					}
				})
			}
		}
		// A client without the option gets what the resolver gets for its own address, or for everybody.
		if m := query(t, server.addr, "udp", "example.org.", dns.TypeA); len(m.Answer) != 1 || upstream.Subnet(m) != nil {
			t.Errorf("without the option: %v", m)
		}
	}
}

// cutTo returns the network with at most that many bits that prefix is in.
func cutTo(prefix string, bits int) netip.Prefix {
	p := netip.MustParsePrefix(prefix)
	cut, _ := p.Addr().Prefix(min(bits, p.Bits()))
	return cut
}

// IPv6 networks of clients, behind Unbound.
func TestSubnetIPv6(t *testing.T) {
	t.Parallel()
	h := &upstream.ByNetwork{TTL: 300}
	h.Scope(56)
	resolver := startUnboundFor(t, "example.", upstream.New(t, h.ServeDNS).Addr, `module-config: "subnetcache iterator"
    send-client-subnet: 127.0.0.1
    client-subnet-always-forward: yes
    max-client-subnet-ipv6: 56`)
	port := freePort(t)
	server := serve(t, port, block("example.org", port, "record @ app.hosting.example\ntimeout 2s\nclient_subnet\nupstream "+resolver.addr, ""))
	for _, prefix := range []string{"2001:db8:102:300::/56", "2001:db8:102:400::/56", "2001:db8:102:3ff::/64"} {
		r := upstream.WithSubnet(new(dns.Msg).SetQuestion("example.org.", dns.TypeAAAA), netip.MustParsePrefix(prefix))
		m, err := dns.Exchange(r, server.addr)
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("%s: %v\n%v", prefix, err, m)
		}
		want := upstream.AddressFor(cutTo(prefix, 56), dns.TypeAAAA).String()
		if got := m.Answer[0].(*dns.AAAA).AAAA.String(); got != want || upstream.Subnet(m) == nil || upstream.Subnet(m).SourceScope != 56 {
			t.Errorf("%s: %s, want %s\n%v", prefix, got, want, m)
		}
	}
}

// rawQuery returns a query for the A records of example.org in wire form, with a Client Subnet option of that data.
func rawQuery(t *testing.T, data []byte) []byte {
	t.Helper()
	r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	r.SetEdns0(1232, false)
	r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0SUBNET, Data: data}}
	wire, err := r.Pack()
	check(t, err)
	return wire
}

// exchangeRaw returns the response to a query in wire form.
func exchangeRaw(t *testing.T, network, addr string, wire []byte) *dns.Msg {
	t.Helper()
	conn, err := net.DialTimeout(network, addr, time.Second)
	check(t, err)
	defer conn.Close()
	check(t, conn.SetDeadline(time.Now().Add(5*time.Second)))
	if network == "tcp" {
		wire = append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...) // #nosec G115 -- a short query
	}
	_, err = conn.Write(wire)
	check(t, err)
	m, err := (&dns.Conn{Conn: conn, UDPSize: 1232}).ReadMsg()
	check(t, err)
	return m
}

// Each malformed option gets FORMERR (RFC 7871, section 7.1.2), whether alias refuses it or the DNS library. The exception
// is an option with more or fewer octets of the address than its prefix length says: the library cuts them off or pads them
// with zeroes before alias sees them.
func TestMalformedSubnet(t *testing.T) {
	t.Parallel()
	h := &upstream.ByNetwork{TTL: 300}
	h.Scope(24)
	up, port := upstream.New(t, h.ServeDNS), freePort(t)
	server := serve(t, port, block("example.org", port, "record @ app.hosting.example\nclient_subnet\nupstream "+up.Addr, ""))
	eventually(t, 5*time.Second, "the lookups at the start are over", func() bool {
		return up.Asked("app.hosting.example.", dns.TypeA) > 0 && up.Asked("app.hosting.example.", dns.TypeAAAA) > 0
	})
	query(t, server.addr, "udp", "example.org.", dns.TypeA)
	query(t, server.addr, "udp", "example.org.", dns.TypeAAAA)
	h.Asked()
	for _, test := range []struct {
		name  string
		data  []byte
		rcode int
		addr  string
	}{
		{"well formed", []byte{0, 1, 24, 0, 192, 0, 2}, dns.RcodeSuccess, "11.192.0.2"},
		{"scope", []byte{0, 1, 24, 24, 192, 0, 2}, dns.RcodeFormatError, ""},
		{"scope beyond the family", []byte{0, 1, 24, 33, 192, 0, 2}, dns.RcodeFormatError, ""},
		{"bits beyond the prefix", []byte{0, 1, 23, 0, 192, 0, 3}, dns.RcodeFormatError, ""},
		{"bits beyond the prefix, IPv6", []byte{0, 2, 33, 0, 0x20, 1, 0xd, 0xb8, 0x40}, dns.RcodeFormatError, ""},
		{"unknown family", []byte{0, 3, 24, 0, 192, 0, 2}, dns.RcodeFormatError, ""},
		{"no family, but a prefix", []byte{0, 0, 24, 0, 192, 0, 2}, dns.RcodeFormatError, ""},
		{"33 bits", []byte{0, 1, 33, 0, 192, 0, 2, 0, 0}, dns.RcodeFormatError, ""},
		{"129 bits", append([]byte{0, 2, 129, 0}, make([]byte, 17)...), dns.RcodeFormatError, ""},
		{"no data", nil, dns.RcodeFormatError, ""},
		{"three octets", []byte{0, 1, 24}, dns.RcodeFormatError, ""},
		{"no family, as dig writes prefix length 0", []byte{0, 0, 0, 0}, dns.RcodeSuccess, "10.0.0.255"},
		{"an octet too few", []byte{0, 1, 24, 0, 193, 0}, dns.RcodeSuccess, "11.193.0.0"},
		{"an octet too many, of zeroes", []byte{0, 1, 24, 0, 194, 0, 2, 0}, dns.RcodeSuccess, "11.194.0.2"},
		{"an octet too many, of ones", []byte{0, 1, 24, 0, 195, 0, 2, 255}, dns.RcodeFormatError, ""}, // bits beyond the prefix
		{"more octets than an address has", []byte{0, 1, 24, 0, 196, 0, 2, 0, 9, 9}, dns.RcodeSuccess, "11.196.0.2"},
	} {
		for _, network := range []string{"udp", "tcp"} {
			t.Run(test.name+"/"+network, func(t *testing.T) {
				m := exchangeRaw(t, network, server.addr, rawQuery(t, test.data))
				addr := ""
				if len(m.Answer) == 1 {
					addr = m.Answer[0].(*dns.A).A.String()
				}
				if m.Rcode != test.rcode || addr != test.addr {
					t.Errorf("%s %s, want %s %s", dns.RcodeToString[m.Rcode], addr, dns.RcodeToString[test.rcode], test.addr)
				}
				if asked := h.Asked(); test.rcode != dns.RcodeSuccess && len(asked) > 0 {
					t.Errorf("The upstream got %v", asked)
				}
			})
		}
	}
}

// The answers for networks outlive the process: each client gets its own last answer when the upstream does not answer. A
// server block without client_subnet serves that for everybody.
func TestSubnetPersist(t *testing.T) {
	t.Parallel()
	h := &upstream.ByNetwork{TTL: 300}
	h.Scope(24)
	up, port := upstream.New(t, h.ServeDNS), freePort(t)
	properties := "record @ app.hosting.example\npersist answers\ntimeout 300ms\nupstream " + up.Addr + "\n"
	server := serve(t, port, block("example.org", port, properties+"client_subnet", ""))
	ask := func(prefix string) (addr string) {
		t.Helper()
		r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
		if prefix != "" {
			upstream.WithSubnet(r, netip.MustParsePrefix(prefix))
		}
		m, err := dns.Exchange(r, server.addr)
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("%s: %v\n%v", prefix, err, m)
		}
		return m.Answer[0].(*dns.A).A.String()
	}
	networks := []string{"", "192.0.2.0/24", "192.0.3.0/24", "198.51.100.0/24"}
	before := make(map[string]string)
	for _, n := range networks {
		before[n] = ask(n)
	}
	time.Sleep(2 * time.Second) // for the file
	server.kill(t)
	up.Set(nil)
	server = server.restart(t)
	for _, n := range networks {
		if got := ask(n); got != before[n] {
			t.Errorf("%q: %s after the restart, and %s before", n, got, before[n])
		}
	}
	if got := ask("203.0.113.0/24"); got != before[""] { // of which no answer is kept
		t.Errorf("a further network: %s", got)
	}
	server.configure(t, block("example.org", port, properties, ""), syscall.SIGUSR1)
	eventually(t, 10*time.Second, "the block has no client_subnet", func() bool { return ask("192.0.2.0/24") == before[""] })
}

// distinct returns how many different strings there are.
func distinct(all []string) int { return len(slices.Compact(slices.Sorted(slices.Values(all)))) }

// Two server blocks share the cache of one upstream, and one of them has client_subnet: its networks are its own.
func TestSubnetInOneBlock(t *testing.T) {
	t.Parallel()
	h := &upstream.ByNetwork{TTL: 300}
	h.Scope(24)
	up, port := upstream.New(t, h.ServeDNS), freePort(t)
	with := block("example.org", port, "record @ app.hosting.example\nclient_subnet\nupstream "+up.Addr, "")
	without := block("example.net", port, "record @ app.hosting.example\nupstream "+up.Addr, "")
	server := serve(t, port, with, strings.Replace(without, "file zone example.net", "", 1))
	var addrs []string
	for _, zone := range []string{"example.org.", "example.net."} {
		for _, prefix := range []string{"192.0.2.0/24", "192.0.3.0/24"} {
			r := upstream.WithSubnet(new(dns.Msg).SetQuestion(zone, dns.TypeA), netip.MustParsePrefix(prefix))
			m, err := dns.Exchange(r, server.addr)
			if err != nil || len(m.Answer) != 1 {
				t.Fatalf("%s: %v\n%v", zone, err, m)
			}
			addrs = append(addrs, m.Answer[0].(*dns.A).A.String())
		}
	}
	if distinct(addrs) != 3 || addrs[2] != addrs[3] {
		t.Errorf("got %v", addrs)
	}
}
