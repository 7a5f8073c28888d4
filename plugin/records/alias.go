package records

import (
	"github.com/coredns/alias/plugin/answers"

	"github.com/miekg/dns"
)

// Alias says that a name has the addresses of its target, wherever that is stated: in the Corefile, in a zone, or by a
// label. But for the cached pointers it is not changed, and it is safe for concurrent use.
type Alias struct {
	Target string // lower case, fully qualified
	Zone   string // of Zones, that the owner is in
	TTL    uint32 // caps the TTL of the answer, in seconds
	Inside bool   // Target is in Zones, but not in the root zone

	cached [2]answers.Ref // to the answers of Target, by type
}

// NewAlias returns the alias of owner, a name in one of the zones, with that target. ttl, in seconds, caps the TTL of
// the answer.
func (z Zones) NewAlias(owner, target string, ttl uint32) *Alias {
	return &Alias{Target: target, Zone: z.Match(owner), TTL: ttl, Inside: z.Inside(target)}
}

// Cached returns the cached pointer to the answer of type A or AAAA.
func (a *Alias) Cached(qtype uint16) *answers.Ref {
	if qtype == dns.TypeA {
		return &a.cached[0]
	}
	return &a.cached[1]
}
