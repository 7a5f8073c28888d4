package test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/coredns/alias/test/responses"
)

// A reading is what a program makes of a response.
type reading struct {
	class string // addresses, negative or failure
	addrs string // sorted
	ttl   int64  // in seconds; -1 if the program does not say
	links int
	note  string // the failure or the response code
}

func (r reading) found() bool  { return r.class == "addresses" }
func (r reading) none() bool   { return r.class == "negative" }
func (r reading) failed() bool { return r.class == "failure" }
func (r reading) count() int   { return len(strings.Fields(r.addrs)) }

func (r reading) subsetOf(all reading) bool {
	have := strings.Fields(all.addrs)
	return !slices.ContainsFunc(strings.Fields(r.addrs), func(addr string) bool { return !slices.Contains(have, addr) })
}

func (r reading) String() string {
	return fmt.Sprintf("%s %s TTL %d (%d links, %s)", r.class, r.addrs, r.ttl, r.links, r.note)
}

// agree reports whether what the client makes of a response is what another program makes of it.
func agree(mine, theirs reading) bool {
	if mine.class != theirs.class || mine.addrs != theirs.addrs {
		return false
	}
	switch mine.class {
	case "addresses":
		return theirs.ttl <= mine.ttl && theirs.ttl >= mine.ttl-slow
	case "negative":
		if theirs.ttl < 0 { // without a SOA record
			return mine.ttl == 30
		}
		return negative(theirs.ttl) <= mine.ttl && negative(theirs.ttl+slow) >= mine.ttl
	}
	return true
}

// slow is how many seconds of a TTL may have passed when a program answers: it may have been asked before.
const slow = 30

// negative returns the TTL that the client gives a negative answer with that TTL.
func negative(ttl int64) int64 { return min(max(ttl, 5), 300) }

// A tally counts what the comparisons come to.
type tally struct {
	mu          sync.Mutex
	tried       map[int]bool
	agreed      map[string]int // by program
	compared    map[string]int
	explained   map[string]int // by program and index of the reason
	unexplained int
}

func newTally() *tally {
	return &tally{tried: make(map[int]bool), agreed: make(map[string]int), compared: make(map[string]int), explained: make(map[string]int)}
}

// explain returns the index of the reason for the difference between what the client and a program make of a case, or -1.
func explain(c *responses.Case, program string, mine, theirs reading) int {
	return slices.IndexFunc(reasons, func(r reason) bool { return strings.Contains(r.program, program) && r.applies(c, mine, theirs) })
}

// add notes what the client and a program make of a case.
func (y *tally) add(t *testing.T, c *responses.Case, program string, mine, theirs reading) {
	t.Helper()
	y.mu.Lock()
	defer y.mu.Unlock()
	y.tried[c.Index] = true
	y.compared[program]++
	if agree(mine, theirs) {
		y.agreed[program]++
		return
	}
	if i := explain(c, program, mine, theirs); i >= 0 {
		y.explained[explanation(program, i)]++
		return
	}
	y.unexplained++
	t.Errorf("the client makes of this response %v, %s makes of it %v:\n%v", mine, program, theirs, c)
}

func explanation(program string, reason int) string { return fmt.Sprintf("%-7s %2d", program, reason) }

// check checks that each reason explains something, where there were enough responses to say so.
func (y *tally) check(t *testing.T) {
	t.Helper()
	if len(y.tried) < 10000 {
		return
	}
	for i, r := range reasons {
		for program := range strings.FieldsSeq(r.program) {
			if y.explained[explanation(program, i)] == 0 {
				t.Errorf("no difference of %s has this reason: %s: %s", program, r.rule, r.why)
			}
		}
	}
}

func (y *tally) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d responses, %d differences without a reason", len(y.tried), y.unexplained)
	for _, program := range slices.Sorted(maps.Keys(y.compared)) {
		fmt.Fprintf(&b, "\n%s: %d the same, %d different:", program, y.agreed[program], y.compared[program]-y.agreed[program])
		for i, r := range reasons {
			if n := y.explained[explanation(program, i)]; n > 0 {
				fmt.Fprintf(&b, "\n%6d  %s: %s", n, r.rule, r.why)
			}
		}
	}
	return b.String()
}
