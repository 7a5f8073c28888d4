package alias

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
	"sync/atomic"
	"time"

	"github.com/coredns/coredns/plugin/pkg/proxy"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
	"github.com/prometheus/client_golang/prometheus"
)

const (
	// maxFails is how many health checks in a row an upstream fails before it is passed over, and
	// healthInterval the time between two of them; both as in forward.
	maxFails       = 2
	healthInterval = 500 * time.Millisecond

	// idleExpire is how long an unused connection to an upstream is kept.
	idleExpire = 10 * time.Second

	// udpSize is the EDNS buffer size of queries: what gets through without fragments.
	udpSize = 1232
)

// upstreams are the resolvers that targets are looked up through. It is safe for concurrent use.
type upstreams struct {
	list    []*upstream
	timeout time.Duration // of one attempt
	turn    atomic.Uint32
}

// upstream is one resolver.
type upstream struct {
	proxy     *proxy.Proxy
	protocol  string
	client    *http.Client   // of DNS over HTTPS, otherwise nil
	exchanges sync.WaitGroup // those under way that nobody may wait for any more

	duration prometheus.Observer
}

// newUpstream returns the upstream at addr, an address with a port. tlsConfig is for the encrypted protocols.
func newUpstream(protocol, addr string, tlsConfig *tls.Config, timeout time.Duration) *upstream {
	up := &upstream{
		proxy:    proxy.NewProxy("alias", addr, protocol),
		protocol: protocol,
		duration: requestDuration.WithLabelValues(addr),
	}
	switch protocol {
	case transport.HTTPS:
		up.client = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone(), Timeout: timeout}
		up.proxy.SetHTTPClient(up.client)
		up.proxy.SetDOHHost(tlsConfig.ServerName)
		fallthrough
	case transport.TLS, transport.QUIC:
		up.proxy.SetTLSConfig(tlsConfig)
	}
	up.proxy.SetExpire(idleExpire)
	up.proxy.SetReadTimeout(timeout)
	return up
}

func (up *upstream) start() { up.proxy.Start(healthInterval) }

// stop closes the connections and waits for the exchanges under way, which end by themselves within twice the
// timeout.
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

// pick returns the upstream whose turn it is, or the next one that is not down; when all are down, that whose
// turn it is.
func (u *upstreams) pick(turn uint32) *upstream {
	n := uint32(len(u.list)) // #nosec G115 -- at most maxUpstreams
	for i := range n {
		if up := u.list[(turn+i)%n]; !up.proxy.Down(maxFails) {
			return up
		}
	}
	return u.list[turn%n]
}

// ask sends one query and returns the response, which answers exactly this query and whose code is NOERROR or
// NXDOMAIN. Any other end is a *failure. It returns at the deadline of the attempt, of which the query may be the first.
func (up *upstream) ask(ctx context.Context, deadline time.Time, q question, first bool) (*dns.Msg, error) {
	m, err := up.roundTrip(ctx, deadline, q, first)
	if err != nil {
		if ctx.Err() != nil {
			err = ctx.Err()
		}
		f := connectFailure(err)
		if f.outcome != canceled {
			up.proxy.Healthcheck()
		}
		return nil, f
	}
	return m, check(m, q)
}

// roundTrip exchanges one query and its response, over TCP when the response is truncated.
func (up *upstream) roundTrip(ctx context.Context, deadline time.Time, q question, first bool) (m *dns.Msg, err error) {
	if first && up.protocol == transport.DNS { // over UDP, the timeout of the proxy is all that it takes
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
func (up *upstream) exchangeBy(ctx context.Context, deadline time.Time, q question, opts proxy.Options) (*dns.Msg, error) {
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
				replies <- reply{nil, unusable("error", fmt.Errorf("panic: %v", r))}
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

// queries has one for each exchange under way: the proxy changes the ID.
var queries = sync.Pool{New: func() any {
	m := &dns.Msg{Question: make([]dns.Question, 1)}
	m.RecursionDesired = true
	return m.SetEdns0(udpSize, false)
}}

// exchange sends one query and returns its response.
func (up *upstream) exchange(ctx context.Context, q question, opts proxy.Options) (*dns.Msg, error) {
	m := queries.Get().(*dns.Msg)
	defer queries.Put(m)
	m.Question[0] = dns.Question{Name: q.name, Qtype: q.qtype, Qclass: dns.ClassINET}
	for {
		r, _, _, err := up.proxy.Connect(ctx, request.Request{W: udpWriter{}, Req: m}, opts)
		if errors.Is(err, proxy.ErrCachedClosed) && ctx.Err() == nil {
			continue // the peer had closed an idle connection: the next one, at last a new one
		}
		return r, err
	}
}

// udpWriter is the client of a query to an upstream. The proxy asks over UDP where it can when the client does, and makes room for
// a response accordingly: not 64 KiB.
type udpWriter struct{ localWriter }

var udpClient net.Addr = &net.UDPAddr{IP: loopback}

func (udpWriter) RemoteAddr() net.Addr { return udpClient }

// isCut reports whether m, which came over UDP, may have been cut for lack of room, between two records: the library
// takes what is left for whole. It has not, where there is an OPT record, for that is at the end.
func isCut(m *dns.Msg) bool { return m.IsEdns0() == nil && m.Len() >= udpSize }

// canceled is the outcome of a lookup that the shutdown cut short.
const canceled = "canceled"

// connectFailure classifies an error of the exchange.
func connectFailure(err error) *failure {
	var f *failure
	var ne net.Error
	var de *dns.Error
	switch {
	case errors.As(err, &f):
		return f
	case errors.Is(err, context.Canceled):
		return networkFailure(canceled, nil)
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &ne) && ne.Timeout():
		return networkFailure("timeout", nil)
	case errors.As(err, &de), strings.Contains(err.Error(), "bad rdata"):
		return unusable("malformed", err)
	default:
		return networkFailure("network", err)
	}
}

// check returns an error unless m is a response to q that can be used.
func check(m *dns.Msg, q question) error {
	switch {
	case !m.Response, m.Opcode != dns.OpcodeQuery:
		return unusable("mismatch", errors.New("not a response"))
	case len(m.Question) != 1, m.Question[0].Qtype != q.qtype, m.Question[0].Qclass != dns.ClassINET,
		!strings.EqualFold(m.Question[0].Name, q.name):
		return unusable("mismatch", errors.New("response to another question"))
	case m.Truncated:
		return unusable("malformed", errors.New("truncated over TCP"))
	}
	switch m.Rcode {
	case dns.RcodeSuccess, dns.RcodeNameError:
		return nil
	case dns.RcodeServerFailure:
		return unusable("servfail", nil)
	case dns.RcodeRefused:
		return unusable("refused", nil)
	case dns.RcodeFormatError:
		return unusable("formerr", nil)
	case dns.RcodeNotImplemented:
		return unusable("notimp", nil)
	default:
		return unusable("rcode", errors.New(dns.RcodeToString[m.Rcode]))
	}
}

func (up *upstream) report(outcome string, took time.Duration) {
	upstreamRequests.WithLabelValues(up.proxy.Addr(), outcome).Inc()
	up.duration.Observe(took.Seconds())
}
