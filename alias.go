// Package alias implements a plugin that gives a name what a CNAME record cannot give a zone apex: it answers A and
// AAAA queries for the name with the addresses of another name, looked up through a resolver and cached.
package alias

import (
	"context"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/denial"
	"github.com/coredns/alias/plugin/filter"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/records"
	"github.com/coredns/alias/plugin/upstream"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/dnssec"
	"github.com/coredns/coredns/plugin/metadata"
	"github.com/coredns/coredns/plugin/metrics"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/plugin/transfer"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

var log = clog.NewWithPlugin("alias")

// Alias is the plugin of one server block. It is safe for concurrent use once it is started.
type Alias struct {
	zones     records.Zones
	records   *records.Records // the aliases of the Corefile
	backend   *backend.Backend // the next plugins, which hold the zones' other data and may have aliases too
	upstreams *upstream.Share
	cache     *cache
	share     *answers.Share   // the part of the server block in the cache's entries
	primary   *primary.Primary // nil without transfer in the server block

	options
	lifecycle
	warnings onceLog // about what stays wrong until somebody changes it
	denials  onceLog // about targets that are denied: whoever edits a zone could make any number of them
	labels   onceLog // about labels, which clients may influence
}

// options are what the server block says about answers.
type options struct {
	staleTTL   uint32          // TTL of stale answers, in seconds
	onFailure  int             // the response code when there is no answer: NOERROR or SERVFAIL
	targetFrom string          // the metadata label that has the target for a query, or ""
	text       bool            // TXT responses name the target
	subnets    subnets         // see client_subnet
	https      httpsMode       // whether HTTPS queries are answered, and how
	signer     *dnssec.Dnssec  // that signs the responses; nil without dnssec in the server block
	targets    filter.Targets  // that are denied
	wireForm   bool            // no plugin has to see the responses as messages, see canWriteWire
	bypass     func() []string // see CacheBypassZones
}

var (
	_ plugin.Handler      = (*Alias)(nil)
	_ transfer.Transferer = (*Alias)(nil)
)

// Name implements plugin.Handler.
func (a *Alias) Name() string { return "alias" }

// CacheBypassZones returns the zones whose answers the cache plugin is to let through: secondaries that ask for the serial
// number of a zone would get an old one. These are the zones that may be transferred.
func (a *Alias) CacheBypassZones() []string {
	if a.bypass == nil {
		return nil
	}
	return a.bypass()
}

// Transfer implements transfer.Transferer: see primary.Primary.Transfer.
func (a *Alias) Transfer(zone string, serial uint32) (<-chan []dns.RR, error) {
	if a.primary == nil {
		return nil, transfer.ErrNotAuthoritative
	}
	return a.primary.Transfer(zone, serial)
}

// incoming is a client's question, with what its answer depends on.
type incoming struct {
	lookup.Question
	target string         // what target_from says, or ""
	record records.Record // the record that the name has
	exists bool           // the name exists because of a record or of a label
}

// ServeDNS implements plugin.Handler.
func (a *Alias) ServeDNS(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) (int, error) {
	var q incoming
	class := q.read(r)
	if r.Opcode != dns.OpcodeQuery || class != dns.ClassINET {
		return a.backend.ServeDNS(ctx, w, r)
	}
	if a.signer != nil && a.https != httpsOff {
		w = denial.Writer(ctx, w, r, a.signer)
	}
	q.record, q.exists = a.records.Find(q.Name)
	if a.targetFrom != "" {
		q.target = a.labelled(ctx, q.Name)
		q.exists = q.exists || q.target != ""
	}
	switch {
	case a.text && q.Type == dns.TypeTXT && a.zones.Match(q.Name) != "":
		return a.passText(ctx, w, r, &q)
	case !a.follows(q.Type):
		return a.pass(ctx, w, r, &q)
	}
	if al := a.find(&q, false); al != nil {
		return a.serve(ctx, w, r, &q, al)
	}
	return a.passFollowed(ctx, w, r, &q)
}

// read sets the question to that of r, and returns its class.
func (q *incoming) read(r *dns.Msg) (class uint16) {
	state := request.Request{Req: r}
	q.Name, q.Type = state.Name(), state.QType()
	return state.QClass()
}

// find returns the alias that q is answered with, or nil when there is none. Unless query is set, it is nil too when the
// backend is to get the client's own query, because its zone had no alias a moment ago.
func (a *Alias) find(q *incoming, query bool) *records.Alias {
	if q.record.Alias != nil && a.applies(q.record, q.Question) {
		return q.record.Alias
	}
	if q.target != "" && !(q.Type == dns.TypeHTTPS && a.hasOwnHTTPS(q.Question)) {
		return a.zones.NewAlias(q.Name, "", lookup.NoLimit, q.target)
	}
	return a.backend.Alias(q.Question, query)
}

// applies reports whether q is answered with r, which its name has: a wildcard gives way where the backend has the name
// itself, and any record to HTTPS records of the backend.
func (a *Alias) applies(r records.Record, q lookup.Question) bool {
	if q.Type == dns.TypeHTTPS && a.hasOwnHTTPS(q) {
		return false
	}
	if !r.Wildcard {
		return true
	}
	has := a.backend.Answer(q)
	return !has.TimedOut && !has.Unable && !has.Exists(r.Zone.Name)
}

// labelled returns the target that the label of target_from gives for name, or "" when there is none, or it is denied.
func (a *Alias) labelled(ctx context.Context, name string) string {
	value := metadata.ValueFunc(ctx, a.targetFrom)
	if value == nil || a.zones.Match(name) == "" {
		return ""
	}
	text := value()
	if text == "" {
		return ""
	}
	target, err := records.ParseTarget(text)
	if err != nil {
		a.labels.warnOnce("Label %s: %.100q is not the name of a target", a.targetFrom, text)
		return ""
	}
	if len(a.allowedIn(&a.labels, name, []string{target})) == 0 {
		return ""
	}
	return target
}

// serve writes the answer to q from al as the response to r.
func (a *Alias) serve(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, q *incoming, al *records.Alias) (int, error) {
	var ans answer
	if a.subnets.on && !a.subnets.setClient(&ans, r) {
		return dns.RcodeFormatError, nil
	}
	a.resolve(&ans, q.Question, al)
	ans.setScope()
	server := a.count(ctx, &ans)
	if r.IsEdns0() != nil {
		ans.EDE = ans.extendedError()
	}
	if a.wireForm && isPlain(server) && !isNested(ctx) && ans.Write(w, r) {
		return dns.RcodeSuccess, nil
	}
	w.WriteMsg(ans.Message(r))
	return dns.RcodeSuccess, nil
}

// count sets the metrics and the metadata for ans, and returns the address of the server that it is counted for.
func (a *Alias) count(ctx context.Context, ans *answer) (server string) {
	server = metrics.WithServer(ctx)
	answersCount.of(server, ans.alias.Zone.Name)[ans.status].Add(1)
	if ans.status == stale {
		staleAge.Observe(ans.age.Seconds())
	}
	if metadata.ValueFuncs(ctx) != nil {
		target, status := ans.target, ans.status
		metadata.SetValueFunc(ctx, "alias/target", func() string { return target })
		metadata.SetValueFunc(ctx, "alias/status", func() string { return status.String() })
	}
	return server
}
