package store

import (
	"bufio"
	"encoding/binary"
	"hash/crc32"
	"io"
)

// The file is a header and records behind it, the last of a key being the one that counts. All numbers are in network byte order,
// so a file can be moved to another machine.
//
// The header is the magic number, the version (uint32), and the checksum (uint32) of both.
//
// A record is
//
//	checksum  uint32  of all that follows
//	mark      uint16  the low octets of the checksum of the next three
//	bucket    uint64  the first octets of the SHA-256 hash of the bucket's name
//	length    uint16  of the key
//	length    uint32  of the value; 0 if the record is removed
//	key, value
//
// Checksums are CRC-32C. The mark tells where a record may begin: so records are found behind others that are damaged, and a
// length is not believed that was not written.
const (
	magic            = "\x89alias\r\n" // no text begins like that
	version          = 2
	fileHeaderSize   = len(magic) + 4 + 4
	recordHeaderSize = 4 + 2 + 8 + 2 + 4
	markAt           = 4
	bucketAt         = markAt + 2
	maxRecordSize    = recordHeaderSize + MaxKey + MaxValue
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func checksum(b []byte) uint32 { return crc32.Checksum(b, castagnoli) }

// mark returns that of a record, from its header.
func mark(header []byte) uint16 {
	return uint16(checksum(header[bucketAt:recordHeaderSize]) & 0xffff) // #nosec G115 -- its low octets
}

// fileHeader returns the header of a file.
func fileHeader(version uint32) []byte {
	b := binary.BigEndian.AppendUint32([]byte(magic), version)
	return binary.BigEndian.AppendUint32(b, checksum(b))
}

// readFileHeader returns the version in a header, unless it is none.
func readFileHeader(b []byte) (version uint32, ok bool) {
	if len(b) < fileHeaderSize || string(b[:len(magic)]) != magic {
		return 0, false
	}
	version = binary.BigEndian.Uint32(b[len(magic):])
	return version, string(b[:fileHeaderSize]) == string(fileHeader(version))
}

// change is what a record says: the key has this value from here on, or none if it is empty.
type change struct {
	bucket     bucketID
	key, value string
}

// appendRecord appends the record of a change, whose key and value are not too long.
func appendRecord(b []byte, c change) []byte {
	at := len(b)
	b = append(b, make([]byte, bucketAt)...)
	b = binary.BigEndian.AppendUint64(b, uint64(c.bucket))
	b = binary.BigEndian.AppendUint16(b, uint16(len(c.key)))   // #nosec G115 -- at most MaxKey
	b = binary.BigEndian.AppendUint32(b, uint32(len(c.value))) // #nosec G115 -- at most MaxValue
	b = append(append(b, c.key...), c.value...)
	r := b[at:]
	binary.BigEndian.PutUint16(r[markAt:], mark(r))
	binary.BigEndian.PutUint32(r, checksum(r[markAt:]))
	return b
}

// lengths returns those in the header of a record, unless it is none.
func lengths(header []byte) (key, value int, ok bool) {
	key = int(binary.BigEndian.Uint16(header[bucketAt+8:]))
	long := binary.BigEndian.Uint32(header[bucketAt+10:])
	return key, int(long), long <= MaxValue && binary.BigEndian.Uint16(header[markAt:]) == mark(header)
}

// scanner finds the records in a part of a file, which reset names, whatever stands between them.
type scanner struct {
	in      *bufio.Reader
	at, to  int64  // where the record begins, and the part ends
	record  []byte // the current one, until next is called
	damaged int    // places where there is no record, each of which had at least one
	err     error  // of the disk
}

// reset begins with the part of in from octet from up to octet to.
func (s *scanner) reset(in io.ReaderAt, from, to int64) {
	part := io.NewSectionReader(in, from, to-from)
	if need := int(min(to-from, 2*maxRecordSize)); s.in == nil || s.in.Size() < need {
		s.in = bufio.NewReaderSize(part, need)
	} else {
		s.in.Reset(part)
	}
	s.at, s.to, s.record = from, to, nil
}

// next goes on to the next record. A record that the end of the part cuts off is no damage: a process that is killed while it
// writes leaves one behind.
func (s *scanner) next() bool {
	s.skip(len(s.record))
	cutOff := false
	for skipped := 0; ; skipped++ {
		record, err := s.peek()
		switch {
		case err == nil && record != nil:
			if skipped > 0 {
				s.damaged++
			}
			s.record = record
			return true
		case err == io.EOF:
			if skipped > 0 && !cutOff {
				s.damaged++
			}
			s.record = nil
			return false
		case err == io.ErrUnexpectedEOF:
			cutOff = cutOff || skipped == 0
		case err != nil:
			s.err, s.record = err, nil
			return false
		}
		s.skip(1)
	}
}

func (s *scanner) skip(n int) {
	_, _ = s.in.Discard(n) // what has been peeked at
	s.at += int64(n)
}

// peek returns the record that begins here, or nil if there is none. The error is io.EOF if nothing begins here, and
// io.ErrUnexpectedEOF if there may be the beginning of a record.
func (s *scanner) peek() ([]byte, error) {
	switch left := s.to - s.at; {
	case left == 0:
		return nil, io.EOF
	case left < int64(recordHeaderSize):
		return nil, io.ErrUnexpectedEOF
	}
	header, err := s.in.Peek(recordHeaderSize)
	if err != nil {
		return nil, err
	}
	key, value, ok := lengths(header)
	size := recordHeaderSize + key + value
	switch {
	case !ok:
		return nil, nil
	case s.at+int64(size) > s.to:
		return nil, io.ErrUnexpectedEOF
	}
	record, err := s.in.Peek(size)
	if err != nil || binary.BigEndian.Uint32(record) != checksum(record[markAt:]) {
		return nil, err
	}
	return record, nil
}

// bucket returns the bucket that the current record belongs to.
func (s *scanner) bucket() bucketID { return bucketID(binary.BigEndian.Uint64(s.record[bucketAt:])) }

// key returns the key of the current record, until next is called.
func (s *scanner) key() []byte {
	key, _, _ := lengths(s.record)
	return s.record[recordHeaderSize : recordHeaderSize+key]
}

// value returns the value of the current record, until next is called.
func (s *scanner) value() []byte { return s.record[recordHeaderSize+len(s.key()):] }
