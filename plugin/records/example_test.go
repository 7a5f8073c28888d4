package records_test

import (
	"fmt"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
)

func Example() {
	zones := records.Zones{"example.org.": {}}
	rs := records.New(zones)
	for _, record := range [][2]string{{"@", "app.hosting.example"}, {"*.shop", "shops.hosting.example"}} {
		owner, err := zones.ParseOwner(record[0], []string{"example.org."})
		if err != nil {
			fmt.Println(err)
			return
		}
		target, err := records.ParseTarget(record[1])
		if err != nil {
			fmt.Println(err)
			return
		}
		rs.Add(owner, lookup.NoLimit, false, target)
	}
	rs.Seal()

	for _, name := range []string{"example.org.", "a.shop.example.org.", "shop.example.org.", "www.example.org."} {
		switch r, exists := rs.Find(name); {
		case r.Alias != nil:
			fmt.Println(name, "is an alias of", r.Target)
		case exists:
			fmt.Println(name, "exists, and is no alias")
		default:
			fmt.Println(name, "has no record")
		}
	}
	// Output:
	// example.org. is an alias of app.hosting.example.
	// a.shop.example.org. is an alias of shops.hosting.example.
	// shop.example.org. exists, and is no alias
	// www.example.org. has no record
}
