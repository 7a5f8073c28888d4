package store

import (
	"bufio"
	"cmp"
	"errors"
	"hash/maphash"
	"io"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"slices"
)

const (
	// maxBuckets is how many buckets a file has, unless more are open.
	maxBuckets = 100

	// maxGarbage is how many octets of records that do not count any more a file may have, beside as many as of those that do.
	maxGarbage = 64 << 10

	// compacting ends the name of a file that is written in place of the one that is open.
	compacting = ".compacting"
)

// journal is a file that is open. It is not safe for concurrent use.
type journal struct {
	file    *os.File
	path    string
	info    os.FileInfo // as this process left the file
	end     int64       // of the last record
	parts   parts
	rewrite bool // there are octets in it that are no records
	failed  bool // it may not be what this says
}

// extent is a part of a file, without the octet to.
type extent struct{ from, to int64 }

// part is where in a file the records of a bucket are.
type part struct {
	extents []extent // in their order
	live    int64    // octets of the records that count, at the last look
}

type parts map[bucketID]*part

// of returns the part of a bucket, which is made if there is none.
func (ps parts) of(id bucketID) *part {
	if ps[id] == nil {
		ps[id] = new(part)
	}
	return ps[id]
}

// add notes records that are behind all others of the bucket.
func (p *part) add(e extent) {
	if n := len(p.extents); n > 0 && p.extents[n-1].to == e.from {
		p.extents[n-1].to = e.to
		return
	}
	p.extents = append(p.extents, e)
}

// last returns the end of the last record.
func (p *part) last() int64 { return p.extents[len(p.extents)-1].to }

// inPlace reports whether the file at the path is the one that is open, and nobody else has written to it.
func (j *journal) inPlace() bool {
	info, err := os.Stat(j.path)
	return err == nil && !j.failed && os.SameFile(info, j.info) && info.Size() == j.end && info.ModTime().Equal(j.info.ModTime())
}

// note notes what the file is like after a write of this process.
func (j *journal) note() error {
	info, err := j.file.Stat()
	if err != nil {
		j.failed = true
		return err
	}
	j.info = info
	return nil
}

// write appends the changes, and returns when all of them are on the disk. If there is an error, none is in the file. n is how many
// have been tried.
func (j *journal) write(changes iter.Seq[change]) (n int, err error) {
	out := bufio.NewWriterSize(io.NewOffsetWriter(j.file, j.end), 64<<10)
	added, at := make(parts), j.end
	var record []byte
	for c := range changes {
		if len(c.key) > MaxKey {
			continue
		}
		if len(c.value) > MaxValue {
			c.value = "" // rather none than an old one
		}
		n++
		record = appendRecord(record[:0], c)
		if _, err = out.Write(record); err != nil {
			break
		}
		size := int64(len(record))
		added.of(c.bucket).add(extent{at, at + size})
		at += size
	}
	if n == 0 {
		return 0, nil
	}
	if err == nil {
		err = out.Flush()
	}
	if err == nil {
		err = j.file.Sync()
		j.failed = err != nil // nobody knows what is on the disk
	}
	if err != nil {
		j.cutOff()
		var disk *os.PathError
		if errors.As(err, &disk) { // whose message may have the name that the file had while it was made
			err = disk.Err
		}
		return n, err
	}
	j.end = at
	for id, p := range added {
		for _, e := range p.extents {
			j.parts.of(id).add(e)
		}
	}
	return n, j.note()
}

// cutOff removes what is behind the last record that is whole.
func (j *journal) cutOff() {
	if err := j.file.Truncate(j.end); err != nil {
		j.failed = true
	}
	_ = j.note()
}

// keys are those of a bucket in a file, as hashes and where the record is that counts. They take some 30 octets each. Two keys
// with the same hash, by which the former would be lost, are no more likely among a million than once in 30 million starts.
type keys struct {
	seed maphash.Seed
	at   map[uint64]int64
}

func (k keys) have(key string) bool {
	_, ok := k.at[maphash.String(k.seed, key)]
	return ok
}

// live calls see with the records of a bucket that count, until it returns false, and returns their keys. What is written meanwhile
// is not seen.
func (j *journal) live(id bucketID, see func(c change) bool) (keys, error) {
	k := keys{maphash.MakeSeed(), make(map[uint64]int64)}
	p := j.parts[id]
	if p == nil {
		return k, nil
	}
	extents := slices.Clone(p.extents)
	err := j.scan(extents, func(s *scanner) bool {
		if hash := maphash.Bytes(k.seed, s.key()); len(s.value()) == 0 {
			delete(k.at, hash)
		} else {
			k.at[hash] = s.at
		}
		return true
	})
	if err != nil {
		return k, err
	}
	live, all := int64(0), true
	err = j.scan(extents, func(s *scanner) bool {
		if at, ok := k.at[maphash.Bytes(k.seed, s.key())]; ok && at == s.at {
			live += int64(len(s.record))
			all = see(change{id, string(s.key()), string(s.value())})
		}
		return all
	})
	if all && err == nil {
		p.live = live
	}
	return k, err
}

// scan calls see with each record in the extents, until it returns false. Those that are damaged were not when the file was opened:
// somebody else has written to it, and inPlace will find out.
func (j *journal) scan(extents []extent, see func(s *scanner) bool) error {
	s := new(scanner)
	for _, e := range extents {
		for s.reset(j.file, e.from, e.to); s.next(); {
			if !see(s) {
				return nil
			}
		}
		if s.err != nil {
			return s.err
		}
	}
	return nil
}

// addLive counts records that have been added to a bucket and that count.
func (j *journal) addLive(id bucketID, size int64) {
	if size > 0 {
		j.parts.of(id).live += size
	}
}

// due reports whether the file is to be compacted. open are the buckets in use.
func (j *journal) due(open map[bucketID]bool) bool {
	var live int64
	for _, p := range j.parts {
		live += p.live
	}
	unused, _ := j.closed(open)
	return j.rewrite || j.end > 2*live+maxGarbage || len(unused) > 0
}

// closed returns the buckets that are not open: those that have to make room for others because there are more than maxBuckets,
// and the rest. They are in the order of their last use, which is that of their last records, for a clock may be wrong.
func (j *journal) closed(open map[bucketID]bool) (unused, rest []bucketID) {
	for id := range j.parts {
		if !open[id] {
			rest = append(rest, id)
		}
	}
	slices.SortFunc(rest, func(a, b bucketID) int { return cmp.Compare(j.parts[a].last(), j.parts[b].last()) })
	n := min(max(len(j.parts)-maxBuckets, 0), len(rest))
	return rest[:n], rest[n:]
}

// compact puts a file with the records that count, but for those of unused buckets, in place of this one. At any moment, one of the
// two is at the path, whole.
func (j *journal) compact(open map[bucketID]bool) error {
	_, ids := j.closed(open)
	ids = slices.AppendSeq(ids, maps.Keys(open)) // as those that were in use last
	fresh, err := j.fresh()
	if err != nil {
		return err
	}
	if err = fresh.take(j, ids); err == nil {
		fresh.file, err = replace(fresh.file, j.file, j.path)
		j.failed = err != nil // it may be closed
	}
	if err != nil {
		fresh.close()
		_ = os.Remove(j.path + compacting)
		return err
	}
	*j = *fresh
	syncDir(j.path)
	return j.note()
}

// fresh returns a journal without records that is to take the place of j.
func (j *journal) fresh() (*journal, error) {
	name := j.path + compacting
	if err := os.Remove(name); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	file, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600) // #nosec G304 -- the operator's choice
	if err != nil {
		return nil, err
	}
	fresh := &journal{file: file, path: j.path, parts: make(parts)}
	if err = file.Chmod(j.info.Mode().Perm()); err == nil {
		err = fresh.begin()
	}
	if err != nil {
		fresh.close()
		_ = os.Remove(name)
	}
	return fresh, err
}

// take takes over the records of the buckets that count.
func (j *journal) take(from *journal, ids []bucketID) error {
	var readErr error
	_, err := j.write(func(yield func(change) bool) {
		for _, id := range ids {
			if _, readErr = from.live(id, yield); readErr != nil {
				return
			}
		}
	})
	for _, p := range j.parts {
		for _, e := range p.extents {
			p.live += e.to - e.from
		}
	}
	if readErr != nil {
		return readErr
	}
	return err
}

// close closes the file.
func (j *journal) close() { _ = j.file.Close() }

// syncDir has the name of a new file written to the disk. Not each file system can do that, and where it cannot, nothing depends
// on it.
func syncDir(path string) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return
	}
	defer dir.Close()
	_ = dir.Sync()
}
