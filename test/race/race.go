// Package race tells tests whether the race detector is on: it makes allocations of its own, and takes its time.
package race

// Enabled reports whether the race detector is on.
var Enabled bool
