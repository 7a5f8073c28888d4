package store

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"strconv"
	"time"
)

// lockTimeout is how long another process may hold the file: the one before a restart needs a moment to end.
const lockTimeout = time.Second

var (
	errDamaged = errors.New("the file is damaged")
	errForeign = errors.New("this is something else, and left alone")
	errLocked  = errors.New("another process has it open")
)

// otherVersion is the error that the file has another version, which it is.
type otherVersion string

func (v otherVersion) Error() string { return "version " + string(v) }

// openJournal opens the file at path, and creates it if there is none. damaged is how many places of it are damaged. former is
// what this process had open at the path before, or nil: it may be damaged, but is not another program's.
func openJournal(path string, former os.FileInfo) (j *journal, damaged int, err error) {
	file, err := openLocked(path)
	if err != nil {
		return nil, 0, err
	}
	j = &journal{file: file, path: path, parts: make(parts)}
	if damaged, err = j.load(former); err != nil {
		file.Close()
		return nil, 0, err
	}
	return j, damaged, nil
}

// openLocked opens the file at path, which no other process may have open then.
func openLocked(path string) (*os.File, error) {
	for range 10 {
		// Nothing is to happen to a directory or a device.
		if info, err := os.Stat(path); err == nil && !info.Mode().IsRegular() {
			return nil, errForeign
		}
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600) // #nosec G304 -- the operator's choice
		if err != nil {
			return nil, err
		}
		if err := lockPatiently(file); err != nil {
			file.Close()
			return nil, err
		}
		if atPath(file, path) {
			return file, nil
		}
		file.Close() // the other process has compacted the file meanwhile
	}
	return nil, errLocked
}

func lockPatiently(file *os.File) error {
	for end := time.Now().Add(lockTimeout); ; {
		err := lock(file)
		if err != errLocked || time.Now().After(end) {
			return err
		}
		time.Sleep(lockTimeout / 20)
	}
}

func atPath(file *os.File, path string) bool {
	there, err := os.Stat(path)
	if err != nil {
		return false
	}
	info, err := file.Stat()
	return err == nil && os.SameFile(info, there)
}

// load finds the records in the file.
func (j *journal) load(former os.FileInfo) (damaged int, err error) {
	info, err := j.file.Stat()
	if err != nil {
		return 0, err
	}
	if info.Size() == 0 {
		if err := j.begin(); err != nil {
			return 0, err
		}
		syncDir(j.path)
		return 0, nil
	}
	begin, err := j.identify(info, former)
	if err != nil {
		return 0, err
	}
	s := new(scanner)
	j.end = begin
	for s.reset(j.file, begin, info.Size()); s.next(); j.end = s.at + int64(len(s.record)) {
		e := extent{s.at, s.at + int64(len(s.record))}
		j.parts.of(s.bucket()).add(e)
		j.addLive(s.bucket(), e.to-e.from)
	}
	if s.err != nil {
		return 0, s.err
	}
	damaged = s.damaged
	if begin == 0 && s.damaged == 0 { // not even a part of a header is left
		damaged = 1
	}
	if damaged > 0 && len(j.parts) == 0 {
		return 0, errDamaged
	}
	j.rewrite = damaged > 0
	if info.Size() > j.end {
		if err := j.file.Truncate(j.end); err != nil {
			return 0, err
		}
	}
	_ = os.Remove(j.path + compacting) // of a process that was killed
	return damaged, j.note()
}

// begin makes a file of one that is empty.
func (j *journal) begin() error {
	header := fileHeader(version)
	_, err := j.file.WriteAt(header, 0)
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		_ = j.file.Truncate(0)
		return err
	}
	j.end = int64(len(header))
	return j.note()
}

// identify returns where the records of the file begin: behind the header or, if that is damaged, wherever they are. It returns an
// error if the file is none of this version.
func (j *journal) identify(info, former os.FileInfo) (begin int64, err error) {
	beginning := make([]byte, min(info.Size(), 2*maxRecordSize))
	if _, err := io.ReadFull(io.NewSectionReader(j.file, 0, info.Size()), beginning); err != nil {
		return 0, err
	}
	found, ok := readFileHeader(beginning)
	switch {
	case ok && found == version:
		return int64(fileHeaderSize), nil
	case ok:
		return 0, otherVersion(strconv.FormatUint(uint64(found), 10))
	}
	s := new(scanner)
	if s.reset(bytes.NewReader(beginning), 0, int64(len(beginning))); s.next() {
		return 0, nil
	}
	first, err := isFirstVersion(j.file, beginning)
	switch {
	case err != nil:
		return 0, err
	case first:
		return 0, otherVersion("1")
	case former != nil && os.SameFile(info, former),
		bytes.HasPrefix(beginning, []byte(magic[:min(len(magic), len(beginning))])),
		len(bytes.Trim(beginning, "\x00")) == 0: // as after a loss of power
		return 0, errDamaged
	}
	return 0, errForeign
}

// isFirstVersion reports whether the file was written by version 1, which kept a bbolt database: it has the magic number of that,
// in the byte order of the machine, and in the bucket that says what the database is, the key version with the value 1.
func isFirstVersion(file io.ReaderAt, beginning []byte) (bool, error) {
	const magicAt, boltMagic, says = 16, 0xED0CDAED, "version1"
	if len(beginning) < magicAt+4 {
		return false, nil
	}
	number := beginning[magicAt:]
	if binary.LittleEndian.Uint32(number) != boltMagic && binary.BigEndian.Uint32(number) != boltMagic {
		return false, nil
	}
	in := bufio.NewReader(io.NewSectionReader(file, 0, 1<<62))
	for {
		_, err := in.ReadSlice(says[0])
		switch {
		case err == bufio.ErrBufferFull:
			continue
		case err == io.EOF:
			return false, nil
		case err != nil:
			return false, err
		}
		if rest, _ := in.Peek(len(says) - 1); string(rest) == says[1:] {
			return true, nil
		}
	}
}
