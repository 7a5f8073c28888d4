package alias

import (
	"cmp"
	"context"
	"slices"
	"strings"

	"github.com/coredns/alias/plugin/backend"
	"github.com/coredns/alias/plugin/lookup"
	"github.com/coredns/alias/plugin/rdata"
	"github.com/coredns/alias/plugin/records"

	"github.com/miekg/dns"
)

// maxString is the length of the longest string in a TXT record (RFC 1035, section 3.3).
const maxString = 255

// passText is pass for a TXT query, to whose response the record for an alias is added.
func (a *Alias) passText(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, q *incoming) (int, error) {
	text := *q // the writer may outlive the stack that q is on
	return a.pass(ctx, textWriter{w, a, &text}, r, q)
}

// textWriter adds a TXT record that names the targets of an alias to those of the backend.
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

// withText returns m, the backend's response to a TXT query, with the record for an alias, when there is one and a TXT
// record can stand there: not beside a CNAME, in a referral, or in a zone that is signed already.
func (a *Alias) withText(m *dns.Msg, q *incoming) *dns.Msg {
	own := len(m.Answer) > 0 && m.Answer[0].Header().Rrtype == dns.TypeTXT
	if m.Rcode != dns.RcodeSuccess || !own && (len(m.Answer) > 0 || lookup.HasType(m.Ns, dns.TypeNS)) || (backend.Response{Msg: m}).Signer() != "" {
		return m
	}
	whole := *q // of either family
	whole.Type = rdata.TypeALIAS
	al := a.find(&whole, m.Authoritative)
	if al == nil || !a.backend.Signs && a.backend.Answer(whole.Question).Signer() != "" {
		return m
	}
	n := *m
	if own {
		// The records of a set have one TTL (RFC 2181, section 5.2).
		n.Answer = append(slices.Clone(m.Answer), textRecord(q.Name, m.Answer[0].Header().Ttl, al))
		return &n
	}
	n.Authoritative = true
	n.Answer, n.Ns = []dns.RR{textRecord(q.Name, a.cache.clamp(al.TTL), al)}, nil
	return &n
}

// escapes writes a string in presentation form, as the library has it in TXT records.
var escapes = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

func textRecord(name string, ttl uint32, al *records.Alias) dns.RR {
	text := "ALIAS for"
	for _, target := range al.Targets() {
		text += " " + cmp.Or(strings.TrimSuffix(target, "."), ".")
	}
	txt := &dns.TXT{Hdr: dns.RR_Header{Name: name, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: ttl}}
	for part := range slices.Chunk([]byte(text), maxString) {
		txt.Txt = append(txt.Txt, escapes.Replace(string(part)))
	}
	return txt
}
