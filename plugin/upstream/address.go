package upstream

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strconv"
	"strings"

	"github.com/coredns/coredns/plugin/pkg/parse"
	"github.com/coredns/coredns/plugin/pkg/transport"
)

// MaxUpstreams is how many upstreams there may be, as in the forward plugin.
const MaxUpstreams = 15

// Address is where an upstream is, and how to ask it. It is comparable.
type Address struct {
	Protocol   string // dns (UDP, and TCP where need be), tls, https or quic
	HostPort   string // an IP address and a port
	ServerName string // of its certificate, for the encrypted protocols; "": the name in Config.TLS
}

// ParseAddresses returns the addresses that the arguments of a property stand for, in their order and each once. An
// argument is an IP address with an optional scheme, server name and port, [scheme://]address[%servername][:port], or a
// file as /etc/resolv.conf, which is read. There are 1 to MaxUpstreams. The error is for the operator, and says which
// argument is wrong and why.
func ParseAddresses(args []string) ([]Address, error) {
	var all []Address
	for _, arg := range args {
		addrs, err := parse.HostPortOrFile(arg)
		switch {
		case errors.Is(err, parse.ErrNoNameservers):
			return nil, fmt.Errorf("no name server in '%s'", arg)
		case err != nil:
			return nil, err
		}
		for _, addr := range addrs {
			a, err := parseAddress(addr)
			if err != nil {
				return nil, err
			}
			if !slices.Contains(all, a) {
				all = append(all, a)
			}
		}
	}
	switch {
	case len(all) == 0:
		return nil, fmt.Errorf("no name server in '%s'", strings.Join(args, " "))
	case len(all) > MaxUpstreams:
		return nil, fmt.Errorf("'%s' are %d upstreams, at most %d are allowed", strings.Join(args, " "), len(all), MaxUpstreams)
	}
	return all, nil
}

// parseAddress parses an address with a port, [scheme://]address[%servername]:port.
func parseAddress(to string) (Address, error) {
	protocol, hostport := parse.Transport(to)
	a := Address{Protocol: protocol, HostPort: hostport}
	host, port, err := net.SplitHostPort(hostport)
	if err != nil {
		return a, fmt.Errorf("'%s' is not an address: %v", to, err)
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return a, fmt.Errorf("'%s' has no valid port", to)
	}
	switch protocol {
	case transport.DNS:
		return a, nil // what follows % is the zone of a link-local address
	case transport.TLS, transport.QUIC, transport.HTTPS:
		host, a.ServerName, _ = strings.Cut(host, "%")
		a.HostPort = net.JoinHostPort(host, port)
		return a, nil
	default:
		return a, fmt.Errorf("'%s' has a protocol that is not supported here", to)
	}
}

// Identity returns a text that is the same for the same set of upstreams, in any order, and another for any other set:
// two server blocks with the same upstreams may share answers. serverName is the ServerName of Config.TLS.
func Identity(addrs []Address, serverName string) string {
	var names []string
	for _, a := range addrs {
		name := a.Protocol + "://" + a.HostPort
		if a.Protocol != transport.DNS {
			if a.ServerName == "" {
				a.ServerName = serverName
			}
			name += "%" + a.ServerName
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return strings.Join(names, " ")
}
