package backend_test

import (
	"fmt"
	"log"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/plugin/file"

	"github.com/miekg/dns"
)

// The backend has a zone whose apex is an alias.
func Example() {
	const master = `$ORIGIN example.org.
@ 3600 IN SOA ns hostmaster 1 7200 3600 1209600 300
@  300 IN ALIAS app.hosting.example.
@  300 IN MX 10 mail
`
	z, err := file.Parse(strings.NewReader(master), "example.org.", "example.org.zone", -1)
	if err != nil {
		log.Fatal(err)
	}
	b := backend.New(backend.Config{
		Zones: records.Zones{"example.org.": {}}, Timeout: time.Second, Concurrent: 100, Size: 1000, Now: time.Now, Warn: log.Printf,
	})
	b.Next = file.File{Zones: file.Zones{Names: []string{"example.org."}, Z: map[string]*file.Zone{"example.org.": z}}}

	answer := b.Answer(lookup.Question{Name: "example.org.", Type: dns.TypeA})
	fmt.Println("target:", answer.Alias.Target, "TTL:", answer.Alias.TTL)
	fmt.Println("serial:", answer.SOA("example.org.").Serial)
	// Output:
	// target: app.hosting.example. TTL: 300
	// serial: 1
}
