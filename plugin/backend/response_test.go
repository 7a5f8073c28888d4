package backend_test

import (
	"slices"
	"testing"

	"github.com/coredns/alias/plugin/backend"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// What a response says about the name that was queried for.
func TestResponse(t *testing.T) {
	z := zone(t,
		"www.example.org. 60 IN A 192.0.2.1",
		"www.example.org. 50 IN A 192.0.2.2",
		"here.example.org. 40 IN CNAME www.example.org.",
		"there.example.org. 40 IN CNAME elsewhere.example.",
		"*.w.example.org. 60 IN A 192.0.2.3",
		"sub.example.org. 60 IN NS ns.elsewhere.example.",
		"loop.example.org. 60 IN CNAME pool.example.org.",
		"pool.example.org. 60 IN CNAME loop.example.org.",
		"x.ent.example.org. 60 IN A 192.0.2.4",
		"lost.example.org. 60 IN CNAME none.example.org.")
	b := newBackend(t, z, nil)
	for _, tc := range []struct {
		name        string
		own, exists bool
		addrs       []byte
		ttl         uint32
	}{
		{name: "www.example.org.", own: true, exists: true, addrs: []byte{192, 0, 2, 1, 192, 0, 2, 2}, ttl: 50},
		{name: "here.example.org.", own: true, exists: true, addrs: []byte{192, 0, 2, 1, 192, 0, 2, 2}, ttl: 40},
		{name: "there.example.org.", own: true, exists: true},
		{name: "x.w.example.org.", own: true, addrs: []byte{192, 0, 2, 3}, ttl: 60}, // only the wildcard exists
		{name: "sub.example.org.", exists: true},
		{name: "x.sub.example.org.", exists: true},
		{name: "loop.example.org.", own: true, exists: true},
		{name: "ent.example.org.", own: true, exists: true},
		{name: "lost.example.org.", own: true, exists: true}, // the code is about the end of the chain
		{name: "none.example.org.", own: true},
	} {
		r := b.Query(tc.name, dns.TypeA)
		if r.Own() != tc.own || r.Exists("example.org.") != tc.exists {
			t.Errorf("%s: own %v, exists %v", tc.name, r.Own(), r.Exists("example.org."))
		}
		addrs, ttl := r.Addresses(a(tc.name))
		if !slices.Equal(addrs, tc.addrs) || len(addrs) > 0 && ttl != tc.ttl {
			t.Errorf("%s: addresses %v, TTL %d", tc.name, addrs, ttl)
		}
	}
	if addrs, _ := (backend.Response{Msg: &dns.Msg{
		MsgHdr: dns.MsgHdr{Rcode: dns.RcodeServerFailure}, Answer: rrs("www.example.org. 60 IN A 192.0.2.1"),
	}}).Addresses(a("www.example.org.")); len(addrs) > 0 {
		t.Errorf("addresses of a failure: %v", addrs)
	}
}

// A referral to a zone below says that the name is delegated; one to the zone itself, or above, says nothing. NXDOMAIN
// behind a CNAME record is about the name that the record leads to.
func TestExists(t *testing.T) {
	for _, tc := range []struct {
		name string
		msg  dns.Msg
		want bool
	}{
		{"below", dns.Msg{Ns: rrs("Sub.Example.org. 60 IN NS ns.example.")}, true},
		{"the zone", dns.Msg{Ns: rrs("Example.org. 60 IN NS ns.example.")}, false},
		{"above", dns.Msg{Ns: rrs("org. 60 IN NS ns.example.")}, false},
		{"another record", dns.Msg{Ns: rrs("sub.example.org. 60 IN DS 1 13 2 00")}, false},
		{"with an answer", dns.Msg{Ns: rrs("sub.example.org. 60 IN NS ns.example."), Answer: rrs("x. 60 IN A 192.0.2.1")}, false},
		{"CNAME to a name that does not exist", dns.Msg{
			MsgHdr: dns.MsgHdr{Rcode: dns.RcodeNameError, Authoritative: true}, Answer: rrs("x.example.org. 60 IN CNAME y.example.org."),
		}, true},
		{"refused", dns.Msg{MsgHdr: dns.MsgHdr{Rcode: dns.RcodeRefused}, Ns: rrs("sub.example.org. 60 IN NS ns.example.")}, false},
	} {
		if got := (backend.Response{Msg: &tc.msg}).Exists("example.org."); got != tc.want {
			t.Errorf("%s: %v", tc.name, got)
		}
	}
}

func TestResponseSOA(t *testing.T) {
	other := "example.net. 60 IN SOA ns. h. 1 2 3 4 5"
	for _, tc := range []struct {
		name string
		msg  *dns.Msg
		want []string
	}{
		{"no response", nil, nil},
		{"none", new(dns.Msg), nil},
		{"answer", &dns.Msg{Answer: rrs(soa)}, []string{soa}},
		{"authority", &dns.Msg{Answer: rrs(other), Ns: rrs(other, soa)}, []string{soa}},
		{"of another zone", &dns.Msg{Answer: rrs(other), Ns: rrs(other)}, nil},
	} {
		var got []string
		r := backend.Response{Msg: tc.msg}
		if rr := r.SOA("www.example.org."); rr != nil {
			got = text([]dns.RR{rr})
			rr.Serial++
		}
		if diff := cmp.Diff(tc.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tc.name, diff)
		}
		if rr := r.SOA("www.example.org."); rr != nil && rr.Serial != 1 {
			t.Errorf("%s: the backend's own record was changed", tc.name)
		}
	}
}

func TestSigner(t *testing.T) {
	sig := rrs("example.org. 60 IN RRSIG A 13 2 60 20300101000000 20200101000000 1 example.org. c2ln")
	for name, tc := range map[string]struct {
		msg  *dns.Msg
		want string
	}{
		"no response":     {nil, ""},
		"unsigned":        {&dns.Msg{Answer: rrs("example.org. 60 IN A 192.0.2.1"), Ns: rrs(soa)}, ""},
		"answer":          {&dns.Msg{Answer: sig}, "example.org."},
		"negative answer": {&dns.Msg{Ns: append(rrs(soa), sig...)}, "example.org."},
	} {
		if got := (backend.Response{Msg: tc.msg}).Signer(); got != tc.want {
			t.Errorf("%s: got %q", name, got)
		}
	}
}
