package primary

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
	"golang.org/x/time/rate"
)

const (
	// A NOTIFY is sent up to notifyTries times, and each time waits notifyTimeout for the response (RFC 1996, section 3.6).
	notifyTries   = 5
	notifyTimeout = 2 * time.Second

	// maxNotifies is how many NOTIFY messages may be in flight to one secondary.
	maxNotifies = 16

	// notifiesPerSecond is how many NOTIFY messages are sent in a second, to all secondaries. After the start of a server with 100,000
	// zones, clients' queries get their part of the processor.
	notifiesPerSecond = 2000
)

// Secondaries are the secondaries of some zones, as one transfer block of the Corefile states them. Those of the closest
// zone that encloses a zone are notified of it, and no others.
type Secondaries struct {
	Zones  records.Zones
	To     []string // addresses with ports
	Source net.IP   // the source address of NOTIFY messages; nil for any
}

// notifier sends NOTIFY messages. A secondary that does not answer does not delay those to the others. It is safe for
// concurrent use.
type notifier struct {
	*Config
	groups []*group // one for each Secondaries
	pace   *rate.Limiter

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

func newNotifier(cfg *Config) *notifier {
	n := &notifier{Config: cfg, pace: rate.NewLimiter(notifiesPerSecond, maxNotifies)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	for _, s := range cfg.Secondaries {
		n.groups = append(n.groups, newGroup(s))
	}
	return n
}

// stop ends what is in flight, and waits for it. notify must not be called meanwhile.
func (n *notifier) stop() {
	n.cancel()
	n.wg.Wait()
}

// notify notifies the secondaries of zone, and does not wait for them.
func (n *notifier) notify(zone string) {
	g := n.of(zone)
	if g == nil || n.ctx.Err() != nil {
		return
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.add(zone)
	for _, r := range g.receivers {
		for len(r.zones) < maxNotifies {
			zone, ok := g.take(r)
			if !ok {
				break
			}
			n.wg.Go(func() { n.send(g, r, zone) })
		}
	}
	g.trim()
}

// waits reports whether some secondary has not been notified yet of the last change of zone.
func (n *notifier) waits(zone string) bool {
	g := n.of(zone)
	return g != nil && g.waits(zone)
}

// of returns the group of zone, or nil.
func (n *notifier) of(zone string) *group {
	var found *group
	closest := ""
	for _, g := range n.groups {
		if z := g.Zones.Match(zone); len(z) > len(closest) {
			found, closest = g, z
		}
	}
	return found
}

// send notifies r of zone, and then of the zones that come next.
func (n *notifier) send(g *group, r *receiver, zone string) {
	for more := true; more; {
		answered := n.try(g, r, zone)
		g.mu.Lock()
		r.silent = !answered
		switch again := r.zones[zone]; {
		case n.ctx.Err() != nil:
			more = false
		case again:
			r.zones[zone] = false
		default:
			delete(r.zones, zone)
			zone, more = g.take(r)
			g.trim()
		}
		g.mu.Unlock()
	}
}

// try sends a NOTIFY for zone until r accepts it, notifyTries times at most, and reports whether r has answered at all. There is
// one try when r did not answer the last one and further zones wait: each would wait for ten seconds more.
func (n *notifier) try(g *group, r *receiver, zone string) (answered bool) {
	g.mu.Lock()
	tries := notifyTries
	if r.silent && r.next < g.end() {
		tries = 1
	}
	g.mu.Unlock()
	var err error
	for i := range tries {
		if i > 0 {
			select {
			case <-time.After(notifyTimeout / 2):
			case <-n.ctx.Done():
				return answered
			}
		}
		var m *dns.Msg
		m, err = n.exchange(zone, r.to, g.Source)
		answered = answered || m != nil
		if err == nil && m.Rcode != dns.RcodeSuccess {
			err = fmt.Errorf("response code %s", dns.RcodeToString[m.Rcode])
		}
		if err == nil {
			n.Notified(zone, "success")
			return true
		}
		if n.ctx.Err() != nil {
			return answered
		}
	}
	n.Notified(zone, "failure")
	n.Limited(log.Warningf, "NOTIFY for zone %s was not accepted by %s: %v", zone, r.to, err)
	return answered
}

// exchange sends a NOTIFY and returns the response.
func (n *notifier) exchange(zone, to string, source net.IP) (*dns.Msg, error) {
	if err := n.pace.Wait(n.ctx); err != nil {
		return nil, err
	}
	client := dns.Client{Timeout: notifyTimeout}
	if source != nil {
		client.Dialer = &net.Dialer{LocalAddr: &net.UDPAddr{IP: source}}
	}
	conn, err := client.DialContext(n.ctx, to)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	defer context.AfterFunc(n.ctx, func() { conn.Close() })() // the client's reads do not follow the context
	m, _, err := client.ExchangeWithConn(new(dns.Msg).SetNotify(zone), conn)
	return m, err
}
