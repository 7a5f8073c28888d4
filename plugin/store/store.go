// Package store keeps a copy of a cache outside of the process, so that the cache survives the process, however that ends.
//
// The cache gives the store a name for itself and implements [Contents]; the store has a [Bucket] for each cache. There is one
// kind of store: a file on the local disk. The package knows nothing of DNS, of aliases, or of what is in keys and values. Of
// CoreDNS it knows the log.
//
// The file is a log of records (see record.go). The cache never waits for it, but while it is opened, flushed and closed. What
// changes is written at most [Interval] later, and is then on the disk as soon as the disk has taken it: this is what a process
// that is killed, or a loss of power, can lose. Whatever is wrong with the file, its users go on without it: the file is tried
// again every [RetryInterval], and once it can be used, it gets all that its users have. A file that is damaged as a whole, or
// of another version, is set aside under another name. A file of another program is left alone.
package store

import (
	"crypto/sha256"
	"encoding/binary"
	"iter"
	"path/filepath"
	"sync"
	"time"

	clog "github.com/coredns/coredns/plugin/pkg/log"
)

const (
	// Interval is the time between two writes.
	Interval = time.Second

	// RetryInterval is how often a file that cannot be used is tried again.
	RetryInterval = 10 * time.Second

	// MaxKey is the length of the longest key, in octets.
	MaxKey = 1<<16 - 1

	// MaxValue is the length of the longest value, in octets.
	MaxValue = 1 << 20

	// How long the users wait for the file to be read, and for the last changes to be written.
	readPatience  = 10 * time.Second
	writePatience = 5 * time.Second

	// maxPending is how many changes of a bucket wait to be written. If there are more, they are forgotten, and the whole
	// bucket is compared with the contents instead.
	maxPending = 100_000
)

var log = clog.NewWithPlugin("alias")

// Contents is the cache that a bucket is the copy of. Keys and values are strings of any octets; a value is not empty. The store
// calls the methods from one goroutine, at any time between the call of Open and the return of Close, so they must be safe for
// concurrent use with the cache's own. They may call Put and Delete of the bucket, and no other method of it.
type Contents interface {
	// Restore takes over a record of the store, unless the cache has a newer one, and returns the value that the store is to
	// have: the same, a newer one, or "" if the record is to be removed. It is called once for each key, before Open returns,
	// or later if the store could not be read by then; and again when the store has been out of use.
	Restore(key, value string) string

	// All yields all records. It may miss those that change meanwhile: the cache calls Put for them.
	All() iter.Seq2[string, string]
}

// Bucket is the copy of one cache. Its methods are safe for concurrent use. None of them returns an error: failures are logged,
// counted by the function that New got, and mended when that is possible.
type Bucket struct {
	file     *file
	id       bucketID
	contents Contents

	mu      sync.Mutex
	pending map[string]string // changes that are not written yet; "" removes
	behind  bool              // the file has to be compared with the contents
}

// bucketID stands for the name of a bucket in the file.
type bucketID uint64

func idOf(name string) bucketID {
	sum := sha256.Sum256([]byte(name))
	return bucketID(binary.BigEndian.Uint64(sum[:]))
}

// New returns the bucket of that name in the file at path, which has to be in the form that Canonical returns. It does not look
// at the file. The buckets of a file that are in use at the same time must have different names, and each must be closed.
//
// wrote is called after each attempt to write to the file, with its error or nil, also when there is no file to write to. The
// calls come from one goroutine, which writes nothing meanwhile. All buckets of a file share the wrote of the first.
func New(path, name string, contents Contents, wrote func(error)) *Bucket {
	b := &Bucket{id: idOf(name), contents: contents, pending: make(map[string]string), behind: true}
	files.Lock()
	defer files.Unlock()
	b.file = files.open[path]
	if b.file == nil {
		b.file = newFile(path, wrote)
		files.open[path] = b.file
		go b.file.run()
	}
	b.file.users++
	return b
}

// Canonical returns one of the spellings of path, always the same as long as no links change: absolute and, as far as the file
// and its directory exist, without symbolic links.
func Canonical(path string) string {
	if abs, err := filepath.Abs(path); err == nil {
		path = abs
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real
	}
	if dir, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		return filepath.Join(dir, filepath.Base(path))
	}
	return path
}

// Open restores the records of the file to the contents, and has the file get those that it lacks. When there is something wrong
// with the file, or it takes more than 10 seconds, Open returns all the same, and the rest follows when it can.
func (b *Bucket) Open() {
	b.file.mu.Lock()
	b.file.buckets[b.id] = b
	b.file.mu.Unlock()
	b.file.sync(readPatience)
}

// Put has the record written. It does not wait for that. The value must not be empty. There is no record of a key of more than
// MaxKey octets, or with a value of more than MaxValue.
func (b *Bucket) Put(key, value string) { b.change(key, value) }

// Delete has the record removed. It does not wait for that.
func (b *Bucket) Delete(key string) { b.change(key, "") }

func (b *Bucket) change(key, value string) {
	b.mu.Lock()
	b.pending[key] = value
	if len(b.pending) > maxPending {
		clear(b.pending)
		b.behind = true
	}
	b.mu.Unlock()
	select {
	case b.file.changed <- struct{}{}:
	default:
	}
}

// Flush waits until what has changed is on the disk, but for 5 seconds at most.
func (b *Bucket) Flush() { b.file.sync(writePatience) }

// Close writes what has changed, as Flush does, and gives the bucket up, which must not be used any more. The last to do so closes
// the file, for which Close waits another 5 seconds at most.
func (b *Bucket) Close() {
	b.Flush()
	f := b.file
	files.Lock()
	defer files.Unlock()
	f.mu.Lock()
	delete(f.buckets, b.id)
	f.mu.Unlock()
	if f.users--; f.users == 0 {
		delete(files.open, f.path)
		close(f.urgent)
		wait(f.done, writePatience)
	}
}

// removes reports whether the record is about to be removed.
func (b *Bucket) removes(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	value, ok := b.pending[key]
	return ok && value == ""
}

// take removes the changes that are pending, and returns them.
func (b *Bucket) take() map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pending) == 0 {
		return nil
	}
	changes := b.pending
	b.pending = make(map[string]string)
	return changes
}

// giveBack makes changes pending again, but for those that there are newer ones of.
func (b *Bucket) giveBack(changes map[string]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for key, value := range changes {
		if _, newer := b.pending[key]; !newer {
			b.pending[key] = value
		}
	}
}

// setBehind notes whether the file has to be compared with the contents, and returns whether it had to.
func (b *Bucket) setBehind(behind bool) (was bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	was, b.behind = b.behind, behind
	return was
}
