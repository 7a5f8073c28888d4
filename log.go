package alias

import (
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"unicode"

	"golang.org/x/time/rate"
)

const (
	// Zones and clients could make any number of messages that are logged once.
	maxWarnings      = 1000
	maxLabelWarnings = 100

	// When the resolver fails, all targets do: so many messages about them are logged in one go, and per second.
	maxMessages       = 100
	messagesPerSecond = 5
)

// onceLog logs each warning once, and max warnings in all. It is safe for concurrent use.
type onceLog struct {
	max    int
	mu     sync.Mutex
	logged map[string]struct{}
}

// warnOnce logs a warning about what stays wrong until somebody changes it, unless it is logged already.
func (l *onceLog) warnOnce(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	l.warn(text, text)
}

// warnOnceFor is warnOnce for a message of which one is logged for each key, whatever else it says.
func (l *onceLog) warnOnceFor(key, format string, v ...any) {
	l.warn(key, fmt.Sprintf(format, v...))
}

func (l *onceLog) warn(key, text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, ok := l.logged[key]; ok || len(l.logged) == l.max {
		return
	}
	if l.logged == nil {
		l.logged = make(map[string]struct{})
	}
	l.logged[key] = struct{}{}
	log.Warning(printable(text))
}

// limitedLog bounds the messages about targets. It is safe for concurrent use.
type limitedLog struct {
	messages   *rate.Limiter
	suppressed atomic.Int64
}

// limited logs a message with logf, unless there are too many of them.
func (l *limitedLog) limited(logf func(string, ...any), format string, v ...any) {
	if !l.messages.Allow() {
		l.suppressed.Add(1)
		return
	}
	if n := l.suppressed.Swap(0); n > 0 {
		log.Warningf("%d more messages about targets were suppressed", n)
	}
	logf("%s", printable(fmt.Sprintf(format, v...)))
}

// printable returns text with a question mark in place of each character that is not printable. Names in a zone file may have any
// octets, and so may the texts of peers in errors: they must neither begin another line of the log nor change what a terminal
// shows.
func printable(text string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, text)
}
