// Package signer makes the plugin dnssec with new keys, and checks what it has signed. It knows nothing of alias.
package signer

import (
	"crypto"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/dnssec"
	signatures "github.com/coredns/coredns/plugin/pkg/cache"

	"github.com/miekg/dns"
)

// New returns dnssec in front of next, with a new key of example.org for each of the flags.
func New(t testing.TB, next plugin.Handler, splitKeys bool, flags ...uint16) (dnssec.Dnssec, []*dns.DNSKEY) {
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
		keys, public = append(keys, parsed(t, key, private)), append(public, key)
	}
	return dnssec.New([]string{"example.org."}, keys, splitKeys, next, signatures.New[[]dns.RR](100)), public
}

// Check checks that all RRsets of rrs have valid signatures by one of the keys, each once.
func Check(t testing.TB, rrs []dns.RR, keys []*dns.DNSKEY) {
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

// parsed returns a key as dnssec reads it from files.
func parsed(t testing.TB, key *dns.DNSKEY, private crypto.PrivateKey) *dnssec.DNSKEY {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	for suffix, content := range map[string]string{".key": key.String(), ".private": key.PrivateKeyString(private)} {
		if err := os.WriteFile(path+suffix, []byte(content+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	read, err := dnssec.ParseKeyFile(path+".key", path+".private")
	if err != nil {
		t.Fatal(err)
	}
	return read
}
