package backend

import (
	"context"
	"maps"
	"reflect"
	"strings"
	"sync/atomic"

	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/auto"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/secondary"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

// file, auto and secondary compare the name of a query with the names of all of their zones. The handlers here answer
// queries as they do, with their zones and their code as far as that can be called, but find the zone by its name: label by
// label, from the longest name to the root.

// ByName returns a handler of queries that answers as the first of behind does, the plugins that come right behind alias in
// the server block, in their order. It finds zones by name, and so do the next ones of behind as far as that is possible.
// ByName returns nil when it is not for the first. The handler is called for queries alone.
func ByName(behind []plugin.Handler) plugin.Handler {
	if len(behind) == 0 {
		return nil
	}
	next := ByName(behind[1:])
	switch h := behind[0].(type) {
	case file.File:
		return fileByName(h, finderOf(h), next)
	case *secondary.Secondary:
		if hasCatalogs(h) {
			return nil
		}
		return secondaryByName{fileByName(h.File, finderOf(h), next)}
	case auto.Auto:
		if next == nil {
			next = h.Next
		}
		origins := make(records.Zones)
		for _, origin := range h.Origins() {
			origins[origin] = struct{}{}
		}
		return autoByName{h, next, finderOf(h), origins}
	}
	return nil
}

// finder returns the zone of a plugin that a name is in, and its origin, which is "" when there is none. The name is lower
// case and fully qualified. The zone is nil when the plugin lists the origin only. A finder is safe for concurrent use, and
// allocates nothing.
type finder func(name string) (origin string, z *file.Zone)

// finderOf returns the finder for h, or nil when it is no plugin whose zones can be found. A member of one of secondary's
// catalog zones is not found. If another zone is found in its place, that has another SOA record.
func finderOf(h plugin.Handler) finder {
	switch h := h.(type) {
	case file.File:
		return finderIn(h.Z)
	case *secondary.Secondary:
		if hasCatalogs(h) {
			return finderIn(maps.Clone(h.Z)) // that of the plugin changes
		}
		return finderIn(h.Z)
	case auto.Auto:
		return (&autoFinder{zones: h.Zones}).find
	}
	return nil
}

// finderIn returns the finder for zones that stay the same.
func finderIn(zones map[string]*file.Zone) finder {
	return func(name string) (string, *file.Zone) {
		origin := records.Closest(zones, name)
		return origin, zones[origin]
	}
}

// autoFinder finds the zones of auto. Their origins are spelled as in the names of their files: those that are not lower
// case are in a map of their own.
type autoFinder struct {
	zones *auto.Zones
	known atomic.Pointer[autoNames]
}

// autoNames are the names of auto's zones at a time.
type autoNames struct {
	all   []string
	mixed map[string]string // lower case to the name as it is spelled
}

// find is a finder.
func (f *autoFinder) find(name string) (string, *file.Zone) {
	mixed := f.mixed()
	f.zones.RLock()
	defer f.zones.RUnlock()
	origin := records.Closest(f.zones.Z, name)
	if len(mixed) > 0 {
		if other := records.Closest(mixed, name); len(other) > len(origin) {
			origin = mixed[other]
		}
	}
	return origin, f.zones.Z[origin]
}

// mixed returns the names that are not lower case. auto adds a name at the end of its list, and makes a new list when it
// removes one: names that were seen in a list need not be looked at again.
func (f *autoFinder) mixed() map[string]string {
	names, known := f.zones.Names(), f.known.Load()
	seen := 0
	if known != nil && len(known.all) > 0 && len(names) >= len(known.all) && &names[0] == &known.all[0] {
		if seen = len(known.all); seen == len(names) {
			return known.mixed
		}
	}
	found := &autoNames{all: names}
	if seen > 0 {
		found.mixed = maps.Clone(known.mixed)
	}
	for _, name := range names[seen:] {
		if lower := strings.ToLower(name); lower != name {
			if found.mixed == nil {
				found.mixed = make(map[string]string)
			}
			found.mixed[lower] = name
		}
	}
	f.known.Store(found)
	return found.mixed
}

// fileByName returns f with another way to find the zone of a name, and another next plugin unless next is nil.
func fileByName(f file.File, find finder, next plugin.Handler) file.File {
	if next != nil {
		f.Next = next
	}
	f.ZoneLookupFunc = func(name string) (string, *file.Zone, bool) {
		zone, z := find(name)
		return zone, z, zone != ""
	}
	return f
}

// secondaryByName is a secondary.
type secondaryByName struct{ file.File }

// Name implements plugin.Handler.
func (secondaryByName) Name() string { return "secondary" }

// hasCatalogs reports whether s has catalog zones, whose members come and go: only s itself can find these.
func hasCatalogs(s *secondary.Secondary) bool {
	catalogs := reflect.ValueOf(s).Elem().FieldByName("catalogZones")
	return !catalogs.IsValid() || catalogs.Len() > 0
}

// autoByName is an auto.
type autoByName struct {
	auto.Auto
	next    plugin.Handler
	find    finder
	origins records.Zones
}

// ServeDNS implements plugin.Handler. It answers queries alone, as auto does.
func (h autoByName) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	state := request.Request{W: w, Req: r}
	name := state.Name()
	var origin string
	var z *file.Zone
	inside := h.origins.Match(name) != ""
	if inside {
		origin, z = h.find(name)
	}
	switch {
	case inside && origin == "" && h.next == nil:
		return dns.RcodeRefused, nil
	case origin == "":
		return plugin.NextOrFailure(h.Name(), h.next, ctx, w, r)
	case z == nil:
		return dns.RcodeServerFailure, nil
	case state.QType() == dns.TypeAXFR, state.QType() == dns.TypeIXFR: // and transfer is not in the server block
		return dns.RcodeRefused, nil
	}
	m := new(dns.Msg).SetReply(r)
	var result file.Result
	m.Answer, m.Ns, m.Extra, result = z.Lookup(ctx, state, name)
	m.Authoritative = result != file.Delegation
	switch result {
	case file.NameError:
		m.Rcode = dns.RcodeNameError
	case file.ServerFailure:
		if len(m.Answer) == 0 {
			return dns.RcodeServerFailure, nil
		}
		m.Rcode = dns.RcodeServerFailure // of the name that the answer leads to (RFC 6604, section 3)
	}
	w.WriteMsg(m)
	return dns.RcodeSuccess, nil
}
