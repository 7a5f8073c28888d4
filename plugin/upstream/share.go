package upstream

import (
	"context"
	"runtime"
	"sync"

	"github.com/coredns/alias/plugin/lookup"
)

// Registry has the Upstreams in use, so that all who use the same ones share their connections, health checks, and what is
// known about EDNS. The zero value is empty. It is safe for concurrent use.
type Registry struct {
	mu  sync.Mutex
	all map[string]*shared
}

// shared are Upstreams and how many Shares of them are started.
type shared struct {
	*Upstreams
	users int
}

// Share is the part that one user has in Upstreams. Start is called once, and Stop after it; Resolve may be called between
// the two, and during them by whoever has begun before. A Share that is lost without Stop is stopped.
type Share struct {
	registry *Registry
	key      string
	cfg      Config
	upstream *shared
	leave    func()
}

// Share returns a Share of the Upstreams that cfg describes. Two with the same key are of the same Upstreams, those of the
// one that is started first. It opens no connection.
func (r *Registry) Share(key string, cfg Config) *Share {
	return &Share{registry: r, key: key, cfg: cfg}
}

// Start is Upstreams.Start, unless another Share has started them.
func (s *Share) Start() {
	r, key, us := s.registry, s.key, s.registry.join(s.key, s.cfg)
	s.upstream, s.cfg = us, Config{} // the Upstreams have that of one Share
	s.leave = sync.OnceFunc(func() { r.leave(key, us) })
	runtime.AddCleanup(s, func(leave func()) { go leave() }, s.leave)
}

// Stop is Upstreams.Stop, unless another Share still uses them.
func (s *Share) Stop() { s.leave() }

// join returns the Upstreams with that key, which are started.
func (r *Registry) join(key string, cfg Config) *shared {
	r.mu.Lock()
	defer r.mu.Unlock()
	us := r.all[key]
	if us == nil {
		us = &shared{Upstreams: New(cfg)}
		us.Start()
		if r.all == nil {
			r.all = make(map[string]*shared)
		}
		r.all[key] = us
	}
	us.users++
	return us
}

// leave stops the Upstreams if nobody else uses them.
func (r *Registry) leave(key string, us *shared) {
	r.mu.Lock()
	us.users--
	last := us.users == 0
	if last {
		delete(r.all, key)
	}
	r.mu.Unlock()
	if last {
		us.Stop()
	}
}

// Resolve is Upstreams.Resolve.
func (s *Share) Resolve(ctx context.Context, q lookup.Question, attempts int) (lookup.Outcome, error) {
	return s.upstream.Resolve(ctx, q, attempts)
}
