package lookup_test

import (
	"testing"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/race"

	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

// What CoreDNS reads from the client of a query: the protocol, and through it how large a response may be.
func TestClient(t *testing.T) {
	query := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	for _, tc := range []struct {
		client lookup.Client
		proto  string
		size   int
	}{
		{lookup.Client{}, "tcp", dns.MaxMsgSize},
		{lookup.Client{UDP: true}, "udp", dns.MinMsgSize},
	} {
		state := request.Request{W: tc.client, Req: query}
		if state.Proto() != tc.proto || state.Size() != tc.size {
			t.Errorf("%s, %d octets; want %s, %d", state.Proto(), state.Size(), tc.proto, tc.size)
		}
		if state.IP() != "127.0.0.1" || state.LocalIP() != "127.0.0.1" || state.LocalPort() != "53" {
			t.Errorf("from %s to %s port %s", state.IP(), state.LocalIP(), state.LocalPort())
		}
	}
}

// A response must not get lost without an error.
func TestClientAcceptsNothing(t *testing.T) {
	var c lookup.Client
	if err := c.WriteMsg(new(dns.Msg)); err == nil {
		t.Error("a message was written")
	}
	if n, err := c.Write([]byte("message")); n != 0 || err == nil {
		t.Errorf("%d octets were written, %v", n, err)
	}
	c.TsigTimersOnly(true)
	c.Hijack()
	if err := c.TsigStatus(); err != nil {
		t.Errorf("TSIG: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("closing: %v", err)
	}
}

func TestClientAllocations(t *testing.T) {
	if race.Enabled {
		t.Skip("the race detector allocates")
	}
	var w dns.ResponseWriter = lookup.Client{UDP: true}
	if n := testing.AllocsPerRun(100, func() { w.RemoteAddr(); w.LocalAddr() }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}
