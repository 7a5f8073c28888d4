package alias

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/filter"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/plugin/store"
	"github.com/coredns/alias/plugin/subnet"
	"github.com/coredns/alias/plugin/upstream"

	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/pkg/durations"

	"github.com/miekg/dns"
)

// The bounds of what can be configured.
const (
	minTimeout    = time.Millisecond
	maxTimeout    = 10 * time.Second
	maxRetries    = 10
	maxCacheSize  = 100_000_000
	maxConcurrent = 1_000_000
)

// config is what the Corefile says.
type config struct {
	origins []string
	zones   records.Zones
	records *records.Records

	to          []string           // as written
	upstreams   []upstream.Address // what to stands for
	tlsConfig   *tls.Config
	timeout     time.Duration
	retries     int
	lifetime    lifetime
	size        int
	concurrent  int
	perZone     int // 0: by default
	flatten     backend.Flatten
	omit        bool
	unspecified bool             // 0.0.0.0 and :: are addresses like others
	addresses   filter.Addresses // that are never an answer
	path        string           // of the file of persist, or ""
	fleet       []string         // the arguments of share
	options

	file string           // the Corefile
	seen map[string]place // where each property was given
	now  func() time.Time // the clock
}

// place is a line of the Corefile.
type place struct {
	line int
	args []string
}

func newConfig() *config {
	return &config{
		zones:      make(records.Zones),
		tlsConfig:  new(tls.Config),
		timeout:    500 * time.Millisecond,
		retries:    2,
		lifetime:   lifetime{min: 5, max: 3600, stale: 72 * time.Hour},
		options:    options{staleTTL: 30, onFailure: dns.RcodeSuccess},
		size:       100_000,
		concurrent: 1000,
		seen:       make(map[string]place),
		now:        time.Now,
	}
}

// unbounded is the max of a property that takes any number of arguments.
const unbounded = -1

// properties are the properties of the block.
var properties = map[string]struct {
	usage    string
	min, max int
	set      func(cfg *config, args []string) error
}{
	"record": {"NAME TARGET... [TTL]", 2, unbounded, func(cfg *config, args []string) error {
		return cfg.addRecord(args, false)
	}},
	"failover": {"NAME TARGET TARGET... [TTL]", 3, unbounded, func(cfg *config, args []string) error {
		return cfg.addRecord(args, true)
	}},
	"client_subnet": {"[V4 [V6]]", 0, 2, (*config).setSubnets},
	"https": {"alias|copy", 1, 1, func(cfg *config, args []string) error {
		mode, ok := map[string]httpsMode{"alias": httpsAlias, "copy": httpsCopy}[args[0]]
		if !ok {
			return fmt.Errorf("'%s' is neither alias nor copy", args[0])
		}
		cfg.https = mode
		return nil
	}},
	"upstream": {"TO...", 1, unbounded, (*config).setUpstreams},
	"tls_servername": {"NAME", 1, 1, func(cfg *config, args []string) error {
		cfg.tlsConfig.ServerName = args[0]
		return records.CheckHostName(args[0])
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
		cfg.lifetime.stale, err = parseDuration(args[0], 0, answers.MaxStale)
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
		which, ok := map[string]backend.Flatten{"apex": backend.FlattenApex, "all": backend.FlattenAll}[args[0]]
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
	"share": {"URL... [master=NAME] [prefix=NAME]", 1, unbounded, func(cfg *config, args []string) error {
		cfg.fleet = args
		_, err := store.ParseLocation(args)
		return err
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
	"target_allow": {"NAME...", 1, unbounded, func(cfg *config, args []string) error { return setTargets(&cfg.targets.Allow, args) }},
	"target_deny":  {"NAME...", 1, unbounded, func(cfg *config, args []string) error { return setTargets(&cfg.targets.Deny, args) }},
	"address_deny": {"CIDR|special...", 1, unbounded, (*config).setAddresses},
	"allow_unspecified": {"", 0, 0, func(cfg *config, _ []string) error {
		cfg.unspecified = true
		return nil
	}},
	"per_zone": {"COUNT", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.perZone, err = parseCount(args[0], 1, maxConcurrent)
		return err
	}},
	"max_concurrent": {"COUNT", 1, 1, func(cfg *config, args []string) (err error) {
		cfg.concurrent, err = parseCount(args[0], 1, maxConcurrent)
		return err
	}},
}

// finish checks what can only be seen at the end of the block, and sets the defaults that may fail. The error has the
// line where it is not the last of the block.
func (cfg *config) finish() error {
	cfg.records.Seal()
	if err := cfg.checkTargets(); err != nil {
		return err
	}
	if cfg.perZone > cfg.concurrent {
		least, most := cfg.seen["per_zone"], cfg.seen["max_concurrent"]
		return fmt.Errorf("%s:%d - Error during parsing: per_zone: '%s' is more than max_concurrent '%s'", cfg.file, max(least.line, most.line),
			least.args[0], most.orDefault("1000"))
	}
	if cfg.lifetime.min > cfg.lifetime.max {
		least, most := cfg.seen["min_ttl"], cfg.seen["max_ttl"]
		return fmt.Errorf("%s:%d - Error during parsing: min_ttl: '%s' is more than max_ttl '%s'", cfg.file, max(least.line, most.line),
			least.orDefault("5s"), most.orDefault("1h"))
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

// addRecord parses NAME TARGET... [TTL].
func (cfg *config) addRecord(args []string, failover bool) error {
	owner, err := cfg.zones.ParseOwner(args[0], cfg.origins)
	if err != nil {
		return err
	}
	targets, ttl, err := parseTargets(args[1:])
	switch {
	case err != nil:
		return err
	case failover && len(targets) == 1:
		return fmt.Errorf("'%s' has one target: give it another, or use record", args[0])
	case slices.Contains(targets, owner):
		return fmt.Errorf("'%s' is an alias of itself: give it another target", args[0])
	case !cfg.records.Add(owner, ttl, failover, targets...):
		return fmt.Errorf("'%s' has a record already: give it all targets in one line", args[0])
	}
	return nil
}

// parseTargets parses TARGET... [TTL].
func parseTargets(args []string) (targets []string, ttl uint32, err error) {
	ttl = lookup.NoLimit
	for i, arg := range args {
		if last := i > 0 && i == len(args)-1; last && isTTL(arg) {
			ttl, err = parseTTL(arg, 0)
			return targets, ttl, err
		}
		target, err := records.ParseTarget(arg)
		switch {
		case err != nil:
			return nil, 0, err
		case i > 0 && isTTL(arg):
			return nil, 0, fmt.Errorf("'%s' stands before a target: give the TTL last", arg)
		case i > 0 && !strings.Contains(arg, "."):
			return nil, 0, fmt.Errorf("'%s' is neither a duration nor a target: a target of one label ends in a dot here", arg)
		case slices.Contains(targets, target):
			return nil, 0, fmt.Errorf("'%s' is given twice: give each target once", arg)
		case len(targets) == records.MaxTargets:
			return nil, 0, fmt.Errorf("'%s' is one target too many: at most %d are allowed", arg, records.MaxTargets)
		}
		targets = append(targets, target)
	}
	return targets, ttl, nil
}

// isTTL reports whether arg, which follows a target, is a TTL and not another target.
func isTTL(arg string) bool {
	_, err := durations.NewDurationFromArg(arg)
	return err == nil
}

// setSubnets parses [V4 [V6]].
func (cfg *config) setSubnets(args []string) (err error) {
	cfg.subnets = subnets{on: true, Lengths: subnet.Lengths{V4: 24, V6: 56}}
	for i, bits := range []*int{&cfg.subnets.V4, &cfg.subnets.V6}[:len(args)] {
		if *bits, err = parseCount(args[i], 0, []int{32, 128}[i]); err != nil {
			return err
		}
	}
	return nil
}

// setUpstreams parses TO....
func (cfg *config) setUpstreams(args []string) (err error) {
	cfg.to = args
	cfg.upstreams, err = upstream.ParseAddresses(args)
	return err
}

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
	d, err := parseDuration(arg, least, answers.MaxTTL)
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
