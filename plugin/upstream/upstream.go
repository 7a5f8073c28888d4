// Package upstream looks questions up through recursive resolvers: one question leads to one outcome or one classified
// failure. It makes the attempts, keeps their deadline, validates responses, and follows chains of CNAME records.
//
// It must not know what is cached, who asks, or what a failure leads to.
//
// A lookup consists of attempts, each through one upstream. An attempt consists of requests: more than one when the
// upstream does not follow a chain of CNAME records to its end.
package upstream

import (
	"context"
	"crypto/tls"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// Reporter is called after each request to one upstream, with its outcome and the time that it took, a second query over
// TCP included. The outcome is one of success, nodata, nxdomain, cname (a chain whose end has to be looked up next), or
// that of the failure. Several goroutines call a Reporter at the same time.
type Reporter func(outcome string, took time.Duration)

// Config describes Upstreams.
type Config struct {
	Addresses []Address // at least one
	// TLS is the configuration of the encrypted protocols, not nil; its ServerName is that of upstreams without one of
	// their own. It is copied.
	TLS     *tls.Config
	Timeout time.Duration // of one attempt, everything in it included
	// Reporter returns the Reporter of the upstream at to, its HostPort. New calls it once for each address.
	Reporter func(to string) Reporter
}

// Upstreams are the resolvers that questions are looked up through. It is safe for concurrent use between Start and Stop,
// each of which is called once.
type Upstreams struct {
	list    []*upstream
	timeout time.Duration
	turn    atomic.Uint32
}

// New returns the Upstreams that cfg describes. It opens no connection and starts no goroutine.
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

// Start prepares health checks and the reuse of connections. It is called before Resolve, and Stop after it.
func (us *Upstreams) Start() {
	for _, up := range us.list {
		up.start()
	}
}

// Stop closes the connections. It waits for the exchanges in flight that a deadline has left behind, which end by
// themselves within twice the timeout; it does not wait for Resolve, which must have returned. A health check in flight
// ends by itself within seconds.
func (us *Upstreams) Stop() {
	for _, up := range us.list {
		up.stop()
	}
}

// Resolve looks up q, a question for A or AAAA, in at most the given number of attempts (at least 1), each of which takes
// at most the timeout. The first that ends without failure is the last. The attempts go to the upstreams in turn; an
// upstream that fails its health checks is passed over, unless all do. The addresses of the outcome belong to the caller.
//
// The error is a *lookup.Failure, that of the last attempt. Its outcome is one of timeout, network (no response), servfail,
// refused, formerr, notimp, rcode (the code of the response), malformed, mismatch (not a response to the query), referral,
// loop (see lookup.Chain), error, or canceled. When ctx is canceled, no further attempt begins and the error has the outcome
// lookup.Canceled, unless the attempt in flight gets a response; over UDP, it is waited for until the timeout.
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

// pick returns the upstream whose turn it is, or the next that is not down. When all are down, it returns the one whose
// turn it is.
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

// label returns the outcome for the Reporter of the response m, which was read as o, done and err.
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
