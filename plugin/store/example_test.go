package store_test

import (
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"sync"

	"github.com/coredns/alias/plugin/store"
)

// cache is a cache that a file keeps a copy of.
type cache struct {
	file *store.Bucket

	mu      sync.Mutex
	entries map[string]string
}

func openCache(path string) *cache {
	c := &cache{entries: make(map[string]string)}
	c.file = store.New(store.Canonical(path), "example", c, func(err error) {
		if err != nil {
			fmt.Println("not written:", err)
		}
	})
	c.file.Open()
	return c
}

func (c *cache) set(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.entries[key] = value
	c.file.Put(key, value)
}

// Restore implements store.Contents.
func (c *cache) Restore(key, value string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if newer, ok := c.entries[key]; ok {
		return newer
	}
	c.entries[key] = value
	return value
}

// All implements store.Contents.
func (c *cache) All() iter.Seq2[string, string] {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.All(maps.Clone(c.entries))
}

func Example() {
	dir, err := os.MkdirTemp("", "example")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "cache")

	c := openCache(path)
	c.set("color", "green")
	c.set("color", "blue")
	c.file.Close() // or the process is killed, a second later

	c = openCache(path)
	fmt.Println(c.entries["color"])
	c.file.Close()
	// Output: blue
}
