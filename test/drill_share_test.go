//go:build linux

package test

import (
	"testing"
	"time"

	"github.com/coredns/alias/test/redis"
	"github.com/coredns/alias/test/upstream"
)

// without returns a stage on which the resolver is silent, and the store of share fails too.
func without(fail func(t *testing.T, store *redis.Server) (mend func()), properties ...string) func(t *testing.T) *stage {
	return func(t *testing.T) *stage {
		store, up := redis.Start(t, "--requirepass", "secret"), upstream.New(t, healthy)
		s := &stage{server: startAlias(t, append(properties, "share redis://:secret@"+store.Addr, "upstream "+up.Addr)...)}
		var mend func()
		s.begin = func() {
			mend = fail(t, store)
			up.Set(nil)
		}
		s.end = func() { up.Set(healthy) }
		s.after = func() { mend() }
		return s
	}
}

func storeKilled(t *testing.T, store *redis.Server) func() {
	store.Kill()
	return func() {}
}

func storeStopped(t *testing.T, store *redis.Server) func() {
	store.Stop()
	return store.Continue
}

func storeFull(t *testing.T, store *redis.Server) func() {
	command(t, store, "config", "set", "maxmemory", "1")
	return func() {}
}

func storeReadOnly(t *testing.T, store *redis.Server) func() {
	command(t, store, "replicaof", "127.0.0.1", "1")
	return func() {}
}

func storeLocked(t *testing.T, store *redis.Server) func() {
	check(t, store.SetPassword("another"))
	return func() {}
}

func storeFlushed(t *testing.T, store *redis.Server) func() {
	command(t, store, "flushall")
	return func() {}
}

// storeSlow returns a stage on which each message from and to the store takes 200 ms, before the outage too.
func storeSlow(t *testing.T) *stage {
	store, up := redis.Start(t), upstream.New(t, healthy)
	return &stage{
		server: startAlias(t, "share redis://"+redis.NewLink(t, store.Addr, 100*time.Millisecond).Addr, "upstream "+up.Addr),
		begin:  func() { up.Set(nil) },
		end:    func() { up.Set(healthy) },
	}
}

// restartedWith returns a stage on which the server is killed and started again. What it knows is in the store of share.
func restartedWith(properties ...string) func(t *testing.T) *stage {
	return func(t *testing.T) *stage {
		store, up := redis.Start(t), upstream.New(t, healthy)
		s := &stage{
			server: startAlias(t, append(properties, "share redis://"+store.Addr, "upstream "+up.Addr)...),
			end:    func() { up.Set(healthy) },
		}
		s.begin = func() {
			up.Set(nil)
			s.server.kill(t)
			s.server = s.server.restart(t)
		}
		return s
	}
}
