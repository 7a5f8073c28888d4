package store

// What the tests need to know to reach the bounds.
const (
	MaxBuckets  = maxBuckets
	MaxGarbage  = maxGarbage
	MaxPending  = maxPending
	LockTimeout = lockTimeout
)

// Pending returns how many changes wait to be written.
func (b *Bucket) Pending() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.pending)
}
