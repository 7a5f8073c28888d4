package answers_test

import (
	"maps"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/answers"
	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(collected{m}) }

// collected is a run of the tests after which garbage is collected: shares that tests have dropped are given back in
// goroutines, which end soon after that.
type collected struct{ *testing.M }

func (m collected) Run() int {
	code := m.M.Run()
	runtime.GC()
	return code
}

var (
	target  = lookup.Question{Name: "target.example.", Type: dns.TypeA}
	addrs1  = []byte{192, 0, 2, 1}
	addrs2  = []byte{192, 0, 2, 2}
	errDown = lookup.Unusable("servfail", nil)
	start   = time.Date(2026, 11, 23, 0, 0, 0, 0, time.UTC)
)

// at returns a clock that stands still.
func at(now time.Time) func() time.Time { return func() time.Time { return now } }

// answer returns the entry of an answer that came so long before start.
func answer(addrs []byte, age time.Duration) *answers.Entry {
	return answers.NewEntry(lookup.Outcome{Data: addrs, TTL: 300}, start.Add(-age))
}

// expired returns e, which no cache has yet, as one that counts as expired.
func expired(e *answers.Entry) *answers.Entry {
	e.Expired = true
	return e
}

// store makes e the entry of q.
func store(es *answers.Entries, q lookup.Question, e *answers.Entry) {
	es.Update(q, 0, func(*answers.Entry) *answers.Entry { return e })
}

// fail adds a failure to the entry of q.
func fail(es *answers.Entries, q lookup.Question, retry time.Time) {
	es.Update(q, 0, func(current *answers.Entry) *answers.Entry {
		return current.Fail(answers.Backoff{Failures: 1, Retry: retry, Cause: errDown})
	})
}

// recordOf returns what the copy has of e, the entry of q, when it is written at now.
func recordOf(t testing.TB, q lookup.Question, e *answers.Entry, now time.Time) (key, value string) {
	t.Helper()
	es := answers.New(answers.Size{Everybody: 10, Networks: 10}, at(now))
	own := answers.NewEntry(e.Outcome, e.Stored)
	own.Expired = e.Expired
	store(es, q, own)
	n := 0
	for key, value = range es.All() {
		n++
	}
	if n != 1 {
		t.Fatalf("%d records of one answer", n)
	}
	return key, value
}

// disk has the copies, and outlives the process: a registry made anew finds what another one wrote.
type disk struct {
	mu      sync.Mutex
	records map[answers.Source]map[string]string
	calls   []string // Open, Flush and Close, with the path
	puts    int
}

func newDisk() *disk { return &disk{records: make(map[answers.Source]map[string]string)} }

// registry returns a Registry whose copies are on d.
func (d *disk) registry(now func() time.Time) *answers.Registry {
	return answers.NewRegistry(func(s answers.Source, es *answers.Entries) answers.File {
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.records[s] == nil {
			d.records[s] = make(map[string]string)
		}
		return &file{disk: d, source: s, entries: es, pending: make(map[string]string)}
	}, nil, now)
}

// of returns what the copy of s has.
func (d *disk) of(s answers.Source) map[string]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return maps.Clone(d.records[s])
}

// called returns the calls of Open, Flush and Close since it was called last.
func (d *disk) called() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	calls := d.calls
	d.calls = nil
	return calls
}

// written returns how many records were written since it was called last.
func (d *disk) written() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := d.puts
	d.puts = 0
	return n
}

// file is the copy of the entries of one source.
type file struct {
	disk    *disk
	source  answers.Source
	entries *answers.Entries

	mu      sync.Mutex
	pending map[string]string // changes before and while the records are restored; nil once they are
}

var _ answers.File = (*file)(nil)

func (f *file) Open() {
	f.call("open")
	for key, value := range f.disk.of(f.source) {
		f.disk.change(f.source, key, f.entries.Restore(key, value))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for key, value := range f.pending {
		f.disk.change(f.source, key, value)
	}
	f.pending = nil
}

func (f *file) Put(key, value string) {
	f.change(key, value)
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.puts++
}

func (f *file) Delete(key string) { f.change(key, "") }
func (f *file) Flush()            { f.call("flush") }
func (f *file) Close()            { f.call("close") }

func (f *file) change(key, value string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.pending != nil {
		f.pending[key] = value
		return
	}
	f.disk.change(f.source, key, value)
}

func (f *file) call(name string) {
	f.disk.mu.Lock()
	defer f.disk.mu.Unlock()
	f.disk.calls = append(f.disk.calls, name+" "+f.source.Path)
}

// change writes a record of the copy of s, or removes it when the value is "".
func (d *disk) change(s answers.Source, key, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if value == "" {
		delete(d.records[s], key)
		return
	}
	d.records[s][key] = value
}
