package primary_test

import (
	"maps"
	"slices"
	"testing"

	"github.com/coredns/alias/plugin/primary"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/auto"
	"github.com/coredns/coredns/plugin/dynupdate"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/secondary"
	"github.com/coredns/coredns/plugin/test"
	"github.com/coredns/coredns/plugin/transfer"
)

// self is a handler that can transfer zones, as alias itself.
type self struct{ file.File }

// Backends finds the plugins that can transfer zones, in the order of the handlers, and the zones that they have.
func TestBackends(t *testing.T) {
	zone := func(name string) *file.Zone { return zoneOf(t, name, 7) }
	inFile, inSecondary, inAuto := zone("file.org."), zone("secondary.org."), zone("auto.org.")
	f := file.File{Zones: file.Zones{Z: map[string]*file.Zone{"file.org.": inFile}}}
	s := &secondary.Secondary{File: file.File{Zones: file.Zones{Z: map[string]*file.Zone{"secondary.org.": inSecondary}}}}
	a := auto.Auto{Zones: new(auto.Zones)}
	d := &dynupdate.DynUpdate{Zone: "dynupdate.org."}
	me := &self{file.File{Zones: file.Zones{Z: map[string]*file.Zone{"self.org.": zone("self.org.")}}}}
	unable := test.ErrorHandler()

	backends, list := primary.Backends([]plugin.Handler{me, unable, f, a, s, d}, me, []string{"org.", "example.net."}, func([]plugin.Handler) plugin.Handler { return nil })
	if len(backends) != 4 {
		t.Fatalf("%d backends: %v", len(backends), backends)
	}
	_, isFile := backends[0].(file.File)
	_, isAuto := backends[1].(auto.Auto)
	if !isFile || !isAuto || backends[2] != transfer.Transferer(s) || backends[3] != transfer.Transferer(d) {
		t.Errorf("not in the order of the handlers: %v", backends)
	}
	want := map[string]*file.Zone{"org.": nil, "example.net.": nil, "file.org.": inFile, "secondary.org.": inSecondary, "dynupdate.org.": nil}
	got := list()
	if !maps.Equal(got, want) {
		t.Errorf("zones %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	clear(got) // it belongs to the caller
	a.Lock()
	a.Z = map[string]*file.Zone{"auto.org.": inAuto} // auto has read its directory
	a.Unlock()
	want["auto.org."] = inAuto
	if got := list(); !maps.Equal(got, want) {
		t.Errorf("zones %v, want %v", slices.Sorted(maps.Keys(got)), slices.Sorted(maps.Keys(want)))
	}
	a.Lock()
	delete(a.Z, "auto.org.")
	a.Unlock()
	if _, ok := list()["auto.org."]; ok {
		t.Error("a zone that auto no longer has is listed")
	}
}
