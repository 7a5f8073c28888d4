// Command alias-checkzone checks a zone file with ALIAS records before CoreDNS loads it:
//
//	alias-checkzone ZONE FILE
//
// It prints each finding as a line FILE:LINE: error or warning: text, and the counts as the last line. LINE is the line
// on which the record starts; for records from $INCLUDE and $GENERATE it is the line of the directive. The other records
// are checked also when some are refused, up to a hundred; in an included file and in a $GENERATE only the first error
// is found. If all records can be parsed, CoreDNS's own loader reads the zone too.
//
// The exit status is 0 without errors, 1 with errors or if the file cannot be read, and 2 for wrong usage.
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"

	"github.com/miekg/dns"
)

const usage = `Usage: alias-checkzone ZONE FILE

Checks the zone file FILE, with the origin ZONE, for errors and for ALIAS records that do not do what they seem to.
The exit status is 0 without errors (warnings are allowed), 1 with errors, and 2 for wrong usage.
`

// maxLinks is how many links a chain may have after the target of an ALIAS record. The alias plugin follows no more.
const maxLinks = 16

// maxTargets is how many targets an owner may have. The alias plugin uses no more.
const maxTargets = 16

func main() { os.Exit(run(os.Args[1:], os.Stdout, os.Stderr)) }

func run(args []string, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("alias-checkzone", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() { fmt.Fprint(stderr, usage) }
	if err := flags.Parse(args); errors.Is(err, flag.ErrHelp) {
		return 0
	} else if err != nil {
		return 2
	}
	origin, file := flags.Arg(0), flags.Arg(1)
	if _, ok := dns.IsDomainName(origin); !ok || origin == "" || flags.NArg() != 2 {
		flags.Usage()
		return 2
	}
	text, err := os.ReadFile(file)
	if err != nil {
		fmt.Fprintln(stderr, printable(fmt.Sprintf("alias-checkzone: %v", err)))
		return 1
	}
	z := newZone(lookup.Canonical(dns.Fqdn(origin)), file)
	z.read(string(text))
	z.check()
	return z.print(stdout)
}

// zone is the content of a zone file, and the findings about it.
type zone struct {
	origin   string // lower case, fully qualified
	file     string
	records  node
	nodes    map[string]node // by owner, in lower case; empty non-terminals of the zone have a nil node
	owners   []string        // in the order of the file
	findings []finding
	visits   map[string]visit // the names that checkCircles has come by
	longest  map[string]way   // the names that follow has come by
	broken   map[string]bool  // names in a chain that is reported already
}

// visit says whether checkCircles has come by a name.
type visit uint8

const (
	never visit = iota
	begun       // it looks at what the name leads to
	ended
)

// way is the longest chain from a name.
type way struct {
	links int
	next  string // the name that it leads to first
}

// record is a record and the line on which it starts.
type record struct {
	dns.RR
	line int
}

// target returns the target of a CNAME or ALIAS record, in lower case.
func (r record) target() string {
	if cname, ok := r.RR.(*dns.CNAME); ok {
		return lookup.Canonical(cname.Target)
	}
	return lookup.Canonical(rdata.Of(r.RR).Target)
}

// node has the records of an owner.
type node []record

// ofType returns the records of n that have the given type.
func (n node) ofType(rrtype uint16) node {
	var found node
	for _, r := range n {
		if r.Header().Rrtype == rrtype {
			found = append(found, r)
		}
	}
	return found
}

// hasBothAddresses reports whether n has A and AAAA records, so that its ALIAS record is never used.
func (n node) hasBothAddresses() bool {
	return len(n.ofType(dns.TypeA)) > 0 && len(n.ofType(dns.TypeAAAA)) > 0
}

// finding is a line of the output.
type finding struct {
	line           int
	severity, text string
}

func newZone(origin, file string) *zone {
	return &zone{
		origin: origin, file: file, nodes: make(map[string]node),
		visits: make(map[string]visit), longest: make(map[string]way), broken: make(map[string]bool),
	}
}

func (z *zone) errorf(line int, format string, args ...any) {
	z.findings = append(z.findings, finding{line, "error", fmt.Sprintf(format, args...)})
}

func (z *zone) warnf(line int, format string, args ...any) {
	z.findings = append(z.findings, finding{line, "warning", fmt.Sprintf(format, args...)})
}

// print writes the findings in the order of their lines, and returns the exit status.
func (z *zone) print(w io.Writer) int {
	slices.SortStableFunc(z.findings, func(a, b finding) int { return cmp.Compare(a.line, b.line) })
	count := make(map[string]int)
	for _, f := range z.findings {
		count[f.severity]++
		fmt.Fprintln(w, printable(fmt.Sprintf("%s:%d: %s: %s", z.file, f.line, f.severity, f.text)))
	}
	aliases := len(z.records.ofType(rdata.TypeALIAS))
	fmt.Fprintln(w, printable(fmt.Sprintf("zone %s: %d records, %d ALIAS, %d errors, %d warnings",
		z.origin, len(z.records), aliases, count["error"], count["warning"])))
	return min(count["error"], 1)
}

// printable keeps text on one line, and escape sequences from names and from the zone file off the terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}

// add adds r to its node, and the empty non-terminals between it and the zone.
func (z *zone) add(r record) {
	owner := lookup.Canonical(r.Header().Name)
	if z.nodes[owner] == nil {
		z.owners = append(z.owners, owner)
	}
	z.records = append(z.records, r)
	z.nodes[owner] = append(z.nodes[owner], r)
	for off, end := dns.NextLabel(owner, 0); !end; off, end = dns.NextLabel(owner, off) {
		if _, ok := z.nodes[owner[off:]]; ok || !dns.IsSubDomain(z.origin, owner[off:]) {
			return
		}
		z.nodes[owner[off:]] = nil
	}
}

// check finds ALIAS records that cannot be served, or not as they are written.
func (z *zone) check() {
	z.checkSigned()
	for _, owner := range z.owners {
		n := z.nodes[owner]
		aliases := n.ofType(rdata.TypeALIAS)
		switch {
		case !dns.IsSubDomain(z.origin, owner):
			z.warnf(n[0].line, "'%s' is outside of the zone '%s', so its records are ignored: "+
				"remove them, or correct the name", owner, z.origin)
		case len(aliases) == 0:
			z.checkChains(owner)
		default:
			z.checkTargets(owner, aliases)
			z.checkNeighbours(owner, n)
			z.checkChains(owner)
		}
	}
}

// checkSigned warns of signatures, once for the zone: the operator has to remove all of them.
func (z *zone) checkSigned() {
	aliases, signatures := z.records.ofType(rdata.TypeALIAS), z.records.ofType(dns.TypeRRSIG)
	if len(aliases) > 0 && len(signatures) > 0 {
		z.warnf(aliases[0].line, "the zone is signed already (RRSIG on line %d), which cannot cover the addresses of '%s' "+
			"as they change: take the zone unsigned, and add dnssec to the server block",
			signatures[0].line, lookup.Canonical(aliases[0].Header().Name))
	}
}

// checkTargets finds ALIAS records of an owner that have no target, are there twice, or are too many.
func (z *zone) checkTargets(owner string, aliases node) {
	lines := make(map[string]int)
	for _, r := range aliases {
		target := r.target()
		if rdata.Of(r.RR).Target == "" {
			z.errorf(r.line, "the ALIAS of '%s' has no target: give it one", owner)
			continue
		}
		if line, ok := lines[target]; ok {
			z.warnf(r.line, "the ALIAS of '%s' to '%s' is there on line %d already: remove one of them",
				owner, target, line)
			continue
		}
		if lines[target] = r.line; len(lines) == maxTargets+1 {
			z.warnf(r.line, "'%s' has more than %d ALIAS records: only the first %d in canonical order are used; remove the others",
				owner, maxTargets, maxTargets)
		}
	}
}

// checkNeighbours finds records that exclude an ALIAS record at the same name, or keep it from being used.
func (z *zone) checkNeighbours(owner string, n node) {
	alias := n.ofType(rdata.TypeALIAS)[0]
	cnames := n.ofType(dns.TypeCNAME)
	cut := z.cut(owner)
	switch {
	case len(cnames) > 0:
		z.errorf(alias.line, "'%s' has an ALIAS to '%s', and on line %d a CNAME to '%s': remove one of them",
			owner, alias.target(), cnames[0].line, cnames[0].target())
	case cut != "":
		z.warnf(alias.line, "the ALIAS of '%s' to '%s' is never used, for '%s' is delegated by the NS record on line %d: "+
			"remove one of them", owner, alias.target(), cut, z.nodes[cut].ofType(dns.TypeNS)[0].line)
	case n.hasBothAddresses():
		z.warnf(alias.line, "the ALIAS of '%s' to '%s' is never used, for the name has both A and AAAA records: "+
			"remove it, or these", owner, alias.target())
	}
}

// checkChains finds chains that the plugin does not follow to their end. It reports each once, for the first of the names
// that lead into it.
func (z *zone) checkChains(owner string) {
	if z.visits[owner] == never {
		z.checkCircles([]string{owner})
	}
	for _, r := range z.links(owner) {
		z.checkLength(owner, r)
	}
}

// checkCircles finds the circles that the last name of chain leads into, unless it has come by that name before.
func (z *zone) checkCircles(chain []string) {
	name := chain[len(chain)-1]
	z.visits[name] = begun
	for _, r := range z.links(name) {
		target := r.target()
		switch longer := append(chain, target); z.visits[target] {
		case never:
			z.checkCircles(longer)
		case begun:
			z.reportCircle(longer)
		}
	}
	z.visits[name] = ended
}

// reportCircle reports chain, whose last name is in it before.
func (z *zone) reportCircle(chain []string) {
	owner, last := chain[0], len(chain)-1
	line := 0
	for _, r := range z.links(owner) {
		if r.target() == chain[1] && line == 0 {
			line = r.line
		}
	}
	if last == 1 {
		z.errorf(line, "'%s' leads to itself: give it another target", owner)
	} else {
		z.errorf(line, "'%s' leads into a circle, %s: give one of these names another target", owner, strings.Join(chain, " -> "))
	}
	for _, name := range chain[slices.Index(chain, chain[last]):] {
		z.broken[name] = true
	}
}

// checkLength finds out whether the chain behind the target of r, a record of owner, is too long. All circles are known.
func (z *zone) checkLength(owner string, r record) {
	target := r.target()
	links := z.follow(target)
	if links <= maxLinks {
		return
	}
	chain := []string{owner, target}
	for end := target; z.longest[end].links > 0; chain = append(chain, end) {
		end = z.longest[end].next
	}
	if slices.ContainsFunc(chain[1:], func(name string) bool { return z.broken[name] }) {
		return
	}
	for _, name := range chain {
		z.broken[name] = true
	}
	z.errorf(r.line, "the target '%s' of '%s' has a chain of %d links behind it, up to '%s', and %d is the most: "+
		"give '%s' a target further on", target, owner, links, chain[len(chain)-1], maxLinks, owner)
}

// follow returns how many links the chain from name has. It ends at a name outside of the zone, without a CNAME or ALIAS
// record, in a chain that is reported already, or with several ALIAS records: the plugin counts anew from there on.
func (z *zone) follow(name string) int {
	if w, ok := z.longest[name]; ok {
		return w.links
	}
	var w way
	if links := z.links(name); len(links) == 1 && !z.broken[name] {
		w.next = links[0].target()
		w.links = 1 + z.follow(w.next)
	}
	z.longest[name] = w
	return w.links
}

// links returns the CNAME or ALIAS records that are followed for name.
func (z *zone) links(name string) node {
	n := z.find(name)
	cnames, aliases := n.ofType(dns.TypeCNAME), n.ofType(rdata.TypeALIAS)
	switch {
	case z.cut(name) != "":
		return nil
	case len(cnames) > 0:
		return cnames[:1]
	case n.hasBothAddresses():
		return nil
	}
	seen := make(map[string]bool)
	return slices.DeleteFunc(aliases, func(r record) bool {
		target := r.target()
		twice := seen[target]
		seen[target] = true
		return twice
	})
}

// find returns the node of name, or else that of the wildcard that applies to it (RFC 4592).
func (z *zone) find(name string) node {
	if !dns.IsSubDomain(z.origin, name) {
		return nil
	}
	if n, ok := z.nodes[name]; ok {
		return n
	}
	for off, end := dns.NextLabel(name, 0); !end; off, end = dns.NextLabel(name, off) {
		if _, ok := z.nodes[name[off:]]; ok {
			return z.nodes["*."+name[off:]]
		}
	}
	return nil
}

// cut returns the delegated name that name is at or below, or "".
func (z *zone) cut(name string) string {
	for off, end := 0, false; !end && name[off:] != z.origin; off, end = dns.NextLabel(name, off) {
		if len(z.nodes[name[off:]].ofType(dns.TypeNS)) > 0 {
			return name[off:]
		}
	}
	return ""
}
