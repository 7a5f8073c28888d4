package store

import (
	"context"
	"errors"
	"time"

	"github.com/redis/go-redis/v9"
)

var errShut = errors.New("the store fails") // of a call that is not made

// write writes what is put, in batches, until the bucket is closed. After a failure it tries again.
func (s *Shared) write() {
	check := time.NewTicker(checkInterval)
	defer check.Stop()
	retry := time.NewTimer(minPause)
	defer retry.Stop()
	for {
		var waiting chan struct{}
		select {
		case <-s.ctx.Done():
			return
		case waiting = <-s.urgent:
		case <-s.changed:
		case <-retry.C:
		case <-check.C:
			s.checkFilled()
		}
		if s.writeAll() != nil {
			retry.Reset(minPause)
		}
		if waiting != nil {
			close(waiting)
		}
	}
}

// checkFilled finds out whether the store has lost what it had. Where clients ask for little, it is also what notices that the
// store does not answer.
func (s *Shared) checkFilled() {
	if !s.reads.isOpen(time.Now()) {
		return
	}
	ctx, cancel := context.WithTimeout(s.ctx, patience)
	defer cancel()
	n, err := s.client.Exists(ctx, s.marker()).Result()
	if s.ctx.Err() == nil {
		s.reads.note(err, time.Now())
	}
	if err == nil && n == 0 {
		s.behind.Store(true)
	}
}

// writeAll writes all that is pending, and then all of the contents if the store may lack some.
func (s *Shared) writeAll() error {
	for batch := s.take(); len(batch) > 0; batch = s.take() {
		if err := s.writeBatch(batch, s.channel()); err != nil {
			s.giveBack(batch)
			return err
		}
	}
	if !s.behind.Swap(false) {
		return nil
	}
	err := s.fill()
	if err != nil {
		s.behind.Store(true)
	}
	return err
}

// fill writes all of the contents. The other servers do not hear of it: they have it, or get it when they need it.
func (s *Shared) fill() error {
	if err := s.mark(redis.SetArgs{TTL: fillTime}); err != nil {
		return err
	}
	var batch []item
	var err error
	s.contents.Records(func(key, value string, stored time.Time, keep time.Duration) bool {
		if batch = append(batch, item{key, value, stored, keep}); len(batch) == maxBatch {
			err = s.writeBatch(batch, "")
			batch = batch[:0]
		}
		return err == nil
	})
	if err == nil {
		err = s.writeBatch(batch, "")
	}
	if err != nil {
		return err
	}
	return s.mark(redis.SetArgs{Mode: "XX"}) // unless it has lost everything once more
}

// mark sets the marker.
func (s *Shared) mark(args redis.SetArgs) error {
	ctx, cancel := context.WithTimeout(s.ctx, writeTimeout)
	defer cancel()
	return s.client.SetArgs(ctx, s.marker(), "1", args).Err()
}

// take removes records that are pending, at most maxBatch, and returns them.
func (s *Shared) take() []item {
	s.mu.Lock()
	defer s.mu.Unlock()
	var batch []item
	for key, r := range s.pending {
		if len(batch) == maxBatch {
			break
		}
		batch = append(batch, r)
		delete(s.pending, key)
	}
	return batch
}

// giveBack makes records pending again, but for those that there are newer ones of.
func (s *Shared) giveBack(batch []item) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range batch {
		if _, newer := s.pending[r.key]; !newer {
			s.pending[r.key] = r
		}
	}
}

// writeBatch writes records in one round trip, and tells the others on channel, unless that is empty.
func (s *Shared) writeBatch(batch []item, channel string) error {
	if len(batch) == 0 {
		return nil
	}
	if !s.writes.isOpen(time.Now()) {
		return errShut
	}
	ctx, cancel := context.WithTimeout(s.ctx, writeTimeout)
	defer cancel()
	err := s.exec(ctx, batch, channel)
	if redis.HasErrorPrefix(err, "NOSCRIPT") {
		if err = putScript.Load(ctx, s.client).Err(); err == nil {
			err = s.exec(ctx, batch, channel)
		}
	}
	if s.ctx.Err() == nil {
		s.writes.note(err, time.Now())
		s.count("put", err)
	}
	return err
}

func (s *Shared) exec(ctx context.Context, batch []item, channel string) error {
	slack := time.Duration(0)
	if channel == "" { // what the store has may be the same: what servers tell of its time is not exact
		slack = tolerance
	}
	p := s.client.Pipeline()
	for _, r := range batch {
		age := time.Since(r.stored)
		if age >= r.keep { // it has run out
			continue
		}
		putScript.EvalSha(ctx, p, s.keys(r.key), milliseconds(age), milliseconds(max(r.keep-age, time.Second)), r.value,
			channel, s.sender, keyEscapes.Replace(r.key), milliseconds(slack))
	}
	if p.Len() == 0 {
		return nil
	}
	_, err := p.Exec(ctx)
	return err
}
