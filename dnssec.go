package alias

import (
	"context"
	"slices"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/dnssec"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"

	"github.com/miekg/dns"
)

// denialWriter keeps the NSEC records of dnssec from denying HTTPS records that aliases have. dnssec says with a fixed list which
// types exist, and HTTPS is not in it: a resolver that uses NSEC records for other types than those it asked for (RFC 8198) would take
// it that an owner has none. As for the types in the list, it does no harm when there is none.
type denialWriter struct {
	dns.ResponseWriter // leads to dnssec
	ctx                context.Context
	r                  *dns.Msg
	signer             *dnssec.Dnssec
}

// withDenials returns a writer to w for the response to r, unless dnssec does not sign that, or HTTPS queries are left to the backend.
func (o *options) withDenials(ctx context.Context, w dns.ResponseWriter, r *dns.Msg) dns.ResponseWriter {
	if o.signer == nil || o.https == httpsOff {
		return w
	}
	if opt := r.IsEdns0(); opt == nil || !opt.Do() {
		return w
	}
	return denialWriter{w, ctx, r, o.signer}
}

// WriteMsg implements dns.ResponseWriter.
func (w denialWriter) WriteMsg(m *dns.Msg) error {
	if isDenial(m) && m.Question[0].Qtype != dns.TypeHTTPS {
		m = w.corrected(m)
	}
	return w.ResponseWriter.WriteMsg(m)
}

// isDenial reports whether m is a response that dnssec adds an NSEC record to: a negative one that has nothing but a SOA record.
func isDenial(m *dns.Msg) bool {
	return m != nil && len(m.Question) == 1 && len(m.Answer) == 0 && len(m.Ns) == 1 && m.Ns[0].Header().Rrtype == dns.TypeSOA
}

// corrected returns m, a denial, signed, with the type HTTPS in its NSEC record. dnssec leaves a denial with signatures as it is.
func (w denialWriter) corrected(m *dns.Msg) *dns.Msg {
	signed := w.sign(m)
	if nsec := nsecIn(signed.Answer); nsec != nil { // the query was for it: dnssec signs it as it signs other answers
		signed.Answer = []dns.RR{withHTTPS(nsec)}
		return signed
	}
	nsec := nsecIn(signed.Ns)
	if nsec == nil || isOfDelegation(nsec) || slices.Contains(nsec.TypeBitMap, dns.TypeHTTPS) {
		return m
	}
	better := w.sign(&dns.Msg{MsgHdr: dns.MsgHdr{Response: true}, Question: m.Question, Answer: []dns.RR{withHTTPS(nsec)}})
	if !lookup.HasType(better.Answer, dns.TypeRRSIG) {
		return m
	}
	signed.Ns = append(slices.DeleteFunc(signed.Ns, isOfNSEC), better.Answer...)
	return signed
}

// sign returns m as dnssec signs it. m is unchanged.
func (w denialWriter) sign(m *dns.Msg) *dns.Msg {
	unsigned := *m
	unsigned.Ns = slices.Clip(m.Ns) // dnssec appends to it
	signer := *w.signer
	signer.Next = plugin.HandlerFunc(func(_ context.Context, w dns.ResponseWriter, _ *dns.Msg) (int, error) {
		return dns.RcodeSuccess, w.WriteMsg(&unsigned)
	})
	signed := nonwriter.New(w.ResponseWriter)
	signer.ServeDNS(w.ctx, signed, w.r)
	return signed.Msg
}

// withHTTPS returns a copy of nsec with the type HTTPS. All NSEC records of dnssec share their types.
func withHTTPS(nsec *dns.NSEC) *dns.NSEC {
	better := *nsec
	better.TypeBitMap = append(slices.Clone(nsec.TypeBitMap), dns.TypeHTTPS)
	slices.Sort(better.TypeBitMap)
	better.TypeBitMap = slices.Compact(better.TypeBitMap)
	return &better
}

// isOfDelegation reports whether nsec is the record of the parent zone at a delegation, which denies no type but DS (RFC 6840,
// section 4.1). dnssec answers all DS queries with one.
func isOfDelegation(nsec *dns.NSEC) bool {
	return slices.Contains(nsec.TypeBitMap, dns.TypeNS) && !slices.Contains(nsec.TypeBitMap, dns.TypeSOA)
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

// isOfNSEC reports whether rr is an NSEC record or the signature of one.
func isOfNSEC(rr dns.RR) bool {
	sig, ok := rr.(*dns.RRSIG)
	return ok && sig.TypeCovered == dns.TypeNSEC || rr.Header().Rrtype == dns.TypeNSEC
}
