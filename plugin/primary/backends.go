package primary

import (
	"maps"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/auto"
	"github.com/coredns/coredns/plugin/dynupdate"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/secondary"
	"github.com/coredns/coredns/plugin/transfer"
)

// Backends returns Config.Backends and Config.List for the handlers of a server block: those that can transfer zones,
// other than self; and a function that lists origins, which are the zones of the plugin, and the zones of the backends.
// It is safe for concurrent use. byName returns a handler that finds the zones of the first of some by name, or nil: if it can
// transfer zones, it is the one that does.
//
// The zones of file and secondary are those at the time of the call: they are set up before the servers start. Those of
// auto are listed as they are at the time. The members of secondary's catalog zones are not listed: a transfer, or a query
// for the SOA record, finds them.
func Backends(handlers []plugin.Handler, self plugin.Handler, origins []string, byName func([]plugin.Handler) plugin.Handler) ([]transfer.Transferer, func() map[string]*file.Zone) {
	var backends []transfer.Transferer
	var autos []auto.Auto
	fixed := make(map[string]*file.Zone)
	for _, origin := range origins {
		fixed[origin] = nil
	}
	for _, h := range handlers {
		t, ok := h.(transfer.Transferer)
		if h == self || !ok {
			continue
		}
		if better, ok := byName([]plugin.Handler{h}).(transfer.Transferer); ok {
			t = better
		}
		backends = append(backends, t)
		switch h := h.(type) {
		case auto.Auto:
			autos = append(autos, h)
		case file.File:
			maps.Copy(fixed, h.Z)
		case *secondary.Secondary:
			maps.Copy(fixed, h.Z)
		case *dynupdate.DynUpdate:
			fixed[h.Zone] = nil
		}
	}
	return backends, func() map[string]*file.Zone {
		all := maps.Clone(fixed)
		for _, h := range autos {
			h.RLock()
			maps.Copy(all, h.Z)
			h.RUnlock()
		}
		return all
	}
}
