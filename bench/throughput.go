package main

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// addressCounts are the numbers of addresses at a zone apex. Each has a zone of its own.
var addressCounts = []int{1, 2, 16}

func zoneName(addresses int) string { return fmt.Sprintf("addresses-%02d.example.", addresses) }

func targetName(addresses int) string { return fmt.Sprintf("target-%02d.host.example.", addresses) }

// contestant is a server that is measured.
type contestant struct {
	name   string
	launch func(b *bench, resolver string) (*server, error)
}

const (
	aliasFresh    = "*alias*, fresh"
	aliasStale    = "*alias*, stale (resolver dead)"
	fileStatic    = "*file*, static records"
	cacheFile     = "*cache* before *file*"
	ceiling       = "prepacked bytes (ceiling)"
	powerDNS      = "PowerDNS `expand-alias`, Unbound"
	aliasOperated = "*alias*, fresh, with *errors*, *prometheus*"
	fileOperated  = "*file*, with *errors*, *prometheus*"
)

// operated are the plugins in front that nearly every operator has.
const operated = "errors prometheus"

var contestants = []contestant{
	{aliasFresh, func(b *bench, resolver string) (*server, error) {
		return b.launchCoreDNS("alias", zoneName(2), aliasCorefile(resolver, ""))
	}},
	{aliasStale, launchStale},
	{fileStatic, func(b *bench, _ string) (*server, error) {
		return b.launchCoreDNS("file", zoneName(2), blocks("file ZONEzone ZONE"))
	}},
	{cacheFile, func(b *bench, _ string) (*server, error) {
		return b.launchCoreDNS("cache", zoneName(2), blocks("cache\nfile ZONEzone ZONE"))
	}},
	{ceiling, launchPrepacked},
	{powerDNS, launchPowerDNS},
	{aliasOperated, func(b *bench, resolver string) (*server, error) {
		return b.launchCoreDNS("alias-operated", zoneName(2), aliasCorefile(resolver, inFront(operated)))
	}},
	{fileOperated, func(b *bench, _ string) (*server, error) {
		return b.launchCoreDNS("file-operated", zoneName(2), blocks(inFront(operated)+"file ZONEzone ZONE"))
	}},
}

// blocks returns a Corefile that has a server block with these plugins for each zone. In plugins, ZONE stands for the zone's name.
func blocks(plugins string) string {
	var s strings.Builder
	for _, n := range addressCounts {
		fmt.Fprintf(&s, "%s:PORT {\nbind 127.0.0.1\n%s\n}\n", zoneName(n), strings.ReplaceAll(plugins, "ZONE", zoneName(n)))
	}
	return s.String()
}

// aliasCorefile returns a Corefile with the plugins in front, alias and file. The target of each zone apex is looked up through
// resolver.
func aliasCorefile(resolver, front string) string {
	s := blocks(front + "alias {\nrecord @ TARGET-ZONE\nmin_ttl 1s\nupstream " + resolver + "\n}\nfile ZONEzone.soa ZONE")
	for _, n := range addressCounts {
		s = strings.ReplaceAll(s, "TARGET-"+zoneName(n), targetName(n))
	}
	return s
}

// addresses returns n A records of name.
func addresses(name string, ttl, n int) []string {
	rrs := make([]string, n)
	for i := range rrs {
		rrs[i] = fmt.Sprintf("%s %d IN A 192.0.2.%d", name, ttl, i+1)
	}
	return rrs
}

// writeZones writes the files of each zone: the zone with its addresses (zone), without them (zone.soa) and with an ALIAS record
// instead (zone.alias), and the query for dnsperf (queries). All zones with their addresses are in all.zone.
func (b *bench) writeZones() error {
	var all strings.Builder
	for _, n := range addressCounts {
		zone := zoneName(n)
		soa := zone + " 3600 IN SOA ns.example. hostmaster.example. 1 3600 600 86400 300\n" + zone + " 3600 IN NS ns.example.\n"
		static := soa + strings.Join(addresses(zone, 3600, n), "\n") + "\n"
		all.WriteString(static)
		for name, text := range map[string]string{
			zone + "zone": static, zone + "zone.soa": soa, zone + "zone.alias": soa + zone + " 3600 IN ALIAS " + targetName(n) + "\n",
			zone + "queries": zone + " A\n",
		} {
			if _, err := b.write(name, text); err != nil {
				return err
			}
		}
	}
	_, err := b.write("all.zone", all.String())
	return err
}

// launchUnbound starts a resolver that answers for the targets, with this TTL.
func (b *bench) launchUnbound(ttl int) (*server, error) {
	data := "\tlocal-zone: \"host.example.\" static\n"
	for _, n := range addressCounts {
		for _, rr := range addresses(targetName(n), ttl, n) {
			data += fmt.Sprintf("\tlocal-data: %q\n", rr)
		}
	}
	return b.launchResolver(targetName(2), data)
}

// launchResolver starts Unbound with this data on the core of the contestants.
func (b *bench) launchResolver(probe, data string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	path, err := b.write("unbound-"+port+".conf", fmt.Sprintf(`server:
	interface: 127.0.0.1
	port: %s
	username: ""
	chroot: ""
	directory: %q
	pidfile: ""
	use-syslog: no
	do-daemonize: no
	num-threads: 1
%sremote-control:
	control-enable: no
`, port, b.dir, data))
	if err != nil {
		return nil, err
	}
	return b.launch(serverCore, addr, probe, nil, "/usr/sbin/unbound", "-d", "-c", path)
}

// launchStale starts alias with a resolver, stops the resolver as soon as the answers are cached, and returns when these are stale.
func launchStale(b *bench, _ string) (*server, error) {
	resolver, err := b.launchUnbound(1)
	if err != nil {
		return nil, err
	}
	s, err := b.launchCoreDNS("alias-stale", zoneName(2), aliasCorefile(resolver.addr, ""))
	if err != nil {
		return nil, err
	}
	for _, n := range addressCounts {
		if _, err := ask(s.addr, zoneName(n)); err != nil {
			return nil, err
		}
	}
	b.stop(resolver)
	for _, n := range addressCounts {
		err := b.await("answers are stale", 100*time.Millisecond, func() (bool, error) {
			m, err := ask(s.addr, zoneName(n))
			return err == nil && len(m.Answer) == n && m.Answer[0].Header().Ttl == 30, err // stale_ttl
		})
		if err != nil {
			return nil, err
		}
	}
	return s, nil
}

func launchPrepacked(b *bench, _ string) (*server, error) {
	program, err := b.build(".", "./prepacked")
	if err != nil {
		return nil, err
	}
	return b.launchCorefile(program, []string{"PREPACKED=all.zone"}, "prepacked", zoneName(2), blocks("prepacked"))
}

func launchPowerDNS(b *bench, resolver string) (*server, error) {
	named := fmt.Sprintf("options { directory %q; };\n", b.dir)
	for _, n := range addressCounts {
		named += fmt.Sprintf("zone %q { type master; file %q; };\n", strings.TrimSuffix(zoneName(n), "."), zoneName(n)+"zone.alias")
	}
	return b.launchExpanding(b.dir, zoneName(2), named, resolver, "")
}

// launchExpanding starts PowerDNS with the zones in named, the text of a named.conf, and with more settings. Its files are in dir.
func (b *bench) launchExpanding(dir, probe, named, resolver, settings string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	_, port, _ := net.SplitHostPort(addr)
	zones := filepath.Join(dir, "named.conf")
	if err := os.WriteFile(zones, []byte(named), 0o600); err != nil {
		return nil, err
	}
	conf := fmt.Sprintf(`launch=bind
bind-config=%s
local-address=127.0.0.1
local-port=%s
socket-dir=%s
expand-alias=yes
resolver=%s
security-poll-suffix=
guardian=no
daemon=no
disable-syslog=yes
loglevel=3
%s`, zones, port, dir, resolver, settings)
	if err := os.WriteFile(filepath.Join(dir, "pdns.conf"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return b.launch(serverCore, addr, probe, nil, "/usr/sbin/pdns_server", "--config-dir="+dir)
}

// series are the figures of a contestant, one for each round.
type series []float64

// columns are the queries: for a zone apex with so many addresses, with these options of dnsperf.
var columns = []struct {
	title     string
	addresses int
	options   []string
}{{"1 address", 1, nil}, {"2", 2, nil}, {"16", 16, nil}, {"2, EDNS", 2, []string{"-e"}}}

// measureThroughput measures the throughput of the contestants, which take turns.
func (b *bench) measureThroughput() (string, error) {
	if err := b.writeZones(); err != nil {
		return "", err
	}
	resolver, err := b.launchUnbound(3600)
	if err != nil {
		return "", err
	}
	servers := make([]*server, len(contestants))
	for i, c := range contestants {
		if servers[i], err = c.launch(b, resolver.addr); err != nil {
			return "", err
		}
	}
	figures := make([][]series, len(contestants))
	for i := range figures {
		figures[i] = make([]series, len(columns))
	}
	for range b.rounds {
		for j, column := range columns {
			for i, s := range servers {
				queries := filepath.Join(b.dir, zoneName(column.addresses)+"queries")
				qps, err := b.throughput(s, queries, column.options...)
				if err != nil {
					return "", err
				}
				figures[i][j] = append(figures[i][j], qps)
			}
		}
	}
	b.stopAll()
	return throughputTables(figures), nil
}

// throughputTables returns the table of the figures and that of the ratios of their medians.
func throughputTables(figures [][]series) string {
	var s strings.Builder
	head := "| Queries per second |"
	rule := "| --- |"
	for _, c := range columns {
		head, rule = head+" "+c.title+" |", rule+" --- |"
	}
	fmt.Fprintf(&s, "%s\n%s\n", head, rule)
	base := make(map[string][]series)
	for i, c := range contestants {
		base[c.name] = figures[i]
		fmt.Fprintf(&s, "| %s |", c.name)
		for _, f := range figures[i] {
			s.WriteString(" " + f.format("%.0f") + " |")
		}
		fmt.Fprintln(&s)
	}
	fmt.Fprintf(&s, "\n%s\n%s\n", strings.Replace(head, "Queries per second", "Ratio of medians", 1), rule)
	for _, pair := range [][2]string{
		{aliasFresh, fileStatic}, {aliasFresh, ceiling}, {aliasFresh, powerDNS}, {aliasFresh, cacheFile}, {aliasStale, aliasFresh},
		{aliasOperated, fileOperated},
	} {
		fmt.Fprintf(&s, "| %s / %s |", pair[0], pair[1])
		for j := range columns {
			fmt.Fprintf(&s, " %.2f |", base[pair[0]][j].median()/base[pair[1]][j].median())
		}
		fmt.Fprintln(&s)
	}
	return s.String()
}
