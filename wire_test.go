package alias

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metrics"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

// named is a plugin with a name that hands queries on.
type named struct {
	plugin.Handler
	name string
}

func (n named) Name() string { return n.name }

// Only where no plugin before alias has to see the message may alias write it in wire form.
func TestCanWriteWire(t *testing.T) {
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
			before, _, ok := neighbours(block)
			if got := ok && canWriteWire(before); got != tc.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// wireWriter is a client over UDP that takes responses in both forms.
type wireWriter struct {
	test.ResponseWriter
	wire []byte // the response, in wire form
	raw  bool   // it was written in wire form
}

func (w *wireWriter) RemoteAddr() net.Addr {
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 40000}
}

func (w *wireWriter) Write(b []byte) (int, error) {
	w.wire, w.raw = slices.Clone(b), true
	return len(b), nil
}

func (w *wireWriter) WriteMsg(m *dns.Msg) (err error) {
	w.raw = false
	w.wire, err = m.Pack()
	return err
}

// prometheus counts a response in wire form as it does messages.
func TestWireFormIsRecorded(t *testing.T) {
	up := fake.New(t, good)
	a, _ := newAlias(t, "example.org", "record @ target.example\nupstream "+up.Addr, nil)
	a.wireForm = true
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
		m := new(dns.Msg)
		if err := m.Unpack(w.wire); err != nil || len(m.Answer) != 1 || !strings.HasSuffix(m.Answer[0].String(), v4) {
			t.Errorf("%s: got %v, %v", server, m, err)
		}
	}
}
