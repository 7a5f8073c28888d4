package upstream

import (
	"testing"
	"time"
)

// What an upstream has shown decides whether the next query has an OPT record.
func TestEDNSMemory(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const (
		yes       = "OPT answered"
		refusal   = "OPT refused"
		loss      = "OPT timed out"
		plain     = "plain answered"
		plainLoss = "plain timed out"
		late      = "OPT timed out that was sent a second ago"
	)
	type step struct {
		after time.Duration
		event string
		want  bool // use, after the event
	}
	for name, steps := range map[string][]step{
		"answers": {{0, yes, true}, {0, yes, true}},
		"refuses, and is asked again": {
			{0, refusal, false}, {0, plain, false}, {plainTime - 1, plain, false}, {1, "", true}, {0, "", false},
			{1, refusal, false}, {plainTime, "", true}},
		"refuses, and is replaced": {{0, refusal, false}, {plainTime, "", true}, {0, yes, true}, {plainTime, "", true}},
		"refuses, and then drops":  {{0, refusal, false}, {plainTime, "", true}, {1, loss, false}, {plainTime - 1, plain, false}, {1, "", true}},
		"refuses, and nobody learns how the query ends": {
			{0, refusal, false}, {plainTime, "", true}, {tryTime - 1, "", false}, {1, "", true}},
		"refuses, and loses a plain query": {{0, refusal, false}, {1, plainLoss, false}},
		"drops": {
			{1, loss, false}, {1, plain, true}, {1, loss, false}, {1, plain, true}, {1, loss, false}, {1, plain, false},
			{plainTime - 1, plain, false}, {1, "", true}},
		"loses packets now and then": {
			{1, loss, false}, {1, plain, true}, {1, yes, true}, {1, loss, false}, {1, plain, true}, {1, yes, true},
			{1, loss, false}, {1, plain, true}, {1, yes, true}},
		"is down": {{1, loss, false}, {1, plainLoss, true}, {1, loss, false}, {1, plainLoss, true}, {1, loss, false}, {1, plainLoss, true}, {1, loss, false}, {1, yes, true}},
		"many lookups at a time that drop are one": {
			{time.Second, loss, false}, {1, plain, true}, {0, plain, true}, {0, late, true}, {0, late, true}, {0, plain, true}},
		"a response clears what was in flight": {{time.Second, loss, false}, {1, yes, true}, {1, late, true}},
	} {
		e, now := new(edns), start
		for i, s := range steps {
			now = now.Add(s.after)
			switch s.event {
			case yes:
				e.answered(true, now)
			case refusal:
				e.refused(now)
			case loss:
				e.timedOut(true, now, now)
			case plain:
				e.answered(false, now)
			case plainLoss:
				e.timedOut(false, now, now)
			case late:
				e.timedOut(true, now.Add(-time.Second), now)
			}
			if got := e.use(now); got != s.want {
				t.Errorf("%s, step %d (%s): %v", name, i, s.event, got)
				break
			}
		}
	}
}
