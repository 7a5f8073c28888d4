// Package backend is the next plugins in the server block as a source of data: it queries them, keeps what they answer
// for a moment, knows when their zone is unchanged, and finds the aliases that their zones have.
//
// It must not know the aliases of the Corefile, what is looked up through upstreams, or what a client gets.
package backend

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/metadata"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"

	"github.com/maypok86/otter/v2"
	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
)

var log = clog.NewWithPlugin("alias")

// Config is what a Backend is made of.
type Config struct {
	Zones      records.Zones
	Flatten    Flatten
	Timeout    time.Duration // of one query
	Concurrent int           // queries in flight at most: the backend may be stuck
	Size       int           // answers kept at most
	Now        func() time.Time
	Warn       func(format string, v ...any) // logs what stays wrong until somebody changes it, once
}

// Backend is the next plugins as a source. It is safe for concurrent use once its fields are set.
type Backend struct {
	Next   plugin.Handler // the first of the next plugins; may be nil. Set it before the first query.
	Signs  bool           // the dnssec plugin is in the server block. Set it before the first query.
	ZoneOf ZoneFinder     // may be nil. Set it before the first query.

	cfg     Config
	answers *otter.Cache[lookup.Question, *slot]
	queries *semaphore.Weighted
	server  atomic.Pointer[dnsserver.Server] // set when there is something to flatten
}

// New returns the Backend that cfg describes.
func New(cfg Config) *Backend {
	return &Backend{
		cfg:     cfg,
		answers: otter.Must(&otter.Options[lookup.Question, *slot]{MaximumSize: cfg.Size}),
		queries: semaphore.NewWeighted(int64(cfg.Concurrent)),
	}
}

// Response is what the backend answers to one query. Its message belongs to the backend and must not be changed.
type Response struct {
	Msg      *dns.Msg // nil when the backend gave no response
	Wildcard string   // the name of the wildcard that Msg was made from, or ""
	TimedOut bool     // the backend did not respond in time
	Unable   bool     // the backend cannot answer: its zone has expired, or has not been transferred yet
}

// insideKey marks the context of the queries that the Backend itself asks through the server.
type insideKey struct{}

// IsInside reports whether ctx is that of a query that the Backend asked through the server: its answer may not depend
// on what the Backend finds.
func IsInside(ctx context.Context) bool { return ctx.Value(insideKey{}) != nil }

// UseServer says that server asks the plugin. With Flatten the backend may need a server to look up in. Without the
// server in the context, file does not look up by itself where a CNAME record leads.
func (b *Backend) UseServer(ctx context.Context) {
	if server, ok := ctx.Value(dnsserver.Key{}).(*dnsserver.Server); ok && b.cfg.Flatten != FlattenNone {
		b.server.Store(server)
	}
}

// Query queries the backend, and waits for the response until the timeout.
func (b *Backend) Query(name string, qtype uint16) Response {
	return b.query(context.Background(), name, qtype)
}

// queryThrough is Query with a server that the backend can look up in.
func (b *Backend) queryThrough(server *dnsserver.Server, q lookup.Question) Response {
	ctx := context.WithValue(context.Background(), dnsserver.Key{}, server)
	return b.query(context.WithValue(ctx, insideKey{}, true), q.Name, q.Type)
}

func (b *Backend) query(ctx context.Context, name string, qtype uint16) Response {
	if b.Next == nil {
		return Response{}
	}
	if !b.queries.TryAcquire(1) { // the backend is stuck
		return Response{TimedOut: true}
	}
	ctx, cancel := context.WithTimeout(ctx, b.cfg.Timeout)
	responses := make(chan Response, 1)
	go func() {
		defer b.queries.Release(1)
		defer cancel()
		responses <- b.exchange(ctx, name, qtype)
	}()
	<-ctx.Done()
	if ctx.Err() == context.DeadlineExceeded {
		return Response{TimedOut: true}
	}
	return <-responses
}

// exchange queries the backend.
func (b *Backend) exchange(ctx context.Context, name string, qtype uint16) (r Response) {
	defer func() {
		if panicked := recover(); panicked != nil {
			log.Errorf("Recovered from panic in the backend: %v", panicked)
			r = Response{}
		}
	}()
	m := &dns.Msg{ // without an ID, which costs a system call
		MsgHdr:   dns.MsgHdr{RecursionDesired: true},
		Question: []dns.Question{{Name: name, Qtype: qtype, Qclass: dns.ClassINET}},
	}
	if qtype == rdata.TypeALIAS {
		m.SetEdns0(dns.MaxMsgSize-1, true) // is it signed?
	}
	ctx = metadata.ContextWithMetadata(ctx)
	w := nonwriter.New(lookup.Client{})
	rcode, err := plugin.NextOrFailure("alias", b.Next, ctx, w, m)
	r.Msg, r.Unable = w.Msg, w.Msg == nil && rcode == dns.RcodeServerFailure && err == nil
	if wildcard := metadata.ValueFunc(ctx, "zone/wildcard"); wildcard != nil {
		r.Wildcard = wildcard()
	}
	return r
}
