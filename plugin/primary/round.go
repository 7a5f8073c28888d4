package primary

import (
	"context"
	"time"
)

// begin returns a round that begins after this call. find returns what the server has found, when it begins.
func (f *Fleet) begin(a *agreed, find func() *local) *round {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.next == nil {
		r := &round{done: make(chan struct{})}
		a.next = r
		go f.round(a, r, find) // it ends soon: each question has a timeout
	}
	return a.next
}

// round asks the store until there is nothing more to ask, and publishes.
func (f *Fleet) round(a *agreed, r *round, find func() *local) {
	defer close(r.done)
	a.turn <- struct{}{}
	defer func() { <-a.turn }()
	a.mu.Lock()
	a.next, a.waits = nil, false
	a.mu.Unlock()
	l := find()
	if away, _ := f.isAway(); !away {
		r.answered = f.session(a, l)
	}
	_, alone := f.isAway()
	a.mu.Lock()
	if !r.answered && alone && l != nil {
		a.publishAlone(l, f.numbering())
	}
	notify := a.notify
	a.notify = false
	a.mu.Unlock()
	if notify {
		f.each(a, func(p *Primary, _ *zone) { p.notifier.notify(a.name) })
	}
}

// session asks the store, and reports whether it has answered all questions.
func (f *Fleet) session(a *agreed, l *local) bool {
	var s session
	for {
		a.mu.Lock()
		q := a.agreement.next(&s, l, f.numbering())
		a.mu.Unlock()
		if q.kind == askNothing {
			return true
		}
		if !f.ask(a, &s, q) {
			return false
		}
	}
}

// ask asks q, and reports whether there was an answer.
func (f *Fleet) ask(a *agreed, s *session, q question) bool {
	f.mu.Lock()
	ctx, cancel := context.WithTimeout(f.ctx, storeTimeout)
	f.mu.Unlock()
	defer cancel()
	began := f.now()
	var numbers []string
	var fields map[string]string
	var swapped bool
	var err error
	switch q.kind {
	case askNumber:
		numbers, err = f.registers.Numbers(ctx, []string{a.name})
	case askLoad:
		fields, err = f.registers.Load(ctx, a.name)
	case askSwap:
		set, remove := q.from.changes(q.to)
		swapped, err = f.registers.Swap(ctx, a.name, q.from.number, formatNumber(q.to.number), set, remove)
	}
	f.note(began, err)
	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case err != nil:
		a.hasFailed(q)
	case q.kind == askNumber:
		a.hasNumber(s, numbers[0])
	case q.kind == askLoad:
		a.hasLoaded(snapshotOf(fields), f.now())
	case q.kind == askSwap:
		a.hasSwapped(s, q, swapped)
	}
	return err == nil
}

// await waits until r is done, but not longer than patience, and reports whether the store has answered.
func (r *round) await(ctx context.Context, patience time.Duration) bool {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	select {
	case <-r.done:
		return r.answered
	case <-ctx.Done():
		return false
	}
}
