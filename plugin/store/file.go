package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"os"
	"slices"
	"strings"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// What is in the file: a bucket that says what it is and of which version, and in which order the others have last been
// written, and these others, whose names begin with bucketPrefix.
const (
	aboutBucket  = "alias"
	versionKey   = "version"
	version      = "1"
	usedPrefix   = "used "
	bucketPrefix = "answers "
)

// maxBuckets is how many buckets a file has, unless more are open.
const maxBuckets = 100

var (
	errDamaged = errors.New("the file is damaged")
	errForeign = errors.New("this is something else, and left alone")
	errLocked  = errors.New("another process has it open")
)

// open opens the file, and creates it if there is none. One that is damaged or of another version is set aside.
func (f *file) open() error {
	if err := inspect(f.path); err != nil {
		return err
	}
	db, err := openDatabase(f.path)
	if err != nil {
		return err
	}
	f.db = db
	if f.info, err = os.Stat(f.path); err != nil {
		f.close()
		return err
	}
	found, err := f.examine()
	switch {
	case err != nil:
		f.close()
		return err
	case found != version:
		f.close()
		if err := f.setAside("version-"+found, fmt.Errorf("it has version %s and not %s", found, version)); err != nil {
			return err
		}
		return f.open()
	}
	for _, b := range f.list() {
		b.mu.Lock()
		b.behind = true
		b.mu.Unlock()
	}
	return nil
}

// openDatabase opens the database at path, which nobody else may have open.
func openDatabase(path string) (*bolt.DB, error) {
	db, err := bolt.Open(path, 0o600, &bolt.Options{Timeout: lockTimeout, FreelistType: bolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = errLocked
	}
	return db, asDamage(err)
}

// asDamage returns err as damage when it is about what is in the file, and not about the disk.
func asDamage(err error) error {
	for _, about := range []error{bolterrors.ErrInvalid, bolterrors.ErrChecksum, bolterrors.ErrVersionMismatch, bolterrors.ErrIncompatibleValue} {
		if errors.Is(err, about) {
			return fmt.Errorf("%w: %v", errDamaged, err)
		}
	}
	return err
}

// examine returns the version of the file, which is made ours if it is new.
func (f *file) examine() (found string, err error) {
	err = f.db.View(func(tx *bolt.Tx) error {
		about := tx.Bucket([]byte(aboutBucket))
		if about != nil {
			found = printable(about.Get([]byte(versionKey)))
			return nil
		}
		switch name, _ := tx.Cursor().First(); {
		case name == nil:
			return nil // it is new
		case hasOurs(tx):
			return fmt.Errorf("%w: it does not say its version", errDamaged)
		default:
			return errForeign
		}
	})
	if err != nil || found != "" && found != version {
		return found, err
	}
	return version, asDamage(f.db.Update(func(tx *bolt.Tx) error {
		about, err := tx.CreateBucketIfNotExists([]byte(aboutBucket))
		if err != nil {
			return err
		}
		return about.Put([]byte(versionKey), []byte(version))
	}))
}

// hasOurs reports whether there is a bucket that this package has written.
func hasOurs(tx *bolt.Tx) bool {
	name, _ := tx.Cursor().Seek([]byte(bucketPrefix))
	return strings.HasPrefix(string(name), bucketPrefix)
}

// printable returns a version that can be a part of a file's name.
func printable(value []byte) string {
	return strings.Map(func(r rune) rune {
		if '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || r == '.' || r == '-' {
			return r
		}
		return '_'
	}, string(value[:min(len(value), 20)]))
}

// use notes that the bucket of that name is the last that was in use.
func use(tx *bolt.Tx, name string) error {
	about := tx.Bucket([]byte(aboutBucket))
	n, err := about.NextSequence()
	if err != nil {
		return err
	}
	return about.Put([]byte(usedPrefix+name), binary.BigEndian.AppendUint64(nil, n))
}

// removeUnused makes room for another bucket when there are maxBuckets, and removes those that have not been in use for
// longest, unless they are open. It goes by no clock, for that may be wrong.
func removeUnused(tx *bolt.Tx, open map[string]bool) error {
	about := tx.Bucket([]byte(aboutBucket))
	type bucket struct {
		name string
		used string
	}
	var all []bucket
	err := about.ForEach(func(k, v []byte) error {
		if name, ok := strings.CutPrefix(string(k), usedPrefix); ok {
			all = append(all, bucket{name, string(v)})
		}
		return nil
	})
	if err != nil {
		return err
	}
	slices.SortFunc(all, func(a, b bucket) int { return strings.Compare(a.used, b.used) })
	for _, b := range all[:max(len(all)-maxBuckets, 0)] {
		if open[b.name] {
			continue
		}
		if err := about.Delete([]byte(usedPrefix + b.name)); err != nil {
			return err
		}
		if err := tx.DeleteBucket([]byte(bucketPrefix + b.name)); err != nil && !errors.Is(err, bolterrors.ErrBucketNotFound) {
			return err
		}
	}
	return nil
}

// inPlace reports whether the file at the path is the one that is open, and has not been truncated.
func (f *file) inPlace() bool {
	info, err := os.Stat(f.path)
	if err != nil || !os.SameFile(info, f.info) || info.Size() < f.info.Size() {
		return false
	}
	f.info = info
	return true
}

// close closes the database, if it is open. That can fail in any way, and even block, when it has failed before.
func (f *file) close() {
	if f.db == nil {
		return
	}
	db, closed := f.db, make(chan struct{})
	f.db = nil
	go func() {
		defer close(closed)
		defer func() { _ = recover() }()
		_ = db.Close()
	}()
	wait(closed, lockTimeout)
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

// seal returns what is in the file for value: a checksum of the record, for bbolt has none, and the value.
func seal(key []byte, value string) []byte {
	return append(binary.BigEndian.AppendUint32(nil, checksum(key, []byte(value))), value...)
}

// unseal returns the value of a sealed record, unless it is damaged.
func unseal(key, sealed []byte) (value string, ok bool) {
	if len(sealed) < 4 || binary.BigEndian.Uint32(sealed) != checksum(key, sealed[4:]) {
		return "", false
	}
	return string(sealed[4:]), true
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(key, value []byte) uint32 {
	return crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, value)
}
