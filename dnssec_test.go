package alias

import (
	"context"
	"crypto"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/dnssec"
	signatures "github.com/coredns/coredns/plugin/pkg/cache"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"

	"github.com/miekg/dns"
)

// newSigner returns dnssec in front of next, with a new key of example.org for each of the flags.
func newSigner(t *testing.T, next plugin.Handler, splitKeys bool, flags ...uint16) (dnssec.Dnssec, []*dns.DNSKEY) {
	t.Helper()
	var keys []*dnssec.DNSKEY
	var public []*dns.DNSKEY
	for _, f := range flags {
		key := &dns.DNSKEY{
			Hdr:   dns.RR_Header{Name: "example.org.", Rrtype: dns.TypeDNSKEY, Class: dns.ClassINET, Ttl: 3600},
			Flags: f, Protocol: 3, Algorithm: dns.ECDSAP256SHA256,
		}
		private, err := key.Generate(256)
		if err != nil {
			t.Fatal(err)
		}
		keys, public = append(keys, parsedKey(t, key, private)), append(public, key)
	}
	return dnssec.New([]string{"example.org."}, keys, splitKeys, next, signatures.New[[]dns.RR](100)), public
}

// parsedKey returns a key as dnssec reads it from files.
func parsedKey(t *testing.T, key *dns.DNSKEY, private crypto.PrivateKey) *dnssec.DNSKEY {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	for suffix, content := range map[string]string{".key": key.String(), ".private": key.PrivateKeyString(private)} {
		if err := os.WriteFile(path+suffix, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	parsed, err := dnssec.ParseKeyFile(path+".key", path+".private")
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// minimalHandler is what minimal is between dnssec and alias: it keeps the message, and writes that then.
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

// signedQuery returns the response of h to a query with the DO bit.
func signedQuery(t *testing.T, h plugin.Handler, name string, qtype uint16) *dns.Msg {
	t.Helper()
	r := new(dns.Msg).SetQuestion(name, qtype)
	r.SetEdns0(1232, true)
	return exchange(t, context.Background(), h, r)
}

// wantSigned checks that all RRsets of rrs have valid signatures by one of the keys, each once.
func wantSigned(t *testing.T, rrs []dns.RR, keys []*dns.DNSKEY) {
	t.Helper()
	sets := make(map[uint16][]dns.RR)
	covering := make(map[uint16][]*dns.RRSIG)
	for _, rr := range rrs {
		if sig, ok := rr.(*dns.RRSIG); ok {
			covering[sig.TypeCovered] = append(covering[sig.TypeCovered], sig)
		} else {
			sets[rr.Header().Rrtype] = append(sets[rr.Header().Rrtype], rr)
		}
	}
	if len(sets) == 0 || len(sets) != len(covering) {
		t.Errorf("records of %d types, and signatures of %d: %v", len(sets), len(covering), rrs)
	}
	for qtype, sigs := range covering {
		for i, sig := range sigs {
			k := slices.IndexFunc(keys, func(k *dns.DNSKEY) bool { return k.KeyTag() == sig.KeyTag })
			if k < 0 || sig.Verify(keys[k], sets[qtype]) != nil || !sig.ValidityPeriod(time.Now()) {
				t.Errorf("not valid: %v", sig)
			}
			if slices.ContainsFunc(sigs[:i], func(other *dns.RRSIG) bool { return other.KeyTag == sig.KeyTag }) {
				t.Errorf("two signatures by the same key: %v", sig)
			}
		}
	}
}

// The NSEC records of dnssec do not deny the HTTPS records of an owner, whatever the query was for, and are signed.
func TestDenials(t *testing.T) {
	up := fake.New(t, fake.Zone("v4only.example. 300 IN A "+v4, "v4only.example. 300 IN HTTPS 1 . alpn=h2"))
	const ksk, zsk = dns.ZONE | dns.SEP, dns.ZONE
	zone := zoneFile(t, nil,
		"sub.example.org. 300 IN NS ns.sub.example.org.", "ns.sub.example.org. 300 IN A 192.0.2.53",
		"txt.example.org. 300 IN ALIAS v4only.example.", "txt.example.org. 300 IN TXT x")
	for _, setup := range []struct {
		name      string
		https     string
		between   func(plugin.Handler) plugin.Handler
		splitKeys bool
		flags     []uint16
		want      bool
	}{
		{name: "copy", https: "https copy", flags: []uint16{ksk}, want: true},
		{name: "alias", https: "https alias", flags: []uint16{ksk}, want: true},
		{name: "minimal", https: "https copy", between: minimalHandler, flags: []uint16{ksk}, want: true},
		{name: "split keys", https: "https copy", splitKeys: true, flags: []uint16{ksk, zsk}, want: true},
		{name: "off", flags: []uint16{ksk}},
	} {
		t.Run(setup.name, func(t *testing.T) {
			a, _ := newAlias(t, "example.org", "record @ v4only.example\nrecord www v4only.example\nupstream "+up.Addr+"\n"+setup.https, zone)
			var next plugin.Handler = a
			if setup.between != nil {
				next = setup.between(a)
			}
			h, keys := newSigner(t, next, setup.splitKeys, setup.flags...)
			a.signer = &h
			for _, name := range []string{"example.org.", "www.example.org.", "txt.example.org.", "nowhere.example.org."} {
				for _, qtype := range []uint16{dns.TypeAAAA, dns.TypeTXT, dns.TypeCAA, dns.TypeLOC, dns.TypeNSEC} {
					if name == "txt.example.org." && qtype == dns.TypeTXT {
						continue
					}
					m := signedQuery(t, h, name, qtype)
					section := m.Ns
					if qtype == dns.TypeNSEC {
						section = m.Answer
					}
					nsec := nsecIn(section)
					if nsec == nil {
						t.Fatalf("%s %s: no NSEC record: %v", name, dns.TypeToString[qtype], m)
					}
					if got := slices.Contains(nsec.TypeBitMap, dns.TypeHTTPS); got != setup.want {
						t.Errorf("%s %s: HTTPS in the NSEC record: %v", name, dns.TypeToString[qtype], nsec)
					}
					if slices.Contains(nsec.TypeBitMap, qtype) && qtype != dns.TypeNSEC || !slices.IsSorted(nsec.TypeBitMap) || m.Rcode != dns.RcodeSuccess {
						t.Errorf("%s %s: %v", name, dns.TypeToString[qtype], m)
					}
					if !setup.splitKeys || qtype != dns.TypeNSEC || setup.want {
						wantSigned(t, section, keys)
					}
				}
			}
		})
	}
}

// HTTPS records of an alias are signed. A query for them where there are none, one for DS records, and one for a delegated name get
// the NSEC record of dnssec.
func TestDenialsOfOthers(t *testing.T) {
	up := fake.New(t, fake.Zone("target.example. 300 IN A "+v4, "target.example. 300 IN HTTPS 1 . alpn=h2", "bare.example. 300 IN A "+v4))
	a, _ := newAlias(t, "example.org", "record @ target.example\nrecord bare bare.example\nhttps copy\nupstream "+up.Addr, zoneFile(t, nil,
		"sub.example.org. 300 IN NS ns.sub.example.org.", "ns.sub.example.org. 300 IN A 192.0.2.53"))
	h, keys := newSigner(t, a, false, dns.ZONE|dns.SEP)
	a.signer = &h
	m := signedQuery(t, h, "example.org.", dns.TypeHTTPS)
	wantSigned(t, m.Answer, keys)
	for _, tc := range []struct {
		name  string
		qtype uint16
	}{{"bare.example.org.", dns.TypeHTTPS}, {"bare.example.org.", dns.TypeDS}, {"sub.example.org.", dns.TypeA}, {"sub.example.org.", dns.TypeDS}} {
		m := signedQuery(t, h, tc.name, tc.qtype)
		if nsec := nsecIn(m.Ns); nsec == nil || slices.Contains(nsec.TypeBitMap, dns.TypeHTTPS) {
			t.Errorf("%s %s: got %v", tc.name, dns.TypeToString[tc.qtype], m)
		}
	}
	// A client without DNSSEC gets no signatures.
	plain := query(t, h, "bare.example.org.", dns.TypeAAAA)
	wantText(t, "without DO", plain.Ns, exampleSOA)
}
