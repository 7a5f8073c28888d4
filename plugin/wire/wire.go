// Package wire makes the response to an A, AAAA or HTTPS query: as a message, which other plugins can read and change, and in
// wire form, which is quicker made and costs no allocation. Both are the same response.
//
// It must not know where the records come from, or who may see the response: the caller decides which form to use.
package wire

import (
	"encoding/binary"
	"slices"
	"sync"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

// Response is what the response to an A, AAAA or HTTPS query consists of. Data is shared, and is not changed.
type Response struct {
	Rcode  int
	Data   []byte            // the RDATA of records of the type asked for, as package lookup has it, at most lookup.MaxRecords; may be empty
	TTL    uint32            // of the records, in seconds
	NS     []dns.RR          // the authority section, at most one record
	EDE    *dns.EDNS0_EDE    // for a query with EDNS; may be nil
	Subnet *dns.EDNS0_SUBNET // for a query with EDNS; may be nil (RFC 7871, section 7.2.1)
}

// message is a message in one piece of memory.
type message struct {
	dns.Msg
	question [1]dns.Question
}

// Message returns res as the response to r, with the AA bit. The message and its sections belong to the caller, but NS,
// the options and the addresses are those of res.
func (res *Response) Message(r *dns.Msg) *dns.Msg {
	m := new(message)
	m.question[0] = r.Question[0]
	m.Msg.Question = m.question[:]
	m.Id = r.Id
	m.Response = true
	m.Authoritative = true
	m.RecursionDesired = r.RecursionDesired
	m.CheckingDisabled = r.CheckingDisabled
	m.Rcode = res.Rcode
	state := request.Request{Req: r}
	m.Answer = lookup.Records(lookup.Question{Name: state.Name(), Type: state.QType()}, res.TTL, res.Data)
	m.Ns = res.NS
	if options := res.options(); len(options) > 0 && r.IsEdns0() != nil {
		m.Extra = []dns.RR{&dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}, Option: options}}
	}
	return &m.Msg
}

// options returns the EDNS options of res.
func (res *Response) options() []dns.EDNS0 {
	var options []dns.EDNS0
	if res.Subnet != nil {
		options = append(options, res.Subnet)
	}
	if res.EDE != nil {
		options = append(options, res.EDE)
	}
	return options
}

// maxSize is the length in octets of the longest response that is written in wire form.
const maxSize = 4096

// buffers are for responses.
var buffers = sync.Pool{New: func() any { return new([maxSize]byte) }}

// Write writes res to w as the response to r, in wire form, and reports whether it did. It does not when res is too long
// for the client or for the buffer, when it would have to repeat options of the query, or when its code is not NOERROR:
// the prometheus plugin reads the code from a message alone. The writer of the server must be one of plain DNS, and no
// plugin between may need the message. It is safe for concurrent use.
func (res *Response) Write(w dns.ResponseWriter, r *dns.Msg) bool {
	if res.Rcode != dns.RcodeSuccess || hasSupportedOption(r) {
		return false
	}
	buffer := buffers.Get().(*[maxSize]byte)
	wire, ok := res.pack(buffer[:min(size(w, r), maxSize)], r)
	if ok {
		w.Write(wire)
	}
	buffers.Put(buffer) // a panic drops it, and the next query makes another
	return ok
}

// hasSupportedOption reports whether r has an EDNS option that the server repeats in the response.
func hasSupportedOption(r *dns.Msg) bool {
	opt := r.IsEdns0()
	return opt != nil && slices.ContainsFunc(opt.Option, func(o dns.EDNS0) bool { return edns.SupportedOption(o.Option()) })
}

// size returns the length in octets of the longest response that the client takes.
func size(w dns.ResponseWriter, r *dns.Msg) int {
	state := request.Request{W: w, Req: r}
	return state.Size()
}

// The bits of the header of a message (RFC 1035, section 4.1.1, and RFC 4035, section 3) and of an OPT record (RFC 6891, section
// 6.1.4), and the pointer to the name in the question (RFC 1035, section 4.1.4).
const (
	flagQR         = 1 << 15
	flagAA         = 1 << 10
	flagRD         = 1 << 8
	flagCD         = 1 << 4
	flagDO         = 1 << 15
	pointerToQName = 0xC000 | headerSize

	headerSize = 12
	recordSize = 2 + 2 + 2 + 4 + 2 // of an address record with that pointer, without its address
	optSize    = 1 + 2 + 2 + 4 + 2 // of an OPT record, without its options
	optionSize = 2 + 2             // of an option, without its data
	subnetSize = 2 + 1 + 1         // of the data of a Client Subnet option, without its address

	familyIPv4 = 1 // in that option
)

// pack returns res as the response to r in wire form. It is in b, unless it is longer than b.
func (res *Response) pack(b []byte, r *dns.Msg) (wire []byte, ok bool) {
	q, opt := r.Question[0], r.IsEdns0()
	flags := uint16(flagQR | flagAA)
	if r.RecursionDesired {
		flags |= flagRD
	}
	if r.CheckingDisabled {
		flags |= flagCD
	}
	count, extra := lookup.Count(res.Data, q.Qtype), 0
	if opt != nil {
		extra = 1
	}
	off, err := dns.PackDomainName(q.Name, b, headerSize, nil, false)
	if err != nil || off+2+2+count*recordSize+len(res.Data) > len(b) {
		return nil, false
	}
	be := binary.BigEndian
	be.PutUint16(b[0:], r.Id)
	be.PutUint16(b[2:], flags)
	be.PutUint16(b[4:], 1)
	be.PutUint16(b[6:], uint16(count))       // #nosec G115 -- at most lookup.MaxRecords
	be.PutUint16(b[8:], uint16(len(res.NS))) // #nosec G115 -- one at most
	be.PutUint16(b[10:], uint16(extra))
	wire = be.AppendUint16(b[:off], q.Qtype)
	wire = be.AppendUint16(wire, q.Qclass)
	record := make([]byte, 0, recordSize) // but for the length of its RDATA, and that
	record = be.AppendUint16(record, pointerToQName)
	record = be.AppendUint16(record, q.Qtype)
	record = be.AppendUint16(record, q.Qclass)
	record = be.AppendUint32(record, res.TTL)
	for rdata := range lookup.Each(res.Data, q.Qtype) {
		wire = be.AppendUint16(append(wire, record...), uint16(len(rdata))) // #nosec G115 -- it fits into b
		wire = append(wire, rdata...)
	}
	off = len(wire)
	for _, rr := range res.NS {
		if off, err = dns.PackRR(rr, b, off, nil, false); err != nil {
			return nil, false
		}
	}
	if opt == nil {
		return b[:off], true
	}
	return res.packOPT(b, off, opt)
}

// packOPT returns b[:off] with the OPT record that answers the query's opt, and with the options of res.
func (res *Response) packOPT(b []byte, off int, opt *dns.OPT) (wire []byte, ok bool) {
	length := 0
	if res.EDE != nil {
		length += optionSize + 2 + len(res.EDE.ExtraText)
	}
	if res.Subnet != nil {
		length += optionSize + subnetSize + octets(res.Subnet)
	}
	if off+optSize+length > len(b) {
		return nil, false
	}
	be := binary.BigEndian
	wire = append(b[:off], 0) // the root
	wire = be.AppendUint16(wire, dns.TypeOPT)
	wire = be.AppendUint16(wire, opt.UDPSize())
	wire = be.AppendUint32(wire, opt.Hdr.Ttl&flagDO)
	wire = be.AppendUint16(wire, uint16(length)) // #nosec G115 -- of a closed set of texts
	if s := res.Subnet; s != nil {
		wire = be.AppendUint16(wire, s.Option())
		wire = be.AppendUint16(wire, uint16(subnetSize+octets(s))) // #nosec G115
		wire = be.AppendUint16(wire, s.Family)
		wire = append(wire, s.SourceNetmask, s.SourceScope)
		addr := s.Address // the library has IPv4 addresses in 16 octets
		if s.Family == familyIPv4 {
			addr = addr.To4()
		}
		wire = append(wire, addr[:octets(s)]...)
	}
	if ede := res.EDE; ede != nil {
		wire = be.AppendUint16(wire, ede.Option())
		wire = be.AppendUint16(wire, uint16(2+len(ede.ExtraText))) // #nosec G115
		wire = be.AppendUint16(wire, ede.InfoCode)
		wire = append(wire, ede.ExtraText...)
	}
	return wire, true
}

// octets returns how many octets of the address the option has (RFC 7871, section 6). It is one that a client sent.
func octets(s *dns.EDNS0_SUBNET) int { return (int(s.SourceNetmask) + 7) / 8 }
