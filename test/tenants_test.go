package test

import (
	"fmt"
	"net/netip"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// Names at and below bad.example are denied in these tests, and so is all that is not below example or the zone.
const tenantFilters = "target_allow example example.org\ntarget_deny Bad.example xn--bcher-kva.example\n"

// repeats is how often a query is sent where its messages are counted.
const repeats = 5

// longestBad is a denied name of 255 octets.
var longestBad = strings.Repeat(strings.Repeat("a", 63)+".", 3) + strings.Repeat("b", 49) + ".bad.example."

// linkNames returns the names of a chain of four CNAME records. The one with this number is denied, if there is one.
func linkNames(style string, denied int) []string {
	var names []string
	for i := range 5 {
		zone := "ok.example."
		if i == denied {
			zone = "bad.example."
		}
		names = append(names, fmt.Sprintf("l%d.c%d.%s.%s", i, denied, style, zone))
	}
	return names
}

// noLink is the number of no name of a chain.
const noLink = 9

// deniedLinks are the links that are denied in one chain each: the target itself, the first link, the second, the last, none.
var deniedLinks = []int{0, 1, 2, 4, noLink}

// styles are how an upstream answers about a chain: with the whole of it, or with one link per response.
var styles = []string{"whole", "step"}

// linkByLink answers as upstream.Zone does, but does not follow CNAME records.
func linkByLink(records []string) upstream.Handler {
	rrs := upstream.RRs(records...)
	return func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		for _, rr := range rrs {
			h := rr.Header()
			if strings.EqualFold(h.Name, r.Question[0].Name) && (h.Rrtype == dns.TypeCNAME || h.Rrtype == r.Question[0].Qtype) {
				m.Answer = append(m.Answer, rr)
			}
		}
		w.WriteMsg(m)
	}
}

// startTenantsUpstream starts an upstream with the chains, and with these further records.
func startTenantsUpstream(t *testing.T, records ...string) *upstream.Server {
	t.Helper()
	var links []string
	for _, style := range styles {
		for _, denied := range deniedLinks {
			names := linkNames(style, denied)
			for i, name := range names[1:] {
				links = append(links, names[i]+" 300 IN CNAME "+name)
			}
			links = append(links, names[4]+" 300 IN A 203.0.113.80")
		}
	}
	whole, step := upstream.Zone(append(records, links...)...), linkByLink(links)
	return upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if strings.Contains(r.Question[0].Name, ".step.") {
			step(w, r)
			return
		}
		whole(w, r)
	})
}

// startTenants starts a server with these server blocks, and these files beside its Corefile.
func startTenants(t *testing.T, port, corefile string, files map[string]string) *process {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		write(t, filepath.Join(dir, name), content)
	}
	write(t, filepath.Join(dir, "Corefile"), corefile)
	return startServer(t, port, dir, "Corefile")
}

// tenantBlock returns a server block for zones. The file that has the name of the first one is its zone file.
func tenantBlock(zones, port, properties, plugins string) string {
	first, _, _ := strings.Cut(zones, " ")
	return fmt.Sprintf("%s {\nbind 127.0.0.1\nalias {\n%s\n}\nfile %s\nerrors\n%s\n}\n",
		strings.ReplaceAll(zones+" ", " ", ":"+port+" "), properties, first+" "+first, plugins)
}

// checkServed checks that name has this address and no other, and no Extended DNS Error.
func checkServed(t *testing.T, server *process, name, address string) {
	t.Helper()
	qtype := dns.TypeA
	if strings.Contains(address, ":") {
		qtype = dns.TypeAAAA
	}
	m := query(t, server.addr, "udp", name, qtype)
	if got := addressesIn(m); len(got) != 1 || netip.MustParseAddr(got[0]) != netip.MustParseAddr(address) || extendedError(m) != -1 || !m.Authoritative {
		t.Errorf("%s: want %s, got %v", name, address, m)
	}
}

// checkDenied checks that the lookup for name has failed as denied, and queries it several times.
func checkDenied(t *testing.T, server *process, name string, qtype uint16) {
	t.Helper()
	for range repeats {
		for _, network := range []string{"udp", "tcp"} {
			m := query(t, server.addr, network, name, qtype)
			if m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || len(m.Ns) != 1 || m.Ns[0].Header().Ttl > 5 ||
				extendedError(m) != int(dns.ExtendedErrorCodeFiltered) {
				t.Errorf("%s %s is not denied: %v", name, dns.Type(qtype), m)
			}
		}
	}
}

// checkNoAlias checks that name, which the zone has, is no alias: the zone has no addresses for it. It queries name several times.
func checkNoAlias(t *testing.T, server *process, name string) {
	t.Helper()
	for range repeats {
		for _, qtype := range families {
			m := query(t, server.addr, "udp", name, qtype)
			if m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || len(m.Ns) != 1 || extendedError(m) != -1 {
				t.Errorf("%s %s is an alias: %v", name, dns.Type(qtype), m)
			}
		}
	}
}

// checkLoggedOnce checks that a line of the log has text, and no other line.
func checkLoggedOnce(t *testing.T, server *process, text string) {
	t.Helper()
	if n := server.logged(t, text); n != 1 {
		t.Errorf("%q was logged %d times", text, n)
	}
}

// A denied name is denied as target, and at each link behind it, whichever source an alias comes from. However often it is queried,
// the log has one line about it.
func TestTenantsChains(t *testing.T) {
	t.Parallel()
	up := startTenantsUpstream(t)
	port, page := freePort(t), local(freePort(t))
	zone, records, labelled := zoneFile, "", ""
	for _, style := range styles {
		for _, denied := range deniedLinks {
			target := linkNames(style, denied)[0]
			zone += fmt.Sprintf("zone%d.%s IN ALIAS %[3]s\nflat%[1]d.%[2]s IN CNAME %[3]s\n", denied, style, target)
			if denied != 0 { // with it, the server does not start
				records += fmt.Sprintf("record record%d.%s %s\n", denied, style, target)
			}
			labelled += fmt.Sprintf(`
				label.test:%s {
					bind 127.0.0.1
					metadata
					view %s {
						expr name() == 'label%d.%s.label.test.'
					}
					alias {
						target_from view/name
						retries 0
						%s
						upstream %s
					}
					file zone
					errors
				}`, port, strings.TrimSuffix(target, "."), denied, style, tenantFilters, up.Addr)
		}
	}
	server := startTenants(t, port, labelled+"\n"+tenantBlock("example.org", port, "flatten all\nretries 0\n"+tenantFilters+records+"upstream "+up.Addr,
		"prometheus "+page), map[string]string{"example.org": zone, "zone": zoneFile})

	for _, style := range styles {
		for _, denied := range deniedLinks {
			names := linkNames(style, denied)
			for _, source := range []string{"record", "zone", "flat", "label"} {
				name := fmt.Sprintf("%s%d.%s.example.org.", source, denied, style)
				if source == "label" {
					name = strings.Replace(name, "example.org", "label.test", 1)
				}
				switch {
				case denied == noLink:
					checkServed(t, server, name, "203.0.113.80")
				case denied > 0:
					checkDenied(t, server, name, dns.TypeA)
				case source == "zone":
					checkNoAlias(t, server, name)
				case source == "flat": // the CNAME record is the client's to follow
					for range repeats {
						checkRecords(t, query(t, server.addr, "udp", name, dns.TypeA).Answer, name+" 300 IN CNAME "+names[0])
					}
				case source == "label":
					for range repeats {
						if m := query(t, server.addr, "udp", name, dns.TypeA); m.Rcode != dns.RcodeNameError || len(m.Answer) > 0 {
							t.Errorf("%s: %v", name, m)
						}
					}
				}
				if denied == 0 && source != "record" {
					checkLoggedOnce(t, server, fmt.Sprintf("[WARNING] plugin/alias: %s is no alias of %s: the target is denied\n", name, names[0]))
				}
			}
			if 0 < denied && denied < noLink {
				// The blocks of the labels have caches of their own for each of these targets, as they share none with example.org.
				text := fmt.Sprintf("[WARNING] plugin/alias: Target %s A fails: denied: %s leads to %s; no answer is cached\n", names[0], names[denied-1], names[denied])
				checkLoggedOnce(t, server, text)
			}
			for i, name := range names {
				if i >= denied && up.Asked(name, dns.TypeA) > 0 {
					t.Errorf("%s was looked up, which a denied name leads to", name)
				}
			}
		}
	}
	series := metrics(t, page)
	for _, zone := range []string{"example.org.", "label.test."} {
		if n := series[fmt.Sprintf("coredns_alias_targets_denied_total{zone=%q}", zone)]; n < 2 {
			t.Errorf("%v aliases of %s were counted as denied", n, zone)
		}
	}
	// Each chain is looked up once: the target fails, and the server backs off.
	if n := series[fmt.Sprintf(`coredns_alias_upstream_requests_total{outcome="denied",to=%q}`, up.Addr)]; n < 6 {
		t.Errorf("%v requests were counted as denied", n)
	}
}

// A server does not start with a record whose target is denied.
func TestTenantsRecords(t *testing.T) {
	t.Parallel()
	conf := filepath.Join(t.TempDir(), "Corefile")
	write(t, conf, block("example.org", freePort(t), tenantFilters+"record www DB.bad.example", ""))
	out, err := exec.CommandContext(t.Context(), coredns, "-conf", conf).CombinedOutput()
	want := "target_deny: 'Bad.example xn--bcher-kva.example' does not allow 'db.bad.example.', the target of the record 'www.example.org.'"
	if err == nil || !strings.Contains(string(out), want) {
		t.Errorf("%v\n%s", err, out)
	}
}

// Whatever the spelling of a target, it is denied when its name is, and not when it only looks like it.
func TestTenantsSpellings(t *testing.T) {
	t.Parallel()
	up := startTenantsUpstream(t, `x\.bad.example. 300 IN A 203.0.113.1`, `www.b\195\188cher.example. 300 IN A 203.0.113.2`,
		"good.example. 300 IN A 203.0.113.3", `to-escaped.example. 300 IN CNAME d\098.B\065D.example.`, "db.bad.example. 300 IN A 203.0.113.4",
		"to-root.example. 300 IN CNAME .")
	port := freePort(t)
	spellings := []struct{ owner, target, address string }{
		{"escaped", `\098ad.example.`, ""},
		{"escapedbelow", `x.b\097d.example.`, ""},
		{"upper", "DB.BAD.EXAMPLE.", ""},
		{"escapedupper", `\066\065D.example.`, ""},
		{"ascii", "www.XN--Bcher-KVA.example.", ""},
		{"utf8", "www.bücher.example.", "203.0.113.2"}, // which is another name
		{"dot", `x\.bad.example.`, "203.0.113.1"},      // has one label below example
		{"onelabel", `bad\.example.`, ""},              // is not below example
		{"root", ".", ""},
		{"longest", longestBad, ""},
		{"good", "GOOD.example.", "203.0.113.3"},
	}
	zone := zoneFile + "two IN ALIAS good.example.\ntwo IN ALIAS db.bad.example.\nlinkescaped IN ALIAS to-escaped.example.\nlinkroot IN ALIAS to-root.example.\n" +
		"in IN ALIAS mid\nmid IN CNAME d\\098.bad.example.\n*.wild IN ALIAS db.bad.example.\n"
	zone = strings.Replace(zone, "ALIAS mid\n", "ALIAS mid.example.org.\n", 1)
	for _, s := range spellings {
		zone += fmt.Sprintf("%s IN ALIAS %s\nf-%[1]s IN CNAME %[2]s\n", s.owner, s.target)
	}
	server := startTenants(t, port, tenantBlock("example.org", port, "txt\nflatten all\nretries 0\ntransfer_on_failure omit\n"+tenantFilters+"upstream "+up.Addr,
		"transfer {\nto *\n}"),
		map[string]string{"example.org": zone})
	txt := func(name string, want ...string) {
		t.Helper()
		var got []string
		for _, rr := range query(t, server.addr, "udp", name, dns.TypeTXT).Answer {
			got = append(got, strings.Join(rr.(*dns.TXT).Txt, ""))
		}
		if !slices.Equal(got, want) {
			t.Errorf("TXT of %s: %q, want %q", name, got, want)
		}
	}
	for _, s := range spellings {
		name := s.owner + ".example.org."
		if s.address != "" {
			checkServed(t, server, name, s.address)
			checkServed(t, server, "f-"+name, s.address)
			continue
		}
		checkNoAlias(t, server, name)
		txt(name)
		if m := query(t, server.addr, "udp", "f-"+name, dns.TypeA); len(m.Answer) != 1 || m.Answer[0].Header().Rrtype != dns.TypeCNAME {
			t.Errorf("f-%s: %v", name, m)
		}
		checkLoggedOnce(t, server, "plugin/alias: "+name+" is no alias of ")
		checkLoggedOnce(t, server, "plugin/alias: f-"+name+" is no alias of ")
	}
	checkServed(t, server, "two.example.org.", "203.0.113.3")
	txt("two.example.org.", "ALIAS for good.example")
	txt("linkroot.example.org.", "ALIAS for to-root.example")
	for range repeats {
		checkNoAlias(t, server, "a.wild.example.org.")
		checkNoAlias(t, server, "b.wild.example.org.")
	}
	checkLoggedOnce(t, server, "*.wild.example.org. is no alias of db.bad.example.")
	for _, name := range []string{"linkescaped.example.org.", "linkroot.example.org.", "in.example.org."} {
		checkDenied(t, server, name, dns.TypeA)
	}
	checkLoggedOnce(t, server, "Target to-escaped.example. A fails: denied: to-escaped.example. leads to db.bad.example.; no answer is cached")
	checkLoggedOnce(t, server, "Target to-root.example. A fails: denied: to-root.example. leads to .; no answer is cached")
	checkLoggedOnce(t, server, "Alias to mid.example.org. A fails: denied: mid.example.org. leads to db.bad.example.")
	got := addressesIn(&dns.Msg{Answer: transfer(t, server, new(dns.Msg).SetAxfr("example.org."))})
	slices.Sort(got)
	if want := []string{"192.0.2.53", "192.0.2.80", "203.0.113.1", "203.0.113.2", "203.0.113.3", "203.0.113.3"}; !slices.Equal(got, want) {
		t.Errorf("The transfer has the addresses %s, want %s", got, want)
	}
	if n := up.Asked("db.bad.example.", dns.TypeA); n > 0 {
		t.Errorf("A denied name was looked up %d times", n)
	}
}

// HTTPS records do not lead to denied names either: not by a link, not in AliasMode, and not as TargetName.
func TestTenantsHTTPS(t *testing.T) {
	t.Parallel()
	up := startTenantsUpstream(t, "svc.example. 300 IN HTTPS 1 . alpn=h2", "svc.example. 300 IN HTTPS 2 host.bad.example. alpn=h2",
		"only.example. 300 IN HTTPS 1 host.BAD.example. alpn=h2", "mode.example. 300 IN HTTPS 0 svc.bad.example.", "svc.bad.example. 300 IN HTTPS 1 . alpn=h2",
		"mode2.example. 300 IN HTTPS 0 mode.example.", "link.example. 300 IN CNAME svc.bad.example.")
	port := freePort(t)
	zone := zoneFile
	for _, name := range []string{"svc", "only", "mode", "mode2", "link"} {
		zone += name + " IN ALIAS " + name + ".example.\n"
	}
	zone += "denied IN ALIAS svc.bad.example.\n"
	server := startTenants(t, port, tenantBlock("example.org", port, "https copy\nretries 0\n"+tenantFilters+"upstream "+up.Addr, "")+
		tenantBlock("mode.test", port, "https alias\n"+tenantFilters+"upstream "+up.Addr, ""), map[string]string{"example.org": zone, "mode.test": zone})
	https := func(name string) *dns.Msg { return query(t, server.addr, "udp", name, dns.TypeHTTPS) }
	checkRecords(t, https("svc.example.org.").Answer, "svc.example.org. 300 IN HTTPS 1 . alpn=h2")
	for _, name := range []string{"mode.example.org.", "mode2.example.org.", "link.example.org."} {
		checkDenied(t, server, name, dns.TypeHTTPS)
	}
	for _, name := range []string{"only.example.org.", "denied.example.org.", "denied.mode.test."} {
		if m := https(name); m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 || extendedError(m) != -1 {
			t.Errorf("%s: %v", name, m)
		}
	}
	checkRecords(t, https("svc.mode.test.").Answer, "svc.mode.test. 300 IN HTTPS 0 svc.example.")
}

// Whether the zone of one tenant may be the target of another one's alias is the operator's choice, in one server block and across
// several.
func TestTenantsOfEachOther(t *testing.T) {
	t.Parallel()
	up := startTenantsUpstream(t, "good.example. 300 IN A 203.0.113.3")
	port := freePort(t)
	zone := zoneFile + "@ IN ALIAS www.b.test.\n"
	inside := func(other string) string { return zoneFile + "@ IN ALIAS www." + other + ".\nwww IN A 203.0.113.9\n" }
	server := startTenants(t, port, strings.Join([]string{
		tenantBlock("b.test", port, "upstream "+up.Addr, ""),
		// The server is its own resolver here.
		tenantBlock("deny.test", port, "target_deny b.test\nupstream "+local(port), ""),
		tenantBlock("allowother.test", port, "target_allow example\nupstream "+local(port), ""),
		tenantBlock("free.test", port, "upstream "+local(port), ""),
		tenantBlock("allow.test", port, "target_allow b.test\nupstream "+local(port), ""),
		tenantBlock("none.test", port, "target_deny .\nupstream "+local(port), ""),
		// Two tenants in one server block.
		tenantBlock("one.test two.test", port, "target_deny two.test\nupstream "+up.Addr, "file two.test two.test"),
		tenantBlock("three.test four.test", port, "target_allow three.test four.test\nupstream "+up.Addr, "file four.test four.test"),
	}, ""), map[string]string{
		"b.test": zoneFile + "www IN ALIAS good.example.\n", "deny.test": zone, "allowother.test": zone, "free.test": zone, "allow.test": zone, "none.test": zone,
		"one.test": inside("two.test"), "two.test": inside("one.test"), "three.test": inside("four.test"), "four.test": inside("three.test"),
	})
	for _, name := range []string{"deny.test.", "allowother.test.", "none.test."} {
		checkNoAlias(t, server, name)
		checkLoggedOnce(t, server, name+" is no alias of www.b.test.: the target is denied")
	}
	for _, name := range []string{"free.test.", "allow.test."} {
		checkServed(t, server, name, "203.0.113.3")
	}
	if m := query(t, server.addr, "udp", "one.test.", dns.TypeA); len(m.Answer) > 0 {
		t.Errorf("one.test: %v", m)
	}
	for _, name := range []string{"two.test.", "three.test.", "four.test."} {
		checkServed(t, server, name, "203.0.113.9")
	}
	checkServed(t, server, "www.two.test.", "203.0.113.9")
}

// The addresses that are and are not served with address_deny special.
var (
	reachable = []string{
		"192.175.48.1", "2620:4f:8000::1",
		"64:ff9b::192.175.48.1", "2002:c0af:3001::1", // stand for the first one
	}
	special = []string{
		"10.0.0.1", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "127.0.0.1", "192.0.2.1", "198.18.0.1", "224.0.0.1", "240.0.0.1",
		"fd00::1", "fe80::1", "::1", "2001:db8::1", "100::1", "ff02::1",
		"::ffff:10.0.0.1", "::10.0.0.1", // mapped and compatible
		"64:ff9b::10.0.0.1", "64:ff9b:1::1", "64:ff9b:1:a00:0:100::", // NAT64, and that for local use
		"2002:a00:1::", "2001:0:c0af:3001:0:0:f5ff:fffe", "2001:0:a00:1::1", // 6to4; Teredo: a client, and a server, with the address 10.0.0.1
	}
)

// addressRecord returns a record of name with this address.
func addressRecord(name, address string, ttl int) string {
	qtype := "A"
	if strings.Contains(address, ":") {
		qtype = "AAAA"
	}
	return fmt.Sprintf("%s %d IN %s %s", name, ttl, qtype, address)
}

// reachableLike returns an address that is served, of the family of address.
func reachableLike(address string) string {
	if strings.Contains(address, ":") {
		return reachable[1]
	}
	return reachable[0]
}

// Addresses that are not globally reachable are left out of answers and transfers. An answer without any other has failed. The log has
// one line for each target about it.
func TestTenantsAddresses(t *testing.T) {
	t.Parallel()
	var records []string
	zone := zoneFile + "changing IN ALIAS changing.example.\n"
	for i, address := range reachable {
		records = append(records, addressRecord(fmt.Sprintf("good%d.example.", i), address, 300))
		zone += fmt.Sprintf("good%d IN ALIAS good%[1]d.example.\n", i)
	}
	for i, address := range special {
		bad, mixed := fmt.Sprintf("bad%d.example.", i), fmt.Sprintf("mixed%d.example.", i)
		records = append(records, addressRecord(bad, address, 300), addressRecord(mixed, address, 300), addressRecord(mixed, reachableLike(address), 300))
		zone += fmt.Sprintf("bad%d IN ALIAS %s\nmixed%[1]d IN ALIAS %[3]s\n", i, bad, mixed)
	}
	with := func(address ...string) upstream.Handler {
		all := slices.Clone(records)
		for _, a := range address {
			all = append(all, addressRecord("changing.example.", a, 1))
		}
		return upstream.Zone(all...)
	}
	up := upstream.New(t, with(reachable[0]))
	port, page := freePort(t), local(freePort(t))
	server := startTenants(t, port, tenantBlock("example.org", port, "retries 0\nmin_ttl 1s\ntransfer_on_failure omit\naddress_deny special\nupstream "+up.Addr,
		"prometheus "+page+"\ntransfer {\nto *\n}"), map[string]string{"example.org": zone})
	checkServed(t, server, "changing.example.org.", reachable[0])
	want := []string{"192.0.2.53", "192.0.2.80", reachable[0]} // those of the transfer; the zone's own addresses are served as they are
	for i, address := range reachable {
		checkServed(t, server, fmt.Sprintf("good%d.example.org.", i), address)
		want = append(want, netip.MustParseAddr(address).String())
	}
	for i, address := range special {
		qtype, like := dns.TypeA, reachableLike(address)
		if strings.Contains(address, ":") {
			qtype = dns.TypeAAAA
		}
		checkDenied(t, server, fmt.Sprintf("bad%d.example.org.", i), qtype)
		for range repeats {
			checkServed(t, server, fmt.Sprintf("mixed%d.example.org.", i), like)
		}
		want = append(want, like)
		question, address := dns.Type(qtype), netip.MustParseAddr(address)
		checkLoggedOnce(t, server, fmt.Sprintf("[WARNING] plugin/alias: Target bad%d.example. %s fails: denied: no address but %s; no answer is cached\n", i, question, address))
		checkLoggedOnce(t, server, fmt.Sprintf("[WARNING] plugin/alias: Target mixed%d.example. %s: the address %s is denied and left out\n", i, question, address))
	}
	if n := metrics(t, page)[fmt.Sprintf(`coredns_alias_upstream_requests_total{outcome="denied",to=%q}`, up.Addr)]; int(n) < len(special) {
		t.Errorf("%v requests were counted as denied, want at least %d", n, len(special))
	}

	// The last good answer stays.
	up.Set(with(special[0], special[1]))
	time.Sleep(1100 * time.Millisecond) // more than the TTL
	for range repeats {
		m := query(t, server.addr, "udp", "changing.example.org.", dns.TypeA)
		checkRecords(t, m.Answer, "changing.example.org. 30 IN A "+reachable[0])
		if extendedError(m) != int(dns.ExtendedErrorCodeStaleAnswer) {
			t.Errorf("Extended DNS Error %d", extendedError(m))
		}
	}
	checkLoggedOnce(t, server, "Target changing.example. A fails: denied: no address but 10.0.0.1; the last answer is cached\n")
	got := addressesIn(&dns.Msg{Answer: transfer(t, server, new(dns.Msg).SetAxfr("example.org."))})
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("The transfer has the addresses\n%s\nwant\n%s", got, want)
	}
}
