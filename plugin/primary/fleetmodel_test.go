package primary

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// fleetModel has some servers, a store and a secondary do random things in random order, one at a time. The servers run the
// code of agreement and member. Between a question to the store, its effect there and the answer, anything may happen.
type fleetModel struct {
	t      *testing.T
	random *rand.Rand
	log    []string

	now     time.Time
	own     uint32 // what the zone has by now
	older   uint32 // what it had before
	address int
	aliases int

	stores   [2]modelStore // the second one is used during a split
	split    bool
	down     bool // nobody reaches a store
	mended   bool // nothing is lost
	faithful bool // the store loses nothing
	servers  []*modelServer
	floating []*modelQuestion // their sender has given up, but they may still reach the store
	news     []modelNews

	contents   map[uint32]string // of all numbers that were ever handed out
	highest    uint32            // that a connected server has handed out since the stores lost writes
	some       bool
	highestOwn uint32                // what was under it
	mourn      map[*modelServer]bool // those that will notice that the store has lost a number that no server knows
	orphaned   bool                  // there may be a number that neither a server nor the store knows anything of

	secondary struct {
		number uint32
		has    string
		some   bool
	}
}

// modelStore has the register of the one zone, and the table of servers.
type modelStore struct {
	register *register
	table    map[string]string
	past     []modelStore // before the last writes
}

func (s *modelStore) write() {
	s.past = append(s.past, modelStore{register: s.register, table: maps.Clone(s.table)})
	s.past = s.past[max(0, len(s.past)-8):]
	if s.table == nil {
		s.table = make(map[string]string)
	}
}

func (s *modelStore) snapshot() snapshot {
	if s.register == nil {
		return snapshot{known: true}
	}
	return snapshot{known: true, number: formatNumber(s.register.number), is: s.register}
}

// modelServer is one of the servers, from its start until it is killed.
type modelServer struct {
	name   int
	up     bool
	cut    bool // from the store
	store  int
	skew   time.Duration
	starts int

	agreement
	member *member
	local  *local

	away   bool
	since  time.Time // when it was away first
	alone  bool      // it has published alone since it last reached the store
	seen   time.Time // when its entry was written last
	entry  *entry    // it is about to be written
	last   uint32    // that it has handed out
	handed bool

	heard    uint32 // the latest number that it was told of
	hasHeard bool

	session *modelSession
}

// modelSession is a session, and what it is for.
type modelSession struct {
	session
	handsOut bool
	highest  uint32 // before which nothing may be handed out
	own      uint32
	some     bool
	old      bool // the store has lost writes since it began
	asks     *modelQuestion
}

// modelQuestion is a question on its way, or its answer.
type modelQuestion struct {
	question
	by       *modelServer
	answered bool
	number   string
	loaded   snapshot
	swapped  bool
}

type modelNews struct {
	to     *modelServer
	starts int
	number uint32
}

const modelKey = "example.org. A"

func newFleetModel(t *testing.T, seed uint64) *fleetModel {
	m := &fleetModel{
		t: t, random: rand.New(rand.NewPCG(seed, 0)), // #nosec G404 -- to be repeated
		mourn: make(map[*modelServer]bool), faithful: seed%2 == 0,
		now: time.Date(2026, 11, 28, 0, 0, 0, 0, time.UTC).Add(time.Duration(seed) * 77 * time.Millisecond),
		own: 2026112800, contents: make(map[uint32]string),
	}
	if seed%4 == 0 {
		m.own = 1<<24*120 - 2 // rounding takes the next multiple soon
	}
	m.older = m.own
	for i := range 3 {
		s := &modelServer{name: i, skew: time.Duration(m.random.IntN(1000)-500) * time.Millisecond}
		m.servers = append(m.servers, s)
		m.start(s)
	}
	return m
}

func (m *fleetModel) chance(percent int) bool { return m.random.IntN(100) < percent }

func (m *fleetModel) note(format string, v ...any) {
	m.log = append(m.log, fmt.Sprintf("%8.3f ", float64(m.now.UnixMilli()%1e8)/1000)+fmt.Sprintf(format, v...))
}

func (m *fleetModel) fail(format string, v ...any) {
	m.t.Helper()
	m.note(format, v...)
	m.t.Errorf("%s", strings.Join(m.log[max(0, len(m.log)-150):], "\n"))
}

func (m *fleetModel) clock(s *modelServer) time.Time { return m.now.Add(s.skew) }

// start starts a server that knows nothing.
func (m *fleetModel) start(s *modelServer) {
	s.starts++
	*s = modelServer{name: s.name, starts: s.starts, skew: s.skew, up: true, cut: s.cut, store: s.store}
	s.member = newMember("", m.clock(s))
	// Tokens whose ids do not meet: two servers may have the same one when the store is flushed while the first is away, and
	// two servers that have not reached the store may have the same lane. The rules do not exclude that.
	for n := 0; ; n++ {
		s.member.token = fmt.Sprintf("server%d-%d-%d", s.name, s.starts, n)
		if hash := s.member.hash(); hash%ids%3 == uint32(s.name) && hash%lanes%3 == uint32(s.name) && hash%lanes < 15 {
			break
		}
	}
	s.local = &local{keys: []string{modelKey}, data: make(map[string]datum), aliases: strconv.Itoa(m.aliases), since: millis(m.clock(s))}
	if m.read(s); m.chance(20) {
		s.local.own = min(s.local.own, m.older) // with a zone file from an old image
	}
	m.note("server %d starts, own %d", s.name, s.local.own)
}

// stop ends a server, and lets questions on their way float.
func (m *fleetModel) stop(s *modelServer, clean bool) {
	m.note("server %d ends, clean %v", s.name, clean)
	if store := m.storeOf(s); store != nil && clean && !s.alone && s.member.id >= 0 {
		id := strconv.Itoa(s.member.id)
		if token, _ := parseEntry(store.table[id]); token == s.member.token {
			store.write()
			delete(store.table, id)
		}
		m.orphaned = m.orphaned || m.stores[0].register == nil || serialBefore(m.stores[0].register.number, s.latest)
	} else if last := m.stores[0].register; s.alone || last == nil || serialBefore(last.number, s.latest) {
		known := false
		for _, text := range m.stores[0].table {
			token, _ := parseEntry(text)
			known = known || token == s.member.token
		}
		m.orphaned = m.orphaned || !known
	}
	m.orphaned = m.orphaned || m.mourn[s]
	if s.session != nil && s.session.asks != nil {
		m.floating = append(m.floating, s.session.asks)
	}
	s.up, s.session = false, nil
}

func (m *fleetModel) read(s *modelServer) {
	l := *s.local
	l.own = m.own
	s.local = &l
}

// storeOf returns the store that s reaches, or nil.
func (m *fleetModel) storeOf(s *modelServer) *modelStore {
	if m.down || s.cut {
		return nil
	}
	if m.split {
		return &m.stores[s.store]
	}
	return &m.stores[0]
}

// told notes that s knows of n.
func (s *modelServer) told(n uint32) {
	if !s.hasHeard || serialBefore(s.heard, n) {
		s.heard, s.hasHeard = n, true
	}
}

// effect has q reach the store.
func (m *fleetModel) effect(q *modelQuestion) {
	store := m.storeOf(q.by)
	q.answered = true
	switch q.kind {
	case askNumber:
		q.number = store.snapshot().number
	case askLoad:
		q.loaded = store.snapshot()
	case askSwap:
		if q.swapped = store.snapshot().number == q.from.number; !q.swapped {
			return
		}
		store.write()
		store.register = q.to
		m.note("server %d writes %d %s", q.by.name, q.to.number, contentOf(q.to))
		for _, s := range m.servers {
			if s.up && m.storeOf(s) == store && !m.chance(20) {
				m.news = append(m.news, modelNews{s, s.starts, q.to.number})
			}
		}
	}
}

// proceed takes the session of s one step further.
func (m *fleetModel) proceed(s *modelServer) {
	e := s.session
	if e.asks == nil {
		q := s.next(&e.session, s.local, s.member.numbering(m.clock(s)))
		if q.kind == askNothing {
			m.end(s, true)
			return
		}
		e.asks = &modelQuestion{question: q, by: s}
		return
	}
	q := e.asks
	lost := m.storeOf(s) == nil || !m.mended && m.chance(2)
	switch {
	case lost:
		if !q.answered && m.chance(50) {
			m.floating = append(m.floating, q)
		}
		m.note("server %d has no answer to %d", s.name, q.kind)
		s.hasFailed(q.question)
		if !s.away {
			s.away, s.since = true, m.now
		}
		m.end(s, false)
		return
	case !q.answered:
		m.effect(q)
		return
	}
	s.away, s.alone = false, false
	switch e.asks = nil; q.kind {
	case askNumber:
		if n, ok := parseNumber(q.number); ok {
			s.told(n)
		}
		s.hasNumber(&e.session, q.number)
	case askLoad:
		s.hasLoaded(q.loaded, m.clock(s))
	case askSwap:
		s.hasSwapped(&e.session, q.question, q.swapped)
	}
}

// begin begins a session of s, if none runs.
func (m *fleetModel) begin(s *modelServer, handsOut bool) {
	switch {
	case s.session != nil:
	case s.away && handsOut:
		m.hand(s, nil)
	default:
		s.session = &modelSession{handsOut: handsOut, highest: m.highest, own: m.highestOwn, some: m.some}
	}
}

// end ends the session of s.
func (m *fleetModel) end(s *modelServer, answered bool) {
	e := s.session
	s.session = nil
	if !e.handsOut {
		return
	}
	if answered {
		m.hand(s, e)
	} else {
		m.hand(s, nil)
	}
}

// hand has s hand out what it serves, at the end of the session e, or without the store. The secondary may take it.
func (m *fleetModel) hand(s *modelServer, e *modelSession) {
	r := s.serve(s.local, e != nil)
	if r == nil {
		return
	}
	content := contentOf(&register{own: s.local.own, aliases: s.local.aliases, data: r.data}) // its zone has the other records
	if other, ok := m.contents[r.number]; ok && other != content {
		m.fail("server %d: two contents of %d: %s and %s", s.name, r.number, content, other)
	}
	m.contents[r.number] = content
	if s.handed && serialBefore(r.number, s.last) {
		m.fail("server %d goes back from %d to %d", s.name, s.last, r.number)
	}
	s.last, s.handed = r.number, true
	if s.hasHeard && serialBefore(r.number, s.heard) {
		m.fail("server %d hands out %d, and knows of %d", s.name, r.number, s.heard)
	}
	if e != nil && e.some && serialBefore(r.number, e.highest) {
		m.fail("server %d hands out %d after %d", s.name, r.number, e.highest)
	}
	if e != nil && e.some && serialBefore(r.own, e.own) {
		m.fail("server %d hands out own serial %d after %d", s.name, r.own, e.own)
	}
	if e != nil && !e.old && (!m.some || serialBefore(m.highest, r.number)) && !m.split {
		m.highest, m.highestOwn, m.some = r.number, r.own, true
	}
	if m.chance(50) && (!m.secondary.some || serialBefore(m.secondary.number, r.number)) {
		m.secondary.number, m.secondary.has, m.secondary.some = r.number, content, true
		m.note("the secondary takes %d %s from server %d", r.number, content, s.name)
	}
}

func contentOf(r *register) string { return fmt.Sprint(r.own, r.aliases, r.data) }

// work has s do what it does once a second.
func (m *fleetModel) work(s *modelServer) {
	now := m.clock(s)
	m.join(s, now)
	since := s.since
	if !s.member.joined {
		since = s.member.started
	}
	if s.session == nil && s.away && m.now.Sub(since) >= aloneAfter {
		before := s.published
		s.publishAlone(s.local, s.member.numbering(now))
		if s.published != before {
			s.alone = true
			m.note("server %d publishes %d %s alone", s.name, s.published.number, contentOf(s.published))
		}
	}
	m.begin(s, false)
}

// join has s take the next step towards its entry in the table.
func (m *fleetModel) join(s *modelServer, now time.Time) {
	store := m.storeOf(s)
	switch e := s.entry; {
	case e == nil && store != nil && now.Sub(s.seen) >= seenInterval:
		if e, ok := s.member.plan(store.table, now); ok {
			s.entry = &e
		}
	case e != nil:
		s.entry = nil
		if store == nil {
			break
		}
		id := strconv.Itoa(e.id)
		written := store.table[id] == e.from
		if written {
			store.write()
			store.table[id] = e.to
		}
		if m.mended || m.chance(98) { // or the answer is lost
			s.member.wrote(*e, written, now)
			s.seen = now
		}
	}
}

// loses notes that a store has lost writes: until all know, numbers may go back.
func (m *fleetModel) loses(last *register) {
	m.some = false
	for _, s := range m.servers {
		if s.session != nil {
			s.session.some, s.session.old = false, true
		}
	}
	if last == nil || slices.ContainsFunc(m.servers, func(s *modelServer) bool { return s.up && s.some && !serialBefore(s.latest, last.number) }) {
		return
	}
	those := m.mourners()
	m.orphaned = m.orphaned || len(those) == 0
	for _, s := range those {
		m.mourn[s] = true
	}
}

// mourners returns the servers that will notice that the store has lost a register.
func (m *fleetModel) mourners() (those []*modelServer) {
	is := m.stores[0].register
	for _, s := range m.servers {
		if s.up && s.confirmed != nil && (is == nil || serialBefore(is.number, s.confirmed.number)) {
			those = append(those, s)
		}
	}
	return those
}

// step does one thing.
func (m *fleetModel) step() {
	s := m.servers[m.random.IntN(len(m.servers))]
	switch n := m.random.IntN(1000); {
	case n < 250:
		m.now = m.now.Add(time.Duration(m.random.IntN(400)) * time.Millisecond)
	case n < 260:
		m.now = m.now.Add(time.Duration(m.random.IntN(40)) * time.Second)
	case n < 550:
		if s.up && s.session != nil {
			m.proceed(s)
		}
	case n < 650:
		if s.up {
			m.begin(s, true)
		}
	case n < 750:
		if s.up {
			m.work(s)
		}
	case n < 790:
		m.address++
	case n < 850:
		m.look(s)
	case n < 860:
		m.older = m.own
		m.own += 1 + m.random.Uint32N(100)*m.random.Uint32N(2)
	case n < 890:
		if s.up {
			m.read(s)
		}
	case n < 930:
		m.deliver()
	case n < 950:
		if len(m.floating) > 0 {
			i := m.random.IntN(len(m.floating))
			q := m.floating[i]
			m.floating = slices.Delete(m.floating, i, i+1)
			if !q.answered && m.storeOf(q.by) != nil && m.chance(70) {
				m.effect(q)
			}
		}
	case n < 990:
		m.fault(s)
	}
}

// deliver delivers a message of the store.
func (m *fleetModel) deliver() {
	if len(m.news) == 0 {
		return
	}
	i := m.random.IntN(len(m.news))
	n := m.news[i]
	m.news = slices.Delete(m.news, i, i+1)
	if n.to.up && n.to.starts == n.starts {
		n.to.hear(n.number)
		n.to.told(n.number)
		n.to.stored.known = n.to.stored.known && n.to.stored.number == formatNumber(n.number)
	}
}
