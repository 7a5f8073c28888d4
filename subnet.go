package alias

import (
	"github.com/coredns/alias/plugin/subnet"

	"github.com/miekg/dns"
)

// subnets says how much of a client's address goes to the upstreams (RFC 7871). The zero value is: nothing, and the option
// of queries is not looked at.
type subnets struct {
	on bool
	subnet.Lengths
}

// areSent reports whether the upstreams get anything of an address: otherwise there are no answers but those for everybody.
func (s subnets) areSent() bool { return s.V4 > 0 || s.V6 > 0 }

// setClient notes the network of the client who sent r, and the option for the response, in ans. It is not ok when the
// option of r is malformed.
func (s subnets) setClient(ans *answer, r *dns.Msg) (ok bool) {
	option := subnet.Of(r)
	if option == nil {
		return true
	}
	ans.net, ok = s.Network(option)
	repeated := *option
	ans.Subnet = &repeated
	return ok
}

// setScope sets the scope in the option for the response: that of the answer, and 0 when it is negative (RFC 7871, section
// 7.4).
func (ans *answer) setScope() {
	if ans.Subnet != nil && len(ans.Data) > 0 {
		ans.Subnet.SourceScope = ans.scope
	}
}
