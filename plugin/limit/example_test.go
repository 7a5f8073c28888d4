package limit_test

import (
	"context"
	"fmt"

	"github.com/coredns/alias/plugin/limit"
)

func Example() {
	l := limit.New(16, 16) // 4 of them in the background, 2 for one zone

	prefetch := limit.Lookup{Kind: limit.Prefetch, Zone: "example.org."}
	fmt.Println(l.Try(prefetch), l.Try(prefetch), l.Try(prefetch))

	other := limit.Lookup{Kind: limit.Job, Zone: "example.net."}
	if err := l.Await(context.Background(), other); err == nil {
		fmt.Println("looking up in", other.Zone)
		l.Leave(other)
	}
	// Output:
	// true true false
	// looking up in example.net.
}
