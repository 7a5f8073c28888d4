package store

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/redis/go-redis/v9"
)

// listen adopts what other servers put, until the bucket is closed. Each time that a connection begins, news may have been
// missed, and the store may be another one: all that it has is loaded.
func (s *Shared) listen() {
	news := s.client.Subscribe(s.ctx, s.channel())
	defer news.Close()
	stop := context.AfterFunc(s.ctx, func() { news.Close() })
	defer stop()
	messages := news.ChannelWithSubscriptions(redis.WithChannelSize(10_000), redis.WithChannelHealthCheckInterval(healthInterval))
	var loads sync.WaitGroup
	defer loads.Wait()
	var loading atomic.Bool
	for m := range messages {
		switch m := m.(type) {
		case *redis.Subscription:
			if loading.CompareAndSwap(false, true) {
				loads.Go(func() {
					defer loading.Store(false)
					s.loadUntilDone()
				})
			}
		case *redis.Message:
			s.hear(m.Payload)
		}
	}
}

// hear adopts a record from the news.
func (s *Shared) hear(message string) {
	header, value, ok := strings.Cut(message, "\n")
	sender, rest, _ := strings.Cut(header, " ")
	age, key, isHeader := strings.Cut(rest, " ")
	if ok && isHeader && sender != s.sender {
		s.adopt(keyUnescapes.Replace(key), age, value)
	}
}

// loadUntilDone loads all that the store has. If that fails, it tries again.
func (s *Shared) loadUntilDone() {
	for pause := minPause; ; pause = min(2*pause, maxPause) {
		n, err := s.load()
		s.loadedOnce.Do(func() { close(s.loaded) })
		if s.ctx.Err() != nil {
			return
		}
		s.reads.note(err, time.Now())
		s.count("load", err)
		if err == nil {
			log.Infof("Answers %d, from the store %s", n, s.location)
			s.checkFilled()
			s.wake()
			return
		}
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// load has the contents adopt all records of the store, and returns how many there are.
func (s *Shared) load() (int, error) {
	var n atomic.Int64
	var err error
	if c, ok := s.client.(*redis.ClusterClient); ok {
		err = c.ForEachMaster(s.ctx, func(_ context.Context, master *redis.Client) error { return s.loadFrom(master, &n) })
	} else {
		err = s.loadFrom(s.client, &n)
	}
	return int(n.Load()), err
}

// loadFrom is load for the records of one server.
func (s *Shared) loadFrom(c redis.Cmdable, n *atomic.Int64) error {
	for cursor := uint64(0); ; {
		var err error
		if cursor, err = s.loadSome(c, cursor, n); err != nil || cursor == 0 {
			return err
		}
	}
}

// loadSome loads the records from cursor on, and returns where to go on.
func (s *Shared) loadSome(c redis.Cmdable, cursor uint64, n *atomic.Int64) (next uint64, err error) {
	ctx, cancel := context.WithTimeout(s.ctx, loadTimeout)
	defer cancel()
	keys, next, err := c.Scan(ctx, cursor, s.prefix+"{*", maxBatch).Result()
	if err != nil || len(keys) == 0 {
		return next, err
	}
	p := c.Pipeline()
	clock := p.Time(ctx)
	records := make([]*redis.StringCmd, len(keys))
	for i, key := range keys {
		records[i] = p.Get(ctx, key)
	}
	var refused redis.Error // what the store says of one of the keys
	if _, err := p.Exec(ctx); err != nil && !errors.As(err, &refused) {
		return 0, err
	}
	for i, r := range records {
		if s.adoptRecord(keys[i], r.Val(), clock.Val()) {
			n.Add(1)
		}
	}
	return next, nil
}

var keyUnescapes = strings.NewReplacer("%25", "%", "%7B", "{", "%7D", "}", "%0A", "\n")

// adoptRecord adopts the record with this name, unless it is of another version, and reports whether it did. clock is what the
// store's shows.
func (s *Shared) adoptRecord(name, record string, clock time.Time) bool {
	version, rest, _ := strings.Cut(record, " ")
	stored, value, ok := strings.Cut(rest, " ")
	ms, err := strconv.ParseInt(stored, 10, 64)
	if version != "1" || !ok || err != nil {
		return false
	}
	key := strings.TrimSuffix(strings.TrimPrefix(name, s.prefix+"{"), "}")
	return s.adopt(keyUnescapes.Replace(key), strconv.FormatInt(clock.UnixMilli()-ms, 10), value)
}
