package backend

import (
	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/file"

	"github.com/miekg/dns"
)

// file, auto and secondary replace all records of a zone when it changes, and with them the SOA record. They hand out that
// very record, not a copy. So while the pointer is the same, what they answered is valid: a zone of a million aliases need
// not be queried for each of them once a second. Of other plugins nothing of the kind is known.

// ZoneFinder returns the zone that answers for a name, which is lower case and fully qualified, or nil. It is safe for
// concurrent use. The zone belongs to its plugin: it is locked before it is read.
type ZoneFinder func(name string) *file.Zone

// ZonesOf returns the ZoneFinder for behind, the plugins that come right behind alias in the server block, in their order.
// It finds the zones of file, auto and secondary, and of no plugin that comes behind another one: that one may answer first.
func ZonesOf(behind []plugin.Handler) ZoneFinder {
	var finders []finder
	for _, h := range behind {
		f := finderOf(h)
		if f == nil {
			break
		}
		finders = append(finders, f)
	}
	return func(name string) *file.Zone {
		for _, f := range finders {
			if _, z := f(name); z != nil {
				return z
			}
		}
		return nil
	}
}

// versionOf returns the SOA record that m, the backend's response to q, has straight from the zone, or nil. It is nil for a
// response with other records too: a CNAME record may lead to another zone, which changes on its own.
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

// isUnchanged reports whether the zone of name is known to be what it was when a came from it. A zone that has expired no
// longer answers.
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
