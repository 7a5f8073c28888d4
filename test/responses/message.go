package responses

import (
	"encoding/binary"
	"slices"

	"github.com/miekg/dns"
)

// The bits of the second word of a header, without the response code (RFC 1035, section 4.1.1; RFC 4035, section 3.2.3).
const (
	bitQR uint16 = 1 << 15
	bitAA uint16 = 1 << 10
	bitTC uint16 = 1 << 9
	bitRD uint16 = 1 << 8
	bitRA uint16 = 1 << 7
	bitZ  uint16 = 1 << 6
	bitAD uint16 = 1 << 5
	bitCD uint16 = 1 << 4

	opcodeShift = 11
)

// The sections of a message that have records.
const (
	answer = iota
	authority
	additional
)

// always is the step of a record that each response has.
const always = -1

// A record is a resource record in wire form, which need not be a valid one.
type record struct {
	owner  []byte // labels, or a compression pointer
	rtype  uint16
	class  uint16
	ttl    uint32
	rdata  []byte
	excess int // RDLENGTH is that much larger than the rdata
	step   int // the place of the owner on the chain: a response for a later name on it does not have the record
}

// A message is a response, but for its ID. Its records are in wire form; names are not compressed unless compress is set.
type message struct {
	flags     uint16
	rcode     uint16 // the upper 8 bits are in the OPT record
	questions func(q question) []question
	records   [3][]record
	excess    [3]int // the counts are that much larger than the number of records
	compress  bool   // the owner names that are the name in the question are a pointer
	trailer   []byte
	cut       int // octets that the end lacks
}

// A question is the entry of a question section, with the name in wire form.
type question struct {
	name          []byte
	qtype, qclass uint16
}

// reply returns a message without records to which changes are made.
func reply(rcode uint16) message {
	m := message{flags: bitQR | bitRD | bitRA, rcode: rcode}
	m.records[additional] = []record{opt()}
	return m
}

// opt returns an OPT record (RFC 6891, section 6.1.2).
func opt() record { return record{owner: []byte{0}, rtype: dns.TypeOPT, class: 1232, step: always} }

// clone returns a copy of m whose records can be changed.
func (m message) clone() message {
	for i := range m.records {
		m.records[i] = slices.Clone(m.records[i])
	}
	return m
}

// pack returns the response to the query r for the name at that step of the chain.
func (m message) pack(r *dns.Msg, step int) []byte {
	asked := question{wire(r.Question[0].Name), r.Question[0].Qtype, r.Question[0].Qclass}
	questions := []question{asked}
	if m.questions != nil {
		questions = m.questions(asked)
	}
	var counts [3]int
	var body []byte
	for _, q := range questions {
		body = append(body, q.name...)
		body = binary.BigEndian.AppendUint16(body, q.qtype)
		body = binary.BigEndian.AppendUint16(body, q.qclass)
	}
	for i, section := range m.records {
		for _, rr := range section {
			if rr.step != always && rr.step < step {
				continue
			}
			if rr.rtype == dns.TypeOPT && r.IsEdns0() == nil { // RFC 6891, section 7
				continue
			}
			if rr.rtype == dns.TypeOPT {
				rr.ttl |= uint32(m.rcode) >> 4 << 24
			}
			if m.compress && len(questions) > 0 && slices.Equal(rr.owner, questions[0].name) {
				rr.owner = []byte{0xc0, 12}
			}
			body = append(body, rr.pack()...)
			counts[i]++
		}
	}
	head := binary.BigEndian.AppendUint16(nil, r.Id)
	head = binary.BigEndian.AppendUint16(head, m.flags|m.rcode&0xf)
	head = binary.BigEndian.AppendUint16(head, uint16(len(questions))) // #nosec G115 -- at most 2
	excess, cut := m.excess, m.cut
	if step > 0 { // so that all programs get to the same end of a chain, whether they ask for its names or not
		excess, cut = [3]int{}, 0
	}
	for i, n := range counts {
		head = binary.BigEndian.AppendUint16(head, uint16(max(0, n+excess[i]))) // #nosec G115 -- some hundreds
	}
	b := append(append(head, body...), m.trailer...)
	return b[:max(len(b)-cut, 12)]
}

func (rr record) pack() []byte {
	b := slices.Clone(rr.owner)
	b = binary.BigEndian.AppendUint16(b, rr.rtype)
	b = binary.BigEndian.AppendUint16(b, rr.class)
	b = binary.BigEndian.AppendUint32(b, rr.ttl)
	b = binary.BigEndian.AppendUint16(b, uint16(len(rr.rdata)+rr.excess)) // #nosec G115 -- small
	return append(b, rr.rdata...)
}

// wire returns name in wire form. It panics if there is none.
func wire(name string) []byte {
	b := make([]byte, 256)
	n, err := dns.PackDomainName(name, b, 0, nil, false)
	if err != nil {
		panic(name + ": " + err.Error())
	}
	return b[:n]
}

// upper returns a name in upper case.
func upper(name []byte) []byte { return inCase(name, 'a', 'z') }

// inCase returns name, in wire form, with its letters from first to last in the other case. Octets that say how long a label
// is are no letters.
func inCase(name []byte, first, last byte) []byte {
	name = slices.Clone(name)
	for i, b := range name {
		if first <= b && b <= last {
			name[i] ^= 'a' - 'A'
		}
	}
	return name
}

// join returns parts as one slice of its own.
func join(parts ...[]byte) []byte { return slices.Concat(parts...) }

// soa returns a SOA record.
func soa(owner string, ttl, minimum uint32, step int) record {
	b := join(wire("ns."), wire("hostmaster."))
	for _, n := range []uint32{1, 7200, 3600, 1209600, minimum} {
		b = binary.BigEndian.AppendUint32(b, n)
	}
	return record{owner: wire(owner), rtype: dns.TypeSOA, class: dns.ClassINET, ttl: ttl, rdata: b, step: step}
}

// pointing returns a record whose rdata is a name: NS, CNAME, DNAME.
func pointing(owner string, rtype uint16, ttl uint32, target string, step int) record {
	return record{owner: wire(owner), rtype: rtype, class: dns.ClassINET, ttl: ttl, rdata: wire(target), step: step}
}

// octets returns a record of any type with that rdata.
func octets(owner string, rtype uint16, ttl uint32, rdata []byte, step int) record {
	return record{owner: wire(owner), rtype: rtype, class: dns.ClassINET, ttl: ttl, rdata: rdata, step: step}
}
