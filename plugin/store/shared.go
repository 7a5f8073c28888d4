package store

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

const (
	// patience is how long a call of the shared store may take that a lookup waits for.
	patience = 100 * time.Millisecond

	// writeTimeout is how long a batch of at most maxBatch records may take to be written, and loadTimeout as many to be read.
	writeTimeout = 2 * time.Second
	loadTimeout  = 5 * time.Second
	maxBatch     = 500

	// tolerance is by how much a record has to be newer than an answer to be another one: the times that servers tell are off
	// by as much as their calls take.
	tolerance = 500 * time.Millisecond

	// checkInterval is how often it is checked whether the store has lost what it had.
	checkInterval = 5 * time.Second

	// fillTime is for how long one server may write all that a store has lost, before another one does.
	fillTime = time.Minute

	// healthInterval is how often the connection for news is checked.
	healthInterval = 3 * time.Second
)

// SharedContents is the cache that a bucket of a shared store works for. The store calls the methods from goroutines of its own,
// at any time between the call of Open and the return of Close. They may call Put of the bucket, and no other method of it.
type SharedContents interface {
	// Adopt takes over a record that another server wrote, unless the cache has one that is as new. stored is when the answer
	// came, by this server's clock.
	Adopt(key, value string, stored time.Time)

	// Records calls yield, as long as that returns true, with all that the store is to have: what Put gets.
	Records(yield func(key, value string, stored time.Time, keep time.Duration) bool)
}

// item is what Put gets.
type item struct {
	key, value string
	stored     time.Time
	keep       time.Duration
}

// Shared is the part that one cache has in a store that several servers share. What one of them puts, the others adopt a moment
// later. Its methods are safe for concurrent use. No method waits for a store that does not answer for longer than it says;
// after a failure the store is left alone for up to 10 seconds, and the methods return at once. Failures are logged, and
// counted by the function that NewShared got.
//
// The keys of records are PREFIX:1:NAME:{KEY}, those of claims PREFIX:1:NAME:claim:{KEY}, and the channel of news is
// PREFIX:1:NAME:news, with the first 16 digits of the SHA-256 sum of the bucket's name for NAME, and %7B, %7D, %25 and %0A for
// braces, percent signs and new lines in KEY. PREFIX:1:NAME:filled is there as long as the store has not lost what it had.
type Shared struct {
	location Location
	contents SharedContents
	count    func(operation string, err error)
	client   redis.UniversalClient
	prefix   string // of the keys of this bucket
	sender   string // this bucket, among all of all servers
	reads    gate
	writes   gate

	loaded     chan struct{} // closed after the first attempt to load
	loadedOnce sync.Once

	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
	urgent chan chan struct{} // somebody waits until all is written

	mu      sync.Mutex
	pending map[string]item
	behind  atomic.Bool   // the store has to get all records: it has lost them, or too many were pending
	changed chan struct{} // there is something to write
}

// NewShared returns the bucket of that name in the store at l. It does not connect before Open. count is called with the result
// of each operation that reaches the store: get, claim, put and load.
func NewShared(l Location, name string, contents SharedContents, count func(operation string, err error)) *Shared {
	sum := sha256.Sum256([]byte(name))
	s := &Shared{
		location: l, contents: contents, count: count,
		prefix: l.Prefix + ":1:" + hex.EncodeToString(sum[:8]) + ":",
		sender: rand.Text(),
		reads:  gate{what: "read from", at: l.String()}, writes: gate{what: "written to", at: l.String()},
		urgent: make(chan chan struct{}), loaded: make(chan struct{}), pending: make(map[string]item), changed: make(chan struct{}, 1),
	}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	var err error
	if s.client, err = l.client(); err != nil {
		panic(err) // ParseLocation has made one
	}
	return s
}

// Open begins to load what the store has, to listen to news, and to write. It returns at once.
func (s *Shared) Open() {
	s.wg.Go(s.listen)
	s.wg.Go(s.write)
}

// Loaded waits until the contents have what the store has, or that has failed once, or ctx ends.
func (s *Shared) Loaded(ctx context.Context) {
	select {
	case <-s.loaded:
	case <-ctx.Done():
	}
}

// Put has a record written, of what came at stored, unless the store has a newer one, and the other servers told. The store keeps
// it for so long after that. Key and value are strings of any octets; the value is not empty. Put does not wait for the store.
// When too many records wait to be written, all of the contents are written later instead.
func (s *Shared) Put(key, value string, stored time.Time, keep time.Duration) {
	s.mu.Lock()
	s.pending[key] = item{key, value, stored, keep}
	if len(s.pending) > maxPending {
		clear(s.pending)
		s.behind.Store(true)
	}
	s.mu.Unlock()
	s.wake()
}

func (s *Shared) wake() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// Flush waits until what was put is written, but for 2 seconds at most, and not for a store that fails.
func (s *Shared) Flush() {
	if !s.writes.isFailing() {
		request(s.urgent, writeTimeout)
	}
}

// Close flushes and gives the bucket up.
func (s *Shared) Close() {
	s.Flush()
	s.cancel()
	s.client.Close()
	s.wg.Wait()
}

var keyEscapes = strings.NewReplacer("%", "%25", "{", "%7B", "}", "%7D", "\n", "%0A")

// keys returns the names of the record and of the claim of key.
func (s *Shared) keys(key string) []string {
	key = "{" + keyEscapes.Replace(key) + "}"
	return []string{s.prefix + key, s.prefix + "claim:" + key}
}

func (s *Shared) channel() string { return s.prefix + "news" }

func (s *Shared) marker() string { return s.prefix + "filled" }

// Get has the contents adopt the record of key, if the store has one, and reports whether it has. It returns when ctx ends, or
// after 100 milliseconds.
func (s *Shared) Get(ctx context.Context, key string) bool {
	if !s.reads.isOpen(time.Now()) {
		return false
	}
	reply, err := s.call(ctx, "get", &s.reads, getScript, s.keys(key)[:1])
	if err != nil || len(reply) != 2 {
		return false
	}
	return s.adopt(key, reply[0], reply[1])
}

// Claim asks the store whose turn it is to look key up, for a cache whose answer came at stored. It is not this server's if the
// store has a newer record, which the contents adopt then, or if another server has claimed key: then wait is for how long. If
// it is this server's, the others leave key alone until it has put a record, but not for longer than hold. If the store
// does not answer in 100 milliseconds, it is this server's turn.
func (s *Shared) Claim(ctx context.Context, key string, stored time.Time, hold time.Duration) (mine bool, wait time.Duration) {
	if !s.writes.isOpen(time.Now()) {
		return true, 0
	}
	reply, err := s.call(ctx, "claim", &s.writes, claimScript, s.keys(key), milliseconds(time.Since(stored)),
		milliseconds(tolerance), milliseconds(hold), s.sender)
	switch {
	case err != nil || len(reply) == 0:
		return true, 0
	case len(reply) == 2:
		return !s.adopt(key, reply[0], reply[1]), 0
	}
	left, _ := reply[0].(int64)
	return left <= 0, time.Duration(left) * time.Millisecond
}

// call runs a script, and notes and counts how that ended.
func (s *Shared) call(ctx context.Context, operation string, g *gate, script *redis.Script, keys []string, args ...any) ([]any, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	reply, err := script.Run(ctx, s.client, keys, args...).Slice()
	if s.ctx.Err() == nil && !errors.Is(err, context.Canceled) {
		g.note(err, time.Now())
		s.count(operation, err)
	}
	return reply, err
}

// adopt has the contents adopt a record that is as old as age says, in milliseconds. It reports whether it is one.
func (s *Shared) adopt(key string, age, value any) bool {
	text, isText := age.(string)
	v, isValue := value.(string)
	ms, err := strconv.ParseInt(text, 10, 64)
	if !isText || !isValue || v == "" || err != nil {
		return false
	}
	s.contents.Adopt(key, v, time.Now().Add(-time.Duration(max(ms, 0))*time.Millisecond))
	return true
}

// milliseconds returns d for an argument of a script.
func milliseconds(d time.Duration) string { return strconv.FormatInt(max(d.Milliseconds(), 0), 10) }
