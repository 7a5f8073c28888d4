package denial_test

import (
	"context"
	"slices"
	"testing"

	"github.com/coredns/alias/plugin/denial"
	"github.com/coredns/alias/test/signer"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/dnssec"
	"github.com/coredns/coredns/plugin/pkg/dnstest"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"
	"github.com/coredns/coredns/plugin/test"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

const (
	ksk = dns.ZONE | dns.SEP
	zsk = dns.ZONE
)

var soa = test.SOA("example.org. 300 IN SOA ns.example.org. hostmaster.example.org. 1 7200 3600 1209600 300")

// negative returns a response to r without an answer, with a SOA record. Its authority section has room for more, which
// nobody may use.
func negative(r *dns.Msg, rcode int) *dns.Msg {
	m := new(dns.Msg).SetRcode(r, rcode)
	m.Authoritative = true
	m.Ns = append(make([]dns.RR, 0, 8), soa)
	return m
}

// respond is the function of a plugin that makes the response to r.
type respond func(r *dns.Msg) *dns.Msg

// behind returns a plugin that writes the responses to a Writer for signer.
func (f respond) behind(signer *dnssec.Dnssec) plugin.Handler {
	return plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		return dns.RcodeSuccess, denial.Writer(ctx, w, r, signer).WriteMsg(f(r))
	})
}

// alone returns a plugin that writes the responses without a Writer.
func (f respond) alone() plugin.Handler {
	return plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		return dns.RcodeSuccess, w.WriteMsg(f(r))
	})
}

// minimalHandler is what minimal is between dnssec and the plugin that writes the response: it keeps the message, and
// writes that then.
func minimalHandler(next plugin.Handler) plugin.Handler {
	return plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		nw := nonwriter.New(w)
		rcode, err := next.ServeDNS(ctx, nw, r)
		if nw.Msg != nil {
			w.WriteMsg(nw.Msg)
		}
		return rcode, err
	})
}

// signedQuery returns a query with the DO bit.
func signedQuery(name string, qtype uint16) *dns.Msg {
	r := new(dns.Msg).SetQuestion(name, qtype)
	r.SetEdns0(1232, true)
	return r
}

// exchange returns the response of h to r.
func exchange(t *testing.T, h plugin.Handler, r *dns.Msg) *dns.Msg {
	t.Helper()
	w := dnstest.NewRecorder(&test.ResponseWriter{})
	if _, err := h.ServeDNS(context.Background(), w, r); err != nil || w.Msg == nil {
		t.Fatalf("%v: got %v, %v", r.Question, w.Msg, err)
	}
	if _, err := w.Msg.Pack(); err != nil {
		t.Errorf("%v: response cannot be packed: %v", r.Question, err)
	}
	return w.Msg
}

// nsecIn returns the NSEC record in rrs, of which there is one.
func nsecIn(t *testing.T, rrs []dns.RR) *dns.NSEC {
	t.Helper()
	var found []*dns.NSEC
	for _, rr := range rrs {
		if nsec, ok := rr.(*dns.NSEC); ok {
			found = append(found, nsec)
		}
	}
	if len(found) != 1 {
		t.Fatalf("%d NSEC records: %v", len(found), rrs)
	}
	return found[0]
}

// The NSEC records of dnssec do not deny HTTPS records, whatever the query was for, and are signed.
func TestDenials(t *testing.T) {
	for _, setup := range []struct {
		name      string
		between   func(plugin.Handler) plugin.Handler
		splitKeys bool
		flags     []uint16
	}{
		{name: "one key", flags: []uint16{ksk}},
		{name: "two keys", flags: []uint16{ksk, ksk}},
		{name: "split keys", splitKeys: true, flags: []uint16{ksk, zsk}},
		{name: "minimal", between: minimalHandler, flags: []uint16{ksk}},
	} {
		t.Run(setup.name, func(t *testing.T) {
			var rcode int
			var h dnssec.Dnssec
			next := respond(func(r *dns.Msg) *dns.Msg { return negative(r, rcode) }).behind(&h)
			if setup.between != nil {
				next = setup.between(next)
			}
			h, keys := signer.New(t, next, setup.splitKeys, setup.flags...)
			for _, name := range []string{"example.org.", "www.example.org.", "WWW.example.org."} {
				for _, qtype := range []uint16{dns.TypeAAAA, dns.TypeTXT, dns.TypeCAA, dns.TypeLOC, dns.TypeNSEC} {
					for _, rcode = range []int{dns.RcodeSuccess, dns.RcodeNameError} {
						m := exchange(t, h, signedQuery(name, qtype))
						section := m.Ns
						if qtype == dns.TypeNSEC {
							section = m.Answer
						}
						nsec := nsecIn(t, section)
						if !slices.Contains(nsec.TypeBitMap, dns.TypeHTTPS) || !slices.IsSorted(nsec.TypeBitMap) || m.Rcode != dns.RcodeSuccess {
							t.Errorf("%s %s: %v", name, dns.TypeToString[qtype], m)
						}
						if slices.Contains(nsec.TypeBitMap, qtype) && qtype != dns.TypeNSEC {
							t.Errorf("%s %s: the NSEC record has this type: %v", name, dns.TypeToString[qtype], nsec)
						}
						signer.Check(t, section, keys)
					}
				}
			}
		})
	}
}

// Other responses are as dnssec makes them without a Writer.
func TestOtherResponses(t *testing.T) {
	nodata := func(r *dns.Msg) *dns.Msg { return negative(r, dns.RcodeSuccess) }
	with := func(answer, ns []dns.RR) respond {
		return func(r *dns.Msg) *dns.Msg {
			m := new(dns.Msg).SetReply(r)
			m.Authoritative, m.Answer, m.Ns = len(answer) > 0, answer, ns
			return m
		}
	}
	nsec := &dns.NSEC{
		Hdr:        dns.RR_Header{Name: "www.example.org.", Rrtype: dns.TypeNSEC, Class: dns.ClassINET, Ttl: 300},
		NextDomain: "example.org.", TypeBitMap: []uint16{dns.TypeTXT},
	}
	delegation := test.NS("sub.example.org. 300 IN NS ns.sub.example.org.")
	for _, tc := range []struct {
		what    string
		name    string
		qtype   uint16
		respond respond
		signed  bool // dnssec adds signatures
	}{
		{"HTTPS", "www.example.org.", dns.TypeHTTPS, nodata, true},
		{"DS", "www.example.org.", dns.TypeDS, nodata, true},
		{"referral", "sub.example.org.", dns.TypeA, with(nil, []dns.RR{delegation}), true},
		{"answer", "www.example.org.", dns.TypeA, with([]dns.RR{test.A("www.example.org. 300 IN A 192.0.2.1")}, nil), true},
		{"no SOA", "www.example.org.", dns.TypeA, with(nil, nil), false},
		{"NSEC record of the backend", "www.example.org.", dns.TypeA, with(nil, []dns.RR{soa, nsec}), false},
		{"NSEC record alone", "www.example.org.", dns.TypeA, with(nil, []dns.RR{nsec}), true},
		{"answer and SOA", "www.example.org.", dns.TypeNSEC, with([]dns.RR{nsec}, []dns.RR{soa}), true},
		{"SERVFAIL", "www.example.org.", dns.TypeA, func(r *dns.Msg) *dns.Msg { return negative(r, dns.RcodeServerFailure) }, true},
		{"other zone", "www.example.net.", dns.TypeA, nodata, false},
		{"no question", "www.example.org.", dns.TypeA, func(r *dns.Msg) *dns.Msg {
			m := nodata(r)
			m.Question = nil
			return m
		}, false},
	} {
		t.Run(tc.what, func(t *testing.T) {
			var h dnssec.Dnssec
			h, _ = signer.New(t, tc.respond.behind(&h), false, ksk)
			wantSame(t, h, tc.respond, signedQuery(tc.name, tc.qtype), tc.signed)
		})
	}
	// There are split keys, and none of them is for these records.
	for _, qtype := range []uint16{dns.TypeA, dns.TypeNSEC} {
		var h dnssec.Dnssec
		h, _ = signer.New(t, respond(nodata).behind(&h), true, ksk)
		wantSame(t, h, nodata, signedQuery("www.example.org.", qtype), false)
	}
}

// wantSame checks that h responds to r as it does with f alone behind it.
func wantSame(t *testing.T, h dnssec.Dnssec, f respond, r *dns.Msg, signed bool) {
	t.Helper()
	plain := h // with the same signatures in its cache
	plain.Next = f.alone()
	want, got := exchange(t, plain, r), exchange(t, h, r)
	if diff := cmp.Diff(want.String(), got.String()); diff != "" {
		t.Errorf("%v (-without +with a Writer):\n%s", r.Question, diff)
	}
	if slices.ContainsFunc(slices.Concat(got.Answer, got.Ns), func(rr dns.RR) bool { return rr.Header().Rrtype == dns.TypeRRSIG }) != signed {
		t.Errorf("%v: got %v, signed should be %v", r.Question, got, signed)
	}
}

// The message of a denial, and its records, are those of another plugin. They are not changed.
func TestMessageUnchanged(t *testing.T) {
	for _, qtype := range []uint16{dns.TypeA, dns.TypeNSEC} {
		var m *dns.Msg
		var h dnssec.Dnssec
		h, _ = signer.New(t, respond(func(r *dns.Msg) *dns.Msg {
			m = negative(r, dns.RcodeNameError)
			return m
		}).behind(&h), false, ksk)
		r := signedQuery("www.example.org.", qtype)
		exchange(t, h, r)
		if diff := cmp.Diff(negative(r, dns.RcodeNameError).String(), m.String()); diff != "" {
			t.Errorf("%s (-before +after):\n%s", dns.TypeToString[qtype], diff)
		}
		if behind := m.Ns[:2]; behind[1] != nil {
			t.Errorf("%s: behind the authority section is %v", dns.TypeToString[qtype], behind[1])
		}
	}
}

// A client without DNSSEC has no use for a Writer.
func TestWithoutDO(t *testing.T) {
	w := nonwriter.New(&test.ResponseWriter{})
	h, _ := signer.New(t, nil, false, ksk)
	r := new(dns.Msg).SetQuestion("www.example.org.", dns.TypeA)
	if got := denial.Writer(context.Background(), w, r, &h); got != w {
		t.Errorf("without EDNS: got %v", got)
	}
	r.SetEdns0(1232, false)
	if got := denial.Writer(context.Background(), w, r, &h); got != w {
		t.Errorf("without the DO bit: got %v", got)
	}
	r.IsEdns0().SetDo()
	if got := denial.Writer(context.Background(), w, r, &h); got == w {
		t.Error("with the DO bit: got the same writer")
	}
}
