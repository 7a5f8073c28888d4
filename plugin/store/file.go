package store

import (
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
)

// file is the file at a path that has buckets in use. One goroutine, run, does all that is done with it, so that nobody else waits
// for the disk.
type file struct {
	path  string
	wrote func(error)

	users int // guarded by files

	mu      sync.Mutex
	buckets map[bucketID]*Bucket

	changed chan struct{}      // there is something to write
	urgent  chan chan struct{} // somebody waits until all is read and written
	done    chan struct{}      // run has ended

	// What follows belongs to run.
	journal *journal    // nil if the file is not open
	former  os.FileInfo // of the file that was open last
	cause   string      // of the last failure, "" if there was none since the last success
}

// files are those of this process. A file is open once: a second lock of it would wait for the first forever.
var files = struct {
	sync.Mutex
	open map[string]*file
}{open: make(map[string]*file)}

func newFile(path string, wrote func(error)) *file {
	return &file{
		path: path, wrote: wrote, buckets: make(map[bucketID]*Bucket),
		changed: make(chan struct{}, 1), urgent: make(chan chan struct{}), done: make(chan struct{}),
	}
}

// sync has run update the file at once, and waits for it.
func (f *file) sync(patience time.Duration) { request(f.urgent, patience) }

// request hands a channel to whoever receives from urgent, and waits until that closes it, but not longer than patience in all.
func request(urgent chan<- chan struct{}, patience time.Duration) {
	timeout := time.NewTimer(patience)
	defer timeout.Stop()
	done := make(chan struct{})
	select {
	case urgent <- done:
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

// run updates the file until nobody uses it any more.
func (f *file) run() {
	defer close(f.done)
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

// update brings file and contents to the same state. A file that turns out to be of no use is set aside, and another begun.
func (f *file) update() error {
	err := f.attempt()
	var found otherVersion
	switch {
	case errors.Is(err, errDamaged):
		err = f.setAside("damaged", err)
	case errors.As(err, &found):
		err = f.setAside("version-"+string(found), fmt.Errorf("it has version %s and not %d", string(found), version))
	default:
		return f.count(err)
	}
	if err == nil {
		err = f.attempt()
	}
	return f.count(err)
}

// count has a failure counted if there is no file to write to; attempts to write count for themselves.
func (f *file) count(err error) error {
	if err != nil && f.journal == nil {
		f.wrote(err)
	}
	return err
}

// attempt is update with a file that can be used.
func (f *file) attempt() error {
	if f.journal != nil && !f.journal.inPlace() {
		f.close()
	}
	if f.journal == nil {
		if err := f.open(); err != nil {
			return err
		}
	}
	buckets := f.list()
	for _, b := range buckets {
		if err := f.compare(b); err != nil {
			return err
		}
	}
	// Before the write, so that a file that cannot be compacted does not grow any more.
	if err := f.compact(buckets); err != nil {
		return err
	}
	return f.write(buckets)
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

// open opens the file. All buckets have to be compared with it then.
func (f *file) open() error {
	j, damaged, err := openJournal(f.path, f.former)
	if err != nil {
		return err
	}
	if damaged > 0 {
		log.Warningf("At least %d records of %s were damaged, and are not used", damaged, f.path)
	}
	f.journal = j
	for _, b := range f.list() {
		b.setBehind(true)
	}
	return nil
}

// compare restores the records of b from the file, and writes those that the file lacks, if that is to be done.
func (f *file) compare(b *Bucket) error {
	if !b.setBehind(false) {
		return nil
	}
	before := f.journal.end
	var readErr error
	n, err := f.journal.write(func(yield func(change) bool) {
		stop := false
		var known keys
		known, readErr = f.journal.live(b.id, func(c change) bool {
			if b.removes(c.key) { // it had to make room before the file could be read
				return true
			}
			if now := b.contents.Restore(c.key, c.value); now != c.value {
				stop = !yield(change{b.id, c.key, now})
			}
			return !stop
		})
		if stop || readErr != nil {
			return
		}
		for key, value := range b.contents.All() {
			if !known.have(key) && !yield(change{b.id, key, value}) {
				return
			}
		}
	})
	if n > 0 {
		f.wrote(err)
	}
	if err == nil {
		err = readErr
	}
	if err != nil {
		b.setBehind(true)
		return err
	}
	f.journal.addLive(b.id, f.journal.end-before)
	return nil
}

// compact rewrites the file when that is due.
func (f *file) compact(buckets []*Bucket) error {
	open := make(map[bucketID]bool)
	for _, b := range buckets {
		open[b.id] = true
	}
	if !f.journal.due(open) {
		return nil
	}
	err := f.journal.compact(open)
	f.wrote(err)
	return err
}

// write writes what is pending.
func (f *file) write(buckets []*Bucket) error {
	taken := make(map[*Bucket]map[string]string)
	for _, b := range buckets {
		taken[b] = b.take()
	}
	n, err := f.journal.write(func(yield func(change) bool) {
		for b, changes := range taken {
			for key, value := range changes {
				if !yield(change{b.id, key, value}) {
					return
				}
			}
		}
	})
	if err != nil {
		for b, changes := range taken {
			b.giveBack(changes)
		}
	}
	if n > 0 {
		f.wrote(err)
	}
	return err
}

// close closes the file, if it is open.
func (f *file) close() {
	if f.journal != nil {
		f.former = f.journal.info
		f.journal.close()
		f.journal = nil
	}
}

// setAside gives the file another name, and returns nil if it could, or reason and why it could not.
func (f *file) setAside(what string, reason error) error {
	f.close()
	name := fmt.Sprintf("%s.%s-%s", f.path, what, time.Now().UTC().Format("20060102T150405Z"))
	for i := 2; exists(name); i++ {
		name = fmt.Sprintf("%s.%s-%s-%d", f.path, what, time.Now().UTC().Format("20060102T150405Z"), i)
	}
	if err := os.Rename(f.path, name); err != nil {
		var link *os.LinkError
		if errors.As(err, &link) { // whose message has the name, and with it the time
			err = link.Err
		}
		return fmt.Errorf("%v; it cannot be set aside: %w", reason, err)
	}
	log.Warningf("%s is set aside as %s: %v", f.path, name, reason)
	return nil
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
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
