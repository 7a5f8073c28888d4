package alias

import (
	"fmt"
	"sync"
)

// How many messages are logged once. Zones and clients could make any number of them.
const (
	maxTold       = 1000
	maxLabelsTold = 100
)

// told has messages that were logged.
type told struct {
	mu   sync.Mutex
	text map[string]struct{}
}

// tellOnce logs a warning about what stays wrong until somebody changes it, unless it has been logged before.
func (a *Alias) tellOnce(format string, v ...any) {
	a.warnings.once(maxTold, fmt.Sprintf(format, v...))
}

// once logs text as a warning, unless it has been logged before, or most others have.
func (t *told) once(most int, text string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, ok := t.text[text]; ok || len(t.text) == most {
		return
	}
	if t.text == nil {
		t.text = make(map[string]struct{})
	}
	t.text[text] = struct{}{}
	log.Warning(text)
}
