package lookup

import (
	"errors"
	"net"

	"github.com/miekg/dns"
)

// Client is the client of the queries that the plugin itself asks, of the backend or of an upstream. CoreDNS's packages
// want one, to see how much they may send back. It takes no response: the writers around it do. The zero value seems to
// be on TCP, and takes responses of any size.
type Client struct {
	UDP bool // it seems to be on UDP
}

var (
	_ dns.ResponseWriter = Client{}

	errNoClient = errors.New("no client")
	loopback    = net.IPv4(127, 0, 0, 1)

	// They are made once: an interface made of a pointer costs no allocation.
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
