package primary

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// beatInterval is the time between two beats. A published serial does not grow faster than the clock, so it is not shorter.
const beatInterval = time.Second

// Beat has the background work of all Primaries that are started with it begun once a second, by one goroutine, which runs
// as long as there is one of them. The zero value is ready. It is safe for concurrent use.
type Beat struct {
	mu      sync.Mutex
	running map[*Primary]struct{}
	stopped chan struct{}
}

func (b *Beat) add(p *Primary) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.running) == 0 {
		b.running, b.stopped = make(map[*Primary]struct{}), make(chan struct{})
		go b.run(b.stopped)
	}
	b.running[p] = struct{}{}
}

func (b *Beat) remove(p *Primary) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.running[p]; !ok {
		return
	}
	delete(b.running, p)
	if len(b.running) == 0 {
		close(b.stopped)
	}
}

// run calls beat of all Primaries until stopped is closed.
func (b *Beat) run(stopped <-chan struct{}) {
	ticker := time.NewTicker(beatInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-stopped:
			return
		}
		b.mu.Lock()
		running := slices.Collect(maps.Keys(b.running))
		b.mu.Unlock()
		for _, p := range running {
			p.beat()
		}
	}
}

// beat begins what is due, and waits for none of it. It does nothing when p is stopped.
func (p *Primary) beat() {
	p.beating.Lock()
	defer p.beating.Unlock()
	if p.ctx.Err() != nil {
		return
	}
	p.Refresh()
	if now := time.Now(); !p.polling.Load() && !now.Before(p.nextPoll) {
		p.polling.Store(true)
		p.wg.Go(p.pollOnce)
	}
}

// pollOnce calls poll, and sets the time for the next call.
func (p *Primary) pollOnce() {
	began := time.Now()
	p.poll()
	p.nextPoll = began.Add(max(pollInterval-beatInterval/2, pollShare*time.Since(began)))
	p.polling.Store(false)
}
