package store

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"os"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// bbolt trusts its file: a page that refers to itself makes it recurse until the process ends, and a wrong count allocates
// any amount of memory. Its own check does so too. So the structure is looked at before bbolt sees the file: that it comes to
// an end and stays within the file, that no page is used twice, and that keys are in order, and where bbolt looks for them.

// The layout of a bbolt file, version 2. Numbers are in the byte order of the machine.
const (
	magic         = 0xED0CDAED
	layoutVersion = 2
	noFreelist    = 1<<64 - 1

	headerSize  = 16 // of a page: id uint64, flags, count uint16, overflow uint32
	elementSize = 16 // of a branch or leaf page
	metaSize    = 64 // after the header
	checksumAt  = 56 // in the meta data

	branchPage   = 0x01
	leafPage     = 0x02
	freelistPage = 0x10
	bucketLeaf   = 0x01

	maxDepth = 100 // of the trees in each other
)

var order = binary.NativeEndian

// inspect returns an error unless the file at path can be given to bbolt. It need not exist.
func inspect(path string) error {
	info, err := os.Stat(path)
	switch {
	case os.IsNotExist(err):
		return nil
	case err != nil:
		return err
	case !info.Mode().IsRegular():
		return errForeign
	case info.Size() == 0:
		return nil
	}
	// What another process is about to replace looks like damage, hence the lock. A file that cannot be opened even like
	// this is not in use.
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: lockTimeout})
	switch {
	case errors.Is(err, bolterrors.ErrTimeout):
		return errLocked
	case err == nil:
		defer db.Close()
	}
	return inspectPages(path, info.Size())
}

func inspectPages(path string, size int64) error {
	file, err := os.Open(path) // #nosec G304 -- the operator's choice
	if err != nil {
		return err
	}
	defer file.Close()
	m, err := findMeta(file, size)
	if err != nil {
		return err
	}
	if uint64(size)/m.pageSize < m.end { // #nosec G115 -- a size is not negative
		return fmt.Errorf("%w: it has been cut off", errDamaged)
	}
	p := &pages{file: file, meta: m, seen: make(map[uint64]bool)}
	err = p.freelist()
	if err == nil {
		_, err = p.tree(m.root, nil, 0)
	}
	var disk *os.PathError
	switch {
	case errors.As(err, &disk):
		return err
	case err != nil:
		return fmt.Errorf("%w: %v", errDamaged, err)
	case m.alone:
		log.Warningf("One of the two beginnings of %s is damaged: if it was the newer, the last write is lost", path)
	}
	return nil
}

// meta is where the database begins.
type meta struct {
	pageSize            uint64
	root, freelist, end uint64 // pages
	transaction         uint64
	alone               bool // the other one is not right
}

// findMeta returns the newer meta data of the two that a file has.
func findMeta(file *os.File, size int64) (m meta, err error) {
	ours, good := false, 0
	for at := int64(0); at < min(size, 1<<16); at = max(2*at, 1024) {
		buf := make([]byte, headerSize+metaSize)
		if n, _ := file.ReadAt(buf, at); n < len(buf) {
			break
		}
		other, hasMagic, ok := readMeta(buf[headerSize:])
		ours = ours || hasMagic
		if !ok || at > 0 && other.pageSize != uint64(at) {
			continue
		}
		if good++; good == 1 || other.transaction > m.transaction {
			m = other
		}
	}
	switch {
	case good > 0 && m.freelist == noFreelist: // which this package never writes
		return m, errForeign
	case good > 0:
		m.alone = good == 1
		return m, nil
	case ours, isZero(file, size):
		return m, fmt.Errorf("%w: its beginning is not right", errDamaged)
	default:
		return m, errForeign
	}
}

// readMeta reads meta data, which may have the number of the format and yet not be right.
func readMeta(buf []byte) (m meta, hasMagic, ok bool) {
	hasMagic = order.Uint32(buf) == magic
	sum := fnv.New64a()
	_, _ = sum.Write(buf[:checksumAt])
	if !hasMagic || order.Uint32(buf[4:]) != layoutVersion || order.Uint64(buf[checksumAt:]) != sum.Sum64() {
		return m, hasMagic, false
	}
	m.pageSize = uint64(order.Uint32(buf[8:]))
	m.root = order.Uint64(buf[16:])
	m.freelist = order.Uint64(buf[32:])
	m.end = order.Uint64(buf[40:])
	m.transaction = order.Uint64(buf[48:])
	return m, true, m.pageSize >= 1024 && m.pageSize <= 1<<16
}

// isZero reports whether there is nothing at the beginning of the file, as after a loss of power.
func isZero(file io.ReaderAt, size int64) bool {
	buf := make([]byte, min(size, int64(2*os.Getpagesize())))
	if _, err := file.ReadAt(buf, 0); err != nil {
		return false
	}
	for _, b := range buf {
		if b != 0 {
			return false
		}
	}
	return true
}

// pages are those of a database.
type pages struct {
	file io.ReaderAt
	meta
	seen map[uint64]bool
}

// read returns the page, with those that continue it. Each is read once only.
func (p *pages) read(id uint64) ([]byte, error) {
	if id < 2 || id >= p.end {
		return nil, fmt.Errorf("page %d is not there", id)
	}
	header := make([]byte, headerSize)
	if _, err := p.file.ReadAt(header, int64(id*p.pageSize)); err != nil { // #nosec G115 -- within the file
		return nil, err
	}
	overflow := uint64(order.Uint32(header[12:]))
	if order.Uint64(header) != id || overflow >= p.end-id {
		return nil, fmt.Errorf("page %d is none", id)
	}
	for i := id; i <= id+overflow; i++ {
		if p.seen[i] {
			return nil, fmt.Errorf("page %d is used twice", i)
		}
		p.seen[i] = true
	}
	buf := make([]byte, (1+overflow)*p.pageSize)
	_, err := p.file.ReadAt(buf, int64(id*p.pageSize)) // #nosec G115 -- within the file
	return buf, err
}

// freelist checks the list of the free pages.
func (p *pages) freelist() error {
	buf, err := p.read(p.meta.freelist)
	if err != nil {
		return err
	}
	ids, count := buf[headerSize:], uint64(order.Uint16(buf[10:]))
	if count == 0xFFFF { // it does not fit: the first number is the count
		count, ids = order.Uint64(ids), ids[8:]
	}
	if order.Uint16(buf[8:]) != freelistPage || count > uint64(len(ids)/8) {
		return fmt.Errorf("page %d is no list of free pages", p.meta.freelist)
	}
	for ids := ids[:count*8]; len(ids) > 0; ids = ids[8:] {
		id := order.Uint64(ids)
		if id < 2 || id >= p.end || p.seen[id] {
			return fmt.Errorf("free page %d is not there, or not free", id)
		}
		p.seen[id] = true
	}
	return nil
}

// tree checks the tree whose root is the page, and returns its first key. All keys are before end, unless that is nil.
func (p *pages) tree(id uint64, end []byte, depth int) (first []byte, err error) {
	buf, err := p.read(id)
	if err != nil {
		return nil, err
	}
	if first, err = p.elements(buf, end, depth); err != nil {
		return nil, fmt.Errorf("page %d: %v", id, err)
	}
	return first, nil
}

// elements checks what is in a branch or leaf page, and what is below it, and returns its first key.
func (p *pages) elements(page, end []byte, depth int) (first []byte, err error) {
	flags, count := order.Uint16(page[8:]), int(order.Uint16(page[10:]))
	branch := flags == branchPage
	switch {
	case depth > maxDepth:
		return nil, fmt.Errorf("more than %d levels", maxDepth)
	case !branch && flags != leafPage, branch && count == 0, headerSize+count*elementSize > len(page):
		return nil, fmt.Errorf("flags %#x, %d elements", flags, count)
	}
	var elements []element
	for i := range count {
		e, err := readElement(page[headerSize+i*elementSize:], branch)
		if err != nil {
			return nil, fmt.Errorf("element %d: %v", i, err)
		}
		elements = append(elements, e)
	}
	for i, e := range elements {
		next := end
		if i+1 < count {
			next = elements[i+1].key
		}
		if next != nil && bytes.Compare(e.key, next) >= 0 {
			return nil, fmt.Errorf("element %d is not in order", i)
		}
		switch {
		case branch:
			err = p.child(e, next, depth+1)
		case e.bucket:
			err = p.bucket(e.value, depth+1)
		}
		if err != nil {
			return nil, err
		}
	}
	if count > 0 {
		first = elements[0].key
	}
	return first, nil
}

// element is one of a branch or leaf page.
type element struct {
	key    []byte
	child  uint64 // page, in a branch
	value  []byte // in a leaf
	bucket bool   // value is one
}

// readElement reads the element at the beginning of page. Its key and value are further on.
func readElement(page []byte, branch bool) (e element, err error) {
	var at, keyed, valued uint64
	if branch {
		at, keyed, e.child = uint64(order.Uint32(page)), uint64(order.Uint32(page[4:])), order.Uint64(page[8:])
	} else {
		at, keyed, valued = uint64(order.Uint32(page[4:])), uint64(order.Uint32(page[8:])), uint64(order.Uint32(page[12:]))
		e.bucket = order.Uint32(page)&bucketLeaf != 0
	}
	if at+keyed+valued > uint64(len(page)) {
		return e, errors.New("it is not in the page")
	}
	e.key, e.value = page[at:at+keyed], page[at+keyed:at+keyed+valued]
	return e, nil
}

// child checks the tree below an element of a branch page, whose first key is that of the element: bbolt finds the element by
// it when the child moves.
func (p *pages) child(e element, end []byte, depth int) error {
	first, err := p.tree(e.child, end, depth)
	if err == nil && !bytes.Equal(first, e.key) {
		err = fmt.Errorf("page %d begins with another key", e.child)
	}
	return err
}

// bucket checks a bucket. A small one is a page in the value of its element.
func (p *pages) bucket(value []byte, depth int) error {
	const bucketSize = 16 // root uint64, sequence uint64
	if len(value) < bucketSize {
		return fmt.Errorf("a bucket of %d octets", len(value))
	}
	if root := order.Uint64(value); root != 0 {
		_, err := p.tree(root, nil, depth)
		return err
	}
	if len(value) < bucketSize+headerSize {
		return fmt.Errorf("a bucket of %d octets without a page", len(value))
	}
	_, err := p.elements(value[bucketSize:], nil, depth)
	return err
}
