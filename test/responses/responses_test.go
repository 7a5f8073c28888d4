package responses_test

import (
	"slices"
	"testing"

	"github.com/coredns/alias/test/responses"

	"github.com/miekg/dns"
)

// query returns a query for the name of the case, with an OPT record.
func query(c *responses.Case) *dns.Msg {
	r := new(dns.Msg).SetQuestion(c.Name, c.Type).SetEdns0(1232, false)
	r.Id = 4711
	return r
}

// A case is the same whenever it is made, and another seed makes another one.
func TestReproducible(t *testing.T) {
	others := 0
	for i := range 500 {
		a, b, c := responses.New(7, i), responses.New(7, i), responses.New(8, i)
		for _, tcp := range []bool{false, true} {
			first, second := a.Messages(query(a), tcp), b.Messages(query(b), tcp)
			if !slices.EqualFunc(first, second, slices.Equal) {
				t.Errorf("case %d is not the same again", i)
			}
			if !slices.EqualFunc(first, c.Messages(query(c), tcp), slices.Equal) {
				others++
			}
		}
		if a.String() != b.String() {
			t.Errorf("case %d does not look the same again:\n%v\n%v", i, a, b)
		}
	}
	if others < 900 {
		t.Errorf("with another seed, %d of 1000 responses are others", others)
	}
}

// There are cases of each shape, with each change, and with none. Those without a change are valid: the library reads them,
// they are responses to the query, and over UDP they are no longer than it allows.
func TestTags(t *testing.T) {
	seen := make(map[string]int)
	unchanged := 0
	for i := range 40000 {
		c := responses.New(1, i)
		for _, tag := range c.Tags {
			seen[tag]++
		}
		r := query(c)
		messages := c.Messages(r, false)
		if c.Changes > 0 {
			continue
		}
		unchanged++
		for _, b := range messages {
			m := new(dns.Msg)
			if err := m.Unpack(b); err != nil || m.Id != r.Id || !m.Response || len(m.Question) != 1 || m.Question[0] != r.Question[0] || len(b) > 1232 {
				t.Errorf("%v: %v, %d octets", c, err, len(b))
			}
		}
	}
	if unchanged < 1000 {
		t.Errorf("%d cases are unchanged", unchanged)
	}
	for _, tag := range responses.AllTags() {
		if seen[tag] == 0 {
			t.Errorf("no case is %q", tag)
		}
	}
}
