// Package backend queries the backend: the next plugins in the server block, which hold the zone's other data. It keeps
// the backend's answers for a moment, or for as long as the zone is unchanged where that is known, and finds the aliases
// that the zone has: its ALIAS records and, with Flatten, CNAME records.
//
// It must not know the aliases of the Corefile, what is looked up through upstreams, or what a client gets.
//
// A caller makes a Backend with New and sets its fields. Backend.Answer is what it needs then; Query is for the rare
// case in which an answer from a moment ago will not do.
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

	"github.com/miekg/dns"
	"golang.org/x/sync/semaphore"
)

var log = clog.NewWithPlugin("alias")

// Config is what a Backend is made of. All fields but Flatten have to be set.
type Config struct {
	Zones      records.Zones    // that the plugin applies to; each question is about a name in one of them
	Flatten    Flatten          // which CNAME records are aliases
	Timeout    time.Duration    // of one query; an Answer may take several queries
	Concurrent int              // queries in flight at most: the backend may be stuck
	Size       int              // answers kept at most
	Now        func() time.Time // the clock

	// Allowed returns those of targets that the alias of owner may have; nil allows all. owner may be a wildcard.
	Allowed func(owner string, targets []string) []string

	// Warn is called with a message for the operator each time that a fault in a zone is found, at most once a second for a
	// question. It logs the message once: the fault stays until the operator changes the zone or the Corefile.
	Warn func(format string, v ...any)
}

// Backend is the backend as a source of data. It is safe for concurrent use once its fields are set, which is before the
// first query.
type Backend struct {
	Next   plugin.Handler // the first of the next plugins, or nil when there are none
	ByName plugin.Handler // Next for queries, when that can find its zones by name, see ByName; or nil
	Signs  bool           // the dnssec plugin is in the server block
	ZoneOf ZoneFinder     // finds the zones whose changes can be seen, see ZonesOf; or nil

	cfg     Config
	answers cache
	queries *semaphore.Weighted
	server  atomic.Pointer[dnsserver.Server] // see UseServer; or nil
}

// New returns the Backend that cfg describes.
func New(cfg Config) *Backend {
	return &Backend{cfg: cfg, answers: cache{size: cfg.Size}, queries: semaphore.NewWeighted(int64(cfg.Concurrent))}
}

// ServeDNS hands a client's message on to the backend, which writes the response to w, or returns the code for one. The
// error is the backend's, or says that there is no next plugin.
func (b *Backend) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	next := b.Next
	if b.ByName != nil && r.Opcode == dns.OpcodeQuery {
		next = b.ByName
	}
	return plugin.NextOrFailure("alias", next, ctx, w, r)
}

// Response is what the backend answers to one query. The message and its records must not be changed: file and others hand
// out the very records of the zone.
type Response struct {
	Msg      *dns.Msg // nil when the backend gave no response
	Wildcard string   // the name of the wildcard that Msg was made from, or ""
	TimedOut bool     // the backend did not respond in time, or too many queries are in flight
	Unable   bool     // the backend cannot answer: its zone has expired, or has not been transferred yet
}

// insideKey marks the context of the queries that the Backend itself makes with a server.
type insideKey struct{}

// IsInside reports whether ctx is that of a query that the Backend itself made with a server, see UseServer, and that has
// come back through that. The plugin passes such a query on: what the Backend finds depends on its answer.
func IsInside(ctx context.Context) bool { return ctx.Value(insideKey{}) != nil }

// UseServer keeps the server in ctx, the context of a client's query, for Flatten: etcd and its like look up in the server
// where a CNAME record leads, and leave the record out when they cannot. All other queries are made without a server, so
// that file does not look up by itself where a CNAME record leads.
func (b *Backend) UseServer(ctx context.Context) {
	if server, ok := ctx.Value(dnsserver.Key{}).(*dnsserver.Server); ok && b.cfg.Flatten != FlattenNone {
		b.server.Store(server)
	}
}

// Query queries the backend, once, and waits for the response until the timeout. name is fully qualified; the class is IN.
// A panic of the backend is logged, and there is no response.
func (b *Backend) Query(name string, qtype uint16) Response {
	return b.query(context.Background(), name, qtype)
}

// queryThrough is Query with a server in which the backend can look up.
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
		m.SetEdns0(dns.MaxMsgSize-1, true) // with its signatures, if the zone is signed
	}
	ctx = metadata.ContextWithMetadata(ctx)
	w := nonwriter.New(lookup.Client{})
	rcode, err := b.ServeDNS(ctx, w, m)
	r.Msg, r.Unable = w.Msg, w.Msg == nil && rcode == dns.RcodeServerFailure && err == nil
	if wildcard := metadata.ValueFunc(ctx, "zone/wildcard"); wildcard != nil {
		r.Wildcard = wildcard()
	}
	return r
}
