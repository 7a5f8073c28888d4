package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/rdata"

	"github.com/coredns/coredns/plugin/file"
	"github.com/miekg/dns"
)

// maxRefused is how many records of a file may be refused. For each of them the file is parsed once more.
const maxRefused = 100

// read parses the text of the zone file. The parser stops at a record that it refuses: read removes the record, and parses
// the text again.
func (z *zone) read(text string) {
	entries := split(text)
	for refused := 0; ; refused++ {
		records, bad, reason := z.parse(entries)
		if bad != nil && !bad.refused {
			z.errorf(bad.line, "%s", reason)
		}
		if bad != nil && refused < maxRefused && bad.refuse() {
			continue
		}
		for _, r := range records {
			z.add(r)
		}
		if bad != nil {
			z.errorf(bad.line, "what is behind this line was not checked: correct it, and check the file again")
		}
		break
	}
	if len(z.findings) == 0 {
		z.load(entries)
	}
}

// parse returns the records before the entry that the parser refuses, that entry, and the reason. If the parser refuses
// none, bad is nil. The records that replace entries refused before are left out.
func (z *zone) parse(entries []entry) (records []record, bad *entry, reason string) {
	r := &reader{entries: entries}
	zp := dns.NewZoneParser(r, z.origin, z.file)
	zp.SetIncludeAllowed(true)
	var refused error
	rdata.Refused = func(reason error) { refused = reason }
	for {
		before := r.next
		rr, ok := zp.Next()
		if err := zp.Err(); err != nil {
			return records, r.culprit(before), z.explain(err, refused)
		}
		if !ok {
			return records, nil, ""
		}
		if e := r.last(); !e.refused {
			records = append(records, record{rr, e.line})
		}
	}
}

// load has CoreDNS's own loader read the zone: it requires more of a zone than that its records can be parsed.
func (z *zone) load(entries []entry) {
	r := &reader{entries: entries}
	if _, err := file.Parse(r, z.origin, z.file, -1); err != nil {
		z.errorf(r.last().line, "CoreDNS refuses the zone: %v", err)
	}
}

// located matches the text of an error of the parser: file, reason and line. The token that was read is part of the reason,
// unless it is blank.
var located = regexp.MustCompile(`(?s)^(.*): dns: (.*?)(?:: "(?: |\\n)")? at line: (\d+):\d+$`)

// explain returns the reason in an error of the parser, with the place if that is in an included file. For the RDATA of
// ALIAS records the error has no reason; refused has it then.
func (z *zone) explain(err, refused error) string {
	m := located.FindStringSubmatch(err.Error())
	if m == nil {
		return err.Error()
	}
	name, reason, line := m[1], "cannot be read: "+m[2], m[3]
	if refused != nil {
		reason = refused.Error()
	}
	if name != z.file {
		return fmt.Sprintf("in the file '%s', line %s: %s", name, line, reason)
	}
	return reason
}

// entry is a record or a directive with all its lines, or an empty line.
type entry struct {
	line    int
	text    string
	refused bool
}

// split cuts text after each newline that is not in quotes or parentheses, as the parser does.
func split(text string) []entry {
	var entries []entry
	start, line, lines := 0, 1, 1
	depth, quoted, escaped, comment := 0, false, false, false
	for i, c := range []byte(text) {
		switch {
		case c == '\n':
			lines++
			escaped, comment = false, false
			if !quoted && depth <= 0 {
				entries = append(entries, entry{line: line, text: text[start : i+1]})
				start, line, depth = i+1, lines, 0
			}
		case comment:
		case escaped:
			escaped = false
		case c == '\\':
			escaped = true
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == ';':
			comment = true
		case c == '(':
			depth++
		case c == ')':
			depth--
		}
	}
	if start < len(text) || len(entries) == 0 {
		entries = append(entries, entry{line: line, text: text[start:]})
	}
	return entries
}

// isEmpty reports whether e has nothing but white space or a comment.
func (e *entry) isEmpty() bool {
	text := strings.TrimSpace(e.text)
	return text == "" || text[0] == ';'
}

// owner returns the first word of e, which is a directive or an owner, or "" if e begins with white space.
func (e *entry) owner() string {
	end := strings.IndexAny(e.text, " \t\r\n")
	return e.text[:max(end, 0)]
}

func (e *entry) isDirective() bool {
	return slices.Contains([]string{"$ORIGIN", "$TTL", "$INCLUDE", "$GENERATE"}, strings.ToUpper(e.owner()))
}

// refuse removes e, and reports whether the parser can go on then. The owner stays, because later lines without an owner
// refer to it. A $ORIGIN cannot be removed: the names after it would change.
func (e *entry) refuse() bool {
	owner := e.owner()
	switch {
	case e.isEmpty(), strings.EqualFold(owner, "$ORIGIN"):
		return false
	case e.refused, e.isDirective(), owner == "", strings.ContainsAny(owner, `\"();`):
		e.text = "\n"
	default:
		e.text = owner + " 0 TXT refused\n"
	}
	e.refused = true
	return true
}

// reader gives the parser the entries byte by byte. The parser takes no more than it needs, so the entry of each record is
// known.
type reader struct {
	entries []entry
	next    int
	rest    string // of the entry before next
}

// ReadByte implements io.ByteReader.
func (r *reader) ReadByte() (byte, error) {
	for r.rest == "" {
		if r.next == len(r.entries) {
			return 0, io.EOF
		}
		r.rest = r.entries[r.next].text
		r.next++
	}
	c := r.rest[0]
	r.rest = r.rest[1:]
	return c, nil
}

// Read implements io.Reader, which the parser requires but does not use.
func (r *reader) Read(p []byte) (int, error) {
	for i := range p {
		c, err := r.ReadByte()
		if err != nil {
			return i, err
		}
		p[i] = c
	}
	return len(p), nil
}

// last returns the entry that was read last.
func (r *reader) last() *entry { return &r.entries[max(r.next-1, 0)] }

// culprit returns the entry that the parser refused, of those with index from or higher. The parser may have read beyond
// it: a record that it refused is the first that it read, after directives that it accepted.
func (r *reader) culprit(from int) *entry {
	bad := r.last()
	for i := r.next - 1; i >= from; i-- {
		if e := &r.entries[i]; !e.isEmpty() && (!e.isDirective() || bad.isEmpty()) {
			bad = e
		}
	}
	return bad
}
