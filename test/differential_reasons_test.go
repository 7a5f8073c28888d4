package test

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/coredns/alias/test/responses"

	"github.com/miekg/dns"
)

// A reason says why the client is right where another program makes something else of a response. It names the rule.
type reason struct {
	program string // the one that differs, or both
	rule    string
	why     string
	applies func(c *responses.Case, mine, theirs reading) bool
}

const both = "unbound bind"

// library is the rule of what the client does not see, because the DNS library reads the message.
const library = "github.com/miekg/dns"

// noise are the tags of records in the answer section that do not answer the question.
var noise = []string{
	"unknown type", "TXT", "RRSIG", "other family", "NS in the answer", "SOA in the answer", "address of another name",
	"CNAME of another name", "unspecified address",
}

func unspecified(qtype uint16) string {
	if qtype == dns.TypeA {
		return netip.IPv4Unspecified().String()
	}
	return netip.IPv6Unspecified().String()
}

// foreign is the address that a record of another class has.
func foreign(qtype uint16) string {
	if qtype == dns.TypeA {
		return "198.18.0.78"
	}
	return "2001:db8::4e"
}

// reasons are tried in their order. Each predicate states what the client makes of the response and what the other program
// makes of it, so that another difference in the same kind of response is not explained by it.
var reasons = []reason{
	{both, "RFC 1034, section 5.3.3, step 4",
		"an address of the name in question is the answer; the CNAME record beside it, which section 3.6.2 forbids, comes after that",
		func(c *responses.Case, mine, theirs reading) bool {
			beside := c.Has("CNAME and address", "pointer to a pointer")
			return mine.found() && mine.links == 0 && beside && (theirs.found() || theirs.failed() && c.Has("loop", "DNAME loop"))
		}},
	{"bind", "RFC 2181, section 10.1",
		"a name has one canonical name; the client and Unbound take the first of two CNAME records, BIND takes none",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("two CNAMEs") && mine.found() && theirs.failed()
		}},
	{"bind", "RFC 2308, section 2.1, and RFC 6604, section 3",
		"the code NXDOMAIN is about the end of the chain, whatever the answer section has; BIND takes no NXDOMAIN with an address, or with another record",
		func(c *responses.Case, mine, theirs reading) bool {
			return mine.none() && theirs.failed() &&
				(c.Has("NXDOMAIN with addresses", "NXDOMAIN with a chain to addresses") || c.Has("NXDOMAIN", "chain to NXDOMAIN") && (c.Has(noise...) || c.Has("pointer to a pointer")))
		}},
	{"bind", "RFC 2308, section 2.2",
		"NODATA is NOERROR without a relevant record in the answer section; BIND wants that section empty, and no other records in the authority section",
		func(c *responses.Case, mine, theirs reading) bool {
			return mine.none() && theirs.failed() && (c.Has(noise...) || c.Has("address in the authority", "answer count too low"))
		}},
	{both, "RFC 2308, section 2.2",
		"a CNAME record with a SOA record of the zone of its target is NODATA; the others ask for the target",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("chain in two") && c.Has("SOA of the zone", "SOA of a parent", "SOA of the root", "two SOAs", "NS and SOA") && mine.none() &&
				(theirs.failed() || theirs.found() || theirs.none() && theirs.ttl == 60)
		}},
	{"unbound", "RFC 2308, section 2.2",
		"NS records without a SOA record are a referral and no NODATA; from a resolver it is of no use",
		func(_ *responses.Case, mine, theirs reading) bool {
			return mine.note == "referral" && theirs.none() && theirs.ttl < 0
		}},
	{both, "RFC 2308, sections 3 and 5",
		"the SOA record that states the negative TTL is that of the zone of the name; of another zone, Unbound takes the TTL, and BIND no NODATA",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("SOA of another zone", "SOA of a parent") && mine.none() && mine.ttl == 30 && (theirs.failed() || theirs.none() && theirs.ttl >= 0)
		}},
	{both, "RFC 2308, section 3",
		"the SOA record may be that of the root; both programs forward one domain here, and take no SOA record from above it",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("SOA of the root") && mine.none() && mine.ttl <= 60 && (theirs.failed() || theirs.none() && theirs.ttl < 0)
		}},
	{both, "RFC 1034, section 5.3.3, step 4",
		"what a response says about the end of the chain is the answer, even if its last record is missing; the others ask for the names on the chain one by one",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("answer count too low") && mine.class == theirs.class && (mine.none() && mine.ttl == 30 || mine.subsetOf(theirs))
		}},
	{"bind", "RFC 2181, section 5",
		"records of another class are another RRset, which does not concern the question; BIND takes no response that has one",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("address of another class", "CNAME of another class", "SOA of another class") && !mine.failed() && theirs.failed()
		}},
	{"unbound", "RFC 2181, section 5",
		"records of another class are another RRset; Unbound takes them for class IN",
		func(c *responses.Case, mine, theirs reading) bool {
			address := c.Has("address of another class") && theirs.found() && slices.Contains(strings.Fields(theirs.addrs), foreign(c.Type))
			cname := c.Has("CNAME of another class") && !mine.failed() && (!theirs.found() || theirs.addrs == mine.addrs && theirs.ttl <= 60)
			soa := c.Has("SOA of another class") && mine.none() && mine.ttl == 30 && theirs.none() && theirs.ttl >= 0
			return address || cname || soa
		}},
	{"bind", "RFC 2181, section 8",
		"a TTL with the most significant bit set counts as zero",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("TTL 2^31", "TTL 2^32-1", "SOA of the zone") && mine.class == theirs.class && mine.addrs == theirs.addrs && mine.ttl <= 5 && theirs.ttl > mine.ttl
		}},
	{"unbound", "RFC 6672, section 3.1",
		"the CNAME record of a DNAME record has the TTL of that; Unbound gives the one that it makes the TTL 0, and else keeps what the server sent",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("DNAME") && mine.found() && mine.addrs == theirs.addrs && mine.ttl != theirs.ttl
		}},
	{"unbound", "RFC 2181, section 5",
		"a record that comes twice counts once; Unbound takes no DNAME record that does",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("DNAME") && c.Has("record twice") && mine.found() && theirs.failed()
		}},
	{"unbound", "RFC 1034, section 3.6.2",
		"a loop is an error; Unbound answers with the DNAME record that leads back to itself, and no address",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("DNAME loop") && strings.HasPrefix(mine.note, "loop") && theirs.none()
		}},
	{"bind", "RFC 6672, section 2.2",
		"YXDOMAIN says that a DNAME record makes a name that is too long; BIND takes it for NOERROR when there is no DNAME record",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("code YXDOMAIN", "rcode 6") && mine.note == "rcode: YXDOMAIN" && !theirs.failed()
		}},
	{"bind", "RFC 6891, section 6.1.1",
		"an OPT record outside the additional section makes a message malformed; BIND asks again without EDNS, and takes what comes then",
		func(_ *responses.Case, mine, theirs reading) bool {
			return strings.HasPrefix(mine.note, "malformed: OPT record outside") && !theirs.failed()
		}},
	{both, "RFC 6891, section 6.1.3",
		"BADVERS is about the version of EDNS, so the client asks without EDNS; BIND does not, and Unbound does where the OPT record is in its place",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("code BADVERS", "rcode 16") && !mine.failed() && theirs.failed()
		}},
	{both, "RFC 6891, section 6.1.1",
		"the OPT record is in the additional section, so the records before it are complete; what the header counts beyond it does not exist",
		func(c *responses.Case, mine, theirs reading) bool {
			shifted := c.Has("answer count too high", "authority count too high") && c.Has("SOA in the additional", "address in the additional")
			return (shifted || c.Has("additional count too high")) && !mine.failed() && theirs.failed()
		}},
	{"unbound", "RFC 6891, section 6.2.2",
		"after a response that cannot be parsed, the client and BIND ask without EDNS; Unbound does not where there is an OPT record in another section",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("OPT with a broken option") && c.Has("OPT in the answer", "OPT in the authority") && !mine.failed() && theirs.failed()
		}},
	{"unbound", "RFC 8945, section 5.3",
		"only a response to a signed query is signed; Unbound overlooks the TSIG record",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("TSIG") && strings.HasPrefix(mine.note, "malformed: ") && !theirs.failed()
		}},
	{"unbound", "RFC 1035, sections 3.3 and 3.4",
		"rdata that is longer or shorter than its type says makes a message malformed; Unbound hands it on",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("rdata too short", "rdata too long", "no rdata", "RDLENGTH too short", "RDLENGTH too long") && strings.HasPrefix(mine.note, "malformed: ") && !theirs.failed()
		}},
	{"bind", "README.md, chains",
		"a chain has at most 16 links; BIND has no bound but that of its configuration, which is higher here",
		func(_ *responses.Case, mine, theirs reading) bool {
			return mine.note == "loop: more than 16 links" && theirs.found() && theirs.links > 16
		}},
	{both, "README.md, allow_unspecified",
		"0.0.0.0 and :: are no addresses that a client can use",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("unspecified address") && (strings.HasPrefix(mine.note, "denied: ") && !theirs.failed() ||
				mine.found() && theirs.found() && mine.subsetOf(theirs) && slices.Contains(strings.Fields(theirs.addrs), unspecified(c.Type)))
		}},
	{"unbound", "RFC 1034, section 3.6.2",
		"chains should be followed: the client follows 16 links, Unbound 11 that it has to ask for",
		func(_ *responses.Case, mine, theirs reading) bool {
			return mine.found() && mine.links >= 8 && theirs.failed()
		}},
	{both, "README.md, chains",
		"the client uses 512 addresses of a target",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("many addresses") && mine.count() == 512 && theirs.count() > 512 && mine.subsetOf(theirs)
		}},
	{both, library,
		"the header counts a record that is not there, and there is no OPT record that would show it: the library takes what there is for the whole message",
		func(c *responses.Case, mine, theirs reading) bool {
			noOPT := c.Has("no OPT", "OPT with a broken option") && c.Has("answer count too high", "authority count too high", "additional count too high")
			return (noOPT || c.Has("cut before the last record")) && !mine.failed() && theirs.failed()
		}},
	{both, library,
		"the library follows a pointer into the header, or ahead; the record is one of another name, and does not count",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("pointer into the header", "pointer ahead") && !mine.failed() && theirs.failed()
		}},
	{both, library,
		"the library reads a record without rdata, which UPDATE has (RFC 2136, section 2.4); one that has no part in the answer is not looked at",
		func(c *responses.Case, mine, theirs reading) bool {
			return c.Has("no rdata") && !mine.failed() && theirs.failed()
		}},
}
