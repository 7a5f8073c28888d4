package alias

import (
	"bytes"
	"cmp"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"math"
	"net"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/store"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/auto"
	"github.com/coredns/coredns/plugin/dynupdate"
	"github.com/coredns/coredns/plugin/file"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/pkg/durations"
	"github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/coredns/coredns/plugin/secondary"
	"github.com/coredns/coredns/plugin/transfer"

	"github.com/maypok86/otter/v2"
	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
	"golang.org/x/time/rate"
)

const maxUpstreams = 15 // as in forward

// The bounds of what can be configured.
const (
	minTimeout    = time.Millisecond
	maxTimeout    = 10 * time.Second
	maxRetries    = 10
	maxTTL        = math.MaxInt32 * time.Second // RFC 2181, section 8
	maxStale      = 365 * 24 * time.Hour
	maxCacheSize  = 100_000_000
	maxConcurrent = 1_000_000
)

func init() {
	plugin.Register("alias", setup)
	// Who loads the zone says in which line it is.
	rdata.Refused = func(reason error) { refusals.Do(func() { log.Error(reason) }) }
}

// refusals bounds the messages about records in zone files: template parses some for each query.
var refusals = rate.Sometimes{First: 100, Interval: time.Second}

func setup(c *caddy.Controller) error {
	cfg, err := parseConfig(c)
	if err != nil {
		return plugin.Error("alias", err)
	}
	block := dnsserver.GetConfig(c)
	if cfg.path != "" {
		if !filepath.IsAbs(cfg.path) {
			cfg.path = filepath.Join(block.Root, cfg.path)
		}
		cfg.path = store.Canonical(cfg.path)
	}
	a := cfg.build()
	a.bypass = func() []string {
		if block.Handler("transfer") == nil {
			return nil
		}
		return cfg.origins
	}
	hookStartup()
	memories.expect(a)
	at := serverBlock{c.ServerBlockIndex, c.ServerBlockKeys} // and not c, which would keep all that was read

	c.OnStartup(func() error {
		started := caddy.Instances()
		a.instance = started[len(started)-1]
		a.signs = block.Handler("dnssec") != nil
		a.packs = packable(block)
		a.zoneOf = zonesBehind(block)
		if err := cfg.checkBlock(block); err != nil {
			return plugin.Error("alias", err)
		}
		if block.Handler("transfer") != nil {
			ss, err := parseSecondaries(at)
			if err != nil {
				return plugin.Error("alias", err)
			}
			backends, list := findBackends(block.Handlers(), cfg.origins)
			before := running.primaryFor(a.zones)
			a.primary = newPrimary(a, backends, list, newNotifier(ss), cfg.omit)
			a.primary.before = before
			awaitSerial()
		}
		a.start()
		log.Infof("Zones %s, records %d, upstreams %s, timeout %s", strings.Join(cfg.origins, " "), a.records.count,
			strings.Join(cfg.to, " "), cfg.timeout)
		return nil
	})
	// When the process ends, the servers may go on for a while: health's lameduck. After a restart they are stopped.
	var restarting atomic.Bool
	c.OnRestart(func() error {
		restarting.Store(true)
		return nil
	})
	c.OnRestartFailed(func() error {
		restarting.Store(false)
		return nil
	})
	c.OnShutdown(func() error {
		if restarting.Load() {
			a.stop()
		}
		return nil
	})
	c.OnFinalShutdown(func() error {
		a.end(true)
		return nil
	})

	block.AddPlugin(func(next plugin.Handler) plugin.Handler {
		a.Next = next
		return a
	})
	return nil
}

// hookStartup sees to it that the records are resolved when the servers listen. A reload by signal has forgotten all
// hooks when it comes here, one by the reload plugin has not.
func hookStartup() {
	if slices.Contains(caddy.ListPlugins()["event_hooks"], "alias") {
		return
	}
	caddy.RegisterEventHook("alias", func(event caddy.EventName, instance any) error {
		if event == caddy.InstanceStartupEvent {
			running.prime(instance)
		}
		return nil
	})
}

// config is what the Corefile says.
type config struct {
	origins []string
	zones   zones
	records *records

	to         []string   // as written
	resolvers  []resolver // what to stands for
	tlsConfig  *tls.Config
	timeout    time.Duration
	retries    int
	lifetime   lifetime
	staleTTL   uint32
	onFailure  int
	size       int
	concurrent int
	targetFrom string
	flatten    flatten
	text       bool
	omit       bool
	path       string // of the file that keeps the answers, or ""

	file string           // the Corefile
	seen map[string]place // where each property was given
}

// place is a line of the Corefile.
type place struct {
	line int
	args []string
}

func newConfig() *config {
	return &config{
		zones:      make(zones),
		tlsConfig:  new(tls.Config),
		timeout:    500 * time.Millisecond,
		retries:    2,
		lifetime:   lifetime{min: 5, max: 3600, stale: 72 * time.Hour},
		staleTTL:   30,
		onFailure:  dns.RcodeSuccess,
		size:       100_000,
		concurrent: 1000,
		seen:       make(map[string]place),
	}
}

// parseConfig parses the alias directive of a server block. An error has file and line.
func parseConfig(c *caddy.Controller) (*config, error) {
	var cfg *config
	for c.Next() {
		if cfg != nil {
			return nil, c.Err(plugin.ErrOnce.Error())
		}
		cfg = newConfig()
		cfg.file = c.File()
		if err := cfg.parseZones(c); err != nil {
			return nil, err
		}
		for c.NextBlock() {
			if err := cfg.parseProperty(c); err != nil {
				return nil, err
			}
		}
		if err := cfg.finish(c); err != nil {
			return nil, err
		}
	}
	return cfg, nil
}

// parseZones parses ZONES.
func (cfg *config) parseZones(c *caddy.Controller) error {
	args := c.RemainingArgs()
	for _, arg := range args {
		if len(plugin.Host(arg).NormalizeExact()) == 0 {
			return c.Errf("alias: '%s' is not a zone", arg)
		}
	}
	cfg.origins = plugin.OriginsFromArgsOrServerBlock(args, c.ServerBlockKeys)
	cfg.origins = slices.DeleteFunc(cfg.origins, func(origin string) bool { // one zone may have several listeners
		_, twice := cfg.zones[origin]
		cfg.zones[origin] = struct{}{}
		return twice
	})
	cfg.records = newRecords(cfg.zones)
	return nil
}

// parseProperty parses one line of the block.
func (cfg *config) parseProperty(c *caddy.Controller) error {
	property := c.Val()
	args := c.RemainingArgs()
	if first, ok := cfg.seen[property]; ok && property != "record" {
		return c.Errf("%s: '%s' is one too many, it is given in line %d already", property, cmp.Or(strings.Join(args, " "), property), first.line)
	}
	cfg.seen[property] = place{c.Line(), args}

	parse, ok := properties[property]
	if !ok {
		return c.Errf("unknown property '%s'", property)
	}
	if len(args) < parse.min {
		return c.Errf("%s: missing argument, expected: %s %s", property, property, parse.usage)
	}
	if parse.max != unbounded && len(args) > parse.max {
		expected := strings.TrimSpace(property + " " + parse.usage)
		return c.Errf("%s: unexpected argument '%s', expected: %s", property, args[parse.max], expected)
	}
	if err := parse.set(cfg, args); err != nil {
		return c.Errf("%s: %v", property, err)
	}
	return nil
}

// unbounded is the max of a property that takes any number of arguments.
const unbounded = -1

// properties are the properties of the block.
var properties = map[string]struct {
	usage    string
	min, max int
	set      func(cfg *config, args []string) error
}{
	"record":   {"NAME TARGET [TTL]", 2, 3, (*config).setRecord},
	"upstream": {"TO...", 1, unbounded, (*config).setUpstreams},
	"tls_servername": {"NAME", 1, 1, func(cfg *config, args []string) error {
		cfg.tlsConfig.ServerName = args[0]
		return checkHostName(args[0])
	}},
	"timeout": {"DURATION", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.timeout, err = parseDuration(args[0], minTimeout, maxTimeout)
		return err
	}},
	"retries": {"COUNT", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.retries, err = parseCount(args[0], 0, maxRetries)
		return err
	}},
	"min_ttl": {"DURATION", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.lifetime.min, err = parseTTL(args[0], time.Second)
		return err
	}},
	"max_ttl": {"DURATION", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.lifetime.max, err = parseTTL(args[0], time.Second)
		return err
	}},
	"stale": {"DURATION", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.lifetime.stale, err = parseDuration(args[0], 0, maxStale)
		return err
	}},
	"stale_ttl": {"DURATION", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.staleTTL, err = parseTTL(args[0], time.Second)
		return err
	}},
	"on_failure": {"empty|servfail", 1, 1, func(cfg *config, args []string) error {
		codes := map[string]int{"empty": dns.RcodeSuccess, "servfail": dns.RcodeServerFailure}
		code, ok := codes[args[0]]
		if !ok {
			return fmt.Errorf("'%s' is neither empty nor servfail", args[0])
		}
		cfg.onFailure = code
		return nil
	}},
	"cache_size": {"COUNT", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.size, err = parseCount(args[0], 1, maxCacheSize)
		return err
	}},
	"target_from": {"LABEL", 1, 1, func(cfg *config, args []string) error {
		if !metadata.IsLabel(args[0]) {
			return fmt.Errorf("'%s' is not a metadata label, plugin/name", args[0])
		}
		cfg.targetFrom = args[0]
		return nil
	}},
	"flatten": {"apex|all", 1, 1, func(cfg *config, args []string) error {
		which, ok := map[string]flatten{"apex": flattenApex, "all": flattenAll}[args[0]]
		if !ok {
			return fmt.Errorf("'%s' is neither apex nor all", args[0])
		}
		cfg.flatten = which
		return nil
	}},
	"transfer_on_failure": {"abort|omit", 1, 1, func(cfg *config, args []string) error {
		omit, ok := map[string]bool{"abort": false, "omit": true}[args[0]]
		if !ok {
			return fmt.Errorf("'%s' is neither abort nor omit", args[0])
		}
		cfg.omit = omit
		return nil
	}},
	"persist": {"PATH", 1, 1, func(cfg *config, args []string) error {
		if args[0] == "" {
			return errors.New("'' is not a path")
		}
		cfg.path = args[0]
		return nil
	}},
	"txt": {"", 0, 0, func(cfg *config, _ []string) error {
		cfg.text = true
		return nil
	}},
	"max_concurrent": {"COUNT", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.concurrent, err = parseCount(args[0], 1, maxConcurrent)
		return err
	}},
}

// finish checks what can only be seen at the end of the block, and sets the defaults that may fail.
func (cfg *config) finish(c *caddy.Controller) error {
	cfg.records.seal()
	if cfg.lifetime.min > cfg.lifetime.max {
		least, most := cfg.seen["min_ttl"], cfg.seen["max_ttl"]
		return fmt.Errorf("%s:%d - Error during parsing: min_ttl: '%s' is more than max_ttl '%s'", cfg.file, max(least.line, most.line),
			least.orDefault("5s"), most.orDefault("1h"))
	}
	if len(cfg.to) == 0 {
		if err := cfg.setUpstreams([]string{"/etc/resolv.conf"}); err != nil {
			return c.Errf("upstream: %v", err)
		}
	}
	return nil
}

// checkBlock checks what the other plugins of the server block have to do with.
func (cfg *config) checkBlock(block *dnsserver.Config) error {
	if cfg.targetFrom != "" && block.Handler("metadata") == nil {
		return fmt.Errorf("%s:%d - Error during parsing: target_from: '%s' is never set: there is no metadata in the server block",
			cfg.file, cfg.seen["target_from"].line, cfg.targetFrom)
	}
	return nil
}

// orDefault returns the argument at p, or byDefault when the property is not given.
func (p place) orDefault(byDefault string) string {
	if len(p.args) == 0 {
		return byDefault
	}
	return p.args[0]
}

// setRecord parses NAME TARGET [TTL].
func (cfg *config) setRecord(args []string) error {
	owner, err := cfg.ownerName(args[0])
	if err != nil {
		return err
	}
	zone := cfg.zones.match(owner)
	if zone == "" {
		return fmt.Errorf("'%s' is outside of %s", args[0], strings.Join(cfg.origins, " "))
	}
	target, err := targetName(args[1])
	if err != nil {
		return err
	}
	if target == owner {
		return fmt.Errorf("'%s' is an alias of itself", args[0])
	}
	ttl := uint32(noLimit)
	if len(args) > 2 {
		if ttl, err = parseTTL(args[2], 0); err != nil {
			return err
		}
	}
	if !cfg.records.add(owner, said{target, zone, ttl}) {
		return fmt.Errorf("'%s' has a record already", args[0])
	}
	return nil
}

// ownerName returns the fully qualified name that NAME stands for. A name that ends in one of ZONES is in full, with
// or without the final dot.
func (cfg *config) ownerName(arg string) (string, error) {
	name := strings.ToLower(arg)
	if name == "" {
		return "", errors.New("'' is not a host name")
	}
	if relative := !strings.HasSuffix(name, ".") && (name == "@" || cfg.zones.match(name+".") == ""); relative {
		if len(cfg.origins) != 1 {
			return "", fmt.Errorf("'%s' is relative, but there are %d zones: write it in full, with a final dot", arg, len(cfg.origins))
		}
		name = strings.TrimPrefix(name+"."+cfg.origins[0], "@.")
	}
	name = dns.Fqdn(name)
	if name == "." {
		return name, nil
	}
	if len(name) > maxName {
		return "", fmt.Errorf("'%s' is too long for a name", name)
	}
	labels := strings.TrimPrefix(name, "*.")
	if labels == "" { // the wildcard of the root
		return name, nil
	}
	return name, checkHostName(labels)
}

// targetName returns the fully qualified name that TARGET stands for.
func targetName(arg string) (string, error) {
	if _, err := netip.ParseAddr(strings.TrimSuffix(arg, ".")); err == nil {
		return "", fmt.Errorf("'%s' is an address and no host name: give the owner an A or AAAA record instead", arg)
	}
	if arg == "" {
		return "", errors.New("'' is not a host name")
	}
	name := dns.Fqdn(strings.ToLower(arg))
	return name, checkHostName(name)
}

// checkHostName returns an error unless name is a host name (RFC 1123, section 2.1) that is short enough. The
// underscore is let through: names in use have it.
func checkHostName(name string) error {
	if len(name) > maxName {
		return fmt.Errorf("'%s' is too long for a name", name)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		switch {
		case len(label) > 63:
			return fmt.Errorf("'%s' has a label of more than 63 characters", name)
		case label == "", label[0] == '-', label[len(label)-1] == '-', strings.Trim(label, ldh) != "":
			return fmt.Errorf("'%s' is not a host name", name)
		}
	}
	return nil
}

// maxName is the length of the longest name, with its final dot: 255 octets on the wire (RFC 1035, section 2.3.4).
const maxName = 254

const ldh = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"

func parseDuration(arg string, least, most time.Duration) (time.Duration, error) {
	d, err := durations.NewDurationFromArg(arg)
	switch {
	case err != nil:
		return 0, fmt.Errorf("'%s' is not a duration", arg)
	case d < least || d > most:
		return 0, fmt.Errorf("'%s' is out of range, %s to %s", arg, least, most)
	}
	return d, nil
}

// parseTTL parses a number of seconds or a duration of whole seconds.
func parseTTL(arg string, least time.Duration) (uint32, error) {
	d, err := parseDuration(arg, least, maxTTL)
	if err != nil {
		return 0, err
	}
	if d%time.Second != 0 {
		return 0, fmt.Errorf("'%s' is not a whole number of seconds", arg)
	}
	return uint32(d / time.Second), nil // #nosec G115 -- at most maxTTL
}

func parseCount(arg string, least, most int) (int, error) {
	n, err := strconv.Atoi(arg)
	switch {
	case errors.Is(err, strconv.ErrRange), err == nil && (n < least || n > most):
		return 0, fmt.Errorf("'%s' is out of range, %d to %d", arg, least, most)
	case err != nil:
		return 0, fmt.Errorf("'%s' is not a number", arg)
	}
	return n, nil
}

// setUpstreams parses TO....
func (cfg *config) setUpstreams(args []string) error {
	cfg.to, cfg.resolvers = args, nil
	for _, arg := range args {
		addrs, err := parse.HostPortOrFile(arg)
		if err != nil {
			return err
		}
		for _, addr := range addrs {
			r, err := parseResolver(addr)
			if err != nil {
				return err
			}
			if !slices.Contains(cfg.resolvers, r) {
				cfg.resolvers = append(cfg.resolvers, r)
			}
		}
	}
	switch {
	case len(cfg.resolvers) == 0:
		return fmt.Errorf("no name server in '%s'", strings.Join(args, " "))
	case len(cfg.resolvers) > maxUpstreams:
		return fmt.Errorf("'%s' are %d upstreams, at most %d are allowed", strings.Join(args, " "), len(cfg.resolvers), maxUpstreams)
	}
	return nil
}

// resolver is an upstream as configured.
type resolver struct {
	protocol, addr string
	serverName     string // of its certificate; "": that of tls_servername
}

// parseResolver parses an address with a port, [scheme://]address[%servername]:port.
func parseResolver(to string) (resolver, error) {
	protocol, hostport := parse.Transport(to)
	r := resolver{protocol: protocol, addr: hostport}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return r, fmt.Errorf("'%s' is not an address: %v", to, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return r, fmt.Errorf("'%s' has no valid port", to)
	}
	switch protocol {
	case transport.DNS:
		return r, nil // what follows % is the zone of a link-local address
	case transport.TLS, transport.QUIC, transport.HTTPS:
		host, r.serverName, _ = strings.Cut(host, "%")
		r.addr = net.JoinHostPort(host, port)
		return r, nil
	default:
		return r, fmt.Errorf("'%s' has a protocol that is not supported here", to)
	}
}

// build returns the plugin that cfg describes.
func (cfg *config) build() *Alias {
	us := &upstreams{timeout: cfg.timeout}
	for _, r := range cfg.resolvers {
		tlsConfig := cfg.tlsConfig.Clone()
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		if r.serverName != "" {
			tlsConfig.ServerName = r.serverName
		}
		us.list = append(us.list, newUpstream(r.protocol, r.addr, tlsConfig, cfg.timeout))
	}
	return &Alias{
		zones:     cfg.zones,
		records:   cfg.records,
		upstreams: us,
		source:    source{upstreamsOf(cfg.resolvers, cfg.tlsConfig.ServerName), cfg.path},
		share:     &share{size: cfg.size},
		cache:     cfg.buildCache(us.resolve),
		asks:      semaphore.NewWeighted(int64(cfg.concurrent)),
		slots:     otter.Must(&otter.Options[question, *slot]{MaximumSize: cfg.size}),

		staleTTL:   cfg.staleTTL,
		onFailure:  cfg.onFailure,
		targetFrom: cfg.targetFrom,
		flatten:    cfg.flatten,
		text:       cfg.text,
	}
}

// buildCache returns the cache that cfg describes, which looks up through resolve.
func (cfg *config) buildCache(resolve resolveFunc) *cache {
	c := newCache(cfg.size, cfg.concurrent)
	c.lifetime = cfg.lifetime
	c.retries = cfg.retries
	c.grace = cfg.timeout / 5
	c.lag = min(maxLag, cfg.lifetime.stale/10)
	c.resolve = resolve
	return c
}

// findBackends returns the handlers that can transfer zones, and what lists the zones that may be there: origins, and
// those that a backend has. Those of file and secondary are set up before the servers start; secondary's members of catalog
// zones are found when somebody asks for them.
func findBackends(handlers []plugin.Handler, origins []string) ([]transfer.Transferer, func() map[string]*file.Zone) {
	var backends []transfer.Transferer
	var autos []auto.Auto
	fixed := make(map[string]*file.Zone)
	for _, origin := range origins {
		fixed[origin] = nil
	}
	for _, h := range handlers {
		t, ok := h.(transfer.Transferer)
		if _, self := h.(*Alias); self || !ok {
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

// serverBlock is a place in the Corefile.
type serverBlock struct {
	index int
	keys  []string
}

// parseSecondaries returns whom the transfer plugin of this server block tells of changes. It does so one after the other,
// and does not say who they are, hence the look into the Corefile, which it has found to be right.
func parseSecondaries(at serverBlock) ([]secondaries, error) {
	instances := caddy.Instances()
	if len(instances) == 0 {
		return nil, errors.New("no instance is running")
	}
	corefile := instances[len(instances)-1].Caddyfile()
	blocks, err := caddyfile.Parse(corefile.Path(), bytes.NewReader(corefile.Body()), nil)
	if err != nil || at.index >= len(blocks) {
		return nil, fmt.Errorf("server block %d of the Corefile is not to be found: %v", at.index, err)
	}
	d := caddyfile.NewDispenserTokens(corefile.Path(), blocks[at.index].Tokens["transfer"])
	var all []secondaries
	for d.Next() {
		ss := secondaries{zones: make(zones)}
		for _, zone := range plugin.OriginsFromArgsOrServerBlock(d.RemainingArgs(), at.keys) {
			ss.zones[zone] = struct{}{}
		}
		for d.NextBlock() {
			property, args := d.Val(), d.RemainingArgs()
			for _, arg := range args {
				if property == "source" {
					ss.source = net.ParseIP(arg)
				} else if addr, err := parse.HostPort(arg, transport.Port); err == nil && arg != "*" {
					ss.to = append(ss.to, addr)
				}
			}
		}
		all = append(all, ss)
	}
	return all, nil
}
