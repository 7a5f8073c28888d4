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
	if m != nil {
		m = w.a.withText(m, w.q)
	}
	return w.ResponseWriter.WriteMsg(m)
}

// withText returns m, the backend's response to a TXT query, with the record for an alias, when there is one and there is
// room for its record: not beside a CNAME, in a referral, or in a zone that is signed already.
func (a *Alias) withText(m *dns.Msg, q *incoming) *dns.Msg {
	own := len(m.Answer) > 0 && m.Answer[0].Header().Rrtype == dns.TypeTXT
	if m.Rcode != dns.RcodeSuccess || !own && (len(m.Answer) > 0 || hasType(m.Ns, dns.TypeNS)) || (reply{m: m}).signer() != "" {
		return m
	}
	whole := *q // of either family
	whole.qtype = rdata.TypeALIAS
	al := a.find(&whole, m.Authoritative)
	if al == nil || !a.signs && a.look(whole.question).signer() != "" {
		return m
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
