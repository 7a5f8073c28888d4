package responses

import (
	"bytes"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// A change is made to a response. Two changes to one response are of different groups.
type change struct {
	group, name string
	make        func(g *generator, m *message)
}

// change makes no, one or two changes.
func (g *generator) change() {
	n := one(g, 0, 1, 1, 1, 1, 1, 2, 2)
	var groups []string
	for range n {
		ch := changes[g.IntN(len(changes))]
		if slices.Contains(groups, ch.group) {
			continue
		}
		groups = append(groups, ch.group)
		g.Tags = append(g.Tags, ch.name)
		g.Changes++
		ch.make(g, &g.first)
	}
}

func flip(bits uint16) func(*generator, *message) {
	return func(_ *generator, m *message) { m.flags ^= bits }
}

func code(rcode uint16) func(*generator, *message) {
	return func(_ *generator, m *message) { m.rcode = rcode }
}

func deliver(d delivery) func(*generator, *message) {
	return func(g *generator, _ *message) { g.delivery = d }
}

func ask(questions func(q question) []question) func(*generator, *message) {
	return func(_ *generator, m *message) { m.questions = questions }
}

// add returns a change that puts a record at any place of a section.
func add(section int, make func(g *generator) record) func(*generator, *message) {
	return func(g *generator, m *message) {
		m.records[section] = slices.Insert(m.records[section], g.IntN(len(m.records[section])+1), make(g))
	}
}

// everyTTL returns a change of the TTL of all records but OPT.
func everyTTL(ttl uint32) func(*generator, *message) {
	return func(_ *generator, m *message) {
		for _, section := range m.records[:additional] {
			for i := range section {
				section[i].ttl = ttl
			}
		}
	}
}

// spoil returns a change of one record of the answer section, or of the authority section if there is none.
func spoil(change func(g *generator, rr *record)) func(*generator, *message) {
	return func(g *generator, m *message) {
		for _, section := range m.records[:additional] {
			if len(section) == 0 {
				continue
			}
			if rr := &section[g.IntN(len(section))]; rr.rtype != dns.TypeOPT { // not every query gets that one
				change(g, rr)
				return
			}
		}
		g.tag("nothing to change")
	}
}

// only returns a change of the authority section to these records.
func only(make func(g *generator) []record) func(*generator, *message) {
	return func(g *generator, m *message) { m.records[authority] = make(g) }
}

var changes = []change{
	{"header", "no QR", flip(bitQR)},
	{"header", "opcode", func(g *generator, m *message) { m.flags |= one[uint16](g, 1, 2, 4, 5, 6) << opcodeShift }},
	{"header", "AA", flip(bitAA)},
	{"header", "no RA", flip(bitRA)},
	{"header", "no RD", flip(bitRD)},
	{"header", "Z", flip(bitZ)},
	{"header", "AD and CD", flip(bitAD | bitCD)},
	{"header", "code SERVFAIL", code(dns.RcodeServerFailure)},
	{"header", "code FORMERR", code(dns.RcodeFormatError)},
	{"header", "code REFUSED", code(dns.RcodeRefused)},
	{"header", "code YXDOMAIN", code(dns.RcodeYXDomain)},
	{"header", "code 13", code(13)},
	{"header", "code BADVERS", code(dns.RcodeBadVers)},
	{"header", "code BADCOOKIE", code(dns.RcodeBadCookie)},
	{"header", "code 3841", code(3841)},

	{"delivery", "after a forgery", deliver(afterForgery)},
	{"delivery", "only a forgery", deliver(onlyForgery)},
	{"delivery", "truncated", deliver(truncated)},
	{"delivery", "truncated, with records", deliver(truncatedFull)},
	{"delivery", "truncated, no TCP", deliver(truncatedNoTCP)},
	{"delivery", "truncated, garbage over TCP", deliver(truncatedBad)},
	{"delivery", "truncated over TCP too", deliver(truncatedAgain)},

	{"question", "question in other case", ask(func(q question) []question {
		q.name = upper(q.name)
		return []question{q}
	})},
	{"question", "question of another name", ask(func(q question) []question {
		q.name = wire("other.example.")
		return []question{q}
	})},
	{"question", "question of another type", ask(func(q question) []question {
		q.qtype = dns.TypeMX
		return []question{q}
	})},
	{"question", "question of another class", ask(func(q question) []question {
		q.qclass = dns.ClassCHAOS
		return []question{q}
	})},
	{"question", "no question", ask(func(question) []question { return nil })},
	{"question", "question twice", ask(func(q question) []question { return []question{q, q} })},
	{"question", "two questions", ask(func(q question) []question {
		return []question{q, {wire("other.example."), q.qtype, q.qclass}}
	})},

	{"answer", "address of another name", add(answer, func(g *generator) record {
		return g.address(one(g, "elsewhere.test.", "beside."+g.Zone, "sub."+g.Name, "."), 60, 77, always)
	})},
	{"answer", "CNAME of another name", add(answer, func(g *generator) record {
		return pointing("beside."+g.Zone, dns.TypeCNAME, 60, "elsewhere.test.", always)
	})},
	{"answer", "address of another class", add(answer, func(g *generator) record {
		rr := g.address(g.Name, 60, 78, 0)
		rr.class = one[uint16](g, dns.ClassCHAOS, dns.ClassANY, dns.ClassNONE, 7)
		return rr
	})},
	{"answer", "CNAME of another class", add(answer, func(g *generator) record {
		rr := pointing(g.Name, dns.TypeCNAME, 60, "elsewhere.test.", 0)
		rr.class = dns.ClassCHAOS
		return rr
	})},
	{"answer", "other family", add(answer, func(g *generator) record {
		other := dns.TypeA + dns.TypeAAAA - g.Type
		return octets(g.Name, other, 60, addressOf(other, 79), 0)
	})},
	{"answer", "RRSIG", add(answer, func(g *generator) record {
		head := []byte{0, byte(g.Type), 13, 3, 0, 0, 1, 44, 0x70, 0, 0, 0, 0x60, 0, 0, 0, 0, 1} // #nosec G115 -- A or AAAA
		return octets(g.Name, dns.TypeRRSIG, 300, join(head, wire(g.Zone), make([]byte, 64)), 0)
	})},
	{"answer", "unknown type", add(answer, func(g *generator) record { return octets(g.Name, 65300, 60, []byte{1, 2, 3}, 0) })},
	{"answer", "TXT", add(answer, func(g *generator) record { return octets(g.Name, dns.TypeTXT, 60, []byte("\x01x"), 0) })},
	{"answer", "SOA in the answer", add(answer, func(g *generator) record { return soa(g.Zone, 60, 60, always) })},
	{"answer", "NS in the answer", add(answer, func(g *generator) record { return pointing(g.Zone, dns.TypeNS, 60, "ns."+g.Zone, always) })},
	{"answer", "OPT in the answer", add(answer, func(*generator) record { return opt() })},
	{"answer", "unspecified address", add(answer, func(g *generator) record {
		return octets(g.Name, g.Type, 60, make([]byte, len(addressOf(g.Type, 0))), 0)
	})},
	{"answer", "record twice", func(g *generator, m *message) {
		if rrs := m.records[answer]; len(rrs) > 0 {
			m.records[answer] = append(rrs, rrs[g.IntN(len(rrs))])
		}
	}},
	{"answer", "owner in other case", spoil(func(_ *generator, rr *record) { rr.owner = upper(rr.owner) })},
	{"answer", "target in other case", func(_ *generator, m *message) {
		for i, rr := range m.records[answer] {
			if rr.rtype == dns.TypeCNAME {
				m.records[answer][i].rdata = upper(rr.rdata)
			}
		}
	}},

	{"wire", "pointer to a pointer", func(g *generator, m *message) {
		// The first two records have the same owner, the second by way of the first.
		a := g.address(g.Name, 300, 70, 0)
		a.owner = []byte{0xc0, 12}
		b := a
		b.rdata = addressOf(g.Type, 71)
		b.owner = []byte{0xc0, byte(12 + len(wire(g.Name)) + 4)} // #nosec G115 -- short
		m.records[answer] = append([]record{a, b}, m.records[answer]...)
		m.compress = true
	}},
	{"wire", "pointer into a name", spoil(func(g *generator, rr *record) {
		if bytes.Equal(rr.owner, wire(g.Name)) {
			rr.owner = join(rr.owner[:2], []byte{0xc0, 14})
			g.tag("valid pointer")
		}
	})},
	{"wire", "pointer to itself", func(g *generator, m *message) {
		if len(m.records[answer]) > 0 {
			m.records[answer][0].owner = []byte{0xc0, byte(12 + len(wire(g.Name)) + 4)} // #nosec G115 -- short
		}
	}},
	{"wire", "pointer ahead", spoil(func(_ *generator, rr *record) { rr.owner = []byte{0xc3, 0xff} })},
	{"wire", "pointer into the header", spoil(func(_ *generator, rr *record) { rr.owner = []byte{0xc0, 5} })},
	{"wire", "RDLENGTH too short", spoil(func(_ *generator, rr *record) { rr.excess = -1 })},
	{"wire", "RDLENGTH too long", spoil(func(_ *generator, rr *record) { rr.excess = 1 })},
	{"wire", "rdata too short", spoil(func(_ *generator, rr *record) { rr.rdata = rr.rdata[:max(0, len(rr.rdata)-1)] })},
	{"wire", "rdata too long", spoil(func(_ *generator, rr *record) { rr.rdata = append(slices.Clone(rr.rdata), 0) })},
	{"wire", "no rdata", spoil(func(_ *generator, rr *record) { rr.rdata = nil })},
	{"wire", "trailing garbage", func(_ *generator, m *message) { m.trailer = []byte("garbage") }},
	{"wire", "answer count too high", func(_ *generator, m *message) { m.excess[answer] = 1 }},
	{"wire", "answer count too low", func(_ *generator, m *message) { m.excess[answer] = -1 }},
	{"wire", "authority count too high", func(_ *generator, m *message) { m.excess[authority] = 1 }},
	{"wire", "additional count too high", func(_ *generator, m *message) { m.excess[additional] = 1 }},
	{"wire", "additional count too low", func(_ *generator, m *message) { m.excess[additional] = -1 }},
	{"wire", "cut inside a record", func(_ *generator, m *message) { m.cut = 3 }},
	{"wire", "cut before the last record", func(_ *generator, m *message) { m.cut = 11 }}, // an OPT record has 11 octets
	{"wire", "header alone", func(_ *generator, m *message) { m.cut = 1 << 16 }},
	{"wire", "reserved label type", spoil(func(g *generator, rr *record) { rr.owner = join([]byte{one[byte](g, 0x41, 0x81), 'x', 0}) })},
	{"wire", "owner too long", spoil(func(g *generator, rr *record) { rr.owner = join([]byte{1, 'y'}, wire(g.longest(1))) })},

	{"TTL", "TTL 0", everyTTL(0)},
	{"TTL", "TTL 1", everyTTL(1)},
	{"TTL", "TTL 2^31-1", everyTTL(1<<31 - 1)},
	{"TTL", "TTL 2^31", everyTTL(1 << 31)},
	{"TTL", "TTL 2^32-1", everyTTL(1<<32 - 1)},
	{"TTL", "TTLs differ", func(g *generator, m *message) {
		for i := range m.records[answer] {
			m.records[answer][i].ttl = one[uint32](g, 30, 120, 600, 7200)
		}
	}},

	{"authority", "no authority", only(func(*generator) []record { return nil })},
	{"authority", "SOA of the zone", only(func(g *generator) []record {
		return []record{soa(g.Zone, one[uint32](g, 0, 1, 60, 1<<31-1, 1<<31), one[uint32](g, 0, 1, 60, 1<<31-1, 1<<31), always)}
	})},
	{"authority", "SOA of a parent", only(func(g *generator) []record {
		return []record{soa(one(g, g.Root, strings.ToUpper(g.Zone), g.Name), 60, 90, always)}
	})},
	{"authority", "SOA of the root", only(func(g *generator) []record { return []record{soa(".", 60, 90, always)} })},
	{"authority", "SOA of another zone", only(func(g *generator) []record {
		return []record{soa(one(g, "elsewhere.test.", "sub."+g.Name), 60, 90, always)}
	})},
	{"authority", "two SOAs", only(func(g *generator) []record {
		return []record{soa("elsewhere.test.", 30, 30, always), soa(g.Zone, 60, 90, always)}
	})},
	{"authority", "SOA of another class", only(func(g *generator) []record {
		rr := soa(g.Zone, 60, 90, always)
		rr.class = dns.ClassCHAOS
		return []record{rr}
	})},
	{"authority", "NS", only(func(g *generator) []record {
		return []record{pointing(one(g, g.Zone, g.Root, "."), dns.TypeNS, 60, "ns."+g.Zone, always)}
	})},
	{"authority", "NS of another zone", only(func(g *generator) []record {
		return []record{pointing(one(g, "elsewhere.test.", "sub."+g.Name), dns.TypeNS, 60, "ns."+g.Zone, always)}
	})},
	{"authority", "NS and SOA", only(func(g *generator) []record {
		return []record{pointing(g.Zone, dns.TypeNS, 60, "ns."+g.Zone, always), soa(g.Zone, 60, 90, always)}
	})},
	{"authority", "address in the authority", only(func(g *generator) []record { return []record{g.address(g.Name, 60, 80, always)} })},
	{"authority", "OPT in the authority", only(func(*generator) []record { return []record{opt()} })},

	{"additional", "no OPT", func(_ *generator, m *message) { m.records[additional] = nil }},
	{"additional", "two OPTs", add(additional, func(*generator) record { return opt() })},
	{"additional", "OPT version 1", spoilOPT(func(_ *generator, rr *record) { rr.ttl |= 1 << 16 })},
	{"additional", "OPT of a name", spoilOPT(func(g *generator, rr *record) { rr.owner = wire(g.Name) })},
	{"additional", "OPT with options", spoilOPT(func(_ *generator, rr *record) {
		rr.rdata = []byte{0, 15, 0, 2, 0, 18, 0, 12, 0, 4, 0, 0, 0, 0, 0xfd, 0xe9, 0, 1, 1}
	})},
	{"additional", "OPT with a broken option", spoilOPT(func(_ *generator, rr *record) { rr.rdata = []byte{0, 15, 0, 9, 1} })},
	{"additional", "OPT with size 0", spoilOPT(func(_ *generator, rr *record) { rr.class = 0 })},
	{"additional", "address in the additional", add(additional, func(g *generator) record { return g.address(g.Name, 60, 81, always) })},
	{"additional", "SOA in the additional", add(additional, func(g *generator) record { return soa(g.Zone, 60, 60, always) })},
	{"wire", "TSIG", func(_ *generator, m *message) {
		rdata := join(wire("hmac-sha256."), []byte{0, 0, 0x60, 0, 0, 0, 1, 44, 0, 4, 1, 2, 3, 4, 0, 0, 0, 0, 0, 0})
		m.records[additional] = append(m.records[additional], record{owner: wire("key."), rtype: dns.TypeTSIG, class: dns.ClassANY, rdata: rdata, step: always})
	}},
}

// spoilOPT returns a change of the OPT record.
func spoilOPT(change func(g *generator, rr *record)) func(*generator, *message) {
	return func(g *generator, m *message) { change(g, &m.records[additional][0]) }
}
