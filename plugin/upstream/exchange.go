package upstream

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

const (
	// maxFails is how many health checks in a row an upstream fails before it is passed over, and
	// healthInterval the time between two of them; both as in the forward plugin.
	maxFails       = 2
	healthInterval = 500 * time.Millisecond

	// idleExpire is how long an unused connection to an upstream is kept.
	idleExpire = 10 * time.Second

	// udpSize is the EDNS buffer size of queries in octets: a response of that size is not fragmented.
	udpSize = 1232
)

// upstream is one resolver.
type upstream struct {
	proxy     *proxy.Proxy
	protocol  string
	client    *http.Client   // of DNS over HTTPS, otherwise nil
	exchanges sync.WaitGroup // in flight; their attempts may have ended, at the deadline
	report    Reporter
}

// newUpstream returns the upstream at a. tlsConfig is for the encrypted protocols.
func newUpstream(a Address, tlsConfig *tls.Config, timeout time.Duration, report Reporter) *upstream {
	up := &upstream{
		proxy:    proxy.NewProxy("alias", a.HostPort, a.Protocol),
		protocol: a.Protocol,
		report:   report,
	}
	if a.Protocol != transport.DNS {
		up.proxy.SetTLSConfig(tlsConfig)
	}
	if a.Protocol == transport.HTTPS {
		up.client = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone(), Timeout: timeout}
		up.client.Transport.(*http.Transport).TLSClientConfig = tlsConfig
		up.proxy.SetHTTPClient(up.client)
		up.proxy.SetDOHHost(tlsConfig.ServerName)
		// Health checks have a client of their own. Each changes its configuration at its first request, so they cannot
		// share one.
		up.proxy.GetHealthchecker().SetTLSConfig(tlsConfig.Clone())
	}
	up.proxy.SetExpire(idleExpire)
	up.proxy.SetReadTimeout(timeout)
	return up
}

func (up *upstream) start() { up.proxy.Start(healthInterval) }

// stop closes the connections and waits for the exchanges in flight.
func (up *upstream) stop() {
	up.proxy.Stop()
	up.exchanges.Wait()
	switch up.protocol {
	case transport.HTTPS:
		up.client.CloseIdleConnections()
		fallthrough
	case transport.DNS, transport.TLS:
		// The proxy leaves its connections to its finalizer, and thus to chance. The finalizer would stop
		// the transport a second time.
		runtime.SetFinalizer(up.proxy, nil)
		up.proxy.GetTransport().Stop()
	}
}

// down reports whether the upstream fails its health checks.
func (up *upstream) down() bool { return up.proxy.Down(maxFails) }

// ask sends one query and returns the response, which answers exactly this query and whose code is NOERROR or
// NXDOMAIN. Any other result is a *lookup.Failure. ask returns at the deadline of the attempt; first says that the query is
// the first of the attempt.
func (up *upstream) ask(ctx context.Context, deadline time.Time, q lookup.Question, first bool) (*dns.Msg, error) {
	m, err := up.roundTrip(ctx, deadline, q, first)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		f := connectFailure(err)
		if f.Outcome != lookup.Canceled {
			up.proxy.Healthcheck()
		}
		return nil, f
	}
	return m, check(m, q)
}

// roundTrip exchanges one query and its response, over TCP when the response is truncated.
func (up *upstream) roundTrip(ctx context.Context, deadline time.Time, q lookup.Question, first bool) (m *dns.Msg, err error) {
	if first && up.protocol == transport.DNS { // over UDP, the timeout of the proxy is the deadline
		m, err = up.exchange(ctx, q, proxy.Options{})
	} else {
		m, err = up.exchangeBy(ctx, deadline, q, proxy.Options{})
	}
	if err == nil && (m.Truncated || isCut(m)) && up.protocol == transport.DNS {
		return up.exchangeBy(ctx, deadline, q, proxy.Options{ForceTCP: true})
	}
	return m, err
}

// exchangeBy is exchange, but returns at the deadline: the reads of the proxy follow no context.
func (up *upstream) exchangeBy(ctx context.Context, deadline time.Time, q lookup.Question, opts proxy.Options) (*dns.Msg, error) {
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	type reply struct {
		m   *dns.Msg
		err error
	}
	replies := make(chan reply, 1)
	up.exchanges.Go(func() {
		defer func() {
			if r := recover(); r != nil {
				replies <- reply{nil, lookup.Unusable("error", fmt.Errorf("panic: %v", r))}
			}
		}()
		m, err := up.exchange(ctx, q, opts)
		replies <- reply{m, err}
	})
	select {
	case r := <-replies:
		return r.m, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// queries has one for each exchange in flight: the proxy changes the ID.
var queries = sync.Pool{New: func() any {
	m := &dns.Msg{Question: make([]dns.Question, 1)}
	m.RecursionDesired = true
	return m.SetEdns0(udpSize, false)
}}

// exchange sends one query and returns its response. For a client on UDP, the proxy asks over UDP where it can, and
// allocates room for a response of that size, not for 64 KiB.
func (up *upstream) exchange(ctx context.Context, q lookup.Question, opts proxy.Options) (*dns.Msg, error) {
	m := queries.Get().(*dns.Msg)
	defer queries.Put(m)
	m.Question[0] = dns.Question{Name: q.Name, Qtype: q.Type, Qclass: dns.ClassINET}
	for {
		r, _, _, err := up.proxy.Connect(ctx, request.Request{W: lookup.Client{UDP: true}, Req: m}, opts)
		if errors.Is(err, proxy.ErrCachedClosed) && ctx.Err() == nil {
			continue // the upstream had closed an idle connection: try the next one, and in the end a new one
		}
		return r, err
	}
}

// isCut reports whether m, which came over UDP, may have been cut between two records, for lack of room: the library takes
// what is left for the whole message. A message with an OPT record has not been cut, because that record is the last.
func isCut(m *dns.Msg) bool { return m.IsEdns0() == nil && m.Len() >= udpSize }

// connectFailure classifies an error of the exchange.
func connectFailure(err error) *lookup.Failure {
	var f *lookup.Failure
	var ne net.Error
	var de *dns.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.Canceled):
		return lookup.NetworkFailure(lookup.Canceled, nil)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return lookup.NetworkFailure(lookup.Timeout, nil)
	case errors.As(err, &de), strings.Contains(err.Error(), "bad rdata"):
		return lookup.Unusable("malformed", err)
	default:
		return lookup.NetworkFailure("network", err)
	}
}
