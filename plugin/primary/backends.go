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

// Backends returns those of the handlers, but self, that can transfer zones, and what lists the zones that they may
// have, for Config: origins, and those that a backend has. The zones of file and secondary are set up before the servers
// start; the members of secondary's catalog zones are found when somebody asks for them.
func Backends(handlers []plugin.Handler, self plugin.Handler, origins []string) ([]transfer.Transferer, func() map[string]*file.Zone) {
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
