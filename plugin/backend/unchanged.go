package backend

import (
	"maps"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/auto"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/secondary"

	"github.com/miekg/dns"
)

// file, auto and secondary replace all that a zone has when it changes, and with it the SOA record, of which they hand out the
// very one that they have. So as long as that is the same, what they answered is valid: a zone of a million aliases need not be
// queried for each of them once a second. Other plugins have nothing of the kind.

// ZoneFinder returns the zone that answers for a name, or nil. It is safe for concurrent use.
type ZoneFinder func(name string) *file.Zone

// ZonesOf returns what finds the zones of the plugins that come right behind alias in the server block, in their order.
func ZonesOf(behind []plugin.Handler) ZoneFinder {
	var finders []ZoneFinder
	for _, h := range behind {
		f := zonesOf(h)
		if f == nil { // it may answer before those that follow it
			break
		}
		finders = append(finders, f)
	}
	return func(name string) *file.Zone {
		for _, f := range finders {
			if z := f(name); z != nil {
				return z
			}
		}
		return nil
	}
}

// zonesOf returns what finds the zones of h, or nil when it is no plugin that has any. A member of one of secondary's catalog
// zones is not found, but then its SOA record is not that of the zone that is.
func zonesOf(h plugin.Handler) ZoneFinder {
	switch h := h.(type) {
	case file.File:
		fixed := maps.Clone(h.Z)
		return func(name string) *file.Zone { return fixed[records.Closest(fixed, name)] }
	case *secondary.Secondary:
		return zonesOf(h.File)
	case auto.Auto:
		return func(name string) *file.Zone {
			h.RLock()
			defer h.RUnlock()
			return h.Z[records.Closest(h.Z, name)]
		}
	}
	return nil
}

// versionOf returns the SOA record that m, the backend's response to q, has straight from the zone, or nil. It has none when it
// has to do with more than the zone.
func versionOf(m *dns.Msg, q lookup.Question) *dns.SOA {
	switch {
	case m == nil, !m.Authoritative:
		return nil
	case lookup.IsNodata(m):
		return lookup.SOAFor(m.Ns, q.Name)
	case q.Type == dns.TypeSOA && len(m.Answer) > 0:
		soa, _ := m.Answer[0].(*dns.SOA)
		return soa
	}
	return nil
}

// isUnchanged reports whether the zone of name is still that which a came from.
func (b *Backend) isUnchanged(a *Answer, name string) bool {
	if a.version == nil || b.ZoneOf == nil {
		return false
	}
	z := b.ZoneOf(name)
	if z == nil {
		return false
	}
	z.RLock()
	defer z.RUnlock()
	return z.SOA == a.version && !z.Expired
}
