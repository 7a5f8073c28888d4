package primary_test

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/primary"
	_ "github.com/coredns/alias/plugin/rdata" // zone files may have ALIAS records
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/file"

	"github.com/miekg/dns"
)

// A zone of the file plugin is transferred with addresses in place of its alias. The published serial is the zone's own
// and the half seconds since 2026-01-01.
func Example() {
	const text = `
@     IN SOA   ns.example.net. host.example.net. 7 7200 900 1209600 60
@ 3600 IN NS  ns.example.net.
@  60 IN ALIAS www.example.com.
`
	zone, err := file.Parse(strings.NewReader(text), "example.org.", "db.example.org", 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := file.File{Zones: file.Zones{Z: map[string]*file.Zone{"example.org.": zone}, Names: []string{"example.org."}}}
	zones := records.Zones{"example.org.": {}}
	corefile := records.New(zones)
	corefile.Seal()
	now := time.Date(2026, 1, 1, 0, 1, 0, 0, time.UTC)

	backends, list := primary.Backends([]plugin.Handler{handler}, nil, []string{"example.org."}, func([]plugin.Handler) plugin.Handler { return nil })
	p := primary.New(primary.Config{
		Zones: zones, Types: []uint16{dns.TypeA, dns.TypeAAAA}, Records: corefile, Backends: backends, List: list,
		SOA: func(string) (*dns.SOA, error) { return zone.SOA, nil },
		Lookup: func(_ context.Context, _, _ string, _ *records.Alias, qtype uint16) (primary.Found, error) {
			found := primary.Found{TTL: 60, Stored: now, Next: now.Add(time.Minute)}
			if qtype == dns.TypeA {
				found.Data = []byte{192, 0, 2, 1}
			}
			return found, nil
		},
		Concurrent: 10, Timeout: time.Second, Now: func() time.Time { return now },
		Warn:        func(string, ...any) {},
		Limited:     func(func(string, ...any), string, ...any) {},
		Transferred: func(zone, outcome string) { fmt.Println(zone, outcome) },
		Notified:    func(string, string) {},
	})
	p.Start()
	defer p.Stop()

	rrs, err := p.Transfer("example.org.", 0)
	if err != nil {
		fmt.Println(err)
		return
	}
	for batch := range rrs {
		for _, rr := range batch {
			if soa, ok := rr.(*dns.SOA); ok {
				fmt.Println("serial", soa.Serial)
				continue
			}
			fmt.Println(strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	// Output:
	// example.org. success
	// serial 127
	// example.org. 3600 IN NS ns.example.net.
	// example.org. 60 IN A 192.0.2.1
	// serial 127
}
