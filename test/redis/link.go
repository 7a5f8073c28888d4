package redis

import (
	"net"
	"sync/atomic"
	"testing"
	"time"
)

// Link is a proxy for a server, which stands for the network between it and one of its clients. It is safe for concurrent use, and
// ends with the test.
type Link struct {
	Addr string // host and port

	to    string
	delay time.Duration // of what is sent, in each direction
	cut   atomic.Bool
}

// NewLink returns a link to the server at addr that delays all that is sent in each direction.
func NewLink(t testing.TB, addr string, delay time.Duration) *Link {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	link := &Link{Addr: l.Addr().String(), to: addr, delay: delay}
	go link.serve(l)
	return link
}

// Cut cuts the link: connections stay open, and nothing that is sent arrives before Mend.
func (l *Link) Cut() { l.cut.Store(true) }

// Mend ends what Cut began.
func (l *Link) Mend() { l.cut.Store(false) }

func (l *Link) serve(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", l.to)
		if err != nil {
			client.Close()
			continue
		}
		go l.copy(server, client)
		go l.copy(client, server)
	}
}

// copy sends to one connection what comes from the other, and closes it in the end.
func (l *Link) copy(to, from net.Conn) {
	type part struct {
		octets []byte
		due    time.Time
	}
	parts := make(chan part, 10_000)
	go func() {
		defer to.Close()
		for p := range parts {
			time.Sleep(time.Until(p.due))
			for l.cut.Load() {
				time.Sleep(10 * time.Millisecond)
			}
			if _, err := to.Write(p.octets); err != nil {
				from.Close()
			}
		}
	}()
	defer close(parts)
	b := make([]byte, 64<<10)
	for {
		n, err := from.Read(b)
		if err != nil {
			return
		}
		parts <- part{append([]byte(nil), b[:n]...), time.Now().Add(l.delay)}
	}
}
