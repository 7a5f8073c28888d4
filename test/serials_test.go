package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/test/redis"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// fleet is three primaries with one store, and secondaries of three kinds that pull from all of them.
type fleet struct {
	t           *testing.T
	primaries   []*process
	secondaries []*process

	own      uint32            // the zone's own serial, which is in its content too
	contents map[uint32]string // what each serial stands for, over all servers and all time
	seen     map[string]uint32 // the last serial of each secondary
	pulled   uint32            // that a secondary that pulls from a random primary has
}

// numberedZone returns a zone with that serial, which is in its content too.
func numberedZone(own uint32) string {
	return fmt.Sprintf("$TTL 300\n@ IN SOA ns1 hostmaster %d 1 1 1209600 300\n IN NS ns1\n IN TXT \"own %[1]d\"\n IN ALIAS app.hosting.example.\nns1 IN A 192.0.2.53\n", own)
}

// startFleet starts a fleet with these arguments of share: the same for all, or for each.
func startFleet(t *testing.T, up string, share ...string) *fleet {
	t.Helper()
	f := &fleet{t: t, own: 1, contents: make(map[uint32]string), seen: make(map[string]uint32)}
	var ports, addrs, to []string
	for range 3 {
		ports = append(ports, freePort(t))
		addrs = append(addrs, local(ports[len(ports)-1]))
	}
	secondaryPorts := []string{freePort(t), freePort(t), freePort(t)}
	for _, port := range secondaryPorts {
		to = append(to, local(port))
	}
	for i, port := range ports {
		dir := zoneDir(t, port, numberedZone(f.own), "upstream "+up+"\nshare "+share[i%len(share)], transferTo(to...))
		f.primaries = append(f.primaries, startServer(t, port, dir, "Corefile"))
	}
	f.secondaries = []*process{
		f.startNSD(secondaryPorts[0], addrs), f.startKnot(secondaryPorts[1], addrs), f.startBIND(secondaryPorts[2], addrs),
	}
	return f
}

func (f *fleet) startNSD(port string, primaries []string) *process {
	nsd, dir := need(f.t, "nsd"), f.t.TempDir()
	conf := filepath.Join(dir, "nsd.conf")
	text := fmt.Sprintf("server:\n ip-address: 127.0.0.1\n port: %s\n server-count: 1\n username: \"\"\n chroot: \"\"\n zonesdir: %q\n xfrdir: %[2]q\n xfrdfile: \"\"\n zonelistfile: \"%[2]s/zones\"\n database: \"\"\n pidfile: \"\"\n verbosity: 2\nremote-control:\n control-enable: no\nzone:\n name: example.org\n zonefile: \"\"\n allow-notify: 127.0.0.1 NOKEY\n provide-xfr: 127.0.0.1 NOKEY\n", port, dir)
	for _, p := range primaries {
		text += " request-xfr: " + strings.Replace(p, ":", "@", 1) + " NOKEY\n"
	}
	write(f.t, conf, text)
	return launch(f.t, local(port), dir, nil, nsd, "-d", "-c", conf)
}

func (f *fleet) startKnot(port string, primaries []string) *process {
	knot, dir := need(f.t, "knotd"), f.t.TempDir()
	conf := filepath.Join(dir, "knot.conf")
	text := fmt.Sprintf("server:\n  rundir: %q\n  listen: 127.0.0.1@%s\n  udp-workers: 1\n  tcp-workers: 1\n  background-workers: 1\nlog:\n  - target: stdout\n    any: info\ndatabase:\n  storage: %[1]q\n  journal-db-max-size: 16M\n  kasp-db-max-size: 16M\n  timer-db-max-size: 16M\nremote:\n", dir, port)
	var names []string
	for i, p := range primaries {
		names = append(names, fmt.Sprint("p", i))
		text += fmt.Sprintf("  - id: p%d\n    address: %s\n", i, strings.Replace(p, ":", "@", 1))
	}
	all := "[" + strings.Join(names, ", ") + "]"
	text += fmt.Sprintf("acl:\n  - id: p\n    address: 127.0.0.1\n    action: [notify, transfer]\nzone:\n  - domain: example.org\n    storage: %q\n    master: %s\n    acl: p\n", dir, all)
	write(f.t, conf, text)
	return launch(f.t, local(port), dir, nil, knot, "-c", conf)
}

func (f *fleet) startBIND(port string, primaries []string) *process {
	all := ""
	for _, p := range primaries {
		all += strings.Replace(p, ":", " port ", 1) + "; "
	}
	return launchBIND(f.t, port, f.t.TempDir(), "recursion no;\ndnssec-validation no;\nnotify no;\n",
		fmt.Sprintf("zone \"example.org\" {\ntype secondary;\nprimaries { %s};\nfile \"db.example.org\";\nmin-refresh-time 1;\nmin-retry-time 1;\n};\n", all))
}

// note notes that p has rrs under serial.
func (f *fleet) note(p string, serial uint32, rrs []dns.RR) {
	var texts []string
	for _, rr := range rrs {
		if rr.Header().Rrtype != dns.TypeSOA {
			texts = append(texts, strings.ReplaceAll(rr.String(), "\t", " "))
		}
	}
	slices.Sort(texts)
	content := strings.Join(texts, "\n")
	if other, ok := f.contents[serial]; ok && other != content {
		f.t.Fatalf("%s: two contents under %d:\n%s\n\n%s", p, serial, other, content)
	}
	f.contents[serial] = content
}

// check looks at the secondaries, and pulls from a random primary as another one.
func (f *fleet) check() {
	for i, s := range f.secondaries {
		rrs := f.pull(s, 0)
		if len(rrs) == 0 {
			continue
		}
		serial := serialIn(rrs[:1])
		name := []string{"NSD", "Knot", "BIND"}[i]
		if last, ok := f.seen[name]; ok && int32(serial-last) < 0 {
			f.t.Fatalf("%s goes back from %d to %d", name, last, serial)
		}
		f.seen[name] = serial
		f.note(name, serial, rrs)
	}
	if rrs := f.pull(f.primaries[rand.IntN(3)], f.pulled); len(rrs) > 1 && (f.pulled == 0 || int32(serialIn(rrs[:1])-f.pulled) > 0) {
		f.pulled = serialIn(rrs[:1])
		f.note("a primary", f.pulled, rrs)
	}
}

// pull transfers the zone from p for a secondary that has serial, if p transfers it now.
func (f *fleet) pull(p *process, serial uint32) (rrs []dns.RR) {
	m := new(dns.Msg).SetAxfr("example.org.")
	if serial != 0 {
		m.SetIxfr("example.org.", serial, "ns1.example.org.", "hostmaster.example.org.")
	}
	tr := &dns.Transfer{DialTimeout: time.Second, ReadTimeout: 3 * time.Second}
	c, err := tr.In(m, p.addr)
	if err != nil {
		return nil
	}
	for e := range c {
		if e.Error != nil {
			rrs = nil
			continue
		}
		rrs = append(rrs, e.RR...)
	}
	return rrs
}

// change changes the zone on all primaries, one after the other.
func (f *fleet) change() {
	f.own++
	for _, i := range rand.Perm(3) {
		replaceZone(f.t, f.primaries[i].Dir, numberedZone(f.own))
		time.Sleep(time.Duration(rand.IntN(200)) * time.Millisecond)
		f.check()
	}
}

// settle waits until all have the last content under one serial.
func (f *fleet) settle(patience time.Duration, what string, contents ...string) {
	f.t.Helper()
	began := time.Now()
	contents = append(contents, fmt.Sprintf("\"own %d\"", f.own))
	for {
		f.check()
		serial, settled := uint32(0), true
		for _, p := range slices.Concat(f.primaries, f.secondaries) {
			rrs := f.pull(p, 0)
			if len(rrs) == 0 {
				settled = false
				break
			}
			n := serialIn(rrs[:1])
			f.note(p.addr, n, rrs)
			settled = settled && (serial == 0 || n == serial)
			serial = n
			for _, text := range contents {
				settled = settled && strings.Contains(f.contents[n], text)
			}
		}
		if settled {
			f.t.Logf("%s: all have the serial %d after %s", what, serial, time.Since(began).Round(10*time.Millisecond))
			return
		}
		if time.Since(began) > patience {
			for _, p := range slices.Concat(f.primaries, f.secondaries) {
				f.t.Logf("%s has %v", p.addr, f.pull(p, 0))
			}
			f.t.Fatalf("%s: after %s they do not have one serial", what, patience)
		}
		time.Sleep(250 * time.Millisecond)
	}
}

// serialsVariable is the environment variable with the number of rounds of TestShareSerials. A round has four changes or more.
const serialsVariable = "ALIAS_SERIALS"

// Three primaries with one store publish one serial for one content, whatever happens to them and to the store: no secondary ever
// sees a serial go back, or two contents under one serial, and in the end all have the last content.
func TestShareSerials(t *testing.T) {
	t.Parallel()
	var address atomic.Int32
	address.Store(1)
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		if r.Question[0].Qtype == dns.TypeA {
			m.Answer = upstream.RRs(fmt.Sprintf("app.hosting.example. 5 IN A 192.0.2.%d", address.Load()))
		}
		w.WriteMsg(m)
	})
	store := redis.Start(t)
	f := startFleet(t, up.Addr, "redis://"+store.Addr)
	f.settle(45*time.Second, "start", "192.0.2.1")
	rounds := 12
	if v := os.Getenv(serialsVariable); v != "" {
		var err error
		rounds, err = strconv.Atoi(v)
		check(t, err)
	}
	for round := range rounds {
		for range 3 {
			f.change()
		}
		switch round % 6 {
		case 0:
			store.Stop() // it takes connections, and answers nothing
			f.change()
			time.Sleep(3 * time.Second)
			store.Continue()
		case 1:
			check(t, store.Do("FLUSHALL"))
		case 2:
			i := rand.IntN(3)
			f.primaries[i].kill(t)
			f.primaries[i] = f.primaries[i].restart(t)
		case 3:
			store.Kill()
			f.change()
			store.Run(t)
		case 4:
			store.Kill()
			for range 5 {
				f.change()
				time.Sleep(2 * time.Second) // the servers publish alone
			}
			store.Run(t)
		case 5:
			address.Add(1)
		}
		what := fmt.Sprint("round ", round)
		if round%6 == 5 { // a lookup once in 30 s
			f.settle(60*time.Second, what, fmt.Sprintf("192.0.2.%d", address.Load()))
		} else {
			f.settle(30*time.Second, what)
		}
	}
}

// A primary that cannot reach the store for a while publishes alone, and so do the others if that is so for all of them, one after
// the other. It is the same.
func TestShareSerialsPartition(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, upstream.Zone("app.hosting.example. 300 IN A 192.0.2.1"))
	store := redis.Start(t)
	var links []*redis.Link
	var share []string
	for range 3 {
		link := redis.NewLink(t, store.Addr, 0)
		links, share = append(links, link), append(share, "redis://"+link.Addr)
	}
	f := startFleet(t, up.Addr, share...)
	f.settle(45*time.Second, "start")
	for i, link := range links {
		link.Cut()
		for began := time.Now(); time.Since(began) < partition; time.Sleep(time.Second) {
			f.change()
		}
		link.Mend()
		f.settle(30*time.Second, fmt.Sprint("partition ", i))
	}
	for _, link := range links {
		link.Cut()
		f.change()
		time.Sleep(6 * time.Second)
		f.change()
	}
	for _, link := range links {
		f.change()
		link.Mend()
	}
	f.settle(60*time.Second, "all of them")
}

// partition is for how long one primary cannot reach the store.
const partition = 15 * time.Second

// When Sentinel has a replica take over from a Redis that is killed, which may lose the last writes, it is the same.
func TestShareSerialsFailover(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, upstream.Zone("app.hosting.example. 300 IN A 192.0.2.1"))
	stores := []*redis.Server{redis.Start(t)}
	host, port, _ := strings.Cut(stores[0].Addr, ":")
	for range 2 {
		stores = append(stores, redis.Start(t, "--replicaof", host+" "+port, "--repl-diskless-sync-delay", "0"))
	}
	sentinel := startSentinel(t, host, port)
	f := startFleet(t, up.Addr, "redis://"+sentinel.addr+" master=alias")
	f.settle(45*time.Second, "start")
	for round := range 2 {
		f.change()
		master := sentinelMaster(t, sentinel)
		i := slices.IndexFunc(stores, func(s *redis.Server) bool { return s.Addr == master })
		if i < 0 {
			t.Fatalf("the master is %s", master)
		}
		f.change() // some of this may not have reached the replicas
		stores[i].Kill()
		for range 5 {
			f.change()
			time.Sleep(time.Second)
		}
		eventually(t, 30*time.Second, "another one is the master", func() bool { return sentinelMaster(t, sentinel) != master })
		f.change()
		f.settle(30*time.Second, fmt.Sprint("failover ", round))
	}
}

// startSentinel starts a Sentinel for the master at host and port, which it calls alias.
func startSentinel(t *testing.T, host, port string) *process {
	t.Helper()
	program, dir, at := need(t, "redis-sentinel"), t.TempDir(), freePort(t)
	conf := filepath.Join(dir, "sentinel.conf")
	write(t, conf, fmt.Sprintf("bind 127.0.0.1\nport %s\ndir %s\nsentinel monitor alias %s %s 1\nsentinel down-after-milliseconds alias 1000\nsentinel failover-timeout alias 5000\n",
		at, dir, host, port))
	cmd := exec.Command(program, conf)
	check(t, cmd.Start())
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p := &process{addr: local(at)}
	eventually(t, 10*time.Second, "Sentinel knows the replicas", func() bool {
		return strings.Count(askSentinel(p, "replicas", "alias"), "flags") == 2
	})
	return p
}

// askSentinel returns what Sentinel answers to a command, or "".
func askSentinel(p *process, args ...string) string {
	_, port, _ := strings.Cut(p.addr, ":")
	out, err := exec.Command("redis-cli", append([]string{"-p", port, "sentinel"}, args...)...).Output()
	if err != nil {
		return ""
	}
	return string(out)
}

// sentinelMaster returns the address of the master.
func sentinelMaster(t *testing.T, p *process) string {
	t.Helper()
	return strings.Join(strings.Fields(askSentinel(p, "get-master-addr-by-name", "alias")), ":")
}
