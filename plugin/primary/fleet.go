package primary

import (
	"context"
	"crypto/rand"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"
)

// Registers is the store that a fleet shares. It is safe for concurrent use. With an error there is no answer: what was asked for
// may have been done, or may be done yet. No call may take longer than its context.
type Registers interface {
	// Numbers returns the field "number" of the registers of zones, and "" for a zone without one.
	Numbers(ctx context.Context, zones []string) ([]string, error)
	// Load returns the fields of the register of zone. Without a register there are none.
	Load(ctx context.Context, zone string) (map[string]string, error)
	// Swap sets and removes fields of the register of zone if its field "number" is from, or missing if from is "". It reports
	// whether it did. All servers then get a message that the number is to.
	Swap(ctx context.Context, zone, from, to string, set map[string]string, remove []string) (bool, error)
	// Listen calls heard for the messages of Swap, until ctx ends. Messages may be lost.
	Listen(ctx context.Context, heard func(zone, number string))

	// Servers returns the table of servers.
	Servers(ctx context.Context) (map[string]string, error)
	// SetServer sets the entry of id to to if it is from, and reports whether it did. "" stands for no entry.
	SetServer(ctx context.Context, id, from, to string) (bool, error)
}

const (
	// storeTimeout is how long the fleet waits for an answer of the store.
	storeTimeout = time.Second

	// sweepInterval is how often a server compares the numbers of all zones with those in the store, sweepBatch of them at a time:
	// messages may be lost, and the store may lose writes.
	sweepInterval = time.Minute
	sweepBatch    = 500
)

// Fleet makes a server one of those that publish the same serial numbers: see agree.go for the rules. All Primaries of a process
// that share a store have the same Fleet, also those of before and after a reload. It works as long as one of them is started.
type Fleet struct {
	registers Registers
	now       func() time.Time
	warn      func(format string, v ...any)

	mu      sync.Mutex
	users   map[*Primary]struct{}
	ctx     context.Context // of the work in the background
	cancel  context.CancelFunc
	work    *sync.WaitGroup
	member  *member
	entry   entry     // as it was written last
	seen    time.Time // when it was written
	away    bool      // the store did not answer the last question
	since   time.Time // when it was asked the first of the questions that it has not answered
	reached bool      // the store has answered since the background work began
	zones   map[string]*agreed
}

// agreed is what the fleet has agreed on for a zone.
type agreed struct {
	name string
	turn chan struct{} // held during a session

	mu sync.Mutex
	agreement
	next *round // that has not begun yet
}

// round is a session that several goroutines may wait for.
type round struct {
	done     chan struct{}
	answered bool // set when it is done: the store has answered all questions
}

// NewFleet returns the Fleet of the servers that share registers. warn logs a message.
func NewFleet(registers Registers, now func() time.Time, warn func(format string, v ...any)) *Fleet {
	f := &Fleet{registers: registers, now: now, warn: warn, users: make(map[*Primary]struct{}), zones: make(map[string]*agreed)}
	f.reset()
	return f
}

// reset makes f a server that has not reached the store yet. The lock is held, or nobody else has f.
func (f *Fleet) reset() {
	f.ctx, f.cancel = context.WithCancel(context.Background())
	f.work, f.member = new(sync.WaitGroup), newMember(rand.Text(), f.now())
	f.entry, f.seen, f.away, f.reached = entry{}, time.Time{}, false, false
}

// join has f work for p.
func (f *Fleet) join(p *Primary) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.users[p] = struct{}{}
	if len(f.users) > 1 {
		return
	}
	f.reset()
	ctx := f.ctx
	f.work.Go(func() { f.run(ctx) })
	f.work.Go(func() { f.registers.Listen(ctx, f.heard) })
}

// leave ends the work for p. The last one waits for the end of the work, and takes the server out of the table.
func (f *Fleet) leave(p *Primary) {
	f.mu.Lock()
	_, ok := f.users[p]
	delete(f.users, p)
	if !ok || len(f.users) > 0 {
		f.mu.Unlock()
		return
	}
	f.cancel()
	work, e, away := f.work, f.entry, f.away
	f.mu.Unlock()
	work.Wait()
	if away || e.to == "" {
		return // it may have published alone: the others notice that it is gone
	}
	ctx, cancel := context.WithTimeout(context.Background(), storeTimeout)
	defer cancel()
	f.registers.SetServer(ctx, strconv.Itoa(e.id), e.to, "")
}

// run does once a second what is due, until ctx ends.
func (f *Fleet) run(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	var swept time.Time
	for {
		if back := f.renew(ctx); back || f.now().Sub(swept) >= sweepInterval {
			swept = f.now()
			f.sweep(ctx)
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// renew renews the entry of the server in the table when that is due, or when the store has not answered. It reports whether all
// zones have to be looked at: the store is back, or another server is gone.
func (f *Fleet) renew(ctx context.Context) (back bool) {
	f.mu.Lock()
	due := f.away || f.now().Sub(f.seen) >= seenInterval
	f.mu.Unlock()
	if !due {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, storeTimeout)
	defer cancel()
	began := f.now()
	table, err := f.registers.Servers(ctx)
	if f.note(began, err) != nil {
		return false
	}
	f.mu.Lock()
	renewed := f.member.renewed
	e, ok := f.member.plan(table, f.now())
	renews := f.member.renewed != renewed
	f.mu.Unlock()
	written := false
	if ok {
		written, err = f.registers.SetServer(ctx, strconv.Itoa(e.id), e.from, e.to)
		if f.note(began, err) != nil { // it may answer, and take no writes
			return renews
		}
	} else {
		f.warn("There are more than %d servers with the same share that transfer zones: this one publishes no changes of its own", ids)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	switch f.member.wrote(e, written, f.now()); {
	case written:
		f.entry, f.seen = e, f.now()
	case !ok:
		f.seen = f.now()
	}
	back = !f.reached || f.away || renews
	f.reached, f.away = true, false
	return back
}

// note notes whether the store has answered a question. Only renew finds that it is back: it writes too.
func (f *Fleet) note(asked time.Time, err error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err == nil || f.away || f.ctx.Err() != nil {
		return err
	}
	f.away, f.since = true, asked
	f.warn("The servers' common store does not answer, and this server goes on with the serial numbers that it has: %v", err)
	return err
}

// isAway reports whether the store does not answer, and whether this has been so long that the server publishes alone.
func (f *Fleet) isAway() (away, alone bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	since := f.since
	if !f.member.joined {
		since = f.member.started
	}
	return f.away, f.away && f.now().Sub(since) >= aloneAfter
}

// numbering returns what makes the numbers of this server.
func (f *Fleet) numbering() numbering {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.member.numbering(f.now())
}

// zone returns what is agreed on for the zone with that name.
func (f *Fleet) zone(name string) *agreed {
	f.mu.Lock()
	defer f.mu.Unlock()
	a := f.zones[name]
	if a == nil {
		a = &agreed{name: name, turn: make(chan struct{}, 1)}
		f.zones[name] = a
	}
	return a
}

// sweep compares the numbers of all zones with those in the store.
func (f *Fleet) sweep(ctx context.Context) {
	f.mu.Lock()
	names := slices.Collect(maps.Keys(f.zones))
	f.mu.Unlock()
	for batch := range slices.Chunk(names, sweepBatch) {
		ctx, cancel := context.WithTimeout(ctx, storeTimeout)
		began := f.now()
		numbers, err := f.registers.Numbers(ctx, batch)
		cancel()
		if f.note(began, err) != nil {
			return
		}
		for i, name := range batch {
			f.compare(f.zone(name), numbers[i])
		}
	}
}

// heard takes a message of the store.
func (f *Fleet) heard(name, number string) {
	f.mu.Lock()
	a := f.zones[name]
	f.mu.Unlock()
	if a != nil {
		f.compare(a, number)
	}
}

// compare takes the number in the store, and has the Primaries look at the zone when that is another one.
func (f *Fleet) compare(a *agreed, number string) {
	makes := f.numbering()
	a.mu.Lock()
	same := a.stored.known && a.stored.number == number && a.stored.is == a.published
	outdated := a.published != nil && makes.isOutdated(a.published)
	a.hasNumber(new(session), number)
	a.mu.Unlock()
	if same && !outdated {
		return
	}
	f.each(a, func(_ *Primary, z *zone) { z.wake() })
}

// each calls do for the Primaries that have the zone. It holds the lock: none of them is stopped meanwhile.
func (f *Fleet) each(a *agreed, do func(*Primary, *zone)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for p := range f.users {
		if z := p.zone(a.name); z != nil {
			do(p, z)
		}
	}
}
