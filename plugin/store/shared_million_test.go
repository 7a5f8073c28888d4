//go:build unix

package store_test

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/store"
	fake "github.com/coredns/alias/test/redis"

	"github.com/redis/go-redis/v9"
)

// crowd is the cache of a server that has a million answers, or of one that counts what it adopts.
type crowd struct {
	records int
	adopted atomic.Int64
}

func (c *crowd) Adopt(string, string, time.Time) { c.adopted.Add(1) }

func (c *crowd) Records(yield func(key, value string, stored time.Time, keep time.Duration) bool) {
	now := time.Now()
	for i := range c.records {
		if !yield(fleetKey(i), fleetValue, now, 73*time.Hour) {
			return
		}
	}
}

// fleetKey is as long as the key of an answer for a short name.
func fleetKey(i int) string { return fmt.Sprintf("customer%08d.example. A", i) }

// fleetValue is as long as an answer with one IPv4 address.
var fleetValue = strings.Repeat("\x01", 10)

// openCrowd returns an open bucket for c.
func openCrowd(b *testing.B, addr string, c *crowd) *store.Shared {
	l, err := store.ParseLocation([]string{"redis://" + addr})
	if err != nil {
		b.Fatal(err)
	}
	s := store.NewShared(l, "dns://192.0.2.1:53", c, func(operation string, err error) {
		if err != nil {
			b.Errorf("%s: %v", operation, err)
		}
	})
	s.Open()
	return s
}

// BenchmarkFleetMillion has a server write a million answers into an empty store, and one that starts load them. It reports how
// long each takes, the processor time of the store and the octets it sends for the load, and its memory for each answer.
func BenchmarkFleetMillion(b *testing.B) {
	const million = 1_000_000
	var write, load time.Duration
	var memory, resident, busy, sent float64
	for b.Loop() {
		server := fake.Start(b)
		c := redis.NewClient(&redis.Options{Addr: server.Addr})
		before := info(b, c, "used_memory")
		began := time.Now()
		first := openCrowd(b, server.Addr, &crowd{records: million})
		wait(b, func() bool { return c.DBSize(context.Background()).Val() == million+1 }) // and the marker
		write += time.Since(began)
		memory += info(b, c, "used_memory") - before
		resident += info(b, c, "used_memory_rss")

		cold := new(crowd)
		busy -= storeTime(b, c)
		sent -= info(b, c, "total_net_output_bytes")
		began = time.Now()
		second := openCrowd(b, server.Addr, cold)
		second.Loaded(context.Background())
		load += time.Since(began)
		busy += storeTime(b, c)
		sent += info(b, c, "total_net_output_bytes")
		if n := cold.adopted.Load(); n < million {
			b.Fatalf("%d answers are loaded", n)
		}
		first.Close()
		second.Close()
		c.Close()
		server.Kill()
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(write.Seconds()/n, "write-s")
	b.ReportMetric(load.Seconds()/n, "load-s")
	b.ReportMetric(busy/n, "store-load-s")
	b.ReportMetric(sent/n/1e6, "load-MB")
	b.ReportMetric(memory/n/million, "B/answer")
	b.ReportMetric(resident/n/1e6, "rss-MB")
}

// BenchmarkFleetNews has the servers of a fleet put answers in turn, each of which the store sends to all of them. "apart" is one
// answer after the other, with the claim that comes before each; "together" all at once, so that the store and the servers have
// several to write or read at a time. It reports the processor time of the store for an answer, that of all servers together,
// which are in this process, and the octets that the store sends.
func BenchmarkFleetNews(b *testing.B) {
	for _, servers := range []int{1, 3, 10, 30, 100} {
		b.Run(fmt.Sprint("servers=", servers, "/apart"), func(b *testing.B) {
			benchmarkNews(b, servers, func(s *store.Shared, key string) {
				if mine, _ := s.Claim(b.Context(), key, time.Now(), time.Second); !mine {
					b.Error("another server has its turn")
				}
				s.Put(key, fleetValue, time.Now(), time.Hour)
				s.Flush()
			})
		})
		b.Run(fmt.Sprint("servers=", servers, "/together"), func(b *testing.B) {
			benchmarkNews(b, servers, func(s *store.Shared, key string) { s.Put(key, fleetValue, time.Now(), time.Hour) })
		})
	}
}

func benchmarkNews(b *testing.B, servers int, put func(s *store.Shared, key string)) {
	const answers = 9000 // each server puts as many
	server := fake.Start(b)
	c := redis.NewClient(&redis.Options{Addr: server.Addr})
	defer c.Close()
	fleet := make([]*crowd, servers)
	buckets := make([]*store.Shared, servers)
	for i := range fleet {
		fleet[i] = new(crowd)
		buckets[i] = openCrowd(b, server.Addr, fleet[i])
		defer buckets[i].Close()
		buckets[i].Loaded(context.Background())
	}
	var busy, fleetTime, sent, took float64
	for b.Loop() {
		busy -= storeTime(b, c)
		sent -= info(b, c, "total_net_output_bytes")
		fleetTime -= processorTime(b)
		began := time.Now()
		for i := range answers {
			put(buckets[i%servers], fleetKey(i))
		}
		for i, other := range fleet {
			buckets[i].Flush()
			wait(b, func() bool { return other.adopted.Load() >= int64(answers-answers/servers) })
			other.adopted.Store(0)
		}
		took += time.Since(began).Seconds()
		fleetTime += processorTime(b)
		sent += info(b, c, "total_net_output_bytes")
		busy += storeTime(b, c)
	}
	n := float64(b.N) * answers
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(busy*1e6/n, "store-µs/answer")
	b.ReportMetric(fleetTime*1e6/n, "fleet-µs/answer")
	b.ReportMetric(sent/n, "sent-B/answer")
	b.ReportMetric(n/took, "answers/s")
}

// wait waits until condition holds, for as long as a million answers may take.
func wait(b *testing.B, condition func() bool) {
	b.Helper()
	for end := time.Now().Add(5 * time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.Fatal("it takes more than five minutes")
		}
	}
}

// info returns a number that the store tells of itself.
func info(b *testing.B, c *redis.Client, field string) float64 {
	b.Helper()
	text, err := c.Info(context.Background(), "everything").Result()
	if err != nil {
		b.Fatal(err)
	}
	for line := range strings.Lines(text) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), field+":"); ok {
			n, err := strconv.ParseFloat(value, 64)
			if err != nil {
				b.Fatal(err)
			}
			return n
		}
	}
	b.Fatalf("the store does not tell %s", field)
	return 0
}

// storeTime returns the processor time of the store, in seconds.
func storeTime(b *testing.B, c *redis.Client) float64 {
	b.Helper()
	return info(b, c, "used_cpu_user") + info(b, c, "used_cpu_sys")
}

// processorTime returns the processor time of this process, in seconds.
func processorTime(b *testing.B) float64 {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()).Seconds()
}
