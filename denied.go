package alias

import (
	"slices"
	"strings"
)

// allowed returns those of targets that the alias of owner, which the backend or a label states, may have. The others are
// logged, once each, and counted.
func (a *Alias) allowed(owner string, targets []string) []string {
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
		a.warnings.warnOnce("%s is no alias of %s: the target is denied", owner, target)
	}
	return allowed
}
