package test

import (
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// startNSD starts an NSD at port as a secondary of primary. With key "" it transfers without TSIG.
func startNSD(t *testing.T, port, primary, key string) *process {
	t.Helper()
	nsd, dir := need(t, "nsd"), t.TempDir()
	name, keys := "NOKEY", ""
	if key != "" {
		name, keys = keyName, fmt.Sprintf("key:\n    name: %s\n    algorithm: hmac-sha256\n    secret: %q", keyName, key)
	}
	host, at, _ := strings.Cut(primary, ":")
	conf := filepath.Join(dir, "nsd.conf")
	write(t, conf, fmt.Sprintf(`
server:
    ip-address: 127.0.0.1
    port: %s
    server-count: 1
    username: ""
    chroot: ""
    zonesdir: %q
    xfrdir: %[2]q
    xfrdfile: ""
    zonelistfile: "%[2]s/zones"
    database: ""
    pidfile: ""
    verbosity: 2
remote-control:
    control-enable: no
%s
zone:
    name: example.org
    zonefile: ""
    allow-notify: %s NOKEY
    request-xfr: %[4]s@%s %s
`, port, dir, keys, host, at, name))
	return launch(t, local(port), dir, nil, nsd, "-d", "-c", conf)
}

// startKnot starts a Knot DNS at port as a secondary of primary for zones.
func startKnot(t *testing.T, port, primary string, zones ...string) *process {
	t.Helper()
	knot, dir := need(t, "knotd"), t.TempDir()
	conf := filepath.Join(dir, "knot.conf")
	write(t, conf, fmt.Sprintf(`
server:
    rundir: %q
    listen: 127.0.0.1@%s
    udp-workers: 1
    tcp-workers: 1
    background-workers: 1
log:
  - target: stdout
    any: info
database:
    storage: %[1]q
    journal-db-max-size: 16M
    kasp-db-max-size: 16M
    timer-db-max-size: 16M
remote:
  - id: primary
    address: %[3]s
acl:
  - id: primary
    remote: primary
    action: notify
template:
  - id: default
    storage: %[1]q
    master: primary
    acl: primary
zone:
  - domain: %[4]s
`, dir, port, strings.Replace(primary, ":", "@", 1), strings.Join(zones, "\n  - domain: ")))
	return launch(t, local(port), dir, nil, knot, "-c", conf)
}

// startBIND starts a BIND at port as a secondary of primary. It accepts NOTIFY from the address of primary alone.
func startBIND(t *testing.T, port, primary string) *process {
	t.Helper()
	return launchBIND(t, port, t.TempDir(), `
	recursion no;
	dnssec-validation no;
	notify no;
`, fmt.Sprintf(`
zone "example.org" {
	type secondary;
	primaries { %s; };
	file "db.example.org";
};
`, strings.Replace(primary, ":", " port ", 1)))
}

// launchBIND starts a BIND at port, with its files in dir, further options, zones and arguments.
func launchBIND(t *testing.T, port, dir, options, zones string, args ...string) *process {
	t.Helper()
	named, conf := need(t, "named"), filepath.Join(dir, "named.conf")
	write(t, conf, fmt.Sprintf(`
options {
	directory %q;
	listen-on port %s { 127.0.0.1; };
	listen-on-v6 { none; };
	pid-file none;
	session-keyfile none;
%s};
controls { };
%s`, dir, port, options, zones))
	return launch(t, local(port), dir, nil, named, append([]string{"-g", "-n", "1", "-c", conf}, args...)...)
}

// startPowerDNSSecondary starts a PowerDNS at port as a secondary of primary.
func startPowerDNSSecondary(t *testing.T, port, primary string) *process {
	t.Helper()
	return launchPowerDNS(t, port, t.TempDir(), "type slave; masters { "+primary+"; }", "secondary=yes")
}

// startPowerDNS starts a PowerDNS as the primary of this zone, which is in the file db.example.org in its directory.
func startPowerDNS(t *testing.T, zone string) *process {
	t.Helper()
	dir := t.TempDir()
	replaceZone(t, dir, zone)
	return launchPowerDNS(t, freePort(t), dir, "type master", "allow-axfr-ips=127.0.0.1")
}

// launchPowerDNS starts a PowerDNS at port that has example.org in this role, in the file db.example.org in dir, and a
// further setting.
func launchPowerDNS(t *testing.T, port, dir, role, setting string) *process {
	t.Helper()
	pdns := need(t, "pdns_server")
	write(t, filepath.Join(dir, "named.conf"), fmt.Sprintf(`
options { directory %q; };
zone "example.org" { %s; file "db.example.org"; };
`, dir, role))
	write(t, filepath.Join(dir, "pdns.conf"), fmt.Sprintf(`
launch=bind
bind-config=%s/named.conf
local-address=127.0.0.1
local-port=%s
socket-dir=%[1]s
%[3]s
cache-ttl=0
query-cache-ttl=0
negquery-cache-ttl=0
security-poll-suffix=
guardian=no
daemon=no
disable-syslog=yes
`, dir, port, setting))
	return launch(t, local(port), dir, nil, pdns, "--config-dir="+dir)
}

// control runs one of the tools of PowerDNS for p, and returns what it prints.
func (p *process) control(t *testing.T, tool string, args ...string) string {
	t.Helper()
	cmd := exec.Command(need(t, tool), append([]string{"--config-dir=" + p.Dir}, args...)...)
	var complaints strings.Builder
	cmd.Stderr = &complaints
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s%s", cmd, err, out, &complaints)
	}
	return string(out)
}

// startUnbound starts an Unbound that queries the authoritative server at addr for all names below example.
func startUnbound(t *testing.T, addr string) *process {
	t.Helper()
	return startUnboundFor(t, "example.", addr, `module-config: "iterator"`)
}

// startUnboundFor starts an Unbound that queries the authoritative server at addr for all names in zone, with further options.
func startUnboundFor(t *testing.T, zone, addr, options string) *process {
	t.Helper()
	unbound, port, dir := need(t, "unbound"), freePort(t), t.TempDir()
	conf := filepath.Join(dir, "unbound.conf")
	write(t, conf, fmt.Sprintf(`
server:
    interface: 127.0.0.1
    port: %s
    directory: "%s"
    chroot: ""
    username: ""
    pidfile: ""
    logfile: ""
    use-syslog: no
    do-daemonize: no
    do-ip6: no
    do-not-query-localhost: no
    %s
remote-control:
    control-enable: no
stub-zone:
    name: %q
    stub-addr: %s
`, port, dir, options, zone, strings.Replace(addr, ":", "@", 1)))
	return launch(t, local(port), dir, nil, unbound, "-d", "-p", "-c", conf)
}

// startRecursor starts a PowerDNS Recursor that queries the authoritative server at addr for all names below example.
func startRecursor(t *testing.T, addr string) *process {
	t.Helper()
	return startRecursorWith(t, addr, "")
}

// startRecursorWith is startRecursor with further settings.
func startRecursorWith(t *testing.T, addr, settings string) *process {
	t.Helper()
	recursor, port, dir := need(t, "pdns_recursor"), freePort(t), t.TempDir()
	write(t, filepath.Join(dir, "recursor.conf"), fmt.Sprintf(`
local-address=127.0.0.1
local-port=%s
forward-zones=example=%s
dont-query=
dnssec=off
hint-file=no
security-poll-suffix=
socket-dir=%s
write-pid=no
daemon=no
disable-syslog=yes
%s
`, port, addr, dir, settings))
	return launch(t, local(port), dir, nil, recursor, "--config-dir="+dir)
}
