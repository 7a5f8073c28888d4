package primary_test

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// With HTTPS among the types, a transfer has the HTTPS records of aliases too. Those of the zone win, also over a record of
// the Corefile.
func TestTransferHTTPS(t *testing.T) {
	for _, types := range [][]uint16{{dns.TypeA, dns.TypeHTTPS}, {dns.TypeA}} {
		r := newResolver(nil)
		b := new(backend)
		b.put(t, 7,
			"example.org. 60 IN ALIAS target.example.",
			"own.example.org. 60 IN ALIAS target.example.", "own.example.org. 60 IN HTTPS 1 .",
			"rec.example.org. 60 IN A 203.0.113.2", "rec.example.org. 60 IN HTTPS 1 .",
			"*.shop.example.org. 60 IN ALIAS target.example.",
			"sub.example.org. 60 IN NS ns.example.net.", "www.sub.example.org. 60 IN ALIAS target.example.",
		)
		s := newServer(t, r, b, func(cfg *primary.Config) {
			cfg.Types = types
			cfg.Records = corefile("rec.example.org.", "target.example.", "new.example.org.", "target.example.")
			cfg.Lookup = func(_ context.Context, _, owner string, al *records.Alias, qtype uint16) (primary.Found, error) {
				data := []byte{192, 0, 2, 1}
				if qtype == dns.TypeHTTPS {
					data = lookup.AliasMode(al.Target)
				}
				return primary.Found{Data: data, TTL: min(300, al.TTL), Next: time.Now().Add(time.Hour), Stored: time.Now()}, nil
			}
		})
		want := []string{
			"*.shop.example.org. 60 IN A 192.0.2.1", "example.org. 60 IN A 192.0.2.1", "new.example.org. 100 IN A 192.0.2.1",
			"own.example.org. 60 IN A 192.0.2.1", "own.example.org. 60 IN HTTPS 1 .",
			"rec.example.org. 100 IN A 192.0.2.1", "rec.example.org. 60 IN HTTPS 1 .", "sub.example.org. 60 IN NS ns.example.net.",
		}
		if len(types) > 1 {
			want = append(want, "*.shop.example.org. 60 IN HTTPS 0 target.example.", "example.org. 60 IN HTTPS 0 target.example.",
				"new.example.org. 100 IN HTTPS 0 target.example.")
		}
		slices.Sort(want)
		got, _ := s.transferred(t)
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%v (-want +got):\n%s", types, diff)
		}
	}
}
