package store_test

import (
	"encoding/binary"
	"fmt"
	"iter"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/store"
)

// numbers are records like those of answers with one address. The value of each is the number of its generation.
type numbers struct {
	mu   sync.Mutex
	all  map[string]uint32
	want uint32 // the generation that is restored; others are counted
	bad  int
}

// numberKey is as long as a question for a short name.
func numberKey(i int) string { return fmt.Sprintf("\x00\x01customer%08d.example.", i) }

// numberValue is as long as an answer with one IPv4 address.
func numberValue(generation uint32) string {
	return string(binary.BigEndian.AppendUint32(make([]byte, 14), generation))
}

func (n *numbers) Restore(key, value string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	g := binary.BigEndian.Uint32([]byte(value)[14:])
	if g != n.want {
		n.bad++
	}
	n.all[key] = g
	return value
}

func (n *numbers) All() iter.Seq2[string, string] {
	return func(yield func(string, string) bool) {
		n.mu.Lock()
		defer n.mu.Unlock()
		for key, g := range n.all {
			if !yield(key, numberValue(g)) {
				return
			}
		}
	}
}

// BenchmarkMillion writes a million records, reads them again as a start does, and changes each of them twice, 50,000 at a
// time. It reports how long each takes, and the longest of these writes, in which the file is compacted; how large the file is, and
// how much memory the start takes beside the records.
func BenchmarkMillion(b *testing.B) {
	const million, batch = 1_000_000, 50_000
	var write, start, change, longest time.Duration
	var written, changed, memory float64
	for b.Loop() {
		path := filepath.Join(b.TempDir(), "db")
		full := &numbers{all: make(map[string]uint32), want: 1}
		for i := range million {
			full.all[numberKey(i)] = 1
		}
		began := time.Now()
		bucket := openNumbers(b, path, full)
		flush(bucket)
		write += time.Since(began)
		bucket.Close()
		written += float64(size(b, path))

		restored := &numbers{all: make(map[string]uint32, million), want: 1}
		peak := peakMemory()
		began = time.Now()
		bucket = openNumbers(b, path, restored)
		flush(bucket) // if that has taken longer than Open waits
		start += time.Since(began)
		memory += peak()
		if len(restored.all) != million || restored.bad > 0 {
			b.Fatalf("%d records of %d, and %d are not right", len(restored.all), million, restored.bad)
		}

		began = time.Now()
		for i := range 2 * million {
			bucket.Put(numberKey(i%million), numberValue(uint32(2+i/million)))
			if i%batch == batch-1 {
				before := time.Now()
				flush(bucket)
				longest = max(longest, time.Since(before))
			}
		}
		change += time.Since(began)
		bucket.Close()
		changed += float64(size(b, path))

		restored = &numbers{all: make(map[string]uint32, million), want: 3}
		bucket = openNumbers(b, path, restored)
		flush(bucket)
		bucket.Close()
		if len(restored.all) != million || restored.bad > 0 {
			b.Fatalf("%d records of %d, and %d are not changed", len(restored.all), million, restored.bad)
		}
	}
	n := float64(b.N)
	b.ReportMetric(0, "ns/op")
	b.ReportMetric(write.Seconds()/n, "write-s")
	b.ReportMetric(start.Seconds()/n, "start-s")
	b.ReportMetric(change.Seconds()/n, "change-s")
	b.ReportMetric(longest.Seconds(), "longest-s")
	b.ReportMetric(written/n/1e6, "MB")
	b.ReportMetric(changed/n/1e6, "MB-changed")
	b.ReportMetric(memory/n/1e6, "start-MB")
}

func openNumbers(b *testing.B, path string, n *numbers) *store.Bucket {
	bucket := store.New(store.Canonical(path), "dns://192.0.2.1:53", n, func(err error) {
		if err != nil {
			b.Error(err)
		}
	})
	bucket.Open()
	return bucket
}

// flush waits until all is read and written, however long that takes: Flush does not.
func flush(bucket *store.Bucket) {
	for {
		began := time.Now()
		if bucket.Flush(); time.Since(began) < 2*time.Second {
			return
		}
	}
}

// peakMemory returns a function that says how much more the heap has had at once than when it began.
func peakMemory() (peak func() float64) {
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	end, most := make(chan struct{}), make(chan uint64)
	go func() {
		var highest uint64
		for {
			var now runtime.MemStats
			runtime.ReadMemStats(&now)
			highest = max(highest, now.HeapInuse)
			select {
			case <-end:
				most <- highest
				return
			case <-time.After(5 * time.Millisecond):
			}
		}
	}()
	return func() float64 {
		close(end)
		return float64(<-most) - float64(before.HeapInuse)
	}
}
