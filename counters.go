package alias

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/coredns/coredns/plugin"

	"github.com/prometheus/client_golang/prometheus"
)

// answersCount counts the answers that are synthesized, for all server blocks of the process.
var answersCount answerCounters

func init() { prometheus.MustRegister(&answersCount) }

// answersDesc describes the metric of answersCount.
var answersDesc = prometheus.NewDesc(prometheus.BuildFQName(plugin.Namespace, subsystem, "answers_total"),
	"Counter of answers synthesized for aliases.", []string{"server", "zone", "status"}, nil)

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
	pending = statuses // and none of them: there is no answer yet
)

func (s status) String() string {
	return [statuses]string{"hit", "miss", "stale", "nodata", "failure", "fallback"}[s]
}

// counters count the answers in one zone at one server, by status. A prometheus.Counter for each status would take 600 octets,
// which are half of a gigabyte for 100,000 zones.
type counters [statuses]atomic.Uint64

// serverZone is what counters are for.
type serverZone struct{ server, zone string }

// answerCounters has the counters by server and zone, and collects them for Prometheus. The zero value is empty. It is safe for
// concurrent use. Counters that are known are found without a lock; the others become known together, when they have been asked
// for as often as there are known ones. So 100,000 zones cost no more for each than a few do.
type answerCounters struct {
	known atomic.Pointer[map[serverZone]*counters] // the map is not changed

	mu    sync.Mutex
	more  map[serverZone]*counters // that are not known yet
	asked int                      // how often more was asked
}

// of returns the counters of a zone at a server.
func (c *answerCounters) of(server, zone string) *counters {
	sz := serverZone{server, zone}
	if cs := c.loadKnown()[sz]; cs != nil {
		return cs
	}
	return c.find(sz)
}

// loadKnown returns the counters that are known. The map is not to be changed.
func (c *answerCounters) loadKnown() map[serverZone]*counters {
	if known := c.known.Load(); known != nil {
		return *known
	}
	return nil
}

// find returns the counters for sz, which were not known a moment ago.
func (c *answerCounters) find(sz serverZone) *counters {
	c.mu.Lock()
	defer c.mu.Unlock()
	known := c.loadKnown()
	cs := known[sz]
	if cs == nil {
		cs = c.more[sz]
	}
	if cs == nil {
		cs = new(counters)
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

// Describe implements prometheus.Collector.
func (c *answerCounters) Describe(descs chan<- *prometheus.Desc) { descs <- answersDesc }

// Collect implements prometheus.Collector. All statuses of a zone are collected, also those that did not occur: only then does
// Prometheus see the first one as an increase.
func (c *answerCounters) Collect(metrics chan<- prometheus.Metric) {
	c.mu.Lock()
	known, more := c.loadKnown(), maps.Clone(c.more)
	c.mu.Unlock()
	for _, some := range []map[serverZone]*counters{known, more} {
		for sz, cs := range some {
			for s := range statuses {
				count := float64(cs[s].Load())
				metrics <- prometheus.MustNewConstMetric(answersDesc, prometheus.CounterValue, count, sz.server, sz.zone, s.String())
			}
		}
	}
}
