package backend

import (
	"maps"
	"sync"
	"sync/atomic"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/maypok86/otter/v2"
)

// cache has the cache entries by their questions, at most size. The zero value with a size is empty. It is safe for concurrent
// use.
//
// An empty cache of otter takes 5 kB, and a server may have thousands of server blocks with a few names each. So the first
// entries are in a map, which is copied for each new one.
type cache struct {
	size int

	few    atomic.Pointer[map[lookup.Question]*cached] // nil when there are none, or there is many; the map is not changed
	many   atomic.Pointer[otter.Cache[lookup.Question, *cached]]
	adding sync.Mutex // held while few or many is set
}

// maxFew is how many entries there are before many is made.
const maxFew = 16

// cached is the cache entry of a question.
type cached struct {
	answer   atomic.Pointer[Answer] // the last one, or nil
	querying sync.Mutex             // held by the caller who queries the backend
}

// find returns the cache entry of q, or nil. It may miss one when many is made at this moment.
func (c *cache) find(q lookup.Question) *cached {
	if many := c.many.Load(); many != nil {
		e, _ := many.GetIfPresent(q)
		return e
	}
	if few := c.few.Load(); few != nil {
		return (*few)[q]
	}
	return nil
}

// entry returns the cache entry of q, which is added if need be.
func (c *cache) entry(q lookup.Question) *cached {
	if e := c.find(q); e != nil {
		return e
	}
	if e := c.addToFew(q); e != nil {
		return e
	}
	e, _ := c.many.Load().SetIfAbsent(q, new(cached))
	return e
}

// addToFew returns the cache entry of q in few, which is added if need be. When few has no room, it makes many, and returns nil.
func (c *cache) addToFew(q lookup.Question) *cached {
	c.adding.Lock()
	defer c.adding.Unlock()
	if c.many.Load() != nil {
		return nil
	}
	few := make(map[lookup.Question]*cached)
	if before := c.few.Load(); before != nil {
		few = maps.Clone(*before)
	}
	if e := few[q]; e != nil {
		return e
	}
	if len(few) < min(c.size, maxFew) {
		e := new(cached)
		few[q] = e
		c.few.Store(&few)
		return e
	}
	many := otter.Must(&otter.Options[lookup.Question, *cached]{MaximumSize: c.size})
	for q, e := range few {
		many.Set(q, e)
	}
	c.many.Store(many)
	c.few.Store(nil)
	return nil
}

// len returns the number of entries, after the evictions that are due.
func (c *cache) len() int {
	if many := c.many.Load(); many != nil {
		many.CleanUp()
		return many.EstimatedSize()
	}
	if few := c.few.Load(); few != nil {
		return len(*few)
	}
	return 0
}
