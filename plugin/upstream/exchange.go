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
	"sync/atomic"
	"syscall"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/subnet"

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

	// maxAge is how long a connection of plain DNS is used at most. The port of a UDP socket is one of two numbers that somebody who
	// forges a response has to guess (RFC 5452, section 9.2), so even a busy socket does not keep it.
	maxAge = 10 * time.Second

	// maxResets is how many connections that the upstream has reset a query tries.
	maxResets = 4

	// udpSize is the EDNS buffer size of queries in octets: a response of that size is not fragmented.
	udpSize = 1232
)

// upstream is one resolver.
type upstream struct {
	proxy     *proxy.Proxy
	protocol  string
	client    *http.Client   // of DNS over HTTPS, otherwise nil
	exchanges sync.WaitGroup // in flight; their attempts may have ended, at the deadline
	edns      edns
	report    Reporter

	sendsSubnet atomic.Bool // a response had the Client Subnet option
	warn        func(format string, args ...any)
}

// newUpstream returns the upstream at a, one of those of cfg. tlsConfig is for the encrypted protocols.
func newUpstream(a Address, tlsConfig *tls.Config, cfg Config) *upstream {
	up := &upstream{
		proxy:    proxy.NewProxy("alias", a.HostPort, a.Protocol),
		protocol: a.Protocol,
		report:   cfg.Reporter(a.HostPort),
		warn:     cfg.Warn,
	}
	if a.Protocol == transport.DNS {
		up.proxy.SetMaxAge(maxAge)
	} else {
		up.proxy.SetTLSConfig(tlsConfig)
	}
	if a.Protocol == transport.HTTPS {
		up.client = &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone(), Timeout: cfg.Timeout}
		up.client.Transport.(*http.Transport).TLSClientConfig = tlsConfig
		up.proxy.SetHTTPClient(up.client)
		up.proxy.SetDOHHost(tlsConfig.ServerName)
		// Health checks have a client of their own. Each changes its configuration at its first request, so they cannot
		// share one.
		up.proxy.GetHealthchecker().SetTLSConfig(tlsConfig.Clone())
	}
	up.proxy.SetExpire(idleExpire)
	up.proxy.SetReadTimeout(cfg.Timeout)
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

// ask makes one request and returns the response, which answers exactly this question and whose code is NOERROR or
// NXDOMAIN, and how many bits of the network of q it is for. Any other result is a *lookup.Failure. When the upstream
// refuses a query with an OPT record (RFC 6891, section 6.2.2), or its response cannot be parsed, it gets one without. When
// it refuses one with the network of the client, it gets one without that (RFC 7871, section 7.2.2). ask returns at the
// deadline.
func (r asking) ask(ctx context.Context, q lookup.Question) (m *dns.Msg, scope uint8, err error) {
	opt := !r.plain && r.edns.use(time.Now())
	m, err = r.query(ctx, r.deadline, q, opt, r.first)
	switch {
	case opt && err == nil && !q.Net.IsEverybody() && (refusesEDNS(m) || m.Rcode == dns.RcodeRefused):
		code := responseCode(m)
		r.first = false
		if m, _, err = r.ask(ctx, q.For(lookup.Network{})); err == nil {
			r.warn("Upstream %s answers %s to queries with a client subnet: they are sent again without", r.proxy.Addr(), code)
		}
		return m, 0, err
	case opt && err != nil && lookup.AsFailure(err).Outcome == "malformed":
		// The OPT record of the response may be what is wrong with it, but need not be: nothing is noted.
		opt = false
		m, err = r.query(ctx, r.deadline, q, opt, false)
	case opt && err == nil && refusesEDNS(m):
		code := responseCode(m)
		opt = false
		m, err = r.query(ctx, r.deadline, q, opt, false)
		if err == nil && !refusesEDNS(m) {
			r.edns.refused(time.Now())
			r.warn("Upstream %s answers %s to queries with EDNS: it is asked without for %s at a time", r.proxy.Addr(), code, plainTime)
		}
	}
	if err == nil {
		err = check(m, q)
	}
	if err == nil {
		scope, err = r.scope(m, q.Net, opt)
	}
	return m, scope, err
}

// query sends one query, with an OPT record or without, and returns its response, whatever that says. The error is a
// *lookup.Failure. first says that the query is the first of an attempt.
func (up *upstream) query(ctx context.Context, deadline time.Time, q lookup.Question, opt, first bool) (*dns.Msg, error) {
	sent := time.Now()
	m, err := up.roundTrip(ctx, deadline, q, opt, first)
	if err == nil {
		if !opt || !refusesEDNS(m) {
			up.edns.answered(opt, time.Now())
		}
		return m, nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	f := connectFailure(err)
	if f.Outcome == lookup.Timeout {
		up.edns.timedOut(opt, sent, time.Now())
	}
	if f.Outcome != lookup.Canceled {
		up.proxy.Healthcheck()
	}
	return nil, f
}

// roundTrip exchanges one query and its response, over TCP when the response is truncated. When TCP fails, a truncated
// response is not used: it is to be ignored (RFC 2181, section 9), and a part of the addresses would replace all of them in
// the cache and at secondaries. One without TC bit, that may have been cut, is used.
func (up *upstream) roundTrip(ctx context.Context, deadline time.Time, q lookup.Question, opt, first bool) (m *dns.Msg, err error) {
	if first && up.protocol == transport.DNS { // over UDP, the timeout of the proxy is the deadline
		m, err = up.exchange(ctx, q, opt, proxy.Options{})
	} else {
		m, err = up.exchangeBy(ctx, deadline, q, opt, proxy.Options{})
	}
	if err != nil || up.protocol != transport.DNS || !m.Truncated && !isCut(m, opt) {
		return m, err
	}
	whole, err := up.exchangeBy(ctx, deadline, q, opt, proxy.Options{ForceTCP: true})
	switch {
	case err == nil:
		return whole, nil
	case m.Truncated:
		return nil, fmt.Errorf("truncated over UDP, and over TCP: %w", err)
	default:
		return m, nil
	}
}

// exchangeBy is exchange, but returns at the deadline: the reads of the proxy follow no context.
func (up *upstream) exchangeBy(ctx context.Context, deadline time.Time, q lookup.Question, opt bool, opts proxy.Options) (*dns.Msg, error) {
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
		m, err := up.exchange(ctx, q, opt, opts)
		replies <- reply{m, err}
	})
	select {
	case r := <-replies:
		return r.m, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// queries and plainQueries, those without an OPT record, have one for each exchange in flight: the proxy changes the ID.
var (
	queries      = sync.Pool{New: func() any { return newQuery().SetEdns0(udpSize, false) }}
	plainQueries = sync.Pool{New: func() any { return newQuery() }}
)

func newQuery() *dns.Msg {
	m := &dns.Msg{Question: make([]dns.Question, 1)}
	m.RecursionDesired = true
	return m
}

// exchange sends one query, with an OPT record or without, and returns its response. For a client on UDP, the proxy asks
// over UDP where it can, and allocates room for a response of that size, not for 64 KiB.
func (up *upstream) exchange(ctx context.Context, q lookup.Question, opt bool, opts proxy.Options) (*dns.Msg, error) {
	pool := &plainQueries
	if opt {
		pool = &queries
	}
	m := pool.Get().(*dns.Msg)
	defer pool.Put(m)
	if opt && !q.Net.IsEverybody() {
		sent := m.IsEdns0()
		sent.Option = []dns.EDNS0{subnet.Option(q.Net)}
		defer func() { sent.Option = nil }()
	}
	m.Question[0] = dns.Question{Name: q.Name, Qtype: q.Type, Qclass: dns.ClassINET}
	for resets := 0; ; {
		r, _, _, err := up.proxy.Connect(ctx, request.Request{W: lookup.Client{UDP: true}, Req: m}, opts)
		if errors.Is(err, proxy.ErrCachedClosed) && ctx.Err() == nil {
			continue // the upstream had closed an idle connection: try the next one, and in the end a new one
		}
		if resets < maxResets && ctx.Err() == nil && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)) {
			resets++ // or it had reset one, which looks the same when it resets a new one
			continue
		}
		return r, err
	}
}

// isCut reports whether m, which came over UDP in response to a query with an OPT record or without, may have been cut
// between two records, for lack of room: the library takes what is left for the whole message. A message with an OPT record
// has not been cut, because that record is the last.
func isCut(m *dns.Msg, opt bool) bool {
	room := dns.MinMsgSize
	if opt {
		room = udpSize
	}
	return m.IsEdns0() == nil && m.Len() >= room
}

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
	case errors.As(err, &de), strings.Contains(err.Error(), "bad rdata"), strings.Contains(err.Error(), "HTTPS.Value: "), strings.Contains(err.Error(), "OPT.Option: "):
		return lookup.Unusable("malformed", err)
	default:
		return lookup.NetworkFailure("network", err)
	}
}
