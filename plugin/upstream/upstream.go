// Package upstream looks questions up through recursive resolvers: one question to one outcome or one classified
// failure. It makes the attempts, keeps their deadline, validates responses, and follows chains of CNAME records.
//
// It must not know what is cached, who asks, or what a failure leads to.
package upstream

import (
	"context"
	"crypto/tls"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// Reporter is told how each request to one upstream ended, by an outcome of a closed set, and how long it took. It is
// called by many goroutines.
type Reporter func(outcome string, took time.Duration)

// Config is what Upstreams are made of.
type Config struct {
	Addresses []Address
	// TLS is the configuration of encrypted protocols; its ServerName is that of upstreams without one of their own. It
	// is not changed.
	TLS     *tls.Config
	Timeout time.Duration // of one attempt
	// Reporter returns the Reporter of the upstream at an address with a port.
	Reporter func(to string) Reporter
}

// Upstreams are the resolvers that targets are looked up through. It is safe for concurrent use between Start and Stop.
type Upstreams struct {
	list    []*upstream
	timeout time.Duration
	turn    atomic.Uint32
}

// New returns the Upstreams that cfg describes. They open no connection before Start.
func New(cfg Config) *Upstreams {
	us := &Upstreams{timeout: cfg.Timeout}
	for _, a := range cfg.Addresses {
		tlsConfig := cfg.TLS.Clone()
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		if a.ServerName != "" {
			tlsConfig.ServerName = a.ServerName
		}
		us.list = append(us.list, newUpstream(a, tlsConfig, cfg.Timeout, cfg.Reporter(a.HostPort)))
	}
	return us
}

// Start starts the health checks. Resolve needs it.
func (us *Upstreams) Start() {
	for _, up := range us.list {
		up.start()
	}
}

// Stop closes the connections, and waits for the exchanges in flight, which end by themselves within twice the timeout.
func (us *Upstreams) Stop() {
	for _, up := range us.list {
		up.stop()
	}
}

// Resolve looks q up, in at most the given number of attempts, each of which takes at most the timeout. The attempts go
// to the upstreams in turn; one that fails its health checks is passed over. The error is a *lookup.Failure: that of the
// last attempt, or with the outcome lookup.Canceled when ctx ended.
func (us *Upstreams) Resolve(ctx context.Context, q lookup.Question, attempts int) (lookup.Outcome, error) {
	var err error
	first := us.turn.Add(1)
	for i := range attempts {
		var o lookup.Outcome
		if o, err = us.attempt(ctx, us.pick(first+uint32(i)), q); err == nil { // #nosec G115 -- it wraps
			return o, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return lookup.Outcome{}, err
}

// pick returns the upstream whose turn it is, or the next one that is not down; when all are down, the one whose turn it
// is.
func (us *Upstreams) pick(turn uint32) *upstream {
	n := uint32(len(us.list)) // #nosec G115 -- at most MaxUpstreams
	for i := range n {
		if up := us.list[(turn+i)%n]; !up.down() {
			return up
		}
	}
	return us.list[turn%n]
}

// attempt looks q up through one upstream. When the upstream does not follow a chain to its end, the attempt does.
func (us *Upstreams) attempt(ctx context.Context, up *upstream, q lookup.Question) (lookup.Outcome, error) {
	deadline := time.Now().Add(us.timeout)
	c := lookup.NewChain(q.Name)
	for {
		began := time.Now()
		m, err := up.ask(ctx, deadline, lookup.Question{Name: c.End(), Type: q.Type}, c.Links() == 0)
		var o lookup.Outcome
		var done bool
		if err == nil {
			o, done, err = read(c, m, q.Type)
		}
		up.report(label(m, o, done, err), time.Since(began))
		if err != nil || done {
			return o, err
		}
	}
}

// label returns what the metrics call the response m, which was read as o, done and err.
func label(m *dns.Msg, o lookup.Outcome, done bool, err error) string {
	switch {
	case err != nil:
		return lookup.AsFailure(err).Outcome
	case !done:
		return "cname"
	case m.Rcode == dns.RcodeNameError:
		return "nxdomain"
	case len(o.Addrs) == 0:
		return "nodata"
	default:
		return "success"
	}
}
