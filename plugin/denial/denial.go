// Package denial keeps the NSEC records of the plugin dnssec from denying HTTPS records. dnssec makes an NSEC record for
// each negative response, and says with a fixed list which types the name has. HTTPS is not in the list. A resolver that
// uses NSEC records for other types than those it asked for (RFC 8198, section 5.1) would conclude that no name has HTTPS
// records.
//
// It must not know which names have HTTPS records, or where these come from: the caller decides whether the NSEC records
// may deny them.
package denial

import (
	"context"
	"slices"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/coredns/coredns/plugin"
	"github.com/coredns/coredns/plugin/dnssec"
	"github.com/coredns/coredns/plugin/pkg/nonwriter"

	"github.com/miekg/dns"
)

// Writer returns a writer that passes the response to r on to w. w is the writer that signer hands to the plugins behind
// it, or one that leads to it. When signer would add an NSEC record without the type HTTPS to the response, the writer adds
// the type, lets signer sign the record, and passes the signed response on. So each name has the type HTTPS whether or not
// it has such records. That does no harm, and the types in the list of dnssec are there in the same way.
//
// These NSEC records stay as they are: that for an HTTPS query, because the caller has found no HTTPS records; that of a
// delegation, which denies no type but DS (RFC 6840, section 4.1); and one that signer has no signature for.
//
// Writer returns w itself when the client has not set the DO bit, because such a client gets no NSEC records (RFC 4035,
// section 3.1).
//
// The writer itself changes neither r nor signer nor the messages that it gets, and keeps none of these messages. It passes
// on a response in wire form unchanged. It is safe for concurrent use if w is.
func Writer(ctx context.Context, w dns.ResponseWriter, r *dns.Msg, signer *dnssec.Dnssec) dns.ResponseWriter {
	if opt := r.IsEdns0(); opt == nil || !opt.Do() {
		return w
	}
	return writer{w, ctx, r, signer}
}

// writer is what Writer returns.
type writer struct {
	dns.ResponseWriter // leads to signer
	ctx                context.Context
	r                  *dns.Msg
	signer             *dnssec.Dnssec
}

// WriteMsg implements dns.ResponseWriter.
func (w writer) WriteMsg(m *dns.Msg) error {
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
func (w writer) corrected(m *dns.Msg) *dns.Msg {
	signed := w.sign(m)
	if nsec := nsecIn(signed.Answer); nsec != nil && lookup.HasType(signed.Answer, dns.TypeRRSIG) {
		// The query was for the NSEC record: dnssec signs it as it signs other answers.
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
func (w writer) sign(m *dns.Msg) *dns.Msg {
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
