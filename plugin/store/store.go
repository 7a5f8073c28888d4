// Package store keeps a copy of what is in memory in a file, so that it survives the process, however that ends.
//
// The file is a bbolt database with a bucket for each set of records. It is written behind: what changes is in the file
// Interval later, at most, and what the disk takes. Whatever is wrong with the file, its users go on without it: it is
// looked at again every RetryInterval, and once it can be used, it gets all that its users have. A file that is damaged or
// of another version is set aside under another name; one that is no such file is left alone.
package store

import (
	"errors"
	"fmt"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	clog "github.com/coredns/coredns/plugin/pkg/log"
	bolt "go.etcd.io/bbolt"
)

const (
	// Interval is the time between two writes.
	Interval = time.Second

	// RetryInterval is how often a file that cannot be used is tried again.
	RetryInterval = 10 * time.Second

	// How long the users wait for the file to be read, and for the last changes to be written.
	readPatience  = 10 * time.Second
	writePatience = 5 * time.Second

	// lockTimeout is how long another process may hold the file.
	lockTimeout = time.Second

	// maxBatch is how many records are written in one go, and maxPending how many changes of a bucket are kept until
	// then: past that, the whole bucket is compared with what is in memory.
	maxBatch   = 10_000
	maxPending = 100_000
)

var log = clog.NewWithPlugin("alias")

// Contents is what a bucket is the copy of. Its methods may be called at any time while the bucket is open, by one goroutine.
type Contents interface {
	// Restore takes over a record of the file, unless there is a newer one, and returns the value that is to be in the
	// file: the same, a newer one, or "" to have the record removed.
	Restore(key, value string) string

	// All yields all records.
	All() iter.Seq2[string, string]
}

// Bucket is one set of records in a file. It is safe for concurrent use.
type Bucket struct {
	file     *file
	name     string
	contents Contents

	mu      sync.Mutex
	pending map[string]string // changes to be written; "" removes
	behind  bool              // the file has to be compared with the contents
	limit   int               // of pending, until it is empty
}

// file is a database that is open in this process, once.
type file struct {
	path  string
	wrote func(error)

	users int // guarded by files

	mu      sync.Mutex
	buckets map[string]*Bucket

	changed chan struct{}      // there is something to write
	urgent  chan chan struct{} // somebody waits for all to be read and written
	done    chan struct{}      // run has ended

	// What follows belongs to run.
	db    *bolt.DB
	info  os.FileInfo // of the file that db has open
	cause string      // of the last failure, "" if there was none since the last success
}

// files are those open in this process: a second lock of a file would wait for the first forever.
var files = struct {
	sync.Mutex
	open map[string]*file
}{open: make(map[string]*file)}

// New returns the bucket of that name in the file at path, which is Canonical, and not looked at before Open. No two buckets of a file that
// are open at the same time have the same name. wrote is called after each attempt to write, with its error, also when there
// is no file to write to.
func New(path, name string, contents Contents, wrote func(error)) *Bucket {
	b := &Bucket{name: name, contents: contents, pending: make(map[string]string), behind: true}
	files.Lock()
	defer files.Unlock()
	b.file = files.open[path]
	if b.file == nil {
		b.file = &file{
			path: path, wrote: wrote, buckets: make(map[string]*Bucket),
			changed: make(chan struct{}, 1), urgent: make(chan chan struct{}), done: make(chan struct{}),
		}
		files.open[path] = b.file
		go b.file.run()
	}
	b.file.users++
	return b
}

// Open restores the records to the contents. When there is something wrong with the file, or it takes long, it returns all
// the same, and they will be restored once the file can be read.
func (b *Bucket) Open() {
	b.file.mu.Lock()
	b.file.buckets[b.name] = b
	b.file.mu.Unlock()
	b.file.sync(readPatience)
}

// Canonical returns one of the spellings of path, always the same as long as no links change.
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

// Put has the record written.
func (b *Bucket) Put(key, value string) { b.change(key, value) }

// Delete has the record removed.
func (b *Bucket) Delete(key string) { b.change(key, "") }

func (b *Bucket) change(key, value string) {
	b.mu.Lock()
	b.pending[key] = value
	if len(b.pending) > max(b.limit, maxPending) {
		clear(b.pending)
		b.behind = true
	}
	b.mu.Unlock()
	select {
	case b.file.changed <- struct{}{}:
	default:
	}
}

// Flush waits for what has changed to be written, but not for longer than a few seconds.
func (b *Bucket) Flush() { b.file.sync(writePatience) }

// Close writes what has changed, as Flush does, and gives the bucket up. The last to do so closes the file.
func (b *Bucket) Close() {
	b.Flush()
	f := b.file
	files.Lock()
	defer files.Unlock()
	f.mu.Lock()
	delete(f.buckets, b.name)
	f.mu.Unlock()
	if f.users--; f.users == 0 {
		delete(files.open, f.path)
		close(f.urgent)
		wait(f.done, writePatience)
	}
}

// sync has run look at the file at once, and waits for it.
func (f *file) sync(patience time.Duration) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	done := make(chan struct{})
	select {
	case f.urgent <- done:
	case <-timeout.C:
		return
	}
	select {
	case <-done:
	case <-timeout.C:
	}
}

func wait(done <-chan struct{}, patience time.Duration) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	select {
	case <-done:
	case <-timeout.C:
	}
}

// run does all that is done with the file.
func (f *file) run() {
	defer close(f.done)
	debug.SetPanicOnFault(true) // the file is mapped into memory: who truncates it makes a read of it a fault
	var last time.Time
	var failing bool
	for {
		waiting, ok := f.await(last, failing)
		if !ok {
			f.close()
			return
		}
		last = time.Now()
		err := f.update()
		failing = err != nil
		f.tell(err)
		if waiting != nil {
			close(waiting)
		}
	}
}

// await returns when it is time for the next update; last is when the last one was, and failing how it ended. waiting is
// to be closed after it. It is not ok when everybody has gone.
func (f *file) await(last time.Time, failing bool) (waiting chan struct{}, ok bool) {
	changed, pause := f.changed, time.Duration(0)
	if failing {
		changed, pause = nil, RetryInterval
	}
	due := time.NewTimer(pause)
	defer due.Stop()
	if !failing {
		due.Stop()
	}
	for {
		select {
		case waiting, ok = <-f.urgent:
			return waiting, ok
		case <-changed:
			changed = nil
			due.Reset(Interval - time.Since(last))
		case <-due.C:
			return nil, true
		}
	}
}

// update brings file and memory to the same state. A file that turns out to be damaged is set aside, and another begun.
func (f *file) update() error {
	err := f.attempt()
	if errors.Is(err, errDamaged) {
		if err = f.setAside("damaged", err); err == nil {
			err = f.attempt()
		}
	}
	return err
}

// attempt is update with a file that is not damaged.
func (f *file) attempt() (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	if f.db != nil && !f.inPlace() {
		f.close()
	}
	if f.db == nil {
		if err := f.open(); err != nil {
			f.wrote(err)
			return err
		}
	}
	for _, b := range f.list() {
		if err := f.compare(b); err != nil {
			return err
		}
	}
	return f.write()
}

// list returns the buckets.
func (f *file) list() []*Bucket {
	f.mu.Lock()
	defer f.mu.Unlock()
	list := make([]*Bucket, 0, len(f.buckets))
	for _, b := range f.buckets {
		list = append(list, b)
	}
	return list
}

// names returns those of the buckets.
func (f *file) names() map[string]bool {
	names := make(map[string]bool)
	for _, b := range f.list() {
		names[b.name] = true
	}
	return names
}

// compare restores the records of b from the file, and has those written that the file lacks, if that is to be done.
func (f *file) compare(b *Bucket) error {
	b.mu.Lock()
	behind := b.behind
	b.behind = false
	b.mu.Unlock()
	if !behind {
		return nil
	}
	changes := make(map[string]string)
	damaged := 0
	err := f.db.View(func(tx *bolt.Tx) error {
		records := tx.Bucket([]byte(bucketPrefix + b.name))
		if records == nil {
			maps.Insert(changes, b.contents.All())
			return nil
		}
		err := records.ForEach(func(k, sealed []byte) error {
			key := string(k)
			value, ok := unseal(k, sealed)
			switch {
			case b.removes(key): // it had to make room before the file could be read
			case !ok:
				damaged++
				changes[key] = ""
			default:
				if now := b.contents.Restore(key, value); now != value {
					changes[key] = now
				}
			}
			return nil
		})
		for key, value := range b.contents.All() {
			if records.Get([]byte(key)) == nil {
				changes[key] = value
			}
		}
		return err
	})
	if damaged > 0 {
		log.Warningf("%d records of %s were damaged, and are not used", damaged, f.path)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.behind = b.behind || err != nil // it may have got behind meanwhile
	b.limit = len(changes) + maxPending
	for key, value := range changes {
		if _, newer := b.pending[key]; !newer {
			b.pending[key] = value
		}
	}
	return err
}

// removes reports whether the record is about to be removed.
func (b *Bucket) removes(key string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	value, ok := b.pending[key]
	return ok && value == ""
}

// write writes what is pending.
func (f *file) write() error {
	for {
		n, err := f.writeSome()
		if n < maxBatch || err != nil {
			return err
		}
	}
}

// writeSome writes as much of what is pending as goes into one transaction, and returns how much.
func (f *file) writeSome() (n int, err error) {
	taken := make(map[*Bucket]map[string]string)
	for _, b := range f.list() {
		taken[b] = b.take(maxBatch - n)
		n += len(taken[b])
	}
	if n == 0 {
		return 0, nil
	}
	written := false
	defer func() { // after a panic too
		if !written {
			for b, changes := range taken {
				b.giveBack(changes)
			}
		}
	}()
	err = f.db.Update(func(tx *bolt.Tx) error {
		for b, changes := range taken {
			if err := b.apply(tx, changes, f.names()); err != nil {
				return err
			}
		}
		return nil
	})
	f.wrote(err)
	written = err == nil
	return n, asDamage(err)
}

// take removes up to n changes from those pending, and returns them.
func (b *Bucket) take(n int) map[string]string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.pending) <= n {
		changes := b.pending
		b.pending, b.limit = make(map[string]string), 0
		return changes
	}
	changes := make(map[string]string, n)
	for key, value := range b.pending {
		if len(changes) == n {
			break
		}
		changes[key] = value
		delete(b.pending, key)
	}
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

// apply writes changes; open are the buckets that are in use.
func (b *Bucket) apply(tx *bolt.Tx, changes map[string]string, open map[string]bool) error {
	if err := use(tx, b.name); err != nil {
		return err
	}
	if tx.Bucket([]byte(bucketPrefix+b.name)) == nil {
		if err := removeUnused(tx, open); err != nil {
			return err
		}
	}
	records, err := tx.CreateBucketIfNotExists([]byte(bucketPrefix + b.name))
	if err != nil {
		return err
	}
	for key, value := range changes {
		if value == "" {
			err = records.Delete([]byte(key))
		} else {
			err = records.Put([]byte(key), seal([]byte(key), value))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// tell logs the first failure of a kind, and when it is over.
func (f *file) tell(err error) {
	switch {
	case err != nil && err.Error() != f.cause:
		f.cause = err.Error()
		log.Warningf("Answers are not kept in %s: %v; they are in memory", f.path, err)
	case err == nil && f.cause != "":
		f.cause = ""
		log.Infof("Answers are kept in %s again", f.path)
	}
}
