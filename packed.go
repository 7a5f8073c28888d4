package alias

import (
	"encoding/binary"
	"slices"
	"strings"
	"sync"

	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/pkg/edns"
	"github.com/coredns/coredns/plugin/pkg/transport"
	"github.com/coredns/coredns/request"

	"github.com/miekg/dns"
)

// A response whose records nobody else has to see leaves in wire form, as it is quicker made than a message and its records,
// which the DNS library then packs. That is so when it goes straight to the client, over plain DNS.

// maxPacked is the length of the longest response that leaves in wire form.
const maxPacked = 4096

// packed are buffers for responses.
var packed = sync.Pool{New: func() any { return new([maxPacked]byte) }}

// transparent are the plugins that hand the writer of responses on as it is, or like prometheus need no more than their
// length.
var transparent = []string{"metadata", "cancel", "bufsize", "prometheus", "errors", "local", "any", "chaos", "acl", "transfer", "view"}

// packable reports whether no plugin before alias in the server block has to see its responses.
func packable(block *dnsserver.Config) bool {
	before, _, ok := neighbours(block)
	return ok && !slices.ContainsFunc(before, func(h plugin.Handler) bool { return !slices.Contains(transparent, h.Name()) })
}

// neighbours returns the plugins before and behind alias in the server block, in their order. It is not ok when there may be
// others: one that has not the name of its directive may be anywhere.
func neighbours(block *dnsserver.Config) (before, behind []plugin.Handler, ok bool) {
	handlers := block.Handlers()
	self := slices.IndexFunc(handlers, func(h plugin.Handler) bool { _, self := h.(*Alias); return self })
	if self < 0 || len(handlers) != len(block.Plugin) {
		return nil, nil, false
	}
	return handlers[:self], handlers[self+1:], true
}

// isPlain reports whether the server at addr talks plain DNS. Others have writers that need the message.
func isPlain(addr string) bool { return strings.HasPrefix(addr, transport.DNS+"://") }

// writePacked sends ans as the response to r in wire form. It reports whether it could: not when it is too long for the
// client or for the buffer, repeats options of the query, or has a code, which prometheus would not see.
func writePacked(w dns.ResponseWriter, r *dns.Msg, ans *answer) bool {
	if ans.rcode != dns.RcodeSuccess {
		return false
	}
	opt := r.IsEdns0()
	if opt != nil && slices.ContainsFunc(opt.Option, func(o dns.EDNS0) bool { return edns.SupportedOption(o.Option()) }) {
		return false
	}
	buffer := packed.Get().(*[maxPacked]byte)
	defer packed.Put(buffer)
	state := request.Request{W: w, Req: r}
	wire, ok := pack(buffer[:min(state.Size(), maxPacked)], r, opt, ans)
	if ok {
		w.Write(wire)
	}
	return ok
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
)

// pack returns ans as the response to r, whose OPT record is opt, in wire form. It is in b, unless it is longer than that.
func pack(b []byte, r *dns.Msg, opt *dns.OPT, ans *answer) (wire []byte, ok bool) {
	q := r.Question[0]
	flags := uint16(flagQR | flagAA)
	if r.RecursionDesired {
		flags |= flagRD
	}
	if r.CheckingDisabled {
		flags |= flagCD
	}
	size := addrLen(q.Qtype)
	count, extra := len(ans.addrs)/size, 0
	if opt != nil {
		extra = 1
	}
	off, err := dns.PackDomainName(q.Name, b, headerSize, nil, false)
	if err != nil || off+2+2+count*(recordSize+size) > len(b) {
		return nil, false
	}
	be := binary.BigEndian
	be.PutUint16(b[0:], r.Id)
	be.PutUint16(b[2:], flags)
	be.PutUint16(b[4:], 1)
	be.PutUint16(b[6:], uint16(count))       // #nosec G115 -- at most maxAddrs
	be.PutUint16(b[8:], uint16(len(ans.ns))) // #nosec G115 -- one at most
	be.PutUint16(b[10:], uint16(extra))
	wire = be.AppendUint16(b[:off], q.Qtype)
	wire = be.AppendUint16(wire, q.Qclass)
	record := make([]byte, 0, recordSize) // but for its address
	record = be.AppendUint16(record, pointerToQName)
	record = be.AppendUint16(record, q.Qtype)
	record = be.AppendUint16(record, q.Qclass)
	record = be.AppendUint32(record, ans.ttl)
	record = be.AppendUint16(record, uint16(size)) // #nosec G115 -- 4 or 16
	for addr := range slices.Chunk(ans.addrs, size) {
		wire = append(append(wire, record...), addr...)
	}
	off = len(wire)
	for _, rr := range ans.ns {
		if off, err = dns.PackRR(rr, b, off, nil, false); err != nil {
			return nil, false
		}
	}
	if opt == nil {
		return b[:off], true
	}
	return packOPT(b, off, opt, ans.error())
}

// packOPT returns b[:off] with the OPT record that goes with the query's opt, and with ede, unless that is nil.
func packOPT(b []byte, off int, opt *dns.OPT, ede *dns.EDNS0_EDE) (wire []byte, ok bool) {
	length := 0
	if ede != nil {
		length = optionSize + 2 + len(ede.ExtraText)
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
	if ede != nil {
		wire = be.AppendUint16(wire, ede.Option())
		wire = be.AppendUint16(wire, uint16(length-optionSize)) // #nosec G115
		wire = be.AppendUint16(wire, ede.InfoCode)
		wire = append(wire, ede.ExtraText...)
	}
	return wire, true
}
