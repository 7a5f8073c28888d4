package primary_test

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin/file"

	"github.com/miekg/dns"
)

// receiver is a secondary: a name server that takes NOTIFY messages.
type receiver struct {
	addr string

	mu   sync.Mutex
	zone map[string]int    // how many came, by zone
	from map[string]string // the address that the last came from, by zone
}

// startReceiver starts a receiver that answers with rcode, or not at all if that is negative.
func startReceiver(t *testing.T, rcode int) *receiver {
	t.Helper()
	s := &receiver{zone: make(map[string]int), from: make(map[string]string)}
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Opcode == dns.OpcodeNotify && r.Question[0].Qtype == dns.TypeSOA {
			s.mu.Lock()
			s.zone[r.Question[0].Name]++
			s.from[r.Question[0].Name], _, _ = net.SplitHostPort(w.RemoteAddr().String())
			s.mu.Unlock()
		}
		if rcode >= 0 {
			w.WriteMsg(new(dns.Msg).SetRcode(r, rcode))
		}
	})
	s.addr = up.Addr
	return s
}

// notified returns how many NOTIFY messages came for zone.
func (s *receiver) notified(zone string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.zone[zone]
}

// eventually waits until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not after 10 s: %s", what)
		}
	}
}

// notifying returns a server that notifies the secondaries of its zones.
func notifying(t *testing.T, r *resolver, b *backend, ss ...primary.Secondaries) *server {
	t.Helper()
	return newServer(t, r, b, func(cfg *primary.Config) {
		cfg.Zones = records.Zones{"org.": {}, "net.": {}}
		cfg.Secondaries = ss
	})
}

// A secondary that does not answer does not delay the NOTIFY of another, and a stop not for long. Only the secondaries of the
// closest zone are notified.
func TestNotify(t *testing.T) {
	t.Parallel()
	silent, good, far := startReceiver(t, -1), startReceiver(t, dns.RcodeSuccess), startReceiver(t, dns.RcodeSuccess)
	r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}})
	b := new(backend)
	for _, zone := range []string{"example.org.", "other.org.", "sub.other.org.", "example.net."} {
		b.set(zone, zoneOf(t, zone, 7, zone+" 60 IN ALIAS target.example."))
	}
	s := notifying(t, r, b,
		primary.Secondaries{Zones: records.Zones{"example.org.": {}}, To: []string{silent.addr, good.addr}, Source: net.IPv4(127, 0, 0, 2)},
		primary.Secondaries{Zones: records.Zones{"org.": {}}, To: []string{far.addr}},
		primary.Secondaries{Zones: records.Zones{"sub.other.org.": {}, "a.example.org.": {}}, To: []string{good.addr}},
	)
	began := time.Now()
	s.Start()
	eventually(t, "the secondaries are notified", func() bool {
		return good.notified("example.org.") > 0 && silent.notified("example.org.") > 0 && far.notified("other.org.") > 0 && good.notified("sub.other.org.") > 0
	})
	eventually(t, "the responses are counted", func() bool {
		return s.counted("notify example.org. success") == 1 && s.counted("notify other.org. success") == 1 && s.counted("notify sub.other.org. success") == 1
	})
	if took := time.Since(began); took > 8*time.Second { // to the silent one alone it would be 15 s
		t.Errorf("the other secondaries were notified after %s", took)
	}
	began = time.Now()
	s.Stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("the stop took %s", took)
	}
	if n := far.notified("example.org.") + far.notified("sub.other.org.") + good.notified("other.org.") + far.notified("example.net.") + good.notified("example.net."); n > 0 {
		t.Errorf("secondaries were notified of %d zones that they do not have", n)
	}
	if s := good.from["example.org."]; s != "127.0.0.2" {
		t.Errorf("notified from %s, want the source of the Corefile", s)
	}
	if s := far.from["other.org."]; s != "127.0.0.1" {
		t.Errorf("notified from %s", s)
	}
}

// There is one NOTIFY after the start, and one for each change.
func TestNotifyChanges(t *testing.T) {
	good := startReceiver(t, dns.RcodeSuccess) // outside of the bubble, with real time
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, v6: []string{v6}, ttl: 10}, "bad.example.": {err: errServfail}})
		b := new(backend)
		zone := []string{"a.example.org. 60 IN ALIAS target.example.", "b.example.org. 60 IN ALIAS target.example.", "c.example.org. 60 IN ALIAS bad.example."}
		b.put(t, 7, zone...)
		s := notifying(t, r, b, primary.Secondaries{Zones: records.Zones{"example.org.": {}}, To: []string{good.addr}})
		s.Start()
		for i, step := range []struct {
			do          func()
			least, most int
			comment     string
		}{
			{func() {}, 1, 1, "after the start, when all aliases have been looked up"},
			{func() {}, 0, 0, "nothing changes"},
			{func() { r.set("target.example.", target{v4: []string{v4}, v6: []string{v6}, ttl: 20}) }, 0, 0, "another TTL"},
			{func() {
				r.set("target.example.", target{v4: []string{"192.0.2.2"}, v6: []string{"2001:db8::2"}, ttl: 10})
			}, 1, 1, "addresses of two aliases and both families"},
			{func() { b.put(t, 8, zone...) }, 1, 1, "the zone's own serial"},
			{func() { b.put(t, 3, zone...) }, 1, 1, "the zone's own serial goes back"},
			{func() { b.put(t, 4, append(zone, "d.example.org. 60 IN ALIAS target.example.")...) }, 1, 2, "a new alias, and its addresses"},
			{func() { b.put(t, 5) }, 1, 1, "the last alias goes"},
			{func() { r.set("bad.example.", target{v4: []string{v4}, ttl: 10}) }, 0, 0, "no alias leads there"},
		} {
			count := good.notified("example.org.")
			step.do()
			time.Sleep(time.Minute)
			if n := good.notified("example.org.") - count; n < step.least || n > step.most {
				t.Errorf("step %d, %s: %d NOTIFY messages, want %d to %d", i, step.comment, n, step.least, step.most)
			}
		}
	})
}

// The first NOTIFY is sent when all aliases of the zone have been looked up, in a zone that had none before, too.
func TestNotifyFirst(t *testing.T) {
	good := startReceiver(t, dns.RcodeSuccess)
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(map[string]target{"a.example.": {v4: []string{v4}, ttl: 300}})
		r.delay = 20 * time.Second
		b := new(backend)
		b.put(t, 7)
		s := notifying(t, r, b, primary.Secondaries{Zones: records.Zones{"example.org.": {}}, To: []string{good.addr}})
		s.Start()
		time.Sleep(time.Minute)
		b.put(t, 8)
		time.Sleep(time.Minute)
		if n := good.notified("example.org."); n != 0 {
			t.Errorf("%d NOTIFY messages for a zone without aliases, which are the transfer plugin's to send", n)
		}
		b.put(t, 9, "a.example.org. 60 IN ALIAS a.example.", "b.example.org. 60 IN ALIAS b.example.")
		time.Sleep(15 * time.Second)
		if n := good.notified("example.org."); n != 0 {
			t.Errorf("%d NOTIFY messages before the lookups have finished", n)
		}
		time.Sleep(15 * time.Second)
		if n := good.notified("example.org."); n != 1 {
			t.Errorf("%d NOTIFY messages after the lookups, want 1", n)
		}
	})
}

// A secondary that does not accept a NOTIFY gets it five times, once a second. A change meanwhile is sent after that.
func TestNotifyRefused(t *testing.T) {
	bad := startReceiver(t, dns.RcodeRefused)
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 10}})
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := notifying(t, r, b, primary.Secondaries{Zones: records.Zones{"example.org.": {}}, To: []string{bad.addr}})
		s.Start()
		time.Sleep(20 * time.Second)
		if n, failed := bad.notified("example.org."), s.counted("notify example.org. failure"); n != 5 || failed != 1 {
			t.Errorf("%d NOTIFY messages, want 5; %d were counted as failed, want 1", n, failed)
		}
		for range 3 {
			b.put(t, b.zone("example.org.").SOA.Serial+1, "example.org. 60 IN ALIAS target.example.")
			time.Sleep(1500 * time.Millisecond) // the first is in flight
			s.published(t)
		}
		time.Sleep(20 * time.Second)
		if n, failed := bad.notified("example.org."), s.counted("notify example.org. failure"); n != 15 || failed != 3 {
			t.Errorf("%d NOTIFY messages, want 15; %d were counted as failed, want 3", n, failed)
		}
		if n := s.counted("notify example.org. success"); n != 0 {
			t.Errorf("%d NOTIFY messages were counted as accepted", n)
		}
	})
}

// A NOTIFY to an address that nothing can be sent to fails too.
func TestNotifyUnreachable(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		s := notifying(t, newResolver(nil), b, primary.Secondaries{
			Zones: records.Zones{"example.org.": {}}, To: []string{"127.0.0.1:53"}, Source: net.ParseIP("2001:db8::1"), // no way from there
		})
		s.Start()
		time.Sleep(20 * time.Second)
		if n := s.counted("notify example.org. failure"); n != 1 {
			t.Errorf("%d were counted as failed, want 1", n)
		}
	})
}

// To one secondary, 16 NOTIFY messages are in flight at most.
func TestNotifyMany(t *testing.T) {
	t.Parallel()
	silent := startReceiver(t, -1)
	zones := make(map[string]*file.Zone)
	for i := range 40 {
		name := strings.Repeat("a", i+1) + ".example.org."
		zones[name] = zoneOf(t, name, 7, name+" 60 IN ALIAS target.example.")
	}
	s := notifying(t, newResolver(nil), &backend{zones: zones}, primary.Secondaries{Zones: records.Zones{"org.": {}}, To: []string{silent.addr}})
	s.Start()
	in := func() (n int) {
		for name := range zones {
			n += min(silent.notified(name), 1)
		}
		return n
	}
	eventually(t, "16 messages come", func() bool { return in() >= 16 })
	time.Sleep(500 * time.Millisecond)
	if n := in(); n != 16 {
		t.Errorf("%d messages are in flight", n)
	}
	began := time.Now()
	s.Stop()
	if took := time.Since(began); took > time.Second {
		t.Errorf("the stop took %s", took)
	}
}

// A secondary that has not answered gets one NOTIFY for each further zone that waits. When it answers again, all are sent soon.
func TestNotifySilent(t *testing.T) {
	t.Parallel()
	var answers atomic.Bool
	got := make(chan string, 1000)
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		got <- r.Question[0].Name
		if answers.Load() {
			w.WriteMsg(new(dns.Msg).SetReply(r))
		}
	})
	zones := make(map[string]*file.Zone)
	for i := range 100 {
		name := fmt.Sprintf("z%d.example.org.", i)
		zones[name] = zoneOf(t, name, 7, name+" 60 IN ALIAS target.example.")
	}
	s := notifying(t, newResolver(nil), &backend{zones: zones}, primary.Secondaries{Zones: records.Zones{"org.": {}}, To: []string{up.Addr}})
	s.Start()
	sent := make(map[string]int)
	for len(sent) < 48 { // 16 with five tries, and then 32 with one
		sent[<-got]++
	}
	answers.Store(true)
	for began := time.Now(); len(sent) < len(zones); {
		select {
		case zone := <-got:
			sent[zone]++
		case <-time.After(10*time.Second - time.Since(began)):
			t.Fatalf("%d zones in 10 s", len(sent))
		}
	}
	most := make(map[int]int)
	for _, n := range sent {
		most[n]++
	}
	if most[5] > 16 || most[2]+most[3]+most[4] > 16 {
		t.Errorf("NOTIFY messages for a zone: %v", most)
	}
}

// What waits to be sent when a reload begins is sent after it, too.
func TestNotifyReloadWaiting(t *testing.T) {
	t.Parallel()
	silent, good := startReceiver(t, -1), startReceiver(t, dns.RcodeSuccess)
	b := &backend{zones: make(map[string]*file.Zone)}
	for i := range 20 {
		name := fmt.Sprintf("z%d.example.org.", i)
		b.set(name, zoneOf(t, name, 7, name+" 60 IN ALIAS target.example."))
	}
	r := newResolver(nil)
	old := notifying(t, r, b, primary.Secondaries{Zones: records.Zones{"org.": {}}, To: []string{silent.addr}})
	old.Start()
	in := func(s *receiver) (n int) {
		for name := range b.zones {
			n += min(s.notified(name), 1)
		}
		return n
	}
	eventually(t, "16 messages come", func() bool { return in(silent) >= 16 })
	s := newServer(t, r, b, func(cfg *primary.Config) {
		cfg.Zones, cfg.Before = records.Zones{"org.": {}}, old.Primary
		cfg.Secondaries = []primary.Secondaries{{Zones: records.Zones{"org.": {}}, To: []string{good.addr}}}
	})
	old.Stop()
	s.Start()
	eventually(t, "all zones are notified", func() bool { return in(good) == 20 })
}

// A NOTIFY that is due when a reload begins is sent after it.
func TestNotifyAfterReload(t *testing.T) {
	good := startReceiver(t, dns.RcodeSuccess)
	synctest.Test(t, func(t *testing.T) {
		r := newResolver(map[string]target{"target.example.": {v4: []string{v4}, ttl: 300}})
		b := new(backend)
		b.put(t, 7, "example.org. 60 IN ALIAS target.example.")
		ss := primary.Secondaries{Zones: records.Zones{"example.org.": {}}, To: []string{good.addr}}
		old := notifying(t, r, b, ss)
		old.Start()
		time.Sleep(time.Minute + 500*time.Millisecond)
		count := good.notified("example.org.")
		b.put(t, 8, "example.org. 60 IN ALIAS target.example.")
		old.published(t) // the zone's own serial is noted, and less than a second later, before the NOTIFY, comes the reload
		s := newServer(t, r, b, func(cfg *primary.Config) { cfg.Before, cfg.Secondaries = old.Primary, []primary.Secondaries{ss} })
		old.Stop()
		s.Start()
		time.Sleep(time.Minute)
		if n := good.notified("example.org.") - count; n != 1 {
			t.Errorf("%d NOTIFY messages, want 1", n)
		}
		if n := s.counted("notify example.org. success"); n != 1 {
			t.Errorf("the new instance sent %d", n)
		}
	})
}
