package alias

import (
	"slices"

	"github.com/coredns/coredns/plugin/dnssec"

	"github.com/miekg/dns"
)

// denialWriter keeps the NSEC records of dnssec from denying HTTPS records that aliases have. dnssec says with a fixed list which
// types exist, and HTTPS is not in it: a resolver that uses NSEC records for other types than those it asked for (RFC 8198) would take
// it that an owner has none. As for the types in the list, it does no harm when there is none.
type denialWriter struct{ *dnssec.ResponseWriter }

// withDenials returns a writer to w, unless dnssec signs nothing there or HTTPS queries are left to the backend.
func (o *options) withDenials(w dns.ResponseWriter) dns.ResponseWriter {
	if signer, ok := w.(*dnssec.ResponseWriter); ok && o.https != httpsOff {
		return denialWriter{signer}
	}
	return w
}

// WriteMsg implements dns.ResponseWriter.
func (w denialWriter) WriteMsg(m *dns.Msg) error {
	if m == nil || len(m.Question) != 1 || m.Question[0].Qtype == dns.TypeHTTPS {
		return w.ResponseWriter.WriteMsg(m)
	}
	signed := w.sign(m)
	for _, section := range []*[]dns.RR{&signed.Answer, &signed.Ns} {
		if denial := nsecIn(*section); denial != nil && !slices.Contains(denial.TypeBitMap, dns.TypeHTTPS) && slices.Contains(denial.TypeBitMap, dns.TypeTXT) {
			*section = w.replace(*section, denial, m.Question)
		}
	}
	return w.ResponseWriter.ResponseWriter.WriteMsg(signed)
}

// sign returns m as dnssec signs it.
func (w denialWriter) sign(m *dns.Msg) *dns.Msg {
	signed := &keptWriter{ResponseWriter: w.ResponseWriter.ResponseWriter}
	signer := *w.ResponseWriter
	signer.ResponseWriter = signed
	signer.WriteMsg(m)
	return signed.m
}

// replace returns the section with a denial that has the type HTTPS, signed, in place of denial and its signatures.
func (w denialWriter) replace(section []dns.RR, denial *dns.NSEC, question []dns.Question) []dns.RR {
	better := *denial // dnssec keeps denial
	better.TypeBitMap = append(slices.Clone(denial.TypeBitMap), dns.TypeHTTPS)
	slices.Sort(better.TypeBitMap)
	signed := w.sign(&dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Question: question, Answer: []dns.RR{&better}})
	kept := slices.DeleteFunc(slices.Clone(section), func(rr dns.RR) bool {
		sig, ok := rr.(*dns.RRSIG)
		return rr == denial || ok && sig.TypeCovered == dns.TypeNSEC
	})
	return append(kept, signed.Answer...)
}

// nsecIn returns the first NSEC record in rrs, or nil.
func nsecIn(rrs []dns.RR) *dns.NSEC {
	for _, rr := range rrs {
		if nsec, ok := rr.(*dns.NSEC); ok {
			return nsec
		}
	}
	return nil
}

// keptWriter keeps a message.
type keptWriter struct {
	dns.ResponseWriter
	m *dns.Msg
}

// WriteMsg implements dns.ResponseWriter.
func (w *keptWriter) WriteMsg(m *dns.Msg) error {
	w.m = m
	return nil
}
