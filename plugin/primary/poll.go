package primary

import (
	"context"
	"errors"
	"fmt"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/transfer"
)

// poll looks for zones that have appeared, changed or gone. Where the list has the zone itself, poll sees without a
// query that it has not changed.
func (p *Primary) poll() {
	p.succeed()
	list := p.List()
	for _, name := range p.news(list) {
		if serial, ok := serialOf(list[name]); ok && p.Zones.Match(name) != "" {
			p.add(name, serial) // before any is read: a record of the Corefile belongs to the closest zone
		}
	}
	for _, name := range p.changes(list) {
		if p.ctx.Err() != nil {
			return
		}
		if _, err := p.visit(p.ctx, name); err != nil {
			p.Limited(log.Warningf, "Zone %s: %v", name, err)
		}
	}
}

// news returns the names in list that are not known yet.
func (p *Primary) news(list map[string]*file.Zone) (names []string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for name := range list {
		if p.zones[name] == nil {
			names = append(names, name)
		}
	}
	return names
}

// changes returns the names of the zones that may have changed: those whose own serial is another one, or not in list, and
// those that are no longer in list.
func (p *Primary) changes(list map[string]*file.Zone) (names []string) {
	p.mu.RLock()
	defer p.mu.RUnlock()
	for name, fz := range list {
		serial, ok := serialOf(fz)
		if z := p.zones[name]; !ok || z == nil || !z.isReadAt(serial) {
			names = append(names, name)
		}
	}
	for name, z := range p.zones {
		if _, ok := list[name]; !ok && !z.isGone() {
			names = append(names, name)
		}
	}
	return names
}

// succeed adds the zones of the Primary before p, also those that are gone or not listed: their serials go on.
func (p *Primary) succeed() {
	p.mu.RLock()
	before := p.before
	p.mu.RUnlock()
	if before == nil {
		return
	}
	for _, z := range before.all() {
		if p.Zones.Match(z.name) != "" {
			p.add(z.name, z.lastOwn())
		}
	}
	p.mu.Lock()
	p.before = nil
	p.mu.Unlock()
}

// serialOf returns the serial number of fz, which may be nil.
func serialOf(fz *file.Zone) (uint32, bool) {
	if fz == nil {
		return 0, false
	}
	serial := fz.SOASerialIfDefined()
	return uint32(serial), serial >= 0 // #nosec G115 -- of 32 bits
}

// visit queries the backend for the zone, and reads it when it has changed. It returns nil when the backend does not have
// the zone or cannot transfer it, and an error when that is not known, or not before ctx ends.
func (p *Primary) visit(ctx context.Context, name string) (*zone, error) {
	if p.Zones.Match(name) == "" {
		return nil, nil
	}
	z, last := p.zone(name), uint32(0)
	if z != nil {
		last = z.lastOwn()
	}
	soa, err := p.SOA(name)
	switch {
	case err != nil && z != nil && z.isRead() && lookup.AsFailure(err).Outcome == lookup.Timeout:
		return z, nil
	case err != nil:
		return nil, fmt.Errorf("no SOA record of %s from the backend", name)
	case soa == nil:
		if z != nil {
			z.clear() // but not its serial, which goes on should the zone come back
		}
		return nil, nil
	case z == nil:
		z = p.add(name, soa.Serial)
		last = z.lastOwn() // that from before the reload, if any
	}
	if err := z.reading.Acquire(ctx, 1); err != nil {
		return nil, err
	}
	defer z.reading.Release(1)
	advanced, ok := z.isUpToDate(soa.Serial, last)
	if ok {
		return z, nil
	}
	err = p.read(ctx, z, advanced)
	if errors.Is(err, transfer.ErrNotAuthoritative) { // of a plugin that cannot transfer it
		z.clear()
		return nil, nil
	}
	return z, err
}
