package alias

import (
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
)

const (
	// A NOTIFY is sent so often until it is answered, and waits so long for that (RFC 1996, section 3.6).
	notifyTries   = 5
	notifyTimeout = 2 * time.Second

	// maxNotifies is how many are under way to one secondary.
	maxNotifies = 16
)

// secondaries are those of some zones, as transfer has them.
type secondaries struct {
	zones  zones
	to     []string // addresses with ports
	source net.IP   // may be nil
}

// notifier sends NOTIFY messages, to each secondary by itself: one that does not answer holds up no other. It is safe for
// concurrent use.
type notifier struct {
	secondaries []secondaries

	mu    sync.Mutex
	again map[notification]bool          // those under way, and whether they are to be sent once more
	rooms map[string]*semaphore.Weighted // by secondary

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// notification is what one secondary is told about one zone.
type notification struct{ zone, to string }

func newNotifier(ss []secondaries) *notifier {
	n := &notifier{secondaries: ss, again: make(map[notification]bool), rooms: make(map[string]*semaphore.Weighted)}
	n.ctx, n.cancel = context.WithCancel(context.Background())
	return n
}

// stop ends what is under way, and waits for it.
func (n *notifier) stop() {
	n.mu.Lock()
	n.cancel()
	n.mu.Unlock()
	n.wg.Wait()
}

// notify tells the secondaries of zone that it has changed, and does not wait for them.
func (n *notifier) notify(zone string) {
	ss := n.of(zone)
	if ss == nil {
		return
	}
	for _, to := range ss.to {
		n.tell(notification{zone, to}, ss.source)
	}
}

// of returns the secondaries of zone, those of the closest zone that encloses it, or nil.
func (n *notifier) of(zone string) *secondaries {
	var found *secondaries
	closest := ""
	for i, ss := range n.secondaries {
		if z := ss.zones.match(zone); len(z) > len(closest) {
			found, closest = &n.secondaries[i], z
		}
	}
	return found
}

// tell sends t, or sees to it that it is sent again when it is under way.
func (n *notifier) tell(t notification, source net.IP) {
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

// more reports whether t is to be sent once more. If not, it is not under way any longer.
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

// send sends t until it is answered.
func (n *notifier) send(t notification, source net.IP) {
	var err error
	for range notifyTries {
		if err = n.exchange(t, source); err == nil {
			notifiesCount.WithLabelValues(t.zone, "success").Inc()
			return
		}
		select {
		case <-time.After(notifyTimeout / 2):
		case <-n.ctx.Done():
			return
		}
	}
	notifiesCount.WithLabelValues(t.zone, "failure").Inc()
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
	defer context.AfterFunc(n.ctx, func() { conn.Close() })() // the client's reading does not follow the context
	m, _, err := client.ExchangeWithConn(new(dns.Msg).SetNotify(t.zone), conn)
	if err == nil && m.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("response code %s", dns.RcodeToString[m.Rcode])
	}
	return err
}
