package alias

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// setTargets parses NAME... into zones.
func setTargets(zones *records.Zones, args []string) error {
	*zones = make(records.Zones)
	for _, arg := range args {
		name := dns.Fqdn(strings.ToLower(arg))
		if name != "." {
			if err := records.CheckHostName(name); err != nil {
				return fmt.Errorf("%w: write an internationalised name in ASCII, with xn--", err)
			}
		}
		if _, twice := (*zones)[name]; twice {
			return fmt.Errorf("'%s' is given twice", arg)
		}
		(*zones)[name] = struct{}{}
	}
	return nil
}

// setAddresses parses CIDR|special....
func (cfg *config) setAddresses(args []string) error {
	for _, arg := range args {
		if arg == "special" {
			cfg.addresses.Special = true
			continue
		}
		prefix, err := netip.ParsePrefix(arg)
		if addr, addrErr := netip.ParseAddr(arg); addrErr == nil && addr.Zone() == "" {
			prefix, err = netip.PrefixFrom(addr, addr.BitLen()), nil
		}
		switch {
		case err != nil:
			return fmt.Errorf("'%s' is neither an address, nor an address and a prefix length such as 10.0.0.0/8, nor special", arg)
		case prefix != prefix.Masked():
			return fmt.Errorf("'%s' has bits beyond the prefix: write %s", arg, prefix.Masked())
		}
		cfg.addresses.Prefixes = append(cfg.addresses.Prefixes, prefix)
	}
	return nil
}

// checkTargets returns an error when a record has a target that is denied.
func (cfg *config) checkTargets() error {
	if cfg.targets.IsEmpty() {
		return nil
	}
	for owner, r := range cfg.records.All() {
		for al := range r.All() {
			if !cfg.targets.Denies(al.Target) {
				continue
			}
			property := "target_allow"
			if cfg.targets.Deny.Match(al.Target) != "" {
				property = "target_deny"
			}
			return fmt.Errorf("%s:%d - Error during parsing: %s: '%s' does not allow '%s', the target of the record '%s': change one of them",
				cfg.file, cfg.seen[property].line, property, strings.Join(cfg.seen[property].args, " "), al.Target, owner)
		}
	}
	return nil
}

// denies reports whether addr is never an answer.
func (cfg *config) denies(addr netip.Addr) bool {
	return !cfg.unspecified && isUnspecified(addr) || cfg.addresses.Denies(addr)
}

// filters identifies what is denied: server blocks that deny different names and addresses have no answer in common.
func (cfg *config) filters() string {
	var all []string
	for _, property := range []string{"allow_unspecified", "target_allow", "target_deny", "address_deny"} {
		if p, ok := cfg.seen[property]; ok {
			all = append(all, strings.TrimSpace(property+" "+strings.Join(slices.Sorted(slices.Values(p.args)), " ")))
		}
	}
	return strings.Join(append([]string{""}, all...), " ")
}
