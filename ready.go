package alias

import (
	"slices"
	"time"

	"github.com/coredns/coredns/plugin/ready"
)

// readyAfter is when an instance is ready, whatever its targets do.
const readyAfter = 10 * time.Second

var _ ready.Readiness = (*Alias)(nil)

// Ready implements ready.Readiness. It reports for the instances of all server blocks: the ready plugin knows
// plugins by their names, so it asks only one of them.
func (a *Alias) Ready() bool {
	all := running.all()
	if !slices.Contains(all, a) { // the ready plugin is started first, and asks at once
		return false
	}
	for _, a := range all {
		if !a.ready() {
			return false
		}
	}
	return true
}

// ready reports whether every record was looked up or has failed one full round, or readyAfter is over.
func (a *Alias) ready() bool {
	return a.primed.Load() || time.Since(a.started) >= readyAfter
}
