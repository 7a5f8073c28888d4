package records

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/coredns/alias/plugin/lookup"

	"github.com/miekg/dns"
)

// ParseOwner returns the fully qualified name, in lower case, that arg stands for as the owner of a record. It is in one
// of the zones. arg is a name that ends in one of the zones, with or without the final dot, or, where there is just one
// zone, a name relative to it; @ is the zone itself. A leading label * makes a wildcard. origins are the same zones in
// the order of the Corefile. The error is for the operator, and says what is wrong with arg.
func (z Zones) ParseOwner(arg string, origins []string) (string, error) {
	name := strings.ToLower(arg)
	if name == "" {
		return "", errors.New("'' is not a host name")
	}
	if relative := !strings.HasSuffix(name, ".") && (name == "@" || z.Match(name+".") == ""); relative {
		if len(origins) != 1 {
			return "", fmt.Errorf("'%s' is relative, but there are %d zones: write it in full, with a final dot", arg, len(origins))
		}
		name = strings.TrimPrefix(name+"."+origins[0], "@.")
	}
	name = dns.Fqdn(name)
	if err := checkOwner(name); err != nil {
		return "", err
	}
	if z.Match(name) == "" {
		return "", fmt.Errorf("'%s' is outside of %s", arg, strings.Join(origins, " "))
	}
	return name, nil
}

// checkOwner returns an error unless name is a host name, the root, or a wildcard.
func checkOwner(name string) error {
	if len(name) > lookup.MaxName {
		return fmt.Errorf("'%s' is too long for a name", name)
	}
	labels := strings.TrimPrefix(name, "*.")
	if name == "." || labels == "" {
		return nil
	}
	return CheckHostName(labels)
}

// ParseTarget returns the fully qualified name, in lower case, that arg stands for as a target. arg is a host name in
// full, with or without the final dot, and no address. The error is for the operator, and says what is wrong with arg.
func ParseTarget(arg string) (string, error) {
	if isAddress(strings.TrimSuffix(arg, ".")) {
		return "", fmt.Errorf("'%s' is an address and no host name: give the owner an A or AAAA record instead", arg)
	}
	if arg == "" {
		return "", errors.New("'' is not a host name")
	}
	name := dns.Fqdn(strings.ToLower(arg))
	return name, CheckHostName(name)
}

// isAddress reports whether arg is an IP address. Most targets are none, and the error of netip would be garbage for each.
func isAddress(arg string) bool {
	if !strings.Contains(arg, ":") && strings.TrimRight(arg, "0123456789") == arg { // IPv4 ends in a digit
		return false
	}
	_, err := netip.ParseAddr(arg)
	return err == nil
}

// CheckHostName returns an error unless name is a host name (RFC 1123, section 2.1) with labels of at most 63 octets and
// at most lookup.MaxName characters (RFC 1035, section 2.3.4). name may end in a dot. The underscore is allowed, because
// names of hosts in use have it; the root is no host name. The error is for the operator.
func CheckHostName(name string) error {
	if len(name) > lookup.MaxName {
		return fmt.Errorf("'%s' is too long for a name", name)
	}
	for label := range strings.SplitSeq(strings.TrimSuffix(name, "."), ".") {
		switch {
		case len(label) > 63:
			return fmt.Errorf("'%s' has a label of more than 63 characters", name)
		case label == "", label[0] == '-', label[len(label)-1] == '-', strings.Trim(label, ldh) != "":
			return fmt.Errorf("'%s' is not a host name", name)
		}
	}
	return nil
}

const ldh = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"
