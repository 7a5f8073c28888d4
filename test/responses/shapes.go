package responses

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// A generator makes one Case.
type generator struct {
	*Case
	*rand.Rand
}

// usual are TTLs that are in use.
var usual = []uint32{60, 300, 3600, 86400}

func (g *generator) ttl() uint32 { return usual[g.IntN(len(usual))] }

// one returns one of list.
func one[T any](g *generator, list ...T) T { return list[g.IntN(len(list))] }

// shapes are the kinds of responses. The number of the case selects one, so each comes up equally often.
var shapes = []struct {
	name string
	make func(g *generator)
}{
	{"addresses", func(g *generator) { g.addresses(1 + g.IntN(5)) }},
	{"many addresses", func(g *generator) { g.addresses(one(g, 20, 100, 300, 600)) }},
	{"chain", func(g *generator) { g.chain(1+g.IntN(6), plainName) }},
	{"long chain", func(g *generator) { g.chain(7+g.IntN(12), plainName) }},
	{"chain of odd names", func(g *generator) { g.chain(1+g.IntN(4), oddName) }},
	{"chain in two", (*generator).chainInTwo},
	{"chain to NODATA", func(g *generator) { g.denied(g.links(1+g.IntN(4), plainName), dns.RcodeSuccess) }},
	{"chain to NXDOMAIN", func(g *generator) { g.denied(g.links(1+g.IntN(4), plainName), dns.RcodeNameError) }},
	{"NODATA", func(g *generator) { g.denied(g.links(0, plainName), dns.RcodeSuccess) }},
	{"NXDOMAIN", func(g *generator) { g.denied(g.links(0, plainName), dns.RcodeNameError) }},
	{"loop", (*generator).loop},
	{"DNAME", (*generator).dname},
	{"code alone", (*generator).codeAlone},
	{"two CNAMEs", (*generator).twoCNAMEs},
	{"CNAME and address", (*generator).cnameAndAddress},
	{"NXDOMAIN with addresses", func(g *generator) {
		g.addresses(1 + g.IntN(2))
		g.first.rcode = dns.RcodeNameError
		g.maybeSOA()
	}},
	{"NXDOMAIN with a chain to addresses", func(g *generator) {
		g.chain(1+g.IntN(2), plainName)
		g.first.rcode = dns.RcodeNameError
		g.maybeSOA()
	}},
	{"addresses and SOA", func(g *generator) {
		g.addresses(1 + g.IntN(2))
		g.first.records[authority] = []record{soa(g.Zone, g.ttl(), g.ttl(), always)}
	}},
	{"referral", (*generator).referral},
	{"empty", func(g *generator) { g.links(0, plainName) }},
}

// shape makes the response, without changes.
func (g *generator) shape() {
	s := shapes[g.Index%len(shapes)]
	g.Tags = []string{s.name}
	g.first = reply(dns.RcodeSuccess)
	s.make(g)
	g.first.compress = g.IntN(2) == 0
}

func (g *generator) tag(format string, args ...any) {
	g.Tags = append(g.Tags, fmt.Sprintf(format, args...))
}

func (g *generator) addresses(n int) {
	g.links(0, plainName)
	g.end(g.Name, 0, n)
}

// end adds n addresses of name, which is at that step.
func (g *generator) end(name string, step, n int) {
	ttl := g.ttl()
	for i := range n {
		g.first.records[answer] = append(g.first.records[answer], g.address(name, ttl, i+1, step))
	}
}

// plainName and oddName return the name at a step of the chain.
func plainName(g *generator, step int) string { return fmt.Sprintf("l%d.%s", step, g.Zone) }

func oddName(g *generator, step int) string {
	if g.IntN(4) == 0 {
		return g.longest(step)
	}
	label := one(g, `\.`, `\000`, `\032`, `a\.b`, `\255\254`, `\195\156`, `\"`, `\\`, `\@`, `\;`, `*`, `_`, `-`, `\$`, `\(`)
	return fmt.Sprintf("%sl%d.%s", label, step, g.Zone)
}

// longest returns a name of 255 octets on the wire.
func (g *generator) longest(step int) string {
	name := fmt.Sprintf("l%d.%s", step, g.Zone)
	for {
		free := 255 - len(wire(name)) - 1
		if free < 1 {
			return name
		}
		if free > 63 {
			free = min(63, free-2)
		}
		name = strings.Repeat("x", free) + "." + name
	}
}

// links adds a chain of n links from the name that is asked for, and returns its names.
func (g *generator) links(n int, nameOf func(g *generator, step int) string) []string {
	names := []string{g.Name}
	g.steps[key(g.Name)] = 0
	for step := range n {
		next := nameOf(g, step+1)
		g.steps[key(next)] = step + 1
		g.first.records[answer] = append(g.first.records[answer], pointing(names[step], dns.TypeCNAME, g.ttl(), next, step))
		names = append(names, next)
	}
	return names
}

// chain adds a chain of n links to addresses, in some order.
func (g *generator) chain(n int, nameOf func(g *generator, step int) string) {
	names := g.links(n, nameOf)
	g.end(names[n], n, 1+g.IntN(3))
	g.tag("%d links", n)
	g.order()
}

// order changes the order of the answer section.
func (g *generator) order() {
	rrs := g.first.records[answer]
	switch g.IntN(4) {
	case 0:
		slices.Reverse(rrs)
	case 1:
		g.Shuffle(len(rrs), func(i, j int) { rrs[i], rrs[j] = rrs[j], rrs[i] })
	default:
		return
	}
	if !slices.IsSortedFunc(rrs, func(a, b record) int { return a.step - b.step }) {
		g.tag("out of order")
	}
}

// chainInTwo is a chain whose end comes in a response of its own.
func (g *generator) chainInTwo() {
	n := 1 + g.IntN(3)
	names := g.links(n, plainName)
	if g.IntN(3) == 0 {
		g.order()
	}
	end := reply(dns.RcodeSuccess)
	switch kind := one(g, "addresses", "NODATA", "NXDOMAIN", "SERVFAIL", "REFUSED"); kind {
	case "addresses":
		end.records[answer] = []record{g.address(names[n], g.ttl(), 1, n), g.address(names[n], 300, 2, n)}
		end.records[answer][1].ttl = end.records[answer][0].ttl
		g.tag("end has addresses")
	case "NODATA":
		end.records[authority] = []record{soa(g.Zone, 60, 60, always)}
		g.tag("end has none")
	case "NXDOMAIN":
		end.rcode = dns.RcodeNameError
		end.records[authority] = []record{soa(g.Zone, 60, 60, always)}
		g.tag("end does not exist")
	case "SERVFAIL":
		end.rcode = dns.RcodeServerFailure
		g.tag("end fails")
	case "REFUSED":
		end.rcode = dns.RcodeRefused
		g.tag("end fails")
	}
	g.last, g.lastStep = &end, n
}

// denied makes a negative response for the last of names.
func (g *generator) denied(names []string, rcode uint16) {
	g.first.rcode = rcode
	if len(names) > 1 && g.IntN(3) == 0 {
		g.order()
	}
	g.first.records[authority] = []record{soa(g.Zone, g.ttl(), g.ttl(), always)}
}

func (g *generator) maybeSOA() {
	if g.IntN(2) == 0 {
		g.first.records[authority] = []record{soa(g.Zone, g.ttl(), g.ttl(), always)}
		g.tag("with SOA")
	}
}

// loop is a chain that leads back to one of its names.
func (g *generator) loop() {
	n := g.IntN(5)
	names := g.links(n, plainName)
	back := g.IntN(n + 1)
	rr := pointing(names[n], dns.TypeCNAME, g.ttl(), names[back], always)
	g.first.records[answer] = append(g.first.records[answer], rr)
	for i := range g.first.records[answer] {
		g.first.records[answer][i].step = always // who asks for a name on it gets all of it
	}
	g.tag("%d links", n+1)
	if g.IntN(3) == 0 { // an address beside the loop
		g.first.records[answer] = append(g.first.records[answer], g.address("beside."+g.Zone, 60, 1, always))
	}
}

// dname is a DNAME record above the name, with or without the CNAME record that goes with it (RFC 6672, section 3.1).
func (g *generator) dname() {
	target := "d." + g.Zone
	g.Name = "x.t." + g.Zone
	names := []string{g.Name, "x." + target}
	for step, name := range names {
		g.steps[key(name)] = step
	}
	ttl := g.ttl()
	d := pointing("t."+g.Zone, dns.TypeDNAME, ttl, target, 0)
	c := pointing(names[0], dns.TypeCNAME, ttl, names[1], 0)
	a := g.address(names[1], g.ttl(), 1, 1)
	kind := one(g, "synthesized", "synthesized", "not synthesized", "synthesized with TTL 0", "other synthesis", "too long", "loop")
	g.tag("DNAME %s", kind)
	rrs := &g.first.records[answer]
	switch kind {
	case "synthesized":
		*rrs = []record{d, c, a}
		if g.IntN(3) == 0 {
			*rrs = []record{c, a, d}
			g.tag("out of order")
		}
	case "synthesized with TTL 0": // as RFC 2672, section 4.1, had it
		c.ttl = 0
		*rrs = []record{d, c, a}
	case "not synthesized":
		*rrs = []record{d, a}
	case "other synthesis":
		other := "x.other." + g.Zone
		g.steps[key(other)] = 1
		c = pointing(names[0], dns.TypeCNAME, ttl, other, 0)
		*rrs = []record{d, c, g.address(other, 60, 2, 1), a}
	case "too long": // RFC 6672, section 2.2
		g.first.rcode = dns.RcodeYXDomain
		d.rdata = wire(g.longest(1))
		*rrs = []record{d}
	case "loop":
		d.rdata = wire("t." + g.Zone)
		*rrs = []record{d, pointing(names[0], dns.TypeCNAME, ttl, names[0], 0)}
	}
}

// codeAlone is a response code without records.
func (g *generator) codeAlone() {
	g.links(0, plainName)
	g.first.rcode = one[uint16](g, 1, 2, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16, 17, 22, 23, 24, 3841)
	g.tag("rcode %d", g.first.rcode)
}

// twoCNAMEs is a name with two CNAME records, which RFC 2181, section 10.1, forbids.
func (g *generator) twoCNAMEs() {
	names := []string{g.Name, "l1." + g.Zone, "l2." + g.Zone}
	for step, name := range names {
		g.steps[key(name)] = min(step, 1)
	}
	ttl := g.ttl()
	g.first.records[answer] = []record{
		pointing(g.Name, dns.TypeCNAME, ttl, names[1], 0),
		pointing(g.Name, dns.TypeCNAME, ttl, names[2], 0),
		g.address(names[1], 300, 1, 1),
		g.address(names[2], 300, 2, 1),
	}
	g.order()
}

// cnameAndAddress is a name with a CNAME record and an address, which RFC 1034, section 3.6.2, forbids.
func (g *generator) cnameAndAddress() {
	names := g.links(1, plainName)
	g.end(names[1], 1, 1)
	g.first.records[answer] = append(g.first.records[answer], g.address(g.Name, 300, 9, 0))
	if g.IntN(2) == 0 {
		slices.Reverse(g.first.records[answer])
		g.tag("address first")
	}
}

// referral is a delegation: NS records, with and without SOA.
func (g *generator) referral() {
	g.links(0, plainName)
	g.first.records[authority] = []record{pointing(g.Zone, dns.TypeNS, g.ttl(), "ns."+g.Zone, always)}
	if g.IntN(2) == 0 {
		g.first.records[authority] = append(g.first.records[authority], soa(g.Zone, g.ttl(), g.ttl(), always))
		g.tag("NS and SOA")
	}
}
