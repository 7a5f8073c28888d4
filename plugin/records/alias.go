package records

import (
	"github.com/coredns/alias/plugin/answers"

	"github.com/miekg/dns"
)

// Alias says that an owner has the addresses of a target. It may be stated in the Corefile, in zone data, or by a metadata
// label. Its fields must not be changed, and it must not be copied; it is safe for concurrent use.
type Alias struct {
	Target string // lower case, fully qualified
	Zone   string // the closest of Zones that encloses the owner
	TTL    uint32 // caps the TTL of the answer, in seconds; lookup.NoLimit: no cap
	Inside bool   // Target is in one of Zones other than the root zone

	cached [2]answers.Ref // to the answers of Target, by type
}

// NewAlias returns the alias of owner with that target, both lower case and fully qualified. owner is in one of the
// zones. ttl, in seconds, caps the TTL of the answer.
func (z Zones) NewAlias(owner, target string, ttl uint32) *Alias {
	return &Alias{Target: target, Zone: z.Match(owner), TTL: ttl, Inside: z.Inside(target)}
}

// Cached returns the alias's cached pointer to the answer of type qtype, A or AAAA. It is the same on each call.
func (a *Alias) Cached(qtype uint16) *answers.Ref {
	if qtype == dns.TypeA {
		return &a.cached[0]
	}
	return &a.cached[1]
}
