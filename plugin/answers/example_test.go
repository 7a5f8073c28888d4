package answers_test

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// A lookup that fails keeps the last answer.
func Example() {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	es := answers.New(answers.Size{Everybody: 1000}, func() time.Time { return now })
	q := lookup.Question{Name: "app.hosting.example.", Type: dns.TypeA}

	es.Update(q, answers.MaxLag, func(*answers.Entry) *answers.Entry {
		addr := netip.MustParseAddr("192.0.2.1").As4()
		return answers.NewEntry(lookup.Outcome{Data: addr[:], TTL: 60}, now)
	})
	now = now.Add(time.Minute)
	es.Update(q, answers.MaxLag, func(current *answers.Entry) *answers.Entry {
		return current.Fail(answers.Backoff{
			Failures: 1, Retry: now.Add(5 * time.Second), Cause: lookup.NetworkFailure(lookup.Timeout, nil),
		})
	})

	e := es.Load(q)
	fmt.Println("answered:", e.Answered, e.Data, "age:", now.Sub(e.Stored))
	fmt.Println("backing off:", e.BackingOff(now), "because of:", e.LastFailure())
	// Output:
	// answered: true [192 0 2 1] age: 1m0s
	// backing off: true because of: timeout
}
