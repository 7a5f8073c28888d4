package test

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// keyName is the name of the key for transfers.
const keyName = "transfer.example.org"

// startAll starts a server with zone and these properties of alias, and a secondary of each kind. NOTIFY goes to others too.
func startAll(t *testing.T, zone, properties string, others ...string) (primary *process, secondaries []*process) {
	t.Helper()
	ports := []string{freePort(t), freePort(t), freePort(t), freePort(t), freePort(t)}
	to := slices.Clone(others)
	for _, port := range ports[1:] {
		to = append(to, local(port))
	}
	dir := zoneDir(t, ports[0], zone, properties, transferTo(to...))
	primary = startServer(t, ports[0], dir, "Corefile")
	return primary, []*process{
		startNSD(t, ports[1], primary.addr, ""),
		startKnot(t, ports[2], primary.addr, "example.org"),
		startBIND(t, ports[3], primary.addr),
		startPowerDNSSecondary(t, ports[4], primary.addr),
	}
}

// transferTo returns the backend fromFile with transfer to these addresses.
func transferTo(to ...string) string {
	return "transfer {\nto " + strings.Join(to, " ") + "\n}\n" + fromFile
}

// followedZone returns a zone for secondaries, with this mail server and with aliases of target.
func followedZone(serial uint32, mail, target string) string {
	return fmt.Sprintf(`$TTL 300
@       IN SOA   ns1 hostmaster %d 7200 3600 1209600 300
        IN NS    ns1
        IN MX    10 %s
        IN TXT   "v=spf1 mx -all"
        IN ALIAS %[3]s
ns1     IN A     192.0.2.53
own     IN ALIAS %[3]s
        IN A     192.0.2.80
*.shop  IN ALIAS %[3]s
www     IN ALIAS %[3]s
`, serial, mail, target)
}

var firstZone = followedZone(1, "mail", "app.hosting.example.")

// followedRecords are the aliases of the Corefile, which followedZone does not have.
const followedRecords = `
	record record app.hosting.example
	record *.records app.hosting.example
	upstream `

// The names of aliases that clients query, in followedZone and in all.
var (
	zoneOwners = []string{"example.org.", "a.shop.example.org.", "www.example.org."}
	owners     = append([]string{"record.example.org.", "a.records.example.org."}, zoneOwners...)
)

// hosting returns an upstream that answers for the target of the aliases with these addresses and this TTL, in seconds.
func hosting(ttl int, addresses ...string) upstream.Handler {
	var records []string
	for _, address := range addresses {
		qtype := dns.TypeA
		if strings.Contains(address, ":") {
			qtype = dns.TypeAAAA
		}
		records = append(records, fmt.Sprintf("app.hosting.example. %d IN %s %s", ttl, dns.Type(qtype), address))
	}
	return upstream.Zone(records...)
}

// The addresses of the target, in the order of process.all.
var (
	oldAddresses = []string{"2001:db8:80::80", "203.0.113.80", "203.0.113.81"}
	newAddresses = []string{"2001:db8:90::90", "203.0.113.90", "203.0.113.91"}

	appAddresses   = []string{"2001:db8:80::80", "203.0.113.80"} // of app.hosting.example in targets
	otherAddresses = []string{"2001:db8:90::90", "203.0.113.90"} // of new.hosting.example
)

// follows is how soon a change at the upstream must be at all secondaries. The transfer job looks a target up when its TTL has
// run out, but not within 30 s of the last lookup; the secondaries have another 5 s.
const follows = 35 * time.Second

// awaitAddresses waits until all servers have exactly these addresses for all names.
func awaitAddresses(t *testing.T, patience time.Duration, servers []*process, names, addresses []string) {
	t.Helper()
	begin := time.Now()
	for _, server := range servers {
		what := fmt.Sprintf("%s has %v", filepath.Base(server.Path), addresses)
		eventually(t, time.Until(begin.Add(patience)).Round(time.Second), what, func() bool {
			return !slices.ContainsFunc(names, func(name string) bool { return !slices.Equal(server.all(t, name), addresses) })
		})
		t.Logf("%s after %s", what, time.Since(begin).Round(time.Millisecond))
	}
}

// all returns the addresses of both families that server answers name with, sorted.
func (p *process) all(t *testing.T, name string) []string {
	t.Helper()
	addresses := strings.Fields(p.address(t, name, dns.TypeA) + " " + p.address(t, name, dns.TypeAAAA))
	slices.Sort(addresses)
	return addresses
}

// oneSerial waits until all responses of the primary and its secondaries have one serial number, and returns it.
func oneSerial(t *testing.T, primary *process, secondaries []*process) uint32 {
	t.Helper()
	var serials []uint32
	eventually(t, 5*time.Second, "there is one serial number everywhere", func() bool {
		serials = transferSerials(t, primary)
		for _, server := range append(secondaries, primary) {
			serials = append(serials, server.serials(t)...)
		}
		return len(slices.Compact(serials)) == 1
	})
	return serials[0]
}

// serials returns the serial numbers in responses of p: in those to queries for the SOA record, and in negative ones.
func (p *process) serials(t *testing.T) []uint32 {
	t.Helper()
	var serials []uint32
	for _, network := range []string{"udp", "tcp"} {
		serials = append(serials,
			serialIn(query(t, p.addr, network, "example.org.", dns.TypeSOA).Answer),
			serialIn(query(t, p.addr, network, "example.org.", dns.TypeCAA).Ns),
			serialIn(query(t, p.addr, network, "record.example.org.", dns.TypeTXT).Ns),
			serialIn(query(t, p.addr, network, "nothing.example.org.", dns.TypeA).Ns))
	}
	return serials
}

// transferSerials returns the serial numbers in the first and the last record of a transfer.
func transferSerials(t *testing.T, primary *process) []uint32 {
	t.Helper()
	rrs := transfer(t, primary, new(dns.Msg).SetAxfr("example.org."))
	return []uint32{serialIn(rrs[:1]), serialIn(rrs[len(rrs)-1:])}
}

// serialIn returns the serial number of the SOA record in rrs, or 0 if there is none.
func serialIn(rrs []dns.RR) uint32 {
	for _, rr := range rrs {
		if soa, ok := rr.(*dns.SOA); ok {
			return soa.Serial
		}
	}
	return 0
}

// transfer returns the records that server sends for the AXFR or IXFR query r.
func transfer(t *testing.T, server *process, r *dns.Msg) []dns.RR {
	t.Helper()
	envelopes, err := new(dns.Transfer).In(r, server.addr)
	if err != nil {
		t.Fatal(err)
	}
	var rrs []dns.RR
	for e := range envelopes {
		if e.Error != nil {
			t.Fatalf("%s %s: %v", r.Question[0].Name, dns.Type(r.Question[0].Qtype), e.Error)
		}
		rrs = append(rrs, e.RR...)
	}
	return rrs
}

// checkGrown checks that a serial number has grown (RFC 1982).
func checkGrown(t *testing.T, before, after uint32) {
	t.Helper()
	if int32(after-before) <= 0 {
		t.Errorf("The serial number was %d and is %d", before, after)
	}
}

// Secondaries, which do not know ALIAS, have the addresses. They get new addresses without a query to the primary.
func TestSecondaries(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosting(5, oldAddresses...))
	listener := upstream.New(t, upstream.Rcode(dns.RcodeSuccess))
	notified := func() int { return listener.Asked("example.org.", dns.TypeSOA) }
	primary, secondaries := startAll(t, firstZone, followedRecords+up.Addr, listener.Addr)

	awaitAddresses(t, 15*time.Second, secondaries, owners, oldAddresses)
	for _, server := range secondaries {
		t.Run(filepath.Base(server.Path), func(t *testing.T) { checkFollowed(t, server) })
	}
	first := oneSerial(t, primary, secondaries)
	checkTransfer(t, primary, first)

	before := notified()
	up.Set(hosting(5, newAddresses...))
	awaitAddresses(t, follows, secondaries, owners, newAddresses)
	awaitAddresses(t, time.Second, secondaries, []string{"own.example.org."}, []string{"192.0.2.80", "2001:db8:90::90"})
	time.Sleep(3 * time.Second) // the aliases of a target are not all looked up in the same moment
	second := oneSerial(t, primary, secondaries)
	checkGrown(t, first, second)
	t.Logf("%d NOTIFY messages", notified()-before)
	if n := notified() - before; n < 1 || n > 3 {
		t.Errorf("%d NOTIFY messages for one change", n)
	}
	if secondaries[1].logged(t, "AXFR-style IXFR") == 0 {
		t.Error("Knot has not got the whole zone for its IXFR query")
	}

	// The same addresses in another order and with another TTL are not a change.
	before = notified()
	up.Set(hosting(20, newAddresses[2], newAddresses[1], newAddresses[0]))
	awaitRefresh(t, up)
	time.Sleep(3 * time.Second)
	if n := notified() - before; n > 0 {
		t.Errorf("%d NOTIFY messages without a change", n)
	}
	if serial := oneSerial(t, primary, secondaries); serial != second {
		t.Errorf("The serial number was %d and is %d without a change", second, serial)
	}
}

// awaitRefresh waits until up has got one more query for each family.
func awaitRefresh(t *testing.T, up *upstream.Server) {
	t.Helper()
	asked := func() (v4, v6 int) {
		return up.Asked("app.hosting.example.", dns.TypeA), up.Asked("app.hosting.example.", dns.TypeAAAA)
	}
	v4, v6 := asked()
	eventually(t, follows, "the upstream is queried again", func() bool {
		a, aaaa := asked()
		return a > v4 && aaaa > v6
	})
}

// checkFollowed checks the answers of a secondary of followedZone, with the old addresses.
func checkFollowed(t *testing.T, server *process) {
	t.Helper()
	exchanges := []exchange{
		{"example.org.", dns.TypeNS, []string{"example.org. 300 IN NS ns1.example.org."}},
		{"example.org.", dns.TypeMX, []string{"example.org. 300 IN MX 10 mail.example.org."}},
		{"example.org.", dns.TypeTXT, []string{`example.org. 300 IN TXT "v=spf1 mx -all"`}},
		{"own.example.org.", dns.TypeA, []string{"own.example.org. 300 IN A 192.0.2.80"}},
		{"own.example.org.", dns.TypeAAAA, []string{"own.example.org. 5 IN AAAA 2001:db8:80::80"}},
		{"own.example.org.", aliasType, nil},
	}
	for _, owner := range owners {
		exchanges = append(exchanges,
			exchange{owner, dns.TypeA, []string{owner + " 5 IN A 203.0.113.80", owner + " 5 IN A 203.0.113.81"}},
			exchange{owner, dns.TypeAAAA, []string{owner + " 5 IN AAAA 2001:db8:80::80"}},
			exchange{owner, aliasType, nil})
	}
	checkExchanges(t, server, exchanges...)
}

// checkTransfer checks AXFR and IXFR of followedZone, with the old addresses and this serial number.
func checkTransfer(t *testing.T, primary *process, serial uint32) {
	t.Helper()
	soa := fmt.Sprintf("example.org. 300 IN SOA ns1.example.org. hostmaster.example.org. %d 7200 3600 1209600 300", serial)
	zone := []string{
		soa, soa,
		"example.org. 300 IN NS ns1.example.org.",
		"example.org. 300 IN MX 10 mail.example.org.",
		`example.org. 300 IN TXT "v=spf1 mx -all"`,
		"ns1.example.org. 300 IN A 192.0.2.53",
		"own.example.org. 300 IN A 192.0.2.80",
		"own.example.org. 5 IN AAAA 2001:db8:80::80",
	}
	for _, owner := range []string{"", "*.shop.", "www.", "record.", "*.records."} {
		for _, address := range []string{"A 203.0.113.80", "A 203.0.113.81", "AAAA 2001:db8:80::80"} {
			zone = append(zone, owner+"example.org. 5 IN "+address)
		}
	}
	checkRecords(t, transfer(t, primary, new(dns.Msg).SetAxfr("example.org.")), zone...)

	ixfr := func(serial uint32) []dns.RR {
		return transfer(t, primary, new(dns.Msg).SetIxfr("example.org.", serial, "ns1.", "hostmaster."))
	}
	checkRecords(t, ixfr(serial), soa)
	checkRecords(t, ixfr(serial-1), zone...)
	checkRecords(t, ixfr(serial-1<<30), zone...)
}

// edit is a change of a zone file, and the addresses after it.
type edit struct {
	growth    uint32 // of the zone's own serial
	target    string
	addresses []string
}

// An edit of the zone file is at all secondaries within seconds, however far the zone's own serial goes.
func TestZoneFileEdited(t *testing.T) {
	t.Parallel()
	testEdits(t,
		edit{1, "app.hosting.example.", appAddresses},
		edit{1<<31 - 1, "app.hosting.example.", appAddresses},
		edit{1, "new.hosting.example.", otherAddresses})
}

// An edit is at all secondaries also if the addresses change with it, and if the zone's own serial goes back.
func TestZoneFileJumps(t *testing.T) {
	t.Parallel()
	testEdits(t,
		edit{1<<31 - 1, "new.hosting.example.", otherAddresses},
		edit{1<<32 - 10, "app.hosting.example.", appAddresses})
}

func testEdits(t *testing.T, edits ...edit) {
	t.Helper()
	primary, secondaries := startAll(t, firstZone, followedRecords+upstream.New(t, targets).Addr)
	awaitAddresses(t, 15*time.Second, secondaries, zoneOwners, appAddresses)
	serial := oneSerial(t, primary, secondaries)
	own := uint32(1)
	for i, edit := range edits {
		mail := fmt.Sprintf("mail%d.", i)
		own += edit.growth
		replaceZone(t, primary.Dir, followedZone(own, mail+"example.org.", edit.target))
		for _, server := range secondaries {
			awaitZone(t, server, "example.org.", mail)
		}
		awaitAddresses(t, 5*time.Second, secondaries, zoneOwners, edit.addresses)
		before := serial
		serial = oneSerial(t, primary, secondaries)
		checkGrown(t, before, serial)
	}
}

// A primary without persist is killed and restarted, and then reloaded. Its secondaries follow all changes.
func TestPrimaryKilled(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosting(5, oldAddresses...))
	primary, secondaries := startAll(t, firstZone, followedRecords+up.Addr)
	awaitAddresses(t, 15*time.Second, secondaries, owners, oldAddresses)
	serial := oneSerial(t, primary, secondaries)
	grows := func() {
		t.Helper()
		before := serial
		serial = oneSerial(t, primary, secondaries)
		checkGrown(t, before, serial)
	}

	primary.kill(t)
	up.Set(hosting(5, newAddresses...))
	primary = primary.restart(t)
	awaitAddresses(t, 10*time.Second, secondaries, owners, newAddresses)
	grows()
	up.Set(hosting(5, oldAddresses...))
	awaitAddresses(t, follows, secondaries, owners, oldAddresses)
	grows()

	primary.signal(t, syscall.SIGUSR1)
	eventually(t, 10*time.Second, "the reload is over", func() bool { return primary.logged(t, "Reloading complete") > 0 })
	for _, now := range append(transferSerials(t, primary), primary.serials(t)...) {
		if int32(now-serial) < 0 {
			t.Errorf("The serial number was %d and is %d after the reload", serial, now)
		}
	}
	up.Set(hosting(5, newAddresses...))
	awaitAddresses(t, follows, secondaries, owners, newAddresses)
	grows()
}

// With an upstream that does not answer from the start on, there are no addresses to transfer.
func TestDeadUpstreamAtStart(t *testing.T) {
	// After each failure the back-off doubles.
	const patience = 60 * time.Second
	t.Run("abort", func(t *testing.T) {
		t.Parallel()
		up := upstream.New(t, hosting(5, oldAddresses...))
		primary, secondaries := startAll(t, firstZone, followedRecords+up.Addr)
		awaitAddresses(t, 15*time.Second, secondaries, owners, oldAddresses)
		primary.kill(t)
		up.Set(nil)
		primary = primary.restart(t)
		m := query(t, primary.addr, "tcp", "example.org.", dns.TypeAXFR)
		if m.Rcode != dns.RcodeServerFailure {
			t.Errorf("A transfer without addresses:\n%v", m)
		}
		time.Sleep(3 * time.Second) // for NOTIFY, and what secondaries do after it
		awaitAddresses(t, time.Second, secondaries, owners, oldAddresses)
		up.Set(hosting(5, newAddresses...))
		awaitAddresses(t, patience, secondaries, owners, newAddresses)
		oneSerial(t, primary, secondaries)
	})
	t.Run("omit", func(t *testing.T) {
		t.Parallel()
		up := upstream.New(t, nil)
		primary, secondaries := startAll(t, firstZone, "transfer_on_failure omit"+followedRecords+up.Addr)
		for _, server := range secondaries {
			awaitZone(t, server, "example.org.", "mail.")
		}
		awaitAddresses(t, time.Second, secondaries, owners, nil)
		awaitAddresses(t, time.Second, secondaries, []string{"own.example.org."}, []string{"192.0.2.80"})
		serial := oneSerial(t, primary, secondaries)
		up.Set(hosting(5, newAddresses...))
		awaitAddresses(t, patience, secondaries, owners, newAddresses)
		checkGrown(t, serial, oneSerial(t, primary, secondaries))
	})
}

// When the upstream stops answering, the server transfers the zone with the cached addresses.
func TestUpstreamDiesLater(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosting(5, oldAddresses...))
	server := serveZone(t, firstZone, followedRecords+up.Addr, transferTo("*"))
	before := transfer(t, server, new(dns.Msg).SetAxfr("example.org."))
	up.Set(nil)
	awaitRefresh(t, up)
	eventually(t, 5*time.Second, "both lookups have failed", func() bool { return server.logged(t, " fails: timeout") == 2 })
	after := transfer(t, server, new(dns.Msg).SetAxfr("example.org."))
	if b, a := content(before), content(after); !slices.Equal(b, a) {
		t.Errorf("The zone was\n\t%s\nand is\n\t%s", strings.Join(b, "\n\t"), strings.Join(a, "\n\t"))
	}
	if len(after) != 23 { // as in checkTransfer
		t.Errorf("Not all records:\n%v", after)
	}
}

// content returns rrs without their TTL, sorted, and without the SOA records.
func content(rrs []dns.RR) []string {
	var cs []string
	for _, rr := range rrs {
		if rr = dns.Copy(rr); rr.Header().Rrtype != dns.TypeSOA {
			rr.Header().Ttl = 0
			cs = append(cs, rr.String())
		}
	}
	slices.Sort(cs)
	return cs
}

// Secondaries that do not answer NOTIFY do not delay others.
func TestDeadSecondary(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, hosting(5, oldAddresses...))
	silent := []string{upstream.New(t, nil).Addr, upstream.New(t, nil).Addr, upstream.New(t, nil).Addr}
	primary, secondaries := startAll(t, firstZone, followedRecords+up.Addr, silent...)
	awaitAddresses(t, 15*time.Second, secondaries, owners, oldAddresses)
	oneSerial(t, primary, secondaries)

	up.Set(hosting(5, newAddresses...))
	awaitRefresh(t, up)
	awaitAddresses(t, 5*time.Second, secondaries, owners, newAddresses)
	oneSerial(t, primary, secondaries)

	replaceZone(t, primary.Dir, followedZone(2, "mail2", "gone.hosting.example."))
	awaitAddresses(t, 5*time.Second, secondaries, zoneOwners, nil)
}
