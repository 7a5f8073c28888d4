package primary

import (
	"fmt"
	"hash/fnv"
	"io"
	"strconv"
	"strings"
	"time"
)

// The store has a table of the servers of the fleet, by id: a token that is new with each start, and when the server was last seen.
// A server makes the numbers of its id (number.go). A server that stops removes its entry.

const (
	// seenInterval is how often a server renews its entry. It is shorter than holdTime: when the store has lost the entry, and the
	// id is another server's, a server notices it before that makes numbers.
	seenInterval = 5 * time.Second

	// A server that was not seen for goneAfter is gone without having said so.
	goneAfter = 30 * time.Second

	// reusableAfter is how long a server must not have been seen before its id can be given to another one, if none is free.
	// That which was not seen for the longest time is first: it may be a server that cannot reach the store.
	reusableAfter = 60 * time.Second

	// aloneAfter is how long a server has to be without the store before it publishes alone.
	aloneAfter = 5 * time.Second

	// loneAfter is the same for a server that has not reached the store since it was started, counted from its start.
	loneAfter = 30 * time.Second
)

// member is a server's place in the table.
type member struct {
	token   string
	started time.Time
	joined  bool      // it has had an id
	id      int       // -1: none
	since   time.Time // when it got the id
	gone    map[string]bool
	renewed time.Time // when it last noticed that a server was gone
}

func newMember(token string, now time.Time) *member {
	return &member{token: token, started: now, id: -1, gone: make(map[string]bool)}
}

// entry is what the table has for an id.
type entry struct {
	id       int
	from, to string // before and after
}

// plan returns the entry to write, with the table as it is in the store. There is none when all ids are in use.
func (m *member) plan(table map[string]string, now time.Time) (entry, bool) {
	mine, free, oldest := -1, -1, -1
	var oldestSeen time.Time
	first := int(m.hash() % ids)
	for i := range ids {
		id := (first + i) % ids
		token, seen := parseEntry(table[strconv.Itoa(id)])
		switch {
		case token == m.token:
			mine = id
			continue
		case token == "":
			if free < 0 {
				free = id
			}
			continue
		}
		gone := now.Sub(seen) > goneAfter
		if gone && !m.gone[token] {
			m.renewed = now
		}
		m.gone[token] = gone
		if now.Sub(seen) > reusableAfter && (oldest < 0 || seen.Before(oldestSeen)) {
			oldest, oldestSeen = id, seen
		}
	}
	id := m.id
	switch {
	case mine >= 0:
		id = mine
	case id >= 0 && table[strconv.Itoa(id)] == "": // the store has lost the entry
	case free >= 0:
		id = free
	default:
		id = oldest
	}
	if id != m.id {
		m.id = -1
	}
	return entry{id, table[strconv.Itoa(id)], formatEntry(m.token, now)}, id >= 0
}

// wrote takes the result of the write of an entry.
func (m *member) wrote(e entry, written bool, now time.Time) {
	if written && m.id != e.id {
		m.id, m.joined, m.since = e.id, true, now
	}
}

// numbering returns what makes the numbers of the server at now.
func (m *member) numbering(now time.Time) numbering {
	n := numbering{now: now, renewed: m.renewed}
	switch {
	case m.id >= 0 && now.Sub(m.since) >= holdTime:
		n.class, n.of = uint32(m.id), classes // #nosec G115 -- an id is small
	case !m.joined && now.Sub(m.started) >= loneAfter:
		n.class, n.of = m.hash()%lanes*classes+ids, lanes*classes
	}
	return n
}

func (m *member) hash() uint32 {
	h := fnv.New32a()
	io.WriteString(h, m.token)
	return h.Sum32()
}

func formatEntry(token string, seen time.Time) string { return fmt.Sprint(token, " ", millis(seen)) }

// parseEntry returns the token and the time of an entry. A text that is none is an entry that was never seen.
func parseEntry(text string) (token string, seen time.Time) {
	token, at, _ := strings.Cut(text, " ")
	ms, err := strconv.ParseInt(at, 10, 64)
	if err != nil {
		return token, time.Time{}
	}
	return token, time.UnixMilli(ms)
}
