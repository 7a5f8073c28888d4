package store

import (
	"context"
	"errors"
	"net"
	"strings"
	"sync"
	"time"
)

// How long a shared store is left alone after a failure: minPause, twice as long after each further one, maxPause at most.
const (
	minPause = 500 * time.Millisecond
	maxPause = 10 * time.Second

	// quietTime is for how long a store may fail without a message: one that is busy answers late now and then.
	quietTime = 2 * time.Second
)

// gate keeps callers away from a shared store while it fails, so that nobody waits for it: after a failure it is shut for a
// while, and then one caller tries again. It is safe for concurrent use.
type gate struct {
	what string // is not done while it is shut, for the log
	at   string // the store

	mu       sync.Mutex
	failures int       // in a row
	since    time.Time // the first of them
	shut     time.Time // until then
	trying   bool      // one caller tries again
	cause    string    // of the failure that was logged last, "" if none since the last success
}

// isOpen reports whether the store may be called now. When it is time to try again, it is so for one caller.
func (g *gate) isOpen(now time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.failures == 0:
		return true
	case now.Before(g.shut):
		return false
	}
	g.shut, g.trying = now.Add(g.pause()), true
	return true
}

// pause returns how long the gate is shut. The lock is held.
func (g *gate) pause() time.Duration { return min(minPause<<min(g.failures-1, 10), maxPause) }

// isFailing reports whether the last call failed.
func (g *gate) isFailing() bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.failures > 0
}

// note notes how a call ended, and logs the first failure of a kind, and when it is over.
func (g *gate) note(err error, now time.Time) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if err == nil {
		if g.cause != "" {
			log.Infof("Answers are %s %s again", g.what, g.at)
		}
		g.failures, g.cause, g.trying = 0, "", false
		return
	}
	if g.failures > 0 && now.Before(g.shut) && !g.trying { // a call that began before the gate was shut
		return
	}
	if g.failures == 0 {
		g.since = now
	}
	g.failures++
	g.shut, g.trying = now.Add(g.pause()), false
	if cause := kindOf(err); cause != g.cause && now.Sub(g.since) >= quietTime {
		g.cause = cause
		log.Warningf("Answers are not %s %s: %s; they are in memory", g.what, g.at, cause)
	}
}

// kindOf returns the text of err, an error of the client or the server, without what differs from one call to the next: ports,
// and the names of keys.
func kindOf(err error) string {
	text := err.Error()
	if code, _, ok := strings.Cut(text, " "); ok && code == strings.ToUpper(code) { // an error of the server begins with its code
		return strings.SplitN(text, " script: ", 2)[0]
	}
	if timeout := net.Error(nil); errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout() || strings.Contains(text, "timeout") {
		return "no answer in time"
	}
	for _, known := range []string{"connection refused", "connection reset by peer", "EOF"} {
		if strings.Contains(text, known) {
			return known
		}
	}
	return text
}
