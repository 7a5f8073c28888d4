package alias

import (
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coredns/alias/plugin/upstream"

	"github.com/coredns/coredns/plugin"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const subsystem = "alias"

var (
	// answersCount counts the synthesized answers by their status.
	answersCount = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "answers_total",
		Help:      "Counter of answers synthesized for aliases.",
	}, []string{"server", "zone", "status"})
	// staleAge is how long ago the TTL of an answer ran out that was served stale.
	staleAge = promauto.NewHistogram(prometheus.HistogramOpts{
		Namespace:                   plugin.Namespace,
		Subsystem:                   subsystem,
		Name:                        "stale_age_seconds",
		Buckets:                     []float64{1, 10, 60, 300, 1800, 3600, 6 * 3600, 24 * 3600, 72 * 3600},
		NativeHistogramBucketFactor: plugin.NativeHistogramBucketFactor,
		Help:                        "Histogram of the time since the TTL of a stale answer ran out.",
	})
	// upstreamRequests counts the requests to the upstreams.
	upstreamRequests = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "upstream_requests_total",
		Help:      "Counter of requests to upstreams, by what came of them.",
	}, []string{"to", "outcome"})
	// requestDuration is the time that requests to the upstreams took.
	requestDuration = promauto.NewHistogramVec(prometheus.HistogramOpts{
		Namespace:                   plugin.Namespace,
		Subsystem:                   subsystem,
		Name:                        "upstream_request_duration_seconds",
		Buckets:                     plugin.TimeBuckets,
		NativeHistogramBucketFactor: plugin.NativeHistogramBucketFactor,
		Help:                        "Histogram of the time each request to an upstream took.",
	}, []string{"to"})
	// refreshesCount counts the background lookups: those that no client waits for.
	refreshesCount = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "refreshes_total",
		Help:      "Counter of background lookups.",
	}, []string{"outcome"})
	// addressChanges counts the lookups that found other addresses than those in the cache.
	addressChanges = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "address_changes_total",
		Help:      "Counter of changes of the addresses of targets.",
	}, []string{"zone"})
	// notifiesCount counts the NOTIFY messages to secondaries, by whether they were accepted.
	notifiesCount = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "notifies_total",
		Help:      "Counter of NOTIFY messages to secondaries.",
	}, []string{"zone", "outcome"})
	// transfersCount counts the transfers of zones whose aliases are expanded.
	transfersCount = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "transfers_total",
		Help:      "Counter of transfers of zones with their aliases expanded.",
	}, []string{"zone", "outcome"})
	// persistWrites counts the transactions that write answers to a file.
	persistWrites = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "persist_writes_total",
		Help:      "Counter of attempts to write answers to the file of persist.",
	}, []string{"outcome"})
	// cacheEntries is the number of cache entries.
	cacheEntries = promauto.NewGaugeFunc(prometheus.GaugeOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "cache_entries",
		Help:      "The number of cache entries.",
	}, func() float64 { return float64(entries.Len()) })
)

// newReporter returns what counts and times the requests to the upstream at an address.
func newReporter(to string) upstream.Reporter {
	duration := requestDuration.WithLabelValues(to)
	return func(outcome string, took time.Duration) {
		upstreamRequests.WithLabelValues(to, outcome).Inc()
		duration.Observe(took.Seconds())
	}
}

// status is what an answer is to the client.
type status uint8

const (
	hit      status = iota // fresh addresses, from the cache or from this server's own data
	miss                   // fresh addresses that had to be looked up
	stale                  // an expired answer from the cache
	nodata                 // the target has no addresses of this family
	failed                 // there is no answer
	fallback               // there is no answer, and the backend's own addresses were served
	statuses
)

func (s status) String() string {
	return [statuses]string{"hit", "miss", "stale", "nodata", "failure", "fallback"}[s]
}

// counters are those of a zone at a server, looked up once: WithLabelValues takes a lock.
type counters [statuses]prometheus.Counter

func newCounters(server, zone string) *counters {
	cs := new(counters)
	for s := range statuses {
		cs[s] = answersCount.WithLabelValues(server, zone, s.String())
	}
	return cs
}

// countersByZone has the counters by server and zone. The zero value is empty. It is safe for concurrent use. Those that are
// known are found without a lock; the others become known together, when they have been asked for as often as there are
// known ones. So 100,000 zones cost no more for each than a few do.
type countersByZone struct {
	known atomic.Pointer[map[serverZone]*counters] // the map is not changed

	mu    sync.Mutex
	more  map[serverZone]*counters // that are not known yet
	asked int                      // how often more was asked
}

// serverZone is what the counters are for.
type serverZone struct{ server, zone string }

// of returns the counters of a zone at a server.
func (c *countersByZone) of(server, zone string) *counters {
	sz := serverZone{server, zone}
	if known := c.known.Load(); known != nil {
		if cs := (*known)[sz]; cs != nil {
			return cs
		}
	}
	return c.find(sz)
}

// find returns the counters for sz, which were not known a moment ago.
func (c *countersByZone) find(sz serverZone) *counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	var known map[serverZone]*counters
	if k := c.known.Load(); k != nil {
		known = *k
	}
	cs := known[sz]
	if cs == nil {
		cs = c.more[sz]
	}
	if cs == nil {
		cs = newCounters(sz.server, sz.zone)
		if c.more == nil {
			c.more = make(map[serverZone]*counters)
		}
		c.more[sz] = cs
	}
	if c.asked++; c.asked > len(known) && len(c.more) > 0 {
		all := make(map[serverZone]*counters, len(known)+len(c.more))
		maps.Copy(all, known)
		maps.Copy(all, c.more)
		c.known.Store(&all)
		c.more, c.asked = nil, 0
	}
	return cs
}
