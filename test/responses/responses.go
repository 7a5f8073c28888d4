// Package responses generates responses to queries for A and AAAA: valid ones, invalid ones, and odd ones that are valid.
// It knows nothing of alias, and of no other program that reads them.
//
// A Case is reproducible: it depends on a seed and a number alone. It does not depend on the order in which the queries
// come, so several programs can be asked at the same time.
package responses

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/miekg/dns"
)

// A Case is what an upstream has about one name, and all names that the chain from that name leads to.
type Case struct {
	Seed  uint64
	Index int
	Root  string // all names of the case are in it, but for those of records that have nothing to do with the question
	Zone  string // of the name that is asked for, one label below Root
	Name  string // that is asked for
	Type  uint16 // A or AAAA

	// Tags say what the response is: the first is its shape, and the others are more about that and what was changed in it.
	Tags    []string
	Changes int // how many changes there were

	steps    map[string]int // of the names on the chain, by key
	first    message        // the response
	last     *message       // the response for the names from lastStep on, or nil
	lastStep int
	delivery delivery
}

// A delivery is how a response comes.
type delivery int

const (
	plainly        delivery = iota
	afterForgery            // over UDP: after a response with another ID
	onlyForgery             // over UDP: with another ID, and never with the right one
	truncated               // over UDP: without records and with the TC bit; whole over TCP
	truncatedFull           // over UDP: with records and the TC bit; whole over TCP
	truncatedNoTCP          // the same, but the connection over TCP is closed without a response
	truncatedBad            // the same, but garbage over TCP
	truncatedAgain          // the TC bit over TCP too
)

// New returns the case with that number.
func New(seed uint64, index int) *Case {
	c := &Case{
		Seed: seed, Index: index,
		Root:  fmt.Sprintf("c%d.example.", index),
		Type:  dns.TypeA,
		steps: make(map[string]int),
	}
	// #nosec G404, G115 -- it has to be reproducible, and index is not negative
	g := &generator{c, rand.New(rand.NewPCG(seed, uint64(index)))}
	if g.IntN(2) == 0 {
		c.Type = dns.TypeAAAA
	}
	c.Zone = "z." + c.Root
	c.Name = "t." + c.Zone
	g.shape()
	g.change()
	return c
}

// AllTags returns the shapes and changes that there are.
func AllTags() []string {
	var tags []string
	for _, s := range shapes {
		tags = append(tags, s.name)
	}
	for _, ch := range changes {
		tags = append(tags, ch.name)
	}
	return tags
}

// Has reports whether the case has one of these tags.
func (c *Case) Has(tags ...string) bool {
	return slices.ContainsFunc(c.Tags, func(tag string) bool { return slices.Contains(tags, tag) })
}

// String returns what is needed to repeat the case, and to see what it is.
func (c *Case) String() string {
	r := new(dns.Msg).SetQuestion(c.Name, c.Type)
	r.Id = 0
	b := c.first.pack(r, 0)
	s := fmt.Sprintf("seed %d, case %d, %s %s, %s", c.Seed, c.Index, c.Name, dns.TypeToString[c.Type], strings.Join(c.Tags, ", "))
	if len(b) > 1500 {
		return s + fmt.Sprintf(", %d octets", len(b))
	}
	m := new(dns.Msg)
	err := m.Unpack(b)
	s += fmt.Sprintf("\n%x\n%v (read with: %v)", b, m, err)
	if c.last != nil {
		m := new(dns.Msg)
		err := m.Unpack(c.last.pack(r, c.lastStep))
		s += fmt.Sprintf("\nfrom name %d of the chain on:\n%v (read with: %v)", c.lastStep, m, err)
	}
	return s
}

// Messages returns what an upstream sends for the query r, one message after the other. There may be none; over TCP the
// connection is to be closed then.
func (c *Case) Messages(r *dns.Msg, tcp bool) [][]byte {
	m, step := c.find(r.Question[0].Name)
	if t := r.Question[0].Qtype; t != c.Type { // one that the case is not about
		m = reply(dns.RcodeRefused)
	}
	b := m.pack(r, step)
	if tcp {
		return c.overTCP(m, r, step, b)
	}
	short := m.clone()
	short.flags |= bitTC
	short.records[answer], short.records[authority] = nil, nil
	short.trailer = nil
	forged := reply(dns.RcodeSuccess)
	forged.records[answer] = []record{c.address(r.Question[0].Name, 60, 666, step)}
	forgery := forged.pack(r, step)
	forgery[0] ^= 0x55
	switch c.delivery {
	case onlyForgery:
		return [][]byte{forgery}
	case afterForgery:
		if len(b) <= size(r) {
			return [][]byte{forgery, b}
		}
		return [][]byte{forgery, short.pack(r, step)}
	case truncated, truncatedNoTCP, truncatedBad:
		return [][]byte{short.pack(r, step)}
	case truncatedFull, truncatedAgain:
		m.flags |= bitTC
		b = m.pack(r, step)
	}
	if len(b) > size(r) {
		b = short.pack(r, step)
	}
	return [][]byte{b}
}

func (c *Case) overTCP(m message, r *dns.Msg, step int, b []byte) [][]byte {
	switch c.delivery {
	case truncatedNoTCP:
		return nil
	case truncatedBad:
		return [][]byte{append(b[:12:12], "\x3fgarbage"...)}
	case truncatedAgain:
		m.flags |= bitTC
		return [][]byte{m.pack(r, step)}
	default:
		return [][]byte{b}
	}
}

// find returns the response for name, and the place of name on the chain.
func (c *Case) find(name string) (message, int) {
	step, ok := c.steps[key(name)]
	switch {
	case !ok: // a name that no record of the case leads to
		m := reply(dns.RcodeNameError)
		m.records[authority] = []record{soa(c.Zone, 60, 60, always)}
		return m, 0
	case c.last != nil && step >= c.lastStep:
		return *c.last, step
	default:
		return c.first, step
	}
}

// key returns name in wire form and lower case.
func key(name string) string { return string(inCase(wire(name), 'A', 'Z')) }

// size returns how long a response over UDP to r may be (RFC 6891, section 6.2.3).
func size(r *dns.Msg) int {
	if o := r.IsEdns0(); o != nil {
		return max(int(o.UDPSize()), dns.MinMsgSize)
	}
	return dns.MinMsgSize
}

// address returns an address record of the type that is asked for. Different numbers give different addresses.
func (c *Case) address(owner string, ttl uint32, number, step int) record {
	return record{owner: wire(owner), rtype: c.Type, class: dns.ClassINET, ttl: ttl, rdata: addressOf(c.Type, number), step: step}
}

// addressOf returns the rdata of an address record. The addresses are those for documentation and for benchmarks (RFC 2544,
// RFC 3849): no program takes them for special.
func addressOf(qtype uint16, number int) []byte {
	hi, lo := byte(number>>8), byte(number) // #nosec G115 -- it is split
	if qtype == dns.TypeA {
		return []byte{198, 18, hi, lo}
	}
	return []byte{0x20, 0x01, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, hi, lo}
}
