package primary

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
)

const (
	// A NOTIFY is sent up to notifyTries times, and each time waits notifyTimeout for the response (RFC 1996, section 3.6).
	notifyTries   = 5
	notifyTimeout = 2 * time.Second

	// maxNotifies is how many NOTIFY messages may be in flight to one secondary.
	maxNotifies = 16
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
	secondaries []Secondaries
	notified    func(zone, outcome string)

	mu    sync.Mutex
	again map[notification]bool          // those in flight: whether to send them once more
	rooms map[string]*semaphore.Weighted // by secondary: how many more may be in flight

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// notification is the NOTIFY of one zone to one secondary.
type notification struct{ zone, to string }

func newNotifier(ss []Secondaries, notified func(zone, outcome string)) *notifier {
	n := &notifier{secondaries: ss, notified: notified, again: make(map[notification]bool), rooms: make(map[string]*semaphore.Weighted)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// stop ends what is in flight, and waits for it.
func (n *notifier) stop() {
	n.mu.Lock()
	n.cancel()
	n.mu.Unlock()
	n.wg.Wait()
}

// notify notifies the secondaries of zone, and does not wait for them.
func (n *notifier) notify(zone string) {
	ss := n.of(zone)
	if ss == nil {
		return
	}
	for _, to := range ss.To {
		n.queue(notification{zone, to}, ss.Source)
	}
}

// of returns the secondaries of zone, or nil.
func (n *notifier) of(zone string) *Secondaries {
	var found *Secondaries
	closest := ""
	for i, ss := range n.secondaries {
		if z := ss.Zones.Match(zone); len(z) > len(closest) {
			found, closest = &n.secondaries[i], z
		}
	}
	return found
}

// queue starts to send t. If it is in flight, it is sent once more after that, however often queue is called meanwhile.
func (n *notifier) queue(t notification, source net.IP) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ctx.Err() != nil {
		return
	}
	if _, ok := n.again[t]; ok {
		n.again[t] = true
		return
	}
	room := n.rooms[t.to]
	if room == nil {
		room = semaphore.NewWeighted(maxNotifies)
		n.rooms[t.to] = room
	}
	n.again[t] = false
	n.wg.Go(func() {
		for more := true; more; more = n.more(t) {
			if room.Acquire(n.ctx, 1) != nil {
				return
			}
			n.send(t, source)
			room.Release(1)
		}
	})
}

// more reports whether t has to be sent once more. If not, it is no longer in flight.
func (n *notifier) more(t notification) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.again[t] && n.ctx.Err() == nil {
		n.again[t] = false
		return true
	}
	delete(n.again, t)
	return false
}

// send sends t until the secondary answers, notifyTries times at most.
func (n *notifier) send(t notification, source net.IP) {
	var err error
	for range notifyTries {
		if err = n.exchange(t, source); err == nil {
			n.notified(t.zone, "success")
			return
		}
		select {
		case <-time.After(notifyTimeout / 2):
		case <-n.ctx.Done():
			return
		}
	}
	n.notified(t.zone, "failure")
	log.Warningf("NOTIFY for zone %s was not accepted by %s: %v", t.zone, t.to, err)
}

func (n *notifier) exchange(t notification, source net.IP) error {
	client := dns.Client{Timeout: notifyTimeout}
	if source != nil {
		client.Dialer = &net.Dialer{LocalAddr: &net.UDPAddr{IP: source}}
	}
	conn, err := client.DialContext(n.ctx, t.to)
	if err != nil {
		return err
	}
	defer conn.Close()
	defer context.AfterFunc(n.ctx, func() { conn.Close() })() // the client's reads do not follow the context
	m, _, err := client.ExchangeWithConn(new(dns.Msg).SetNotify(t.zone), conn)
	if err == nil && m.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("response code %s", dns.RcodeToString[m.Rcode])
	}
	return err
}
