// Package lookup has the types that all packages of alias share: the question that is looked up, the outcome or failure
// that a lookup ends in, and the chain of names from a target to its addresses. It also has the functions that read the
// sections of a response.
//
// It must not know who asks, how a question is looked up, or what is cached: it imports no other package of alias, opens
// no socket, and has no state. Its functions are safe for concurrent use, and none changes what it is given.
//
// Where names are compared, upper and lower case are the same (RFC 4343). The records of an answer are kept as their RDATA, one
// after the other: for type A 4 octets each in network order, for AAAA 16, and for HTTPS the RDATA of RFC 9460, section
// 2.2, not compressed, each after its length (2 octets).
package lookup

import (
	"errors"

	"github.com/miekg/dns"
)

const (
	// MaxRecords is how many records of a target are used. A response that is full of addresses would have no room for a
	// longer owner name, or for EDNS.
	MaxRecords = 512

	// NoLimit is the TTL, in seconds, of an alias that states none: it caps nothing.
	NoLimit = 1<<32 - 1
)

// Question is what is looked up, and the key of its cache entry. It is comparable.
type Question struct {
	Name string  // as Canonical returns it
	Type uint16  // A, AAAA or HTTPS, where a target is looked up
	Net  Network // of the clients that ask
}

// String returns the name and the type, and the network if there is one, for messages.
func (q Question) String() string {
	text := q.Name + " " + dns.Type(q.Type).String()
	if q.Net.IsEverybody() {
		return text
	}
	return text + " for " + q.Net.String()
}

// For returns the question of the clients of n.
func (q Question) For(n Network) Question { return Question{q.Name, q.Type, n} }

// Outcome is the answer that a lookup ended in. Data is shared between goroutines, and must not be changed.
type Outcome struct {
	Data  []byte // the RDATA of the records; empty when the target has none (NODATA) or does not exist (NXDOMAIN)
	TTL   uint32 // in seconds, as received: of the chain, or of the negative answer
	Links uint8  // the number of links that led to the records, at most MaxLinks
	Scope uint8  // how many bits of the network of the question the answer is for; 0: for everybody
	// Exact says that the answer is for no smaller network in that of the question: another answer may be for some of its clients.
	Exact bool
}

// Failure is the error of a lookup that ended without a usable answer. It is immutable.
type Failure struct {
	Outcome string // one of a closed set, for metrics and messages
	EDE     uint16 // the info code of the Extended DNS Error (RFC 8914) that clients get
	Detail  error  // for messages; may be nil
}

// The outcomes of failures that callers distinguish.
const (
	Timeout  = "timeout"  // no response came in time
	Canceled = "canceled" // the server stopped during the lookup, which says nothing about the target
	Loop     = "loop"     // the chain leads back to itself, or is too long
	Denied   = "denied"   // the chain leads to a name that may not be a target, or there are no addresses that may be used
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

// NetworkFailure returns the failure of a lookup that got no response. Its EDE is Network Error (23); detail may be nil.
func NetworkFailure(outcome string, detail error) *Failure {
	return &Failure{outcome, dns.ExtendedErrorCodeNetworkError, detail}
}

// Unusable returns the failure of a lookup whose response cannot be used. Its EDE is No Reachable Authority (22); detail
// may be nil.
func Unusable(outcome string, detail error) *Failure {
	return &Failure{outcome, dns.ExtendedErrorCodeNoReachableAuthority, detail}
}

// Filtered returns the failure of a lookup whose response has no address that may be used. Its EDE is Filtered (17); detail
// may be nil.
func Filtered(outcome string, detail error) *Failure {
	return &Failure{outcome, dns.ExtendedErrorCodeFiltered, detail}
}

// AsFailure returns the Failure that err is or wraps. Any other error becomes one, with the outcome "error".
func AsFailure(err error) *Failure {
	var f *Failure
	if errors.As(err, &f) {
		return f
	}
	return Unusable("error", err)
}
