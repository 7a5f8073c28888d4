package lookup_test

import (
	"fmt"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// An upstream answers with a chain, and the owner of the alias gets the addresses at its end.
func Example() {
	c := lookup.NewChain("app.hosting.example.")
	addrs, err := c.Follow(upstream.RRs(
		"edge.hosting.example. 60 IN A 192.0.2.1",
		"edge.hosting.example. 60 IN A 192.0.2.2",
		"app.hosting.example. 300 IN CNAME edge.hosting.example.",
	), dns.TypeA)
	if err != nil {
		fmt.Println(lookup.AsFailure(err).Outcome)
		return
	}
	fmt.Println(c.End(), c.Links(), c.TTL())
	for _, rr := range lookup.Records(lookup.Question{Name: "example.org.", Type: dns.TypeA}, c.TTL(), addrs) {
		fmt.Println(rr)
	}
	// Output:
	// edge.hosting.example. 1 60
	// example.org.	60	IN	A	192.0.2.1
	// example.org.	60	IN	A	192.0.2.2
}
