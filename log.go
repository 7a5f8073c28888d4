package alias

import (
	"fmt"
	"sync"
)

// maxTold is how many messages are remembered as told. What zones and clients make is bounded by it.
const maxTold = 1000

// told has the warnings that were logged.
type told struct {
	mu   sync.Mutex
	text map[string]struct{}
}

// tellOnce logs a warning about what stays wrong until somebody changes it, unless it has been logged before.
func (a *Alias) tellOnce(format string, v ...any) {
	text := fmt.Sprintf(format, v...)
	a.told.mu.Lock()
	defer a.told.mu.Unlock()
	if _, ok := a.told.text[text]; ok || len(a.told.text) == maxTold {
		return
	}
	if a.told.text == nil {
		a.told.text = make(map[string]struct{})
	}
	a.told.text[text] = struct{}{}
	log.Warning(text)
}
