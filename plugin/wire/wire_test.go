package wire_test

import (
	"bytes"
	"fmt"
	"math"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/wire"
	"github.com/coredns/alias/test/race"
	"github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/request"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// client is a client over UDP that takes responses in both forms.
type client struct {
	test.ResponseWriter
	wire []byte // the response, in wire form
	raw  bool   // it was written in wire form
}

func (*client) RemoteAddr() net.Addr { return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000} }

func (w *client) Write(b []byte) (int, error) {
	w.wire, w.raw = slices.Clone(b), true
	return len(b), nil
}

func (w *client) WriteMsg(m *dns.Msg) (err error) {
	w.raw = false
	w.wire, err = m.Pack()
	return err
}

// read returns the response as text, with names in lower case: the wire form repeats the owner as the client wrote it.
func (w *client) read(t testing.TB) string {
	t.Helper()
	m := new(dns.Msg)
	if err := m.Unpack(w.wire); err != nil {
		t.Fatalf("%v: %x", err, w.wire)
	}
	for _, rr := range m.Answer {
		rr.Header().Name = strings.ToLower(rr.Header().Name)
		rr.Header().Rdlength = 0
	}
	return m.String()
}

// compare writes res as the response to r in wire form, if that is possible, and compares it with the message.
func compare(t testing.TB, r *dns.Msg, res *wire.Response) (w *client, ok bool) {
	t.Helper()
	w, whole := new(client), new(client)
	if !res.Write(request.NewScrubWriter(r, w), r.Copy()) {
		return nil, false
	}
	request.NewScrubWriter(r.Copy(), whole).WriteMsg(res.Message(r))
	state := request.Request{W: w, Req: r}
	if len(w.wire) > state.Size() {
		t.Errorf("%d octets for a client that takes %d", len(w.wire), state.Size())
	}
	// The library counts more than it writes when names are as short as pointers to them, and truncates too early.
	if m := new(dns.Msg); m.Unpack(whole.wire) == nil && m.Truncated {
		return w, true
	}
	if diff := cmp.Diff(whole.read(t), w.read(t)); diff != "" {
		t.Errorf("-message +wire form:\n%s", diff)
	}
	return w, true
}

func soa(t testing.TB) []dns.RR {
	t.Helper()
	rr, err := dns.NewRR("example.org. 3600 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300")
	if err != nil {
		t.Fatal(err)
	}
	return []dns.RR{rr}
}

func ede(code uint16, text string) *dns.EDNS0_EDE {
	return &dns.EDNS0_EDE{InfoCode: code, ExtraText: text}
}

// subnet returns the option that a client in prefix gets, with a scope. "" stands for dig's option without a family.
func subnet(prefix string, scope uint8) *dns.EDNS0_SUBNET {
	s := &dns.EDNS0_SUBNET{Code: dns.EDNS0SUBNET, SourceScope: scope, Address: net.IPv4zero}
	if prefix != "" {
		p := netip.MustParsePrefix(prefix)
		s.Family, s.SourceNetmask, s.Address = 1, uint8(p.Bits()), net.IP(p.Addr().AsSlice()) // #nosec G115 -- at most 128
		if p.Addr().Is6() {
			s.Family = 2
		}
	}
	return s
}

// Both forms are the same response, for all flags and kinds of EDNS.
func TestBothForms(t *testing.T) {
	soa := soa(t)
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3) + "a.example.org."
	responses := map[string]wire.Response{
		"one":      {Data: []byte{192, 0, 2, 1}, TTL: 300},
		"two":      {Data: []byte{192, 0, 2, 1, 192, 0, 2, 2}, TTL: 1},
		"28":       {Data: make([]byte, 28*4), TTL: math.MaxInt32},
		"negative": {NS: soa},
		"no SOA":   {},
		"stale":    {Data: []byte{192, 0, 2, 1}, TTL: 30, EDE: ede(dns.ExtendedErrorCodeStaleAnswer, "alias target: timeout")},
		"failed":   {NS: soa, EDE: ede(dns.ExtendedErrorCodeNoReachableAuthority, "alias target: servfail")},
		"no text":  {Data: []byte{192, 0, 2, 1}, TTL: 30, EDE: ede(dns.ExtendedErrorCodeStaleAnswer, "")},

		"subnet":          {Data: []byte{192, 0, 2, 1}, TTL: 300, Subnet: subnet("192.0.2.0/24", 16)},
		"subnet of 17":    {Data: []byte{192, 0, 2, 1}, TTL: 300, Subnet: subnet("192.0.128.0/17", 17)},
		"subnet of 1":     {Data: []byte{192, 0, 2, 1}, TTL: 300, Subnet: subnet("128.0.0.0/1", 0)},
		"subnet of 32":    {Data: []byte{192, 0, 2, 1}, TTL: 300, Subnet: subnet("192.0.2.1/32", 32)},
		"subnet, IPv6":    {Data: []byte{192, 0, 2, 1}, TTL: 300, Subnet: subnet("2001:db8:0:100::/56", 48)},
		"subnet of 128":   {Data: []byte{192, 0, 2, 1}, TTL: 300, Subnet: subnet("2001:db8::1/128", 128)},
		"subnet, mapped":  {Data: []byte{192, 0, 2, 1}, TTL: 300, Subnet: subnet("::ffff:192.0.2.0/120", 56)},
		"subnet of 0":     {NS: soa, Subnet: subnet("0.0.0.0/0", 0)},
		"subnet, ::/0":    {NS: soa, Subnet: subnet("::/0", 0)},
		"no family":       {Data: []byte{192, 0, 2, 1}, TTL: 300, Subnet: subnet("", 0)},
		"subnet, stale":   {Data: []byte{192, 0, 2, 1}, TTL: 30, Subnet: subnet("192.0.2.0/24", 24), EDE: ede(dns.ExtendedErrorCodeStaleAnswer, "alias target: timeout")},
		"subnet, failure": {NS: soa, Subnet: subnet("2001:db8::/56", 0), EDE: ede(dns.ExtendedErrorCodeNetworkError, "alias target: timeout")},
	}
	for _, res := range responses { // the library has an IPv4 address in either length
		if s := res.Subnet; s != nil && s.Family == 1 {
			other := *s
			other.Address = s.Address.To16()
			responses["in 16 octets: "+s.String()] = wire.Response{Data: res.Data, TTL: res.TTL, NS: res.NS, Subnet: &other}
		}
	}
	for name, res := range responses {
		for _, owner := range []string{"example.org.", "eXample.ORG.", ".", `a\.b.example.org.`, long} {
			for bits := range 64 {
				r := new(dns.Msg).SetQuestion(owner, dns.TypeA)
				r.RecursionDesired, r.CheckingDisabled, r.AuthenticatedData = bits&1 != 0, bits&2 != 0, bits&4 != 0
				if bits&8 != 0 {
					r.SetEdns0([]uint16{0, 4096}[bits>>4&1], bits&32 != 0)
				}
				w, ok := compare(t, r, &res)
				if !ok {
					if owner != long || bits&8 != 0 && bits&16 != 0 {
						t.Errorf("%s of %s is not written in wire form", name, owner)
					}
				} else if !w.raw {
					t.Errorf("%s of %s is a message", name, owner)
				}
			}
		}
	}
}

// services returns data with HTTPS records of all kinds.
func services(t testing.TB) []byte {
	t.Helper()
	data, err := lookup.NewChain("example.org.").Follow(upstream.RRs(
		`example.org. 60 IN HTTPS 1 . mandatory=alpn alpn="h3,h2" port=8443 ipv4hint=192.0.2.1 ech="AAX+DQABAQ==" ipv6hint=2001:db8::1 key65280="x"`,
		"example.org. 60 IN HTTPS 2 Backup.example.org. no-default-alpn alpn=h2", `example.org. 60 IN HTTPS 3 a\.b\003.example.`,
	), dns.TypeHTTPS)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// Both forms of a response with HTTPS records are the same octets, but for the spelling of the owner.
func TestBothFormsOfHTTPS(t *testing.T) {
	for name, data := range map[string][]byte{"ServiceMode": services(t), "AliasMode": lookup.AliasMode("target.example.")} {
		res := wire.Response{Data: data, TTL: 300}
		for _, size := range []uint16{0, 512, 1232} {
			r := new(dns.Msg).SetQuestion("example.org.", dns.TypeHTTPS)
			if size > 0 {
				r.SetEdns0(size, true)
			}
			w, ok := compare(t, r, &res)
			if !ok || !w.raw {
				t.Fatalf("%s, size %d: not in wire form", name, size)
			}
			whole := new(client)
			m := res.Message(r)
			m.Compress = true
			if state := (request.Request{W: whole, Req: r}); size > 0 {
				state.SizeAndDo(m)
			}
			whole.WriteMsg(m)
			if !bytes.Equal(w.wire, whole.wire) {
				t.Errorf("%s, size %d:\nwire form %x\nmessage   %x", name, size, w.wire, whole.wire)
			}
		}
	}
}

// What does not fit, or repeats options of the query, is left to the message.
func TestNotInWireForm(t *testing.T) {
	many := wire.Response{Data: make([]byte, 4*lookup.MaxRecords), TTL: 60}
	few := wire.Response{Data: make([]byte, 4), TTL: 60}
	edns.SetSupportedOption(dns.EDNS0LOCALSTART)
	query := func(size uint16, options ...dns.EDNS0) *dns.Msg {
		r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
		if size > 0 {
			r.SetEdns0(size, false)
			r.IsEdns0().Option = options
		}
		return r
	}
	fit := wire.Response{Data: make([]byte, 4*28), TTL: 60} // 12 + 17 + 28*16 = 477 octets
	for _, tc := range []struct {
		name string
		r    *dns.Msg
		res  wire.Response
		ok   bool
	}{
		{"without EDNS", query(0), many, false},
		{"small", query(1232), many, false},
		{"larger than the buffer", query(65535), many, false},
		{"no room for the SOA record", query(0), wire.Response{Data: fit.Data, TTL: 60, NS: soa(t)}, false},
		{"no room for the OPT record", query(512), wire.Response{Data: fit.Data, TTL: 60, EDE: ede(3, strings.Repeat("x", 30))}, false},
		{"no room for the network", query(512), wire.Response{Data: fit.Data, TTL: 60, Subnet: subnet("2001:db8::1/128", 56), EDE: ede(3, "")}, false},
		{"room for the network", query(512), wire.Response{Data: fit.Data, TTL: 60, Subnet: subnet("2001:db8::1/128", 56)}, true},
		{"a code", query(1232), wire.Response{Rcode: dns.RcodeServerFailure}, false},
		{"an option that is repeated", query(1232, &dns.EDNS0_LOCAL{Code: dns.EDNS0LOCALSTART}), few, false},
		{"HTTPS records that do not fit", new(dns.Msg).SetQuestion("example.org.", dns.TypeHTTPS), wire.Response{Data: bytes.Repeat(services(t), 4)}, false},
		{"an option that is not", query(1232, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}), few, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, ok := compare(t, tc.r, &tc.res); ok != tc.ok {
				t.Errorf("in wire form: %v", ok)
			}
		})
	}
}

// A message has the code, and an Extended DNS Error only for a client with EDNS.
func TestMessage(t *testing.T) {
	res := wire.Response{Rcode: dns.RcodeServerFailure, EDE: ede(dns.ExtendedErrorCodeNetworkError, "x")}
	r := new(dns.Msg).SetQuestion("eXample.org.", dns.TypeAAAA)
	m := res.Message(r)
	if m.Rcode != dns.RcodeServerFailure || !m.Authoritative || !m.Response || m.Id != r.Id || len(m.Extra) != 0 {
		t.Errorf("got %v", m)
	}
	r.SetEdns0(1232, true)
	if opt := res.Message(r).IsEdns0(); opt == nil || len(opt.Option) != 1 {
		t.Errorf("got %v, want one option", opt)
	}
}

// The wire form costs no allocation, and the message three.
func TestAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	res := wire.Response{Data: []byte{192, 0, 2, 1, 192, 0, 2, 2}, TTL: 60}
	r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	r.SetEdns0(1232, false)
	var w dns.ResponseWriter = discard{}
	if n := testing.AllocsPerRun(1000, func() { res.Write(w, r) }); n > 0 {
		t.Errorf("%v allocations in wire form", n)
	}
	withSubnet := wire.Response{Data: res.Data, TTL: 60, Subnet: subnet("192.0.2.0/24", 24)}
	if n := testing.AllocsPerRun(1000, func() { withSubnet.Write(w, r) }); n > 0 {
		t.Errorf("%v allocations in wire form with a network", n)
	}
	if n := testing.AllocsPerRun(1000, func() { w.WriteMsg(res.Message(r)) }); n > 3 {
		t.Errorf("%v allocations as a message", n)
	}
}

// discard is a client over UDP that drops responses.
type discard struct{ lookup.Client }

func (discard) RemoteAddr() net.Addr      { return lookup.Client{UDP: true}.RemoteAddr() }
func (discard) Write([]byte) (int, error) { return 0, nil }
func (discard) WriteMsg(*dns.Msg) error   { return nil }

// FuzzPack compares both forms of whatever a client can ask and the server can answer.
func FuzzPack(f *testing.F) {
	for _, owner := range []string{"example.org.", ".", `a\.\003b.example.org.`} {
		f.Add(owner, uint16(dns.TypeA), uint16(0), uint16(0x0130), []byte{192, 0, 2, 1}, uint32(60), uint8(0), []byte{})
		f.Add(owner, uint16(dns.TypeAAAA), uint16(1232), uint16(0x8000), make([]byte, 64), uint32(1), uint8(2), []byte{0, 1, 24, 16, 192, 0, 2})
		f.Add(owner, uint16(dns.TypeA), uint16(512), uint16(0), []byte{}, uint32(30), uint8(4), []byte{0, 2, 56, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 1})
		f.Add(owner, uint16(dns.TypeHTTPS), uint16(1232), uint16(0), services(f), uint32(30), uint8(0), []byte{0, 1, 24, 16, 192, 0, 2})
		f.Add(owner, uint16(dns.TypeHTTPS), uint16(0), uint16(0x0130), services(f)[:60], uint32(30), uint8(1), []byte{})
	}
	soa := soa(f)
	const flagRD, flagCD, flagAD, flagDO = 1 << 8, 1 << 4, 1 << 5, 1 << 15
	f.Fuzz(func(t *testing.T, owner string, qtype, size, flags uint16, data []byte, ttl uint32, code uint8, option []byte) {
		if !lookup.IsFollowed(qtype) {
			qtype = []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeHTTPS}[qtype%3]
		}
		r := new(dns.Msg).SetQuestion(owner, qtype)
		r.RecursionDesired, r.CheckingDisabled, r.AuthenticatedData = flags&flagRD != 0, flags&flagCD != 0, flags&flagAD != 0
		if size > 0 {
			r.SetEdns0(size, flags&flagDO != 0)
		}
		if size > 0 && len(option) > 0 {
			r.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: dns.EDNS0SUBNET, Data: option}}
		}
		query, err := r.Pack()
		if err != nil || r.Unpack(query) != nil {
			return // no such query comes from the network
		}
		res := wire.Response{Data: data, TTL: ttl}
		if lookup.IsAddress(qtype) {
			length := lookup.AddrLen(qtype)
			res.Data = data[:min(len(data)/length, lookup.MaxRecords)*length]
		} else if !lookup.IsData(data, qtype) || lookup.Count(data, qtype) > lookup.MaxRecords {
			res.Write(new(client), r) // it must not panic
			res.Message(r)
			return
		}
		if len(res.Data) == 0 {
			res.NS = soa
		}
		if code%3 > 0 {
			res.EDE = ede(uint16(code), fmt.Sprintf("outcome %d", code))
		}
		if opt := r.IsEdns0(); opt != nil {
			for _, o := range opt.Option {
				s, _ := o.(*dns.EDNS0_SUBNET)
				if addr, ok := netip.AddrFromSlice(s.Address); !ok || s.Family == 1 && !addr.Unmap().Is4() {
					return // alias answers FORMERR
				} else if bits := int(s.SourceNetmask); s.Family == 1 && !isPrefix(addr.Unmap(), bits) || s.Family == 2 && !isPrefix(addr, bits) {
					return // likewise
				}
				res.Subnet = s
			}
		}
		compare(t, r, &res)
	})
}

// isPrefix reports whether addr has no bits beyond that many.
func isPrefix(addr netip.Addr, bits int) bool {
	p, err := addr.Prefix(bits)
	return err == nil && p.Addr() == addr
}
