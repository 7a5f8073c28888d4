package alias

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/plugin/store"

	"github.com/coredns/caddy"
	"github.com/coredns/caddy/caddyfile"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/dnssec"
	"github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"

	"golang.org/x/time/rate"
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
	a, origins := cfg.build(), cfg.origins
	a.bypass = func() []string {
		if block.Handler("transfer") == nil {
			return nil
		}
		return origins
	}
	hookStartup()
	at := serverBlock{c.ServerBlockIndex, c.ServerBlockKeys} // and not c, which would keep all that was read

	c.OnStartup(func() error {
		started := caddy.Instances()
		a.instance = started[len(started)-1]
		if err := a.join(block, cfg, at); err != nil {
			return plugin.Error("alias", err)
		}
		a.start()
		log.Infof("Zones %s, records %d, upstreams %s, timeout %s", strings.Join(cfg.origins, " "), a.records.Len(),
			strings.Join(cfg.to, " "), cfg.timeout)
		cfg = nil // the instance keeps this function
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
		a.backend.Next = next
		return a
	})
	return nil
}

// join makes a know the other plugins of its server block, which are all set up by now.
func (a *Alias) join(block *dnsserver.Config, cfg *config, at serverBlock) error {
	if cfg.targetFrom != "" && block.Handler("metadata") == nil {
		return fmt.Errorf("%s:%d - Error during parsing: target_from: '%s' is never set: there is no metadata in the server block",
			cfg.file, cfg.seen["target_from"].line, cfg.targetFrom)
	}
	signer := block.Handler("dnssec")
	a.backend.Signs = signer != nil
	if d, ok := signer.(dnssec.Dnssec); ok {
		a.signer = &d
	}
	before, behind, ok := neighbours(block)
	if ok {
		a.wireForm = canWriteWire(before)
		a.backend.ZoneOf, a.backend.ByName = backend.ZonesOf(behind), backend.ByName(behind)
	}
	if a.subnets.areSent() && block.Handler("cache") != nil {
		a.warnings.warnOnce("Zones %s: cache gives the answer for one client subnet to all clients: leave it out of the server block, or client_subnet",
			strings.Join(cfg.origins, " "))
	}
	if block.Handler("transfer") == nil {
		return nil
	}
	secondaries, err := parseSecondaries(at)
	if err != nil {
		return err
	}
	backends, list := primary.Backends(block.Handlers(), a, cfg.origins, backend.ByName)
	a.primary = primary.New(cfg.primaryConfig(a, primary.Config{
		Backends: backends, List: list, Secondaries: secondaries, Before: running.primaryFor(a.zones),
	}))
	primary.AwaitSerial()
	return nil
}

// hookStartup sees to it that the records are looked up when the servers listen. A reload by signal has forgotten all
// hooks when it comes here, one by the reload plugin has not.
func hookStartup() {
	if slices.Contains(caddy.ListPlugins()["event_hooks"], "alias") {
		return
	}
	caddy.RegisterEventHook("alias", func(event caddy.EventName, instance any) error {
		if event == caddy.InstanceStartupEvent {
			corefileBlocks.drop()
			running.prime(instance)
		}
		return nil
	})
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
		if err := cfg.finish(); err != nil {
			return nil, err
		}
		if len(cfg.to) == 0 {
			if err := cfg.setUpstreams([]string{"/etc/resolv.conf"}); err != nil {
				return nil, c.Errf("upstream: %v", err)
			}
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
	cfg.records = records.New(cfg.zones)
	return nil
}

// parseProperty parses one line of the block.
func (cfg *config) parseProperty(c *caddy.Controller) error {
	property := c.Val()
	args := c.RemainingArgs()
	if first, ok := cfg.seen[property]; ok && property != "record" && property != "failover" {
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

// neighbours returns the plugins before and behind alias in the server block, in their order. It is not ok when there may be
// others: one that has not the name of its directive may be anywhere.
func neighbours(block *dnsserver.Config) (before, behind []plugin.Handler, ok bool) {
	handlers := block.Handlers()
	self := slices.IndexFunc(handlers, func(h plugin.Handler) bool { _, self := h.(*Alias); return self })
	if self < 0 || len(handlers) != len(block.Plugin) {
		return nil, nil, false
	}
	return handlers[:self], handlers[self+1:], true
}

// transparent are the plugins that hand the writer of responses on as it is, or like prometheus need no more than their
// length.
var transparent = []string{"metadata", "cancel", "bufsize", "prometheus", "errors", "local", "any", "chaos", "acl", "transfer", "view"}

// canWriteWire reports whether responses may be written in wire form: none of the plugins before alias has to see them as
// messages.
func canWriteWire(before []plugin.Handler) bool {
	return !slices.ContainsFunc(before, func(h plugin.Handler) bool { return !slices.Contains(transparent, h.Name()) })
}

// isPlain reports whether the server at addr serves plain DNS. Others have writers that need the message.
func isPlain(addr string) bool { return strings.HasPrefix(addr, transport.DNS+"://") }

// serverBlock is a place in the Corefile.
type serverBlock struct {
	index int
	keys  []string
}

// transferTokens returns the tokens of transfer in this server block of the Corefile, which is read once for all server
// blocks, and the path of the Corefile.
func (at serverBlock) transferTokens() (path string, tokens []caddyfile.Token, err error) {
	instances := caddy.Instances()
	if len(instances) == 0 {
		return "", nil, errors.New("no instance is running")
	}
	starting := instances[len(instances)-1]
	blocks, err := corefileBlocks.of(starting)
	if err != nil || at.index >= len(blocks) {
		return "", nil, fmt.Errorf("server block %d of the Corefile is not to be found: %v", at.index, err)
	}
	return starting.Caddyfile().Path(), blocks[at.index].Tokens["transfer"], nil
}

// corefileBlocks has the server blocks of the Corefile while the server starts.
var corefileBlocks blocks

// blocks has the server blocks of the Corefile of an instance of the server, of their directives only transfer.
type blocks struct {
	mu       sync.Mutex
	instance *caddy.Instance
	parsed   []caddyfile.ServerBlock
}

// of returns the server blocks of an instance, which are kept until it is called for another one, or drop is.
func (bs *blocks) of(instance *caddy.Instance) ([]caddyfile.ServerBlock, error) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if bs.instance == instance {
		return bs.parsed, nil
	}
	corefile := instance.Caddyfile()
	parsed, err := caddyfile.Parse(corefile.Path(), bytes.NewReader(corefile.Body()), nil)
	if err != nil {
		return nil, err
	}
	for i, block := range parsed { // a block may have millions of tokens of other directives
		parsed[i].Tokens = map[string][]caddyfile.Token{"transfer": block.Tokens["transfer"]}
	}
	bs.instance, bs.parsed = instance, parsed
	return parsed, nil
}

func (bs *blocks) drop() {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.instance, bs.parsed = nil, nil
}

// parseSecondaries returns the secondaries that the transfer plugin of this server block notifies. It notifies one after the
// other, and has no method that returns them, hence the look into the Corefile, which it has found to be right.
func parseSecondaries(at serverBlock) ([]primary.Secondaries, error) {
	path, tokens, err := at.transferTokens()
	if err != nil {
		return nil, err
	}
	d := caddyfile.NewDispenserTokens(path, tokens)
	var all []primary.Secondaries
	for d.Next() {
		ss := primary.Secondaries{Zones: make(records.Zones)}
		for _, zone := range plugin.OriginsFromArgsOrServerBlock(d.RemainingArgs(), at.keys) {
			ss.Zones[zone] = struct{}{}
		}
		for d.NextBlock() {
			property, args := d.Val(), d.RemainingArgs()
			for _, arg := range args {
				if property == "source" {
					ss.Source = net.ParseIP(arg)
				} else if addr, err := parse.HostPort(arg, transport.Port); err == nil && arg != "*" {
					ss.To = append(ss.To, addr)
				}
			}
		}
		all = append(all, ss)
	}
	return all, nil
}
