package alias

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"strings"
	"testing"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/request"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// wireWriter is a client over UDP that takes responses in both forms.
type wireWriter struct {
	test.ResponseWriter
	wire []byte // what came, in wire form
	raw  bool   // it came in that form
}

func (w *wireWriter) RemoteAddr() net.Addr { return &net.UDPAddr{IP: loopback, Port: 40000} }

func (w *wireWriter) Write(b []byte) (int, error) {
	w.wire, w.raw = append([]byte(nil), b...), true
	return len(b), nil
}

func (w *wireWriter) WriteMsg(m *dns.Msg) (err error) {
	w.raw = false
	w.wire, err = m.Pack()
	return err
}

// read returns the message that came, with names in lower case: one form repeats the owner as it was asked for.
func (w *wireWriter) read(t testing.TB) string {
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

// comparePacked compares what a client gets in wire form, if that is possible, with what it gets as a message.
func comparePacked(t testing.TB, r *dns.Msg, ans *answer) (wire *wireWriter, ok bool) {
	t.Helper()
	wire, whole := new(wireWriter), new(wireWriter)
	if !writePacked(request.NewScrubWriter(r, wire), r.Copy(), ans) {
		return nil, false
	}
	request.NewScrubWriter(r.Copy(), whole).WriteMsg(response(r, ans))
	state := request.Request{W: wire, Req: r}
	if len(wire.wire) > state.Size() {
		t.Errorf("%d octets for a client that takes %d", len(wire.wire), state.Size())
	}
	// The library reckons with more than it writes when names are as short as pointers to them, and truncates too early.
	if m := new(dns.Msg); m.Unpack(whole.wire) == nil && m.Truncated {
		return wire, true
	}
	if diff := cmp.Diff(whole.read(t), wire.read(t)); diff != "" {
		t.Errorf("-message +wire form:\n%s", diff)
	}
	return wire, true
}

func TestPacked(t *testing.T) {
	soa := fake.RRs(exampleSOA)
	long := strings.Repeat(strings.Repeat("a", 63)+".", 3) + "a.example.org."
	answers := map[string]answer{
		"one":      {addrs: []byte{192, 0, 2, 1}, ttl: 300},
		"two":      {addrs: []byte{192, 0, 2, 1, 192, 0, 2, 2}, ttl: 1},
		"28":       {addrs: make([]byte, 28*4), ttl: math.MaxInt32},
		"negative": {status: nodata, ns: soa},
		"no SOA":   {status: nodata},
		"stale":    {status: stale, addrs: []byte{192, 0, 2, 1}, ttl: 30, cause: networkFailure("timeout", nil)},
		"failed":   {status: failed, ns: soa, cause: unusable("servfail", errors.New("x"))},
	}
	for name, ans := range answers {
		for _, owner := range []string{"example.org.", "eXample.ORG.", ".", `a\.b.example.org.`, long} {
			for bits := range 64 {
				r := new(dns.Msg).SetQuestion(owner, dns.TypeA)
				r.RecursionDesired, r.CheckingDisabled, r.AuthenticatedData = bits&1 != 0, bits&2 != 0, bits&4 != 0
				if bits&8 != 0 {
					r.SetEdns0([]uint16{0, 4096}[bits>>4&1], bits&32 != 0)
				}
				w, ok := comparePacked(t, r, &ans)
				if !ok {
					if owner != long || bits&8 != 0 && bits&16 != 0 {
						t.Errorf("%s of %s is not packed", name, owner)
					}
				} else if !w.raw {
					t.Errorf("%s of %s is a message", name, owner)
				}
			}
		}
	}
}

// What does not fit, or repeats options of the query, is left to the message.
func TestNotPacked(t *testing.T) {
	many := answer{addrs: make([]byte, 4*maxAddrs), ttl: 60}
	few := answer{addrs: make([]byte, 4), ttl: 60}
	edns.SetSupportedOption(dns.EDNS0LOCALSTART)
	query := func(size uint16, options ...dns.EDNS0) *dns.Msg {
		r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
		if size > 0 {
			r.SetEdns0(size, false)
			r.IsEdns0().Option = options
		}
		return r
	}
	for _, tc := range []struct {
		name string
		r    *dns.Msg
		ans  answer
		ok   bool
	}{
		{"without EDNS", query(0), many, false},
		{"small", query(1232), many, false},
		{"larger than the buffer", query(65535), many, false},
		{"a code", query(1232), answer{status: failed, rcode: dns.RcodeServerFailure, cause: unusable("loop", nil)}, false},
		{"an option that is repeated", query(1232, &dns.EDNS0_LOCAL{Code: dns.EDNS0LOCALSTART}), few, false},
		{"an option that is not", query(1232, &dns.EDNS0_COOKIE{Code: dns.EDNS0COOKIE, Cookie: "0102030405060708"}), few, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			if _, ok := comparePacked(t, tc.r, &tc.ans); ok != tc.ok {
				t.Errorf("packed: %v", ok)
			}
		})
	}
}

// named is a plugin with a name that hands queries on.
type named struct {
	plugin.Handler
	name string
}

func (n named) Name() string { return n.name }

// Only where no plugin before alias wants to see the message may it get bytes.
func TestPackable(t *testing.T) {
	for _, tc := range []struct {
		before, after string
		want          bool
	}{
		{"", "", true},
		{"", "file", true},
		{"errors", "file", true},
		{"metadata prometheus errors transfer", "forward", true},
		{"log", "", false},
		{"errors cache", "file", false},
		{"dnssec", "file", false},
		{"errors unheard-of", "file", false}, // no directive has this name
		{"", "unheard-of", false},
	} {
		t.Run(tc.before+" alias "+tc.after, func(t *testing.T) {
			block := &dnsserver.Config{Zone: "example.org.", Transport: "dns", ListenHosts: []string{""}}
			a, _ := newAlias(t, "example.org", "", nil)
			for _, name := range strings.Fields(tc.before) {
				block.AddPlugin(func(next plugin.Handler) plugin.Handler { return named{next, name} })
			}
			block.AddPlugin(func(next plugin.Handler) plugin.Handler { return a })
			for _, name := range strings.Fields(tc.after) {
				block.AddPlugin(func(next plugin.Handler) plugin.Handler { return named{next, name} })
			}
			if _, err := dnsserver.NewServer("dns://127.0.0.1:0", []*dnsserver.Config{block}); err != nil {
				t.Fatal(err)
			}
			if got := packable(block); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// prometheus counts what leaves in wire form as it does messages.
func TestPackedIsRecorded(t *testing.T) {
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", "record @ target.example\nupstream "+up.Addr, nil)
	a.packs = true
	for _, server := range []string{"dns://:53", "tls://:853", "quic://:853", "https://:443"} {
		w := &wireWriter{}
		r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
		recorder := metrics.NewRecorder(request.NewScrubWriter(r, w))
		ctx := context.WithValue(context.Background(), dnsserver.Key{}, &dnsserver.Server{Addr: server})
		plugin.NextOrFailure("prometheus", a, ctx, recorder, r)
		if plain := server == "dns://:53"; w.raw != plain {
			t.Errorf("%s: in wire form: %v", server, w.raw)
		}
		if recorder.Plugin != "alias" || recorder.Rcode != dns.RcodeSuccess || recorder.Len != len(w.wire) {
			t.Errorf("%s: recorded %+v", server, recorder.Recorder)
		}
		if !strings.Contains(w.read(t), v4) {
			t.Errorf("%s: got %s", server, w.read(t))
		}
	}
}

// FuzzPack compares both forms of whatever can be asked and answered.
func FuzzPack(f *testing.F) {
	for _, owner := range []string{"example.org.", ".", `a\.\003b.example.org.`} {
		f.Add(owner, uint16(dns.TypeA), uint16(0), uint16(0x0130), []byte{192, 0, 2, 1}, uint32(60), uint8(hit))
		f.Add(owner, uint16(dns.TypeAAAA), uint16(1232), uint16(0x8000), make([]byte, 64), uint32(1), uint8(stale))
		f.Add(owner, uint16(dns.TypeA), uint16(512), uint16(0), []byte{}, uint32(30), uint8(failed))
	}
	soa := fake.RRs(exampleSOA)
	f.Fuzz(func(t *testing.T, owner string, qtype, size, flags uint16, addrs []byte, ttl uint32, s uint8) {
		if !isAddress(qtype) {
			qtype = []uint16{dns.TypeA, dns.TypeAAAA}[qtype%2]
		}
		r := new(dns.Msg).SetQuestion(owner, qtype)
		r.RecursionDesired, r.CheckingDisabled, r.AuthenticatedData = flags&flagRD != 0, flags&flagCD != 0, flags&0x20 != 0
		if size > 0 {
			r.SetEdns0(size, flags&flagDO != 0)
		}
		wire, err := r.Pack()
		if err != nil || r.Unpack(wire) != nil {
			return // no such query comes from the network
		}
		addrs = addrs[:min(len(addrs)/addrLen(qtype), maxAddrs)*addrLen(qtype)]
		ans := answer{status: status(s) % statuses, addrs: addrs, ttl: ttl}
		if len(addrs) == 0 {
			ans.ns = soa
		}
		if ans.status >= failed {
			ans.cause = unusable(fmt.Sprintf("outcome %d", s), nil)
		}
		comparePacked(t, r, &ans)
	})
}
