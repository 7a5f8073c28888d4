package lookup

import (
	"errors"
	"net"

	"github.com/miekg/dns"
)

// Client stands for the client of queries that the plugin itself sends, to the backend or to an upstream. CoreDNS's
// packages need a dns.ResponseWriter to see how large a response may be. Client accepts no response: a writer around it
// does that. The zero value stands for a client on TCP, which accepts responses of any size.
type Client struct {
	UDP bool // the client is on UDP
}

var (
	_ dns.ResponseWriter = Client{}

	errNoClient = errors.New("no client")
	loopback    = net.IPv4(127, 0, 0, 1)

	// These are interfaces from the start, so that LocalAddr and RemoteAddr allocate nothing.
	localAddr, tcpClient, udpClient net.Addr = &net.TCPAddr{IP: loopback, Port: 53}, &net.TCPAddr{IP: loopback}, &net.UDPAddr{IP: loopback}
)

// LocalAddr implements dns.ResponseWriter.
func (Client) LocalAddr() net.Addr { return localAddr }

// RemoteAddr implements dns.ResponseWriter.
func (c Client) RemoteAddr() net.Addr {
	if c.UDP {
		return udpClient
	}
	return tcpClient
}

// WriteMsg implements dns.ResponseWriter. It always fails.
func (Client) WriteMsg(*dns.Msg) error { return errNoClient }

// Write implements dns.ResponseWriter. It always fails.
func (Client) Write([]byte) (int, error) { return 0, errNoClient }

// Close implements dns.ResponseWriter.
func (Client) Close() error { return nil }

// TsigStatus implements dns.ResponseWriter.
func (Client) TsigStatus() error { return nil }

// TsigTimersOnly implements dns.ResponseWriter.
func (Client) TsigTimersOnly(bool) {}

// Hijack implements dns.ResponseWriter.
func (Client) Hijack() {}
