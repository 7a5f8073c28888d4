package lookup_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

func TestFailure(t *testing.T) {
	detail := errors.New("detail")
	for _, tc := range []struct {
		failure *lookup.Failure
		text    string
		ede     uint16
		detail  error
	}{
		{lookup.NetworkFailure(lookup.Timeout, nil), "timeout", dns.ExtendedErrorCodeNetworkError, nil},
		{lookup.NetworkFailure("network", detail), "network: detail", dns.ExtendedErrorCodeNetworkError, detail},
		{lookup.Unusable("servfail", nil), "servfail", dns.ExtendedErrorCodeNoReachableAuthority, nil},
		{lookup.Unusable("malformed", detail), "malformed: detail", dns.ExtendedErrorCodeNoReachableAuthority, detail},
		{lookup.Filtered(lookup.Denied, detail), "denied: detail", dns.ExtendedErrorCodeFiltered, detail},
		{lookup.TooLong(), "loop: more than 16 links", dns.ExtendedErrorCodeNoReachableAuthority, lookup.TooLong().Detail},
	} {
		if got := tc.failure.Error(); got != tc.text {
			t.Errorf("%q, want %q", got, tc.text)
		}
		if tc.failure.EDE != tc.ede {
			t.Errorf("%s: EDE %d, want %d", tc.text, tc.failure.EDE, tc.ede)
		}
		if got := errors.Unwrap(tc.failure); fmt.Sprint(got) != fmt.Sprint(tc.detail) {
			t.Errorf("%s: wraps %v, want %v", tc.text, got, tc.detail)
		}
	}
}

func TestAsFailure(t *testing.T) {
	f := lookup.NetworkFailure(lookup.Timeout, nil)
	for _, err := range []error{f, fmt.Errorf("wrapped: %w", f), lookup.AsFailure(f)} {
		if got := lookup.AsFailure(err); got != f {
			t.Errorf("%v becomes %v", err, got)
		}
	}
	other := errors.New("other")
	got := lookup.AsFailure(other)
	if got.Outcome != "error" || got.Error() != "error: other" || got.EDE != dns.ExtendedErrorCodeNoReachableAuthority || !errors.Is(got, other) {
		t.Errorf("an error that is no failure becomes %#v", got)
	}
}

func TestQuestion(t *testing.T) {
	cached := map[lookup.Question]string{
		{Name: "app.example.", Type: dns.TypeA}:    "A",
		{Name: "app.example.", Type: dns.TypeAAAA}: "AAAA",
	}
	if got := cached[lookup.Question{Name: "app.example.", Type: dns.TypeAAAA}]; got != "AAAA" {
		t.Errorf("the question finds %q", got)
	}
	for q, want := range map[lookup.Question]string{
		{Name: "app.example.", Type: dns.TypeA}: "app.example. A",
		{Name: ".", Type: 65000}:                ". TYPE65000",
	} {
		if got := q.String(); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
