package alias

import (
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/rdata"

	"github.com/miekg/dns"
)

// maxString is the length of the longest string in a TXT record (RFC 1035, section 3.3).
const maxString = 255

// textWriter puts a TXT record that says where an alias leads beside those of the backend.
type textWriter struct {
	dns.ResponseWriter
	a *Alias
	q *incoming
}

// WriteMsg implements dns.ResponseWriter.
func (w textWriter) WriteMsg(m *dns.Msg) error {
	if beside := w.a.withText(m, w.q); beside != nil {
		m = beside
	}
	return w.ResponseWriter.WriteMsg(m)
}

// withText returns a copy of m, the backend's response to a TXT query, with the record for an alias, or nil when there is
// no alias or no room for it: a CNAME, a referral, or records that are signed already.
func (a *Alias) withText(m *dns.Msg, q *incoming) *dns.Msg {
	own := len(m.Answer) > 0 && m.Answer[0].Header().Rrtype == dns.TypeTXT
	switch {
	case m.Rcode != dns.RcodeSuccess, hasType(m.Answer, dns.TypeRRSIG):
		return nil
	case !own && (len(m.Answer) > 0 || hasType(m.Ns, dns.TypeNS)):
		return nil
	}
	al := a.findText(q, m.Authoritative)
	if al == nil {
		return nil
	}
	n := *m
	if own {
		// The records of a set have one TTL (RFC 2181, section 5.2).
		n.Answer = append(slices.Clone(m.Answer), textRecord(q.name, m.Answer[0].Header().Ttl, al))
		return &n
	}
	n.Authoritative = true
	n.Answer, n.Ns = []dns.RR{textRecord(q.name, a.cache.clamp(al.ttl), al)}, nil
	return &n
}

// findText returns the alias that a name has for either family, or nil.
func (a *Alias) findText(q *incoming, authoritative bool) *alias {
	whole := *q
	whole.qtype = rdata.TypeALIAS
	al, _ := a.find(&whole, authoritative)
	return al
}

// escapes makes a string read as it is in the library's TXT records, that have them in presentation form.
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func textRecord(name string, ttl uint32, al *alias) dns.RR {
	text := "ALIAS for " + strings.TrimSuffix(al.target, ".")
	txt := &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl}}
	for part := range slices.Chunk([]byte(text), maxString) {
		txt.Txt = append(txt.Txt, escapes.Replace(string(part)))
	}
	return txt
}
