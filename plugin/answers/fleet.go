package answers

import (
	"context"
	"net/netip"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/maypok86/otter/v2"
	"github.com/miekg/dns"
)

// Fleet is what several servers know together of the answers of one Source: a store that all of them use. Entries calls it,
// and it calls Adopt and Records of the Entries that it was made for. It is safe for concurrent use. Put returns at once, and
// calls no method of the Entries, which hold a lock. The others may take a moment, whatever the state of the store.
type Fleet interface {
	Open() // begins to adopt what the store has, and what other servers put
	// Put has the store get an answer that came at stored, and keep it for so long after that, and the other servers adopt
	// it, soon.
	Put(key, value string, stored time.Time, keep time.Duration)
	Get(ctx context.Context, key string) bool // adopts the record of key, and reports whether there is one
	// Claim asks whose turn it is to look key up, for a server whose answer came at stored: its own, or not, because a newer
	// record was adopted, or because another server has its turn for as long as wait. A turn of its own ends with the next
	// Put, or after hold.
	Claim(ctx context.Context, key string, stored time.Time, hold time.Duration) (mine bool, wait time.Duration)
	Loaded(ctx context.Context) // waits until what the store has is adopted, or that has failed once, or ctx ends
	Flush()                     // waits until what was put is written
	Close()                     // does the same, and gives the store up. It is called once, and nothing after it.
}

// IsShared reports whether other servers know what es knows.
func (es *Entries) IsShared() bool { return es.fleet != nil }

// tell has the other servers adopt e, the entry of q, whose answer has just come. One that counts as expired is of other
// upstreams, and not for them.
func (es *Entries) tell(q lookup.Question, e *Entry) {
	if es.fleet != nil && !e.Expired {
		es.fleet.Put(fleetKey(q), answerValue(e), e.Stored, time.Duration(es.keep.Load()))
	}
}

// Records calls yield with all that the store of the fleet is to have, see Fleet.Put, as long as that returns true.
func (es *Entries) Records(yield func(key, value string, stored time.Time, keep time.Duration) bool) {
	keep := time.Duration(es.keep.Load())
	for q, e := range es.all() {
		if !e.Expired && !yield(fleetKey(q), answerValue(e), e.Stored, keep) {
			return
		}
	}
}

// Adopt takes over an answer that came at stored to another server of the fleet, unless there is one as new, or it is none. A
// target that fails goes on to, if the answer is no longer fresh.
func (es *Entries) Adopt(key, value string, stored time.Time) {
	q, adopted, ok := readFleetRecord(key, value)
	if !ok || adopted.Expired {
		return
	}
	now := es.now()
	age := min(max(now.Sub(stored), 0), maxAge)
	adopted.Stored, adopted.Adopted = now.Add(-age), true
	fresh := age < time.Duration(adopted.TTL)*time.Second
	p := es.pool(q)
	p.answers.Compute(q, func(current *Entry, found bool) (*Entry, otter.ComputeOp) {
		switch {
		case !found:
			current = p.failure(q)
			if !es.admit(q) {
				return nil, otter.CancelOp
			}
		case !adopted.Stored.After(current.Stored) && !(current.Expired && fresh):
			return nil, otter.CancelOp
		}
		if !fresh {
			adopted.Backoff = current.Backoff
		}
		if es.file != nil {
			adopted.saved = adopted.Stored
			es.file.Put(recordKey(q), es.recordValue(adopted))
		}
		return adopted, otter.WriteOp
	})
}

// Await waits until es has what the fleet knows, if there is one, or that has failed once, or ctx ends.
func (es *Entries) Await(ctx context.Context) {
	if es.fleet != nil {
		es.fleet.Loaded(ctx)
	}
}

// Fetch returns the entry of q after it has adopted what the fleet has of it.
func (es *Entries) Fetch(ctx context.Context, q lookup.Question) *Entry {
	es.fleet.Get(ctx, fleetKey(q))
	return es.Load(q)
}

// Claim asks the fleet whose turn it is to look q up, which hold is enough for. See Fleet.Claim.
func (es *Entries) Claim(ctx context.Context, q lookup.Question, hold time.Duration) (mine bool, wait time.Duration) {
	return es.fleet.Claim(ctx, fleetKey(q), es.Load(q).Stored, hold)
}

// fleetKey returns the key of q in the store of the fleet: its name and type, and the network if it has one.
func fleetKey(q lookup.Question) string { return q.String() }

// readFleetRecord returns the question and the answer of a record of the fleet. It is not ok when the record has none.
func readFleetRecord(key, value string) (q lookup.Question, e *Entry, ok bool) {
	rest, prefix, isFor := strings.Cut(key, " for ")
	space := strings.LastIndexByte(rest, ' ') // a name may have spaces, behind backslashes
	if space < 0 {
		return q, nil, false
	}
	q = lookup.Question{Name: rest[:space], Type: dns.StringToType[rest[space+1:]]}
	if isFor {
		p, err := netip.ParsePrefix(prefix)
		if err != nil {
			return q, nil, false
		}
		q.Net = lookup.NetworkOf(p.Addr(), p.Bits())
	}
	if fleetKey(q) != key || !isAskable(q) {
		return q, nil, false
	}
	e, ok = readAnswer(q, value)
	return q, e, ok
}
