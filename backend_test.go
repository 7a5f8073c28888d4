package alias

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/rdata"
	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin"

	"github.com/google/go-cmp/cmp"
	"github.com/miekg/dns"
)

// A backend answers at once that there are no addresses, and not in time whether there is an alias: resolvers must not
// cache the negative answer for long.
func TestLateAlias(t *testing.T) {
	up := fake.New(t, good)
	zone := zoneFile(t, nil, "example.org. 60 IN ALIAS target.example.")
	for onFailure, want := range map[string]int{"empty": dns.RcodeSuccess, "servfail": dns.RcodeServerFailure} {
		var late atomic.Bool
		late.Store(true)
		next := plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
			if late.Load() && r.Question[0].Qtype == rdata.TypeALIAS {
				<-ctx.Done()
			}
			return zone.ServeDNS(ctx, w, r)
		})
		a, c := newAlias(t, "example.org", "timeout 50ms\non_failure "+onFailure+"\nupstream "+up.Addr, next)
		for range 2 {
			m := query(t, a, "example.org.", dns.TypeA)
			if m.Rcode != want || len(m.Answer) > 0 {
				t.Errorf("%s: got %v", onFailure, m)
			}
			for _, rr := range m.Ns {
				if rr.Header().Ttl > maxEmptyTTL {
					t.Errorf("%s: %v", onFailure, rr)
				}
			}
		}
		late.Store(false)
		c.Advance(time.Second)
		queryTest{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 60 IN A " + v4}}.check(t, a)
	}
}

// A wildcard of the Corefile does not apply to names that the backend may have, while its zone is expired.
func TestWildcardAndUnableBackend(t *testing.T) {
	up := fake.New(t, good)
	next := plugin.HandlerFunc(func(context.Context, dns.ResponseWriter, *dns.Msg) (int, error) {
		return dns.RcodeServerFailure, nil // as secondary does before the first transfer, and file with an expired zone
	})
	a, _ := newAlias(t, "example.org", "record * target.example\nrecord @ target.example\nupstream "+up.Addr, next)
	if m := query(t, a, "mail.example.org.", dns.TypeA); m.Rcode != dns.RcodeServerFailure {
		t.Errorf("got %v", m)
	}
	queryTest{name: "example.org.", qtype: dns.TypeA, answer: []string{"example.org. 300 IN A " + v4}}.check(t, a)
}

// The backend's response to the client's query wins over the cached backend answer.
func TestZoneChangesUnderHolding(t *testing.T) {
	up := fake.New(t, good)
	backend := new(zoneBackend)
	own := zoneFile(t, nil, "b.example.org. 60 IN A 203.0.113.1", "a.example.org. 60 IN ALIAS b.example.org.")
	aliased := zoneFile(t, nil, "b.example.org. 60 IN ALIAS target.example.", "a.example.org. 60 IN ALIAS b.example.org.")
	backend.zone.Store(own)
	a, c := newAlias(t, "example.org", "upstream "+up.Addr, backend)
	query(t, a, "a.example.org.", dns.TypeA) // b is looked at
	backend.zone.Store(aliased)
	queryTest{name: "b.example.org.", qtype: dns.TypeA, answer: []string{"b.example.org. 60 IN A " + v4}}.check(t, a)

	// The plugin sees a change along a chain within a second, whichever parts of the chain were queried before.
	c.Advance(600 * time.Millisecond)
	query(t, a, "b.example.org.", dns.TypeA)
	c.Advance(300 * time.Millisecond)
	query(t, a, "a.example.org.", dns.TypeA)
	backend.zone.Store(own)
	c.Advance(700 * time.Millisecond)
	queryTest{name: "a.example.org.", qtype: dns.TypeA, answer: []string{"a.example.org. 60 IN A 203.0.113.1"}}.check(t, a)

	// A name that was delegated, and is not any more.
	backend.zone.Store(zoneFile(t, nil, "sub.example.org. 60 IN NS ns.elsewhere.example.", "x.example.org. 60 IN ALIAS www.sub.example.org."))
	c.Advance(time.Second)
	query(t, a, "x.example.org.", dns.TypeA)
	backend.zone.Store(zoneFile(t, nil, "www.sub.example.org. 60 IN A 203.0.113.2", "x.example.org. 60 IN ALIAS www.sub.example.org."))
	c.Advance(time.Second)
	queryTest{name: "x.example.org.", qtype: dns.TypeA, answer: []string{"x.example.org. 60 IN A 203.0.113.2"}}.check(t, a)
}

// A backend that is slow for each link of a chain delays neither a query by all of them, nor the stop.
func TestSlowChain(t *testing.T) {
	var zone []string
	for i := range 15 {
		zone = append(zone, fmt.Sprintf("a%d.example.org. 60 IN CNAME a%d.example.org.", i, i+1))
	}
	slow := plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		time.Sleep(90 * time.Millisecond)
		m := new(dns.Msg).SetReply(r)
		m.Authoritative = true
		i := 0
		fmt.Sscanf(r.Question[0].Name, "a%d.", &i)
		m.Answer = fake.RRs(zone[i%len(zone)])
		w.WriteMsg(m)
		return dns.RcodeSuccess, nil
	})
	a, _ := newAlias(t, "example.org", "record @ a0.example.org\ntimeout 100ms\nupstream 127.0.0.1", slow)
	began := time.Now()
	if m := query(t, a, "example.org.", dns.TypeA); m.Rcode != dns.RcodeSuccess || len(m.Answer) > 0 {
		t.Errorf("got %v", m)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("took %s", took)
	}
}

// Other plugins change the message on its way to the client while other queries read the cached backend answer.
func TestHeldMessageChanges(t *testing.T) {
	up := fake.New(t, good)
	a, c := newAlias(t, "example.org", "upstream "+up.Addr, zoneFile(t, nil, "www.example.org. 60 IN A 203.0.113.1"))
	changer := plugin.HandlerFunc(func(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		return a.ServeDNS(ctx, changingWriter{w}, r)
	})
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for range 200 {
				query(t, changer, "www.example.org.", dns.TypeAAAA)
				c.Advance(100 * time.Millisecond)
			}
		})
	}
	clients.Wait()
}

// A backend that is not authoritative is not queried for aliases: a resolver behind forward would have to look them up.
func TestForeignBackend(t *testing.T) {
	up := fake.New(t, good)
	var asked []uint16
	next := plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
		asked = append(asked, r.Question[0].Qtype)
		m := new(dns.Msg).SetReply(r)
		m.Ns = fake.RRs(exampleSOA)
		w.WriteMsg(m)
		return dns.RcodeSuccess, nil
	})
	a, _ := newAlias(t, ".", "txt\nupstream "+up.Addr, next)
	for _, qtype := range []uint16{dns.TypeA, dns.TypeTXT} {
		if m := query(t, a, "example.org.", qtype); m.Authoritative || len(m.Answer) > 0 || len(m.Ns) != 1 {
			t.Errorf("got %v", m)
		}
	}
	if diff := cmp.Diff([]uint16{dns.TypeA, dns.TypeTXT}, asked); diff != "" {
		t.Errorf("asked (-want +got):\n%s", diff)
	}
}

// changingWriter changes a message as loadbalance and dnssec do.
type changingWriter struct{ dns.ResponseWriter }

func (w changingWriter) WriteMsg(m *dns.Msg) error {
	m.Answer, m.Ns, m.Rcode = slices.Clone(m.Answer), append(m.Ns, new(dns.TXT)), dns.RcodeSuccess
	m.Ns = m.Ns[:len(m.Ns)-1]
	return w.ResponseWriter.WriteMsg(m)
}
