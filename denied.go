package alias

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/lookup"
)

// allowed returns those of targets that the alias of owner, which the backend states, may have. The others are logged, once
// each, and counted.
func (a *Alias) allowed(owner string, targets []string) []string {
	return a.allowedIn(&a.denials, owner, targets)
}

// allowedIn is allowed with the log for an alias that the backend or a label states.
func (a *Alias) allowedIn(to *onceLog, owner string, targets []string) []string {
	if !slices.ContainsFunc(targets, a.targets.Denies) { // as most often
		return targets
	}
	var allowed []string
	for _, target := range targets {
		if !a.targets.Denies(target) {
			allowed = append(allowed, target)
			continue
		}
		targetsDenied.WithLabelValues(a.zones.Match(strings.TrimPrefix(owner, "*."))).Inc()
		to.warnOnce("%s is no alias of %s: the target is denied", owner, target)
	}
	return allowed
}

// leftOut logs that the answer to q has addr, which is denied, beside others: once for each target and type, because the owner
// of a target may change the address in each answer.
func leftOut(q lookup.Question, addr netip.Addr) {
	target := q.For(lookup.Network{}).String()
	denialsOfAddresses.warnOnceFor(target, "Target %s: the address %s is denied and left out", target, addr)
}
