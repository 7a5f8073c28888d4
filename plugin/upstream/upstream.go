// Package upstream looks questions up through recursive resolvers: one question leads to one outcome or one classified
// failure. It makes the attempts, keeps their deadline, validates responses, and follows chains of CNAME records.
//
// It must not know what is cached, who asks, or what a failure leads to.
//
// A lookup consists of attempts, each through one upstream, or through several when they fail at once. An attempt consists
// of requests: more than one when the upstream does not follow a chain of CNAME records to its end. A request consists of
// queries: more than one when a response is truncated, or when the upstream does not know EDNS.
package upstream

import (
	"context"
	"crypto/tls"
	"net/netip"
	"slices"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// earlyPart is the part of the timeout in which a failure is early: the attempt goes on through the next upstream.
const earlyPart = 5

// Reporter is called after each request to one upstream, with its outcome and the time that it took, all its queries
// included. The outcome is one of success, nodata, nxdomain, cname (a chain whose end has to be looked up next), or
// that of the failure. Several goroutines call a Reporter at the same time.
type Reporter func(outcome string, took time.Duration)

// Config describes Upstreams.
type Config struct {
	Addresses []Address // at least one
	// TLS is the configuration of the encrypted protocols, not nil; its ServerName is that of upstreams without one of
	// their own. It is copied.
	TLS     *tls.Config
	Timeout time.Duration // of one attempt, everything in it included
	// Deny reports whether an address is never used: a response in which no other is left is a failure. An IPv4 address in
	// an AAAA record (::ffff:0:0/96) is passed as it is. Nil denies none. Several goroutines call it at the same time.
	Deny func(netip.Addr) bool
	// LeftOut is called when an answer to q, a question that was looked up, has an address that is denied beside others that are
	// not: with the first such address. It may be nil. Several goroutines call it at the same time.
	LeftOut func(q lookup.Question, addr netip.Addr)
	// DenyTarget reports whether a link of a chain may not lead to name; nil denies none. Several goroutines call it at the same
	// time.
	DenyTarget func(name string) bool
	// Warn logs a warning for the operator, once if it is called more often. It may be nil.
	Warn func(format string, args ...any)
	// Reporter returns the Reporter of the upstream at to, its HostPort. New calls it once for each address.
	Reporter func(to string) Reporter
}

// Upstreams are the resolvers that questions are looked up through. It is safe for concurrent use between Start and Stop,
// each of which is called once.
type Upstreams struct {
	list    []*upstream
	timeout time.Duration
	deny    func(netip.Addr) bool
	leftOut func(q lookup.Question, addr netip.Addr)
	targets func(name string) bool // see Config.DenyTarget
	turn    atomic.Uint32
}

// New returns the Upstreams that cfg describes. It opens no connection and starts no goroutine.
func New(cfg Config) *Upstreams {
	us := &Upstreams{timeout: cfg.Timeout, deny: cfg.Deny, leftOut: cfg.LeftOut, targets: cfg.DenyTarget}
	if us.deny == nil {
		us.deny = func(netip.Addr) bool { return false }
	}
	if us.leftOut == nil {
		us.leftOut = func(lookup.Question, netip.Addr) {}
	}
	if cfg.Warn == nil {
		cfg.Warn = func(string, ...any) {}
	}
	for _, a := range cfg.Addresses {
		tlsConfig := cfg.TLS.Clone()
		tlsConfig.ClientSessionCache = tls.NewLRUClientSessionCache(0)
		if a.ServerName != "" {
			tlsConfig.ServerName = a.ServerName
		}
		us.list = append(us.list, newUpstream(a, tlsConfig, cfg))
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

// Resolve looks up q, a question for A, AAAA or HTTPS, in at most the given number of attempts (at least 1), each of which
// takes at most the timeout. The first that ends without failure is the last. The attempts go to the upstreams in turn; an
// upstream that fails its health checks is passed over, unless all do. An attempt that fails before a fifth of the timeout
// has passed goes on through the next upstream, through each at most once. The data of the outcome belongs to the caller.
// When q is about a network of clients, which is not lookup.Global, its address goes to the upstreams (RFC 7871), and the
// outcome has the scope.
//
// The error is a *lookup.Failure, that of the last attempt. Its outcome is one of timeout, network (no response), servfail,
// refused, formerr, notimp, rcode (the code of the response), malformed, mismatch (not a response to the query), referral,
// loop (see lookup.Chain), denied (see Config.Deny), error, or canceled. When ctx is canceled, no further attempt begins and
// the error has the outcome lookup.Canceled, unless the attempt in flight gets a response; over UDP, it is waited for until
// the timeout.
func (us *Upstreams) Resolve(ctx context.Context, q lookup.Question, attempts int) (lookup.Outcome, error) {
	var err error
	var silent []*upstream // those that did not respond; they may drop queries with EDNS
	first := us.turn.Add(1)
	for i := range attempts {
		var o lookup.Outcome
		if o, err = us.attempt(ctx, first+uint32(i), q, &silent); err == nil { // #nosec G115 -- it wraps
			return o, nil
		}
		if ctx.Err() != nil {
			break
		}
	}
	return lookup.Outcome{}, err
}

// attempt looks q up through the upstream whose turn it is, and through the next ones as long as the failures are early.
// A chain that loops, or is too long, is so through any of them. The silent ones get queries without EDNS; attempt adds one
// that does not respond.
func (us *Upstreams) attempt(ctx context.Context, turn uint32, q lookup.Question, silent *[]*upstream) (o lookup.Outcome, err error) {
	began := time.Now()
	for i, up := range us.candidates(turn) {
		o, err = us.resolveThrough(ctx, asking{up, began.Add(us.timeout), i == 0, slices.Contains(*silent, up)}, q)
		if err != nil && lookup.AsFailure(err).Outcome == lookup.Timeout {
			*silent = append(*silent, up)
		}
		if err == nil || ctx.Err() != nil || lookup.AsFailure(err).Outcome == lookup.Loop || time.Since(began) >= us.timeout/earlyPart {
			break
		}
	}
	return o, err
}

// candidates returns the upstreams in the order in which an attempt asks them, from that whose turn it is: those that are
// not down, and all when all are down.
func (us *Upstreams) candidates(turn uint32) []*upstream {
	n := uint32(len(us.list)) // #nosec G115 -- at most MaxUpstreams
	all := slices.Concat(us.list[turn%n:], us.list[:turn%n])
	if slices.ContainsFunc(all, func(up *upstream) bool { return !up.down() }) {
		return slices.DeleteFunc(all, (*upstream).down)
	}
	return all
}

// asking is what a request of an attempt depends on.
type asking struct {
	*upstream
	deadline time.Time // of the attempt
	first    bool      // it is the first of the attempt
	plain    bool      // without EDNS, whatever is known about the upstream
}

// resolveThrough looks q up through one upstream, from the request r on. When the upstream does not follow a chain to its
// end, resolveThrough does. It returns at the deadline.
func (us *Upstreams) resolveThrough(ctx context.Context, r asking, q lookup.Question) (lookup.Outcome, error) {
	c := lookup.NewChain(q.Name)
	c.Deny = us.targets
	scope := uint8(0) // the longest on the chain
	for ; ; r.first = false {
		began := time.Now()
		m, bits, err := r.ask(ctx, lookup.Question{Name: c.End(), Type: q.Type, Net: q.Net})
		var o lookup.Outcome
		var done bool
		if err == nil {
			o, done, err = us.read(c, m, q)
		}
		scope = max(scope, bits)
		// A scope that is longer than what was sent counts as what was sent (RFC 7871, section 7.3.1).
		o.Scope, o.Exact = min(scope, uint8(q.Net.Bits())), int(scope) > q.Net.Bits() // #nosec G115 -- at most 128
		r.report(label(m, o, done, err), time.Since(began))
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
	case len(o.Data) == 0:
		return "nodata"
	default:
		return "success"
	}
}
