// Package lookup has the words that all parts of alias share: the question that is looked up, the outcome or failure
// that a lookup ends in, and the chain of names from a target to its addresses. Beside them stands what is needed to
// read the sections of a response.
//
// It is the ground floor. It must not know who asks, through what, or what is kept of an answer: it imports no other
// package of alias, opens no socket, and has no state.
package lookup

import (
	"errors"

	"github.com/miekg/dns"
)

const (
	// MaxAddrs is how many addresses of a target are used. With all that fit into a response there would be no room for a
	// longer owner name, or for EDNS.
	MaxAddrs = 512

	// NoLimit is the TTL, in seconds, of an alias that states none.
	NoLimit = 1<<32 - 1
)

// Question is what is looked up, and the key of its cache entry. It is comparable.
type Question struct {
	Name string // lower case, fully qualified, in the one spelling that Canonical gives
	Type uint16 // A or AAAA, where addresses are looked up
}

// String returns the name and the type, for messages.
func (q Question) String() string { return q.Name + " " + dns.TypeToString[q.Type] }

// Outcome is what a lookup ended in, unless it failed. Addrs is shared, and must not be changed.
type Outcome struct {
	Addrs []byte // the addresses one after the other, 4 or 16 octets each; empty: the target has none (NODATA)
	TTL   uint32 // in seconds, as received: of the chain, or of the negative answer
	Links uint8  // the number of CNAME records that led to the addresses, at most MaxLinks
}

// Failure is the error of a lookup that ended without a usable answer. It is not changed once it is made.
type Failure struct {
	Outcome string // one of a closed set of words, for metrics and messages
	EDE     uint16 // the info code of the Extended DNS Error (RFC 8914) that clients get
	Detail  error  // may be nil
}

// Outcomes that callers tell apart.
const (
	Timeout  = "timeout"  // there was no response in time
	Canceled = "canceled" // the end of the server cut the lookup short, which says nothing about the target
)

// Error implements error.
func (f *Failure) Error() string {
	if f.Detail == nil {
		return f.Outcome
	}
	return f.Outcome + ": " + f.Detail.Error()
}

// Unwrap returns the detail.
func (f *Failure) Unwrap() error { return f.Detail }

// NetworkFailure returns the failure of a lookup that got no response. detail may be nil.
func NetworkFailure(outcome string, detail error) *Failure {
	return &Failure{outcome, dns.ExtendedErrorCodeNetworkError, detail}
}

// Unusable returns the failure of a lookup whose response cannot be used. detail may be nil.
func Unusable(outcome string, detail error) *Failure {
	return &Failure{outcome, dns.ExtendedErrorCodeNoReachableAuthority, detail}
}

// AsFailure returns the Failure that err is or wraps. Any other error becomes one, with the outcome "error".
func AsFailure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return Unusable("error", err)
}
