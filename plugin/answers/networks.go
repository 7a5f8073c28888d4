package answers

import (
	"math/rand/v2"
	"slices"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/maypok86/otter/v2"
)

const (
	// MaxNetworks is how many networks there may be answers for to one question.
	MaxNetworks = 1000

	// samples is how many networks are looked at to find one whose answer has expired.
	samples = 8
)

// networks are the networks for which there are answers to one question. They are immutable.
type networks struct {
	all     []lookup.Network
	lengths [2][]int // the prefix lengths of all, by family, the longest first; Global counts for neither
}

// familyOf returns the index of the family of n in lengths: 0 for IPv4, 1 for IPv6.
func familyOf(n lookup.Network) int {
	if n.Prefix().Addr().Is4() {
		return 0
	}
	return 1
}

// newNetworks returns the networks all, or nil when there are none.
func newNetworks(all []lookup.Network) *networks {
	if len(all) == 0 {
		return nil
	}
	ns := &networks{all: all}
	for _, n := range all {
		if n != lookup.Global && !slices.Contains(ns.lengths[familyOf(n)], n.Bits()) {
			ns.lengths[familyOf(n)] = append(ns.lengths[familyOf(n)], n.Bits())
		}
	}
	for _, lengths := range ns.lengths {
		slices.SortFunc(lengths, func(a, b int) int { return b - a })
	}
	return ns
}

// with returns ns, which may be nil, and n.
func (ns *networks) with(n lookup.Network) *networks {
	if ns == nil {
		return newNetworks([]lookup.Network{n})
	}
	if slices.Contains(ns.all, n) {
		return ns
	}
	return newNetworks(append(slices.Clone(ns.all), n))
}

// without returns ns, which may be nil, but for n.
func (ns *networks) without(n lookup.Network) *networks {
	if ns == nil {
		return nil
	}
	return newNetworks(slices.DeleteFunc(slices.Clone(ns.all), func(o lookup.Network) bool { return o == n }))
}

// networksOf returns the networks with an answer to q, whatever network q is about, or nil.
func (es *Entries) networksOf(q lookup.Question) *networks {
	ns, _ := es.index.GetIfPresent(q.For(lookup.Network{}))
	return ns
}

// reindex replaces the networks with an answer to q by what change returns.
func (es *Entries) reindex(q lookup.Question, change func(*networks) *networks) {
	es.index.Compute(q.For(lookup.Network{}), func(ns *networks, _ bool) (*networks, otter.ComputeOp) {
		if ns = change(ns); ns == nil {
			return nil, otter.InvalidateOp
		}
		return ns, otter.WriteOp
	})
}

// Find returns the entry that a client gets who asks q, whose Net is a network of clients: the answer for the most specific
// network that has all of these clients; one that is exact counts for its own network only. kept is the question of that
// entry. Without such an answer, kept is q, and the entry says whether lookups of q fail for networks without an answer; or it
// is None. Find waits for no lookup and no update.
func (es *Entries) Find(q lookup.Question) (kept lookup.Question, e *Entry) {
	ns := es.networksOf(q)
	global := q.For(lookup.Global)
	if ns == nil {
		return q, es.networks.failure(global)
	}
	for _, bits := range ns.lengths[familyOf(q.Net)] {
		if bits > q.Net.Bits() {
			continue
		}
		kept = q.For(q.Net.Cut(bits))
		if e, ok := es.networks.answers.GetIfPresent(kept); ok && !(e.Exact && bits < q.Net.Bits()) {
			return kept, e
		}
	}
	if e, ok := es.networks.answers.GetIfPresent(global); ok {
		return global, e
	}
	return q, es.networks.failure(global)
}

// HasRoom reports whether the answer to q for one network more can be kept, so that it is worth a lookup: there are fewer than
// MaxNetworks, or among some of them at random is one of which expired reports that it is of little use.
func (es *Entries) HasRoom(q lookup.Question, expired func(*Entry) bool) bool {
	ns := es.networksOf(q)
	if ns == nil || len(ns.all) < MaxNetworks {
		return true
	}
	_, found := es.expiredOf(q, ns, expired)
	return found
}

// MakeRoom removes such an answer if there is no room for the answer to q otherwise. It is called when there is an answer:
// a lookup may fail, and then none has to go.
func (es *Entries) MakeRoom(q lookup.Question, expired func(*Entry) bool) {
	ns := es.networksOf(q)
	if ns == nil || len(ns.all) < MaxNetworks || slices.Contains(ns.all, q.Net) {
		return
	}
	if other, found := es.expiredOf(q, ns, expired); found {
		es.Remove(other)
	}
}

// expiredOf returns the question of an answer to q for one of ns, of which expired reports that it is of little use, if
// there is one among some at random.
func (es *Entries) expiredOf(q lookup.Question, ns *networks, expired func(*Entry) bool) (other lookup.Question, found bool) {
	for range samples {
		other = q.For(ns.all[rand.IntN(len(ns.all))]) // #nosec G404 -- no secret
		if e, ok := es.networks.answers.GetEntryQuietly(other); !ok || expired(e.Value) {
			return other, true
		}
	}
	return other, false
}

// Remove removes the entry of q, if there is one.
func (es *Entries) Remove(q lookup.Question) {
	p := es.pool(q)
	p.failures.Invalidate(q)
	p.answers.Invalidate(q)
}
