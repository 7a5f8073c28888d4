package records

import (
	"iter"
	"sync/atomic"

	"github.com/coredns/alias/plugin/answers"

	"github.com/miekg/dns"
)

// Zone is the zone of the owner of an alias. It must not be changed, and is safe for concurrent use.
type Zone struct {
	Name string // of the closest of Zones that encloses the owner
	Apex string // of the zone that has the alias: Name, or a zone of the backend below it
}

// MaxTargets is how many targets an owner may have: each query looks at all of them.
const MaxTargets = 16

// Alias says that an owner has the addresses of a target. It may be stated in the Corefile, in zone data, or by a metadata
// label. An owner with several targets has an Alias for each: that of the first leads to the others. Its fields must not be
// changed, and it must not be copied; it is safe for concurrent use.
type Alias struct {
	Target   string    // lower case, fully qualified
	Zone     *Zone     // of the owner
	TTL      uint32    // caps the TTL of the answer, in seconds; lookup.NoLimit: no cap
	Inside   bool      // Target is in one of Zones other than the root zone
	Next     *Alias    // that of the next target, with the same Zone and TTL, or nil
	Failover *Failover // not nil: only the first target that has an answer counts, and not all of them

	cached [3]answers.Ref // to the answers of Target, by type
}

// Failover knows which target of an alias answers. It is safe for concurrent use. The zero Failover is one of which the
// first does.
type Failover struct{ serving [3]atomic.Int32 }

// Serve notes that the target with that index, from 0, answers queries of type qtype, and returns the index of the one that did
// before.
func (f *Failover) Serve(qtype uint16, target int) (before int) {
	serving := &f.serving[place(qtype)]
	if before = int(serving.Load()); before != target { // most often it is the same, and a write would take the cache line from other cores
		before = int(serving.Swap(int32(target))) // #nosec G115 -- there are few targets
	}
	return before
}

// NewAlias returns the alias of owner with those targets, at least one, in their order. All names are lower case and fully
// qualified. owner is in one of the zones, and in that with the apex; an empty apex stands for the closest of the zones. ttl,
// in seconds, caps the TTL of the answer. Every target counts.
func (z Zones) NewAlias(owner, apex string, ttl uint32, targets ...string) *Alias {
	var first *Alias
	zone := &Zone{Name: z.Match(owner), Apex: apex}
	if apex == "" {
		zone.Apex = zone.Name
	}
	for i := len(targets) - 1; i >= 0; i-- {
		first = &Alias{Target: targets[i], Zone: zone, TTL: ttl, Inside: z.Inside(targets[i]), Next: first}
	}
	return first
}

// All yields a, and the aliases of the targets that follow it.
func (a *Alias) All() iter.Seq[*Alias] {
	return func(yield func(*Alias) bool) {
		for ; a != nil && yield(a); a = a.Next {
		}
	}
}

// Targets returns the targets of a and of the aliases that follow it, in their order.
func (a *Alias) Targets() []string {
	var targets []string
	for t := range a.All() {
		targets = append(targets, t.Target)
	}
	return targets
}

// Cached returns the alias's cached pointer to the answer of type qtype, which is A, AAAA or HTTPS, for everybody. It is
// the same on each call.
func (a *Alias) Cached(qtype uint16) *answers.Ref { return &a.cached[place(qtype)] }

// place returns the index of a type.
func place(qtype uint16) int {
	switch qtype {
	case dns.TypeA:
		return 0
	case dns.TypeAAAA:
		return 1
	default:
		return 2
	}
}
