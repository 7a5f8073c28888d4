package alias

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/caddy"
	_ "github.com/coredns/coredns/plugin/root" // for Corefiles in tests

	"github.com/miekg/dns"
)

// input returns a Corefile of one server block for example.org, with the directives given, on loopback.
func input(directives string) caddy.Input {
	return caddy.CaddyfileInput{Filepath: "Corefile", ServerTypeName: "dns",
		Contents: []byte("example.org:0 {\nbind 127.0.0.1\n" + directives + "\n}\n")}
}

// startServers starts the servers of a Corefile, and waits until they serve: one that is stopped before leaks.
func startServers(t *testing.T, corefile caddy.Input) *caddy.Instance {
	t.Helper()
	caddy.Quiet = true
	i, err := caddy.Start(corefile)
	if err != nil {
		t.Fatal(err)
	}
	s := i.Servers()[0]
	for network, addr := range map[string]string{"udp": s.LocalAddr().String(), "tcp": s.Addr().String()} {
		client := dns.Client{Net: network}
		if _, _, err := client.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeNS), addr); err != nil {
			t.Fatal(err)
		}
	}
	return i
}

// stopServers stops the servers, as at the end of the process.
func stopServers(t *testing.T, i *caddy.Instance) {
	t.Helper()
	if errs := errors.Join(append(i.ShutdownCallbacks(), i.Stop())...); errs != nil {
		t.Error(errs)
	}
}

// axfr returns the records of a zone transfer from addr.
func axfr(t *testing.T, addr string) []dns.RR {
	t.Helper()
	in, err := new(dns.Transfer).In(new(dns.Msg).SetAxfr("example.org."), addr)
	if err != nil {
		t.Fatal(err)
	}
	var rrs []dns.RR
	for envelope := range in {
		if envelope.Error != nil {
			t.Fatal(envelope.Error)
		}
		rrs = append(rrs, envelope.RR...)
	}
	return rrs
}

// A server block with transfer notifies its secondaries, transfers its zone with addresses, goes on with the serial
// number after a reload, keeps its answers in the file below root, and lets SOA queries past cache.
func TestBlockWithTransfer(t *testing.T) {
	up := fake.New(t, good)
	var notified atomic.Int32
	secondary := fake.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Opcode == dns.OpcodeNotify {
			notified.Add(1)
		}
		w.WriteMsg(new(dns.Msg).SetReply(r))
	})
	dir := t.TempDir()
	zone := filepath.Join(dir, "db.example.org")
	if err := os.WriteFile(zone, []byte(exampleSOA+"\nexample.org. 60 IN ALIAS target.example.\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	corefile := input(fmt.Sprintf(`
		root %s
		metadata
		transfer {
			to * %s
			source 127.0.0.1
		}
		alias {
			record www target.example
			persist alias.db
			target_from tenant/target
			upstream %s
		}
		file %s`, dir, secondary.Addr, up.Addr, zone))
	i := startServers(t, corefile)
	defer func() { stopServers(t, i) }()
	var serials []uint32
	for range 2 {
		udp, tcp := i.Servers()[0].LocalAddr().String(), i.Servers()[0].Addr().String()
		wait(t, 10*time.Second, "the secondary was not notified", func() bool { return notified.Load() > 0 })
		rrs := axfr(t, tcp)
		var owners []string
		for _, rr := range rrs[1 : len(rrs)-1] {
			owners = append(owners, rr.Header().Name+dns.TypeToString[rr.Header().Rrtype])
		}
		if got := strings.Join(owners, " "); got != "example.org.A example.org.AAAA www.example.org.A www.example.org.AAAA" {
			t.Errorf("transferred %s", got)
		}
		m, err := dns.Exchange(new(dns.Msg).SetQuestion("example.org.", dns.TypeSOA), udp)
		if err != nil || len(m.Answer) != 1 {
			t.Fatalf("%v: %v", err, m)
		}
		serials = append(serials, m.Answer[0].(*dns.SOA).Serial, rrs[0].(*dns.SOA).Serial)
		next, err := i.Restart(corefile)
		if err != nil {
			t.Fatal(err)
		}
		i = next
	}
	for _, serial := range serials {
		if serial != serials[0] || serial == 1 {
			t.Errorf("published serials %d, want one, which is not the zone's own", serials)
			break
		}
	}
	a := running.all()[0]
	if zones := a.CacheBypassZones(); len(zones) != 1 || zones[0] != "example.org." {
		t.Errorf("cache lets %v through", zones)
	}
	if _, err := os.Stat(filepath.Join(dir, "alias.db")); err != nil {
		t.Error(err)
	}
}

// Without transfer nothing bypasses cache, and nothing is transferred.
func TestBlockWithoutTransfer(t *testing.T) {
	i := startServers(t, input("alias {\nupstream 127.0.0.1\n}"))
	defer func() { stopServers(t, i) }()
	a := running.all()[0]
	if zones := a.CacheBypassZones(); len(zones) != 0 {
		t.Errorf("cache lets %v through", zones)
	}
	if _, err := a.Transfer("example.org.", 0); err == nil {
		t.Error("a zone was transferred")
	}
	if zones := new(Alias).CacheBypassZones(); zones != nil {
		t.Errorf("cache lets %v through before the start", zones)
	}
}

// What only the whole server block shows stops the start.
func TestBlockErrors(t *testing.T) {
	caddy.Quiet = true
	_, err := caddy.Start(input("alias {\nupstream 127.0.0.1\ntarget_from tenant/target\n}"))
	if want := "Corefile:5 - Error during parsing: target_from: 'tenant/target' is never set"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v", err)
	}
	if _, err := parseSecondaries(serverBlock{index: 0}); err == nil {
		t.Error("secondaries without a server")
	}
}
