package alias

import (
	"time"

	"github.com/coredns/alias/plugin/upstream"

	"github.com/coredns/coredns/plugin"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
)

const subsystem = "alias"

var (
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
	// shareOperations counts what the store of share was asked to do.
	shareOperations = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "share_operations_total",
		Help:      "Counter of operations of the store of share.",
	}, []string{"operation", "outcome"})
	// failovers counts how often another target of a failover answers than before.
	failovers = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "failovers_total",
		Help:      "Counter of changes of the target that answers for a failover: over to a later target, or back.",
	}, []string{"zone", "direction"})
	// targetsDenied counts the ALIAS records, CNAME records and labels that are no aliases because their target is denied.
	targetsDenied = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "targets_denied_total",
		Help:      "Counter of aliases that were read and do not count, because their target is denied.",
	}, []string{"zone"})
	// networksCapped counts the queries that got an answer for everybody because there were too many networks.
	networksCapped = promauto.NewCounterVec(prometheus.CounterOpts{
		Namespace: plugin.Namespace,
		Subsystem: subsystem,
		Name:      "client_subnet_capped_total",
		Help:      "Counter of queries whose network was not looked up, because as many answers as may be are cached for networks.",
	}, []string{"zone"})
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
