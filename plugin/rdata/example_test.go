package rdata_test

import (
	"fmt"
	"strings"

	"github.com/coredns/alias/plugin/rdata"

	"github.com/miekg/dns"
)

// A zone parser reads ALIAS records as any others. Refused gets the reason for a record that it does not read.
func Example() {
	rdata.Refused = func(reason error) { fmt.Println(reason) }
	defer func() { rdata.Refused = nil }()

	zone := dns.NewZoneParser(strings.NewReader(`
@   300 IN ALIAS app.hosting.example.
www 300 IN ANAME app.hosting.example.
ftp 300 IN ALIAS app
`), "example.org.", "db.example.org")
	for rr, ok := zone.Next(); ok; rr, ok = zone.Next() {
		fmt.Println(rr.Header().Name, rdata.Of(rr).Target)
	}
	// Output:
	// example.org. app.hosting.example.
	// www.example.org. app.hosting.example.
	// ALIAS target 'app' is relative: write it in full and with a final dot, as 'app.the.zone.'
}
