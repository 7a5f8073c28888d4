package test

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// With tsig, the server transfers the zone only to secondaries that have the key, and signs each message of the transfer.
func TestTransferTSIG(t *testing.T) {
	t.Parallel()
	port, nsd := freePort(t), freePort(t)
	rest := padding(2000) // so that the transfer takes several messages
	dir := zoneDir(t, port, firstZone+rest,
		followedRecords+upstream.New(t, targets).Addr, fmt.Sprintf(`
		tsig {
			secret %s. %s
			require AXFR IXFR
		}
		%s`, keyName, updateSecret, transferTo(local(nsd))))
	primary := startServer(t, port, dir, "Corefile")
	if m := query(t, primary.addr, "tcp", "example.org.", dns.TypeAXFR); m.Rcode == dns.RcodeSuccess {
		t.Errorf("A transfer without the key:\n%v", m)
	}
	secondaries := []*process{startNSD(t, nsd, primary.addr, updateSecret)}
	awaitAddresses(t, 15*time.Second, secondaries, zoneOwners, appAddresses)
	replaceZone(t, dir, followedZone(2, "mail", "new.hosting.example.")+rest)
	awaitAddresses(t, 10*time.Second, secondaries, zoneOwners, otherAddresses)
	eventually(t, 5*time.Second, "NSD has the serial number of the primary", func() bool {
		return secondaries[0].serial(t) == primary.serial(t)
	})
}

// padding returns records for a zone, of about 120 bytes each.
func padding(records int) string {
	var zone strings.Builder
	for i := range records {
		fmt.Fprintf(&zone, "n%d IN TXT %q\n", i, strings.Repeat("x", 100))
	}
	return zone.String()
}

// With source, NOTIFY comes from that address, also where the system would choose another one. A secondary that accepts
// NOTIFY from the address of its primary alone gets it.
func TestNotifySource(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosting(5, oldAddresses...))
	port, bind := freePort(t), freePort(t)
	dir := zoneDir(t, port, firstZone, followedRecords+up.Addr, fmt.Sprintf(`
		bind 127.0.0.2
		transfer {
			to %s
			source 127.0.0.2
		}
		%s`, local(bind), fromFile))
	startServer(t, port, dir, "Corefile")
	secondaries := []*process{startBIND(t, bind, net.JoinHostPort("127.0.0.2", port))}
	awaitAddresses(t, 15*time.Second, secondaries, owners, oldAddresses)
	up.Set(hosting(5, newAddresses...))
	awaitAddresses(t, follows, secondaries, owners, newAddresses)
	if log := secondaries[0].log(t); strings.Contains(log, "refused notify") {
		t.Errorf("BIND has refused NOTIFY: %s", line(log, "refused notify"))
	}
}

// Where several records of a name compete, a transfer carries only those that the server would use: a secondary does not
// know which of them win.
func TestTransferContent(t *testing.T) {
	t.Parallel()
	const zone = `$TTL 300
@       IN SOA   ns1 hostmaster 1 7200 3600 1209600 300
        IN NS    ns1
ns1     IN A     192.0.2.53
records IN A     192.0.2.80 ; the record of the Corefile wins, for A and AAAA alone
        IN TXT   "records"
cname   IN CNAME elsewhere.example. ; likewise; a CNAME record may not be beside others
two     IN ALIAS new.hosting.example.
        IN ALIAS app.hosting.example. ; the server uses both
gone    IN ALIAS gone.hosting.example.
        IN TXT   "gone"
v4 60   IN ALIAS v4.hosting.example.
inside  IN ALIAS ns1.example.org.
twice   IN ALIAS two.example.org.
UPPER   IN ALIAS APP.hosting.example.
*.txt   IN TXT   "txt"
`
	server := serveZone(t, zone, `
		record records app.hosting.example
		record cname app.hosting.example 30
		record *.txt app.hosting.example
		txt
		upstream `+upstream.New(t, targets).Addr, transferTo("*"))
	var rrs []dns.RR
	for _, rr := range transfer(t, server, new(dns.Msg).SetAxfr("example.org.")) {
		if rr.Header().Rrtype != dns.TypeSOA {
			rr.Header().Name = strings.ToLower(rr.Header().Name)
			rrs = append(rrs, rr)
		}
	}
	checkRecords(t, rrs,
		"example.org. 300 IN NS ns1.example.org.",
		"ns1.example.org. 300 IN A 192.0.2.53",
		"records.example.org. 60 IN A 203.0.113.80",
		"records.example.org. 60 IN AAAA 2001:db8:80::80",
		`records.example.org. 300 IN TXT "records"`,
		"cname.example.org. 30 IN A 203.0.113.80",
		"cname.example.org. 30 IN AAAA 2001:db8:80::80",
		"two.example.org. 60 IN A 203.0.113.80",
		"two.example.org. 60 IN A 203.0.113.90",
		"two.example.org. 60 IN AAAA 2001:db8:80::80",
		"two.example.org. 60 IN AAAA 2001:db8:90::90",
		`gone.example.org. 300 IN TXT "gone"`,
		"v4.example.org. 60 IN A 203.0.113.4",
		"inside.example.org. 300 IN A 192.0.2.53",
		"twice.example.org. 60 IN A 203.0.113.80",
		"twice.example.org. 60 IN A 203.0.113.90",
		"twice.example.org. 60 IN AAAA 2001:db8:80::80",
		"twice.example.org. 60 IN AAAA 2001:db8:90::90",
		"upper.example.org. 60 IN A 203.0.113.80",
		"upper.example.org. 60 IN AAAA 2001:db8:80::80",
		`*.txt.example.org. 300 IN TXT "txt"`,
		"*.txt.example.org. 60 IN A 203.0.113.80",
		"*.txt.example.org. 60 IN AAAA 2001:db8:80::80")
}

// Transfers that are aborted or refused leave no goroutines and files behind.
func TestTransferFaults(t *testing.T) {
	t.Parallel()
	const records = 20_000
	page := local(freePort(t))
	server := serveZone(t, firstZone+padding(records),
		followedRecords+upstream.New(t, targets).Addr, transferTo("127.0.0.1")+"\npprof "+page)
	checkWhole := func() {
		t.Helper()
		rrs := transfer(t, server, new(dns.Msg).SetAxfr("example.org."))
		if want := records + 18; len(rrs) != want || serialIn(rrs[:1]) != serialIn(rrs[len(rrs)-1:]) {
			t.Errorf("%d records, want %d, from %v to %v", len(rrs), want, rrs[0], rrs[len(rrs)-1])
		}
	}
	checkWhole()
	goroutinesBefore, filesBefore := goroutines(t, page, ""), files(t, server)

	for i := range 50 {
		beginTransfer(t, server, "127.0.0.1", "example.org.", i%2 == 0).Close()
	}
	for from, zone := range map[string]string{
		"127.0.0.1": "gone.example.org.", // not a zone
		"127.0.0.2": "example.org.",      // an address that may not transfer
	} {
		for range 50 {
			conn := beginTransfer(t, server, from, zone, false)
			if m, err := conn.ReadMsg(); err != nil || len(m.Answer) > 0 {
				t.Errorf("%s from %s: %v\n%v", zone, from, err, m)
			}
			conn.Close()
		}
	}
	var stuck []*dns.Conn
	for range 20 {
		stuck = append(stuck, beginTransfer(t, server, "127.0.0.1", "example.org.", false))
	}
	checkWhole() // clients that do not read do not delay others
	for _, conn := range stuck {
		conn.Close()
	}

	eventually(t, 15*time.Second, "goroutines and open files are as many as before", func() bool {
		return goroutines(t, page, "") <= goroutinesBefore+slack && files(t, server) <= filesBefore+slack
	})
	t.Logf("%d goroutines before and %d after, %d open files before and %d after",
		goroutinesBefore, goroutines(t, page, ""), filesBefore, files(t, server))
	checkWhole()
}

// beginTransfer requests a transfer of zone from an address of this host. It reads the first message if read is true;
// otherwise the connection has a small buffer, which is soon full.
func beginTransfer(t *testing.T, server *process, from, zone string, read bool) *dns.Conn {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(from)}, Timeout: 5 * time.Second}
	tcp, err := dialer.Dial("tcp", server.addr)
	if err != nil {
		t.Fatal(err)
	}
	if !read {
		tcp.(*net.TCPConn).SetReadBuffer(4096)
	}
	tcp.SetDeadline(time.Now().Add(10 * time.Second))
	conn := &dns.Conn{Conn: tcp}
	err = conn.WriteMsg(new(dns.Msg).SetAxfr(zone))
	if err == nil && read {
		_, err = conn.ReadMsg()
	}
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// The zones of auto appear, change and disappear. A zone without aliases keeps its own serial.
func TestTransferAuto(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, targets)
	port, knot, dir := freePort(t), freePort(t), t.TempDir()
	zone := func(name string) string { return filepath.Join(dir, "db."+name) }
	write(t, zone("example.org"), firstZone)
	write(t, zone("example.net"), strings.Replace(zoneFile, "hostmaster 1 ", "hostmaster 7 ", 1))
	write(t, filepath.Join(dir, "Corefile"), fmt.Sprintf(`
		.:%s {
			bind 127.0.0.1
			alias {
				upstream %s
			}
			transfer {
				to %s
			}
			auto {
				directory .
				reload 1s
			}
			errors
		}`, port, up.Addr, local(knot)))
	primary := startServer(t, port, dir, "Corefile")
	secondary := startKnot(t, knot, primary.addr, "example.org", "example.net", "example.com")
	both := []*process{primary, secondary}
	follows := func(zone string, addresses []string) {
		t.Helper()
		awaitAddresses(t, 10*time.Second, both[1:], []string{zone, "a.shop." + zone, "www." + zone}, addresses)
	}

	follows("example.org.", appAddresses)
	awaitZone(t, secondary, "example.net.", "mail.")
	for _, server := range both {
		if serial := serialOf(t, server, "example.net."); serial != 7 {
			t.Errorf("%s has the serial number %d of a zone without aliases", filepath.Base(server.Path), serial)
		}
	}
	rrs := transfer(t, primary, new(dns.Msg).SetAxfr("example.net."))
	if len(rrs) != 6 || serialIn(rrs[:1]) != 7 || serialIn(rrs[5:]) != 7 {
		t.Errorf("A zone without aliases:\n%v", rrs)
	}

	// A zone with aliases appears.
	replaceFile(t, zone("example.com"), followedZone(1, "mail", "new.hosting.example."))
	follows("example.com.", otherAddresses)
	// A zone gets its first alias, and another one loses its last.
	replaceFile(t, zone("example.net"), followedZone(8, "mail8", "app.hosting.example."))
	follows("example.net.", appAddresses)
	without := strings.NewReplacer("hostmaster 1 ", "hostmaster 2 ", "10 mail", "10 mail2").Replace(zoneFile)
	replaceFile(t, zone("example.org"), without)
	awaitZone(t, secondary, "example.org.", "mail2.")
	awaitAddresses(t, 5*time.Second, both, zoneOwners, nil)
	for _, name := range []string{"example.org.", "example.net.", "example.com."} {
		eventually(t, 5*time.Second, "both have one serial number of "+name, func() bool {
			return serialOf(t, primary, name) == serialOf(t, secondary, name)
		})
	}
	if serial := serialOf(t, primary, "example.net."); serial <= 8 {
		t.Errorf("The serial number is %d with aliases", serial)
	}

	// A zone disappears, and comes back with another content.
	before := serialOf(t, primary, "example.com.")
	if err := os.Remove(zone("example.com")); err != nil {
		t.Fatal(err)
	}
	eventually(t, 10*time.Second, "example.com is gone", func() bool {
		return query(t, primary.addr, "udp", "example.com.", dns.TypeSOA).Rcode == dns.RcodeRefused &&
			query(t, primary.addr, "tcp", "example.com.", dns.TypeAXFR).Rcode != dns.RcodeSuccess
	})
	replaceFile(t, zone("example.com"), firstZone)
	follows("example.com.", appAddresses)
	checkGrown(t, before, serialOf(t, primary, "example.com."))
}

// awaitZone waits until server has this mail server for zone.
func awaitZone(t *testing.T, server *process, zone, mail string) {
	t.Helper()
	eventually(t, 10*time.Second, fmt.Sprintf("%s has %s with %s", filepath.Base(server.Path), zone, mail), func() bool {
		return slices.ContainsFunc(query(t, server.addr, "udp", zone, dns.TypeMX).Answer, func(rr dns.RR) bool {
			return strings.HasPrefix(dns.Field(rr, 2), mail)
		})
	})
}

// serialOf returns the serial number of zone on server, or 0 if it does not have the zone.
func serialOf(t *testing.T, server *process, zone string) uint32 {
	t.Helper()
	return serialIn(query(t, server.addr, "udp", zone, dns.TypeSOA).Answer)
}

// The aliases in zones of secondary and dynupdate are expanded in transfers too, and changes reach the secondaries.
func TestTransferBackends(t *testing.T) {
	t.Run("secondary", func(t *testing.T) {
		t.Parallel()
		source := startPowerDNS(t, powerZone(1, "app.hosting.example."))
		primary, secondary := startChain(t, "", "secondary {\ntransfer from "+source.addr+"\n}")
		names := []string{"example.org.", "www.example.org.", "a.shop.example.org."}
		awaitAddresses(t, 15*time.Second, secondary, names, appAddresses)

		replaceZone(t, source.Dir, powerZone(2, "new.hosting.example."))
		source.control(t, "pdns_control", "bind-reload-now", "example.org")
		source.awaitSerial(t, 2)
		m, err := dns.Exchange(new(dns.Msg).SetNotify("example.org."), primary.addr)
		if err != nil || m.Rcode != dns.RcodeSuccess {
			t.Errorf("NOTIFY: %v\n%v", err, m)
		}
		awaitAddresses(t, 10*time.Second, secondary, names, otherAddresses)
	})
	t.Run("dynupdate", func(t *testing.T) {
		t.Parallel()
		need(t, "nsupdate")
		primary, secondary := startChain(t, zoneFile, fromUpdates)
		const remove = "delete example.org. TYPE65401"
		apex := []string{"example.org."}
		awaitZone(t, secondary[0], "example.org.", "mail.")
		for _, step := range []struct {
			update    string
			addresses []string
		}{
			{"add example.org. 300 " + rawTarget("app.hosting.example."), appAddresses},
			{remove + "\nupdate add example.org. 300 " + rawTarget("new.hosting.example."), otherAddresses},
			{remove, nil},
		} {
			nsupdate(t, primary, "update "+step.update+"\n")
			awaitAddresses(t, 10*time.Second, secondary, apex, step.addresses)
		}
	})
}

// startChain starts a server with this backend, and a Knot DNS as its secondary.
func startChain(t *testing.T, zone, backend string) (primary *process, secondary []*process) {
	t.Helper()
	port, knot := freePort(t), freePort(t)
	dir := zoneDir(t, port, zone, "upstream "+upstream.New(t, targets).Addr, "transfer {\nto "+local(knot)+"\n}\n"+backend)
	primary = startServer(t, port, dir, "Corefile")
	return primary, []*process{startKnot(t, knot, primary.addr, "example.org")}
}

// The published serial never goes back, whatever happens to the server and the zone.
func TestSerialNeverGoesBack(t *testing.T) {
	t.Parallel()
	rest := padding(20_000) // so that the zone takes some time to load
	server := serveZone(t, firstZone+rest, followedRecords+upstream.New(t, targets).Addr, transferTo("*"))
	last := server.serial(t)
	watch := func(when string) {
		t.Helper()
		for begin := time.Now(); time.Since(begin) < 3*time.Second; time.Sleep(5 * time.Millisecond) {
			serial := server.serial(t)
			if serial == 0 { // SERVFAIL: the zone is not read yet
				continue
			}
			if int32(serial-last) < 0 {
				t.Errorf("The serial number was %d and is %d after %s", last, serial, when)
			}
			last = serial
		}
	}
	watch("the start")
	for range 2 {
		server.kill(t)
		server = server.restart(t)
		watch("a restart")
	}
	for range 2 {
		server.signal(t, syscall.SIGUSR1)
		watch("a reload")
	}
	for _, own := range []uint32{2, 2_026_112_201, 3} {
		replaceZone(t, server.Dir, followedZone(own, "mail", "app.hosting.example.")+rest)
		watch(fmt.Sprintf("an edit to %d", own))
	}
	server.signal(t, syscall.SIGUSR1)
	watch("a reload after the zone's own serial has gone back")
}

// Records that a reload of the Corefile adds, changes or removes reach the secondaries.
func TestTransferReload(t *testing.T) {
	t.Parallel()
	port, knot := freePort(t), freePort(t)
	upstreams := "\nupstream " + upstream.New(t, targets).Addr
	corefile := func(properties string) string {
		dir := zoneDir(t, port, "", properties+upstreams, transferTo(local(knot)))
		conf, err := os.ReadFile(filepath.Join(dir, "Corefile"))
		if err != nil {
			t.Fatal(err)
		}
		return string(conf)
	}
	primary := startServer(t, port, zoneDir(t, port, firstZone, upstreams, transferTo(local(knot))), "Corefile")
	secondary := []*process{startKnot(t, knot, primary.addr, "example.org")}
	awaitAddresses(t, 15*time.Second, secondary, []string{"example.org."}, appAddresses)
	for i, step := range []struct {
		properties string
		record     []string
	}{
		{"record record app.hosting.example", appAddresses},
		{"record record new.hosting.example\nrecord other new.hosting.example", otherAddresses},
		{"record other new.hosting.example", nil},
		{"record record app.hosting.example", appAddresses},
		{"", nil},
	} {
		primary.configure(t, corefile(step.properties), syscall.SIGUSR1)
		eventually(t, 10*time.Second, "the reload is over", func() bool {
			return primary.logged(t, "Reloading complete") > i
		})
		awaitAddresses(t, 10*time.Second, secondary, []string{"record.example.org."}, step.record)
	}
}
