package records

import "github.com/miekg/dns"

// Zones is the set of zones that the plugin applies to, lower case and fully qualified. Once it is in use it must not be
// changed, and is safe for concurrent use.
type Zones map[string]struct{}

// Match returns the closest zone that encloses name, or "". name is lower case and fully qualified; a zone encloses its
// own name. Match allocates nothing.
func (z Zones) Match(name string) string { return Closest(z, name) }

// Inside reports whether name is in one of the zones. The root zone does not count: all names are in it.
func (z Zones) Inside(name string) bool {
	zone := z.Match(name)
	return zone != "" && zone != "."
}

// Closest is Match for a map whose keys are zones.
func Closest[V any](zones map[string]V, name string) string {
	for off, end := 0, false; !end; off, end = dns.NextLabel(name, off) {
		if _, ok := zones[name[off:]]; ok {
			return name[off:]
		}
	}
	if _, ok := zones["."]; ok {
		return "."
	}
	return ""
}
