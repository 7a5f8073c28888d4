package alias

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/upstream"

	"golang.org/x/time/rate"
)

// build returns the plugin that cfg describes.
func (cfg *config) build() *Alias {
	source := answers.Source{Upstreams: upstream.Identity(cfg.upstreams, cfg.tlsConfig.ServerName), Path: cfg.path, Fleet: strings.Join(cfg.fleet, " ")}
	source.Upstreams += cfg.filters()
	a := &Alias{
		zones:    cfg.zones,
		records:  cfg.records,
		share:    entries.NewShare(source, cfg.sizes(), cfg.zones),
		options:  cfg.options,
		warnings: onceLog{max: maxWarnings},
		denials:  onceLog{max: maxWarnings},
		labels:   onceLog{max: maxLabelWarnings},
	}
	a.share.Keep(cfg.lifetime.stale + time.Duration(cfg.lifetime.max)*time.Second)
	key := fmt.Sprint(cfg.upstreams, cfg.tlsConfig.ServerName, cfg.timeout, cfg.filters())
	a.upstreams = resolvers.Share(key, upstream.Config{
		Addresses: cfg.upstreams, TLS: cfg.tlsConfig, Timeout: cfg.timeout, Reporter: newReporter, Deny: cfg.denies, DenyTarget: cfg.targets.Denies,
		LeftOut: leftOut, Warn: resolverWarnings.warnOnce,
	})
	a.cache = cfg.buildCache(a.upstreams.Resolve)
	a.cache.key = fmt.Sprint(key, source, cfg.retries, cfg.concurrent, cfg.lookupsPerZone())
	a.backend = backend.New(backend.Config{
		Zones: cfg.zones, Flatten: cfg.flatten, Timeout: cfg.timeout, Concurrent: cfg.concurrent, Size: cfg.size,
		Now: cfg.now, Warn: a.warnings.warnOnce, Allowed: a.allowed,
	})
	return a
}

// lookupsPerZone returns how many lookups of one zone may be in flight: by default an eighth of all.
func (cfg *config) lookupsPerZone() int {
	if cfg.perZone > 0 {
		return cfg.perZone
	}
	return max(cfg.concurrent/8, 1)
}

// sizes returns how many answers there may be. With client_subnet, half of them are for networks.
func (cfg *config) sizes() answers.Size {
	if !cfg.subnets.areSent() {
		return answers.Size{Everybody: cfg.size}
	}
	return answers.Size{Everybody: max(cfg.size-cfg.size/2, 1), Networks: cfg.size / 2}
}

// isUnspecified reports whether addr is 0.0.0.0 or ::, which are no address of a server (RFC 1122, section 3.2.1.3, and RFC
// 4291, section 2.5.2): a resolver that filters names answers with them.
func isUnspecified(addr netip.Addr) bool { return addr.Unmap().IsUnspecified() }

// buildCache returns the cache that cfg describes, which looks up through resolve. It has no entries yet.
func (cfg *config) buildCache(resolve resolveFunc) *cache {
	c := &cache{
		lifetime: cfg.lifetime,
		lookups:  newLookups(cfg.concurrent, cfg.lookupsPerZone()),
		resolve:  resolve,
		retries:  cfg.retries,
		timeout:  cfg.timeout,
		lag:      min(answers.MaxLag, cfg.lifetime.stale/10),
		deny:     cfg.denies,
		now:      cfg.now,
		log:      limitedLog{messages: rate.NewLimiter(messagesPerSecond, maxMessages)},
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// primaryConfig returns pc with what a and cfg have to add.
func (cfg *config) primaryConfig(a *Alias, pc primary.Config) primary.Config {
	pc.Types, pc.Allowed = a.types(), a.allowed
	pc.Zones, pc.Records, pc.Omit, pc.FlattenApex = cfg.zones, cfg.records, cfg.omit, cfg.flatten != backend.FlattenNone
	pc.Beat, pc.SOA, pc.Lookup = &beat, a.zoneSOA, a.lookupForTransfer
	pc.Concurrent, pc.Timeout, pc.Now = a.cache.perZone, cfg.timeout, cfg.now
	pc.Fleet, pc.Options = serials.of(cfg.fleet), fmt.Sprint(a.https, cfg.filters())
	pc.Warn, pc.Limited = a.warnings.warnOnce, a.cache.log.limited
	pc.Transferred = func(zone, outcome string) { transfersCount.WithLabelValues(zone, outcome).Inc() }
	pc.Notified = func(zone, outcome string) { notifiesCount.WithLabelValues(zone, outcome).Inc() }
	return pc
}
