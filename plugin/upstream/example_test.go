package upstream_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/upstream"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// A resolver on this machine is asked for the addresses of a target.
func Example() {
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		fmt.Println(err)
		return
	}
	resolver := &dns.Server{PacketConn: conn, Handler: fake.Zone("app.hosting.example. 60 IN CNAME edge.hosting.example.", "edge.hosting.example. 300 IN A 192.0.2.1")}
	go resolver.ActivateAndServe()
	defer resolver.Shutdown()

	addresses, err := upstream.ParseAddresses([]string{conn.LocalAddr().String()})
	if err != nil {
		fmt.Println(err)
		return
	}
	us := upstream.New(upstream.Config{
		Addresses: addresses,
		TLS:       new(tls.Config),
		Timeout:   5 * time.Second,
		Reporter: func(string) upstream.Reporter {
			return func(outcome string, _ time.Duration) { fmt.Println("A request ended in", outcome) }
		},
	})
	us.Start()
	defer us.Stop()
	for _, name := range []string{"app.hosting.example.", "none.hosting.example."} {
		o, err := us.Resolve(context.Background(), lookup.Question{Name: name, Type: dns.TypeA}, 3)
		if err != nil {
			fmt.Println(lookup.AsFailure(err).Outcome)
			return
		}
		fmt.Println(name, net.IP(o.Data), "TTL", o.TTL, "links", o.Links)
	}
	// Output:
	// A request ended in success
	// app.hosting.example. 192.0.2.1 TTL 60 links 1
	// A request ended in nxdomain
	// none.hosting.example. <nil> TTL 30 links 0
}
