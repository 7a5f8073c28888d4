package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// hostedTTL is the TTL of the targets, in seconds: no answer expires while the bench runs.
const hostedTTL = 86400

// backend is a way to have the data of zones in CoreDNS.
type backend struct {
	name string
	// plugins returns the lines of a Corefile for the plugin alias, with these properties, and for those behind it. If properties is
	// empty, the server has no alias, and addresses instead. primary has the zones.
	plugins func(h hosted, properties, primary string) string
}

var backends = []backend{
	{"*auto*", func(h hosted, properties, _ string) string {
		return aliasPlugin(properties, "") + fmt.Sprintf("auto {\ndirectory %s\nreload 0\n}\n", h.file(formFor(properties)))
	}},
	{secondaryBackend, func(h hosted, properties, primary string) string {
		return aliasPlugin(properties, "") + "secondary" + h.list() + " {\ntransfer from " + primary + "\n}\n"
	}},
	{"*file*", func(h hosted, properties, _ string) string {
		var s strings.Builder
		s.WriteString(aliasPlugin(properties, ""))
		for i := range h.zones {
			fmt.Fprintf(&s, "file %s/db.%s %[2]s {\nreload 0\n}\n", h.file(formFor(properties)), h.zone(i))
		}
		return s.String()
	}},
	{"ZONES, `record`s", func(h hosted, properties, _ string) string {
		if properties == "" {
			return "file " + h.file("catchall.static") + " example {\nreload 0\n}\n"
		}
		var records strings.Builder
		for i := range h.aliases {
			fmt.Fprintf(&records, "record %s. %s\n", h.owner(i), hostedTarget(i))
		}
		return aliasPlugin(properties+records.String(), h.list()) + "file " + h.file("catchall") + " example {\nreload 0\n}\n"
	}},
}

const secondaryBackend = "*secondary*"

// aliasPlugin returns the lines for alias with these properties, or none.
func aliasPlugin(properties, zones string) string {
	if properties == "" {
		return ""
	}
	return "alias" + zones + " {\n" + properties + "}\n"
}

// formFor returns the form of the zone files for a server with or without alias.
func formFor(properties string) string {
	if properties == "" {
		return "static"
	}
	return "alias"
}

// list returns the names of the zones, each after a space.
func (h hosted) list() string {
	var s strings.Builder
	for i := range h.zones {
		s.WriteString(" " + h.zone(i))
	}
	return s.String()
}

// hostedProperties are the properties of alias in all contestants. Each alias has two cache entries.
func (h hosted) hostedProperties(resolver string) string {
	return fmt.Sprintf("cache_size %d\nmax_ttl %ds\nupstream %s\n", max(100_000, 4*h.aliases), hostedTTL, resolver)
}

// zoneContestant is a server that is measured with many zones.
type zoneContestant struct {
	name   string
	launch func(b *bench, h hosted, resolver string) (*server, error)
	// base is the contestant that has the same backend and no alias, or empty.
	base     string
	expands  bool // it looks targets up, so that its first answers are not fresh
	transfer bool // with the plugin transfer: only its start and its idle time are measured
	// pause is the interval in which the server must be quiet twice when it has started. It is longer than the pauses of what the
	// server does in the background then.
	pause time.Duration
}

const (
	shortPause = 200 * time.Millisecond // nothing in the background
	longPause  = time.Second            // lookups at the start
	jobPause   = 3 * time.Second        // a job that runs every two seconds
)

const (
	hostedPowerDNS = "PowerDNS `expand-alias`, Unbound"
	uncachedPower  = "PowerDNS without packet cache"
	hostedNSD      = "NSD, static records"
)

// static returns the name of the contestant with this backend and no alias.
func static(backend string) string { return backend + ", static" }

// zoneContestants returns all contestants.
func zoneContestants() []zoneContestant {
	var all []zoneContestant
	for _, be := range backends {
		all = append(all,
			zoneContestant{name: "*alias*, " + be.name, base: static(be.name), expands: true, launch: be.launch(true, ""), pause: longPause},
			zoneContestant{name: static(be.name), launch: be.launch(false, ""), pause: shortPause})
	}
	nsd := func(b *bench, h hosted, _ string) (*server, error) {
		addr, err := freeAddr()
		if err != nil {
			return nil, err
		}
		return b.launchNSD(serverCore, addr, h, "static")
	}
	all = append(all,
		zoneContestant{name: hostedPowerDNS, expands: true, launch: launchHostedPowerDNS(""), pause: shortPause},
		zoneContestant{name: uncachedPower, expands: true, launch: launchHostedPowerDNS("cache-ttl=0\n"), pause: shortPause},
		zoneContestant{name: hostedNSD, launch: nsd, pause: shortPause},
		zoneContestant{name: ceiling, launch: launchHostedPrepacked, pause: shortPause})
	const (
		front = "transfer {\nto *\n}\n"
		more  = ", with *transfer*"
	)
	auto := backends[0]
	return append(all,
		zoneContestant{
			name: "*alias*, " + auto.name + more, base: static(auto.name) + more, launch: auto.launch(true, front), transfer: true,
			pause: jobPause,
		},
		zoneContestant{name: static(auto.name) + more, launch: auto.launch(false, front), transfer: true, pause: jobPause})
}

// launch returns a function that starts CoreDNS with be, with or without alias, and with the plugins in front. The function returns
// when the first zone answers, and secondary has transferred all.
func (be backend) launch(alias bool, front string) func(b *bench, h hosted, resolver string) (*server, error) {
	return func(b *bench, h hosted, resolver string) (*server, error) {
		properties, form := "", "static"
		if alias {
			properties, form = h.hostedProperties(resolver), "generic"
		}
		name := "zones-" + strconv.FormatInt(time.Now().UnixNano(), 36)
		corefile := func(primary string) string {
			return ".:PORT {\nbind 127.0.0.1\npprof MONITOR\n" + front + be.plugins(h, properties, primary) + "}\n"
		}
		if be.name == secondaryBackend {
			return b.launchSecondary(h, form, name, corefile)
		}
		return b.launchCoreDNS(name, h.zone(0)+".", corefile(""))
	}
}

// launchSecondary starts a primary, and CoreDNS with the plugin secondary. It returns when CoreDNS has transferred all zones.
func (b *bench) launchSecondary(h hosted, form, name string, corefile func(primary string) string) (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	primary, err := b.launchNSD(clientCore, addr, h, form)
	if err != nil {
		return nil, err
	}
	defer b.stop(primary)
	transferred := &lineCounter{mark: []byte("Transferred: ")}
	s, err := b.startCorefile(serverCore, b.bounded, transferred, nil, name, corefile(addr))
	if err != nil {
		return nil, err
	}
	if err := b.awaitAnswer(s, h.zone(0)+"."); err != nil {
		return nil, err
	}
	return s, b.await("all zones are transferred", 10*time.Millisecond, func() (bool, error) {
		return int(transferred.count.Load()) >= h.zones, s.alive()
	})
}

// lineCounter counts the lines that have mark in them.
type lineCounter struct {
	mark  []byte
	line  []byte // the begin of the last line, which has not ended
	count atomic.Int64
}

// Write implements io.Writer.
func (c *lineCounter) Write(p []byte) (int, error) {
	for part := range bytes.Lines(p) {
		if c.line = append(c.line, part...); !bytes.HasSuffix(part, []byte("\n")) {
			break
		}
		if bytes.Contains(c.line, c.mark) {
			c.count.Add(1)
		}
		c.line = c.line[:0]
	}
	return len(p), nil
}

// launchNSD starts NSD with the zone files of one form, and those of more zones beside them. NSD takes the zones from a list, and
// transfers them to all of this machine.
func (b *bench) launchNSD(core, addr string, h hosted, form string, more ...string) (*server, error) {
	host, port, _ := net.SplitHostPort(addr)
	dir := h.file("nsd-" + port)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := writeFile(filepath.Join(dir, "zone.list"), func(w io.Writer) {
		fmt.Fprint(w, "# NSD zone list\n# name pattern\n")
		for i := range h.zones {
			fmt.Fprintf(w, "add %s hosted\n", h.zone(i))
		}
		for _, zone := range more {
			fmt.Fprintf(w, "add %s hosted\n", zone)
		}
	}); err != nil {
		return nil, err
	}
	path := filepath.Join(dir, "nsd.conf")
	conf := nsdConf(host, port, dir, h.file(form))
	if err := os.WriteFile(path, []byte(conf), 0o600); err != nil {
		return nil, err
	}
	return b.launch(core, addr, "mail."+h.zone(0)+".", nil, "/usr/sbin/nsd", "-d", "-c", path)
}

// nsdConf returns a configuration of NSD. Debian's build limits the rate of responses unless told otherwise.
func nsdConf(host, port, dir, zones string) string {
	return fmt.Sprintf(`server:
	ip-address: %[1]s@%[2]s
	username: ""
	chroot: ""
	database: ""
	zonesdir: %[4]q
	zonelistfile: "%[3]s/zone.list"
	pidfile: "%[3]s/nsd.pid"
	xfrdfile: "%[3]s/xfrd.state"
	xfrdir: %[3]q
	logfile: "/dev/null"
	server-count: 1
	tcp-count: 3000
	rrl-ratelimit: 0
pattern:
	name: "hosted"
	zonefile: "db.%%s"
	provide-xfr: 127.0.0.0/8 NOKEY
remote-control:
	control-enable: no
`, host, port, dir, zones)
}

// launchHostedPrepacked starts the ceiling with the answers of all zones.
func launchHostedPrepacked(b *bench, h hosted, _ string) (*server, error) {
	program, err := b.build(".", "./prepacked")
	if err != nil {
		return nil, err
	}
	name := "prepacked-" + strconv.FormatInt(time.Now().UnixNano(), 36)
	corefile := ".:PORT {\nbind 127.0.0.1\nprepacked\n}\n"
	return b.launchCorefile(program, []string{"PREPACKED=" + h.file("apexes")}, name, h.zone(0)+".", corefile)
}

// launchHostedPowerDNS returns a function that starts PowerDNS with these settings.
func launchHostedPowerDNS(settings string) func(b *bench, h hosted, resolver string) (*server, error) {
	return func(b *bench, h hosted, resolver string) (*server, error) {
		dir := h.file("pdns-" + strconv.FormatInt(time.Now().UnixNano(), 36))
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, err
		}
		var named strings.Builder
		fmt.Fprintf(&named, "options { directory %q; };\n", h.file("alias"))
		for i := range h.zones {
			fmt.Fprintf(&named, "zone %q { type master; file \"db.%[1]s\"; };\n", h.zone(i))
		}
		return b.launchExpanding(dir, h.zone(0)+".", named.String(), resolver, settings)
	}
}
