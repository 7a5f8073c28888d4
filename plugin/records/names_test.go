package records_test

import (
	"strings"
	"testing"

	"github.com/coredns/alias/plugin/records"
)

const label63 = "a23456789b123456789c123456789d123456789e123456789f123456789g123"

var tooLong = strings.Repeat("abcdefghi.", 26)

// zonesOf returns the origins, and the zones that they are.
func zonesOf(names string) (records.Zones, []string) {
	origins := strings.Fields(names)
	zones := make(records.Zones)
	for _, origin := range origins {
		zones[origin] = struct{}{}
	}
	return zones, origins
}

func TestParseOwner(t *testing.T) {
	for _, tc := range []struct{ zones, arg, want string }{
		{"example.org.", "@", "example.org."},
		{"example.org.", "www", "www.example.org."},
		{"example.org.", "WWW", "www.example.org."},
		{"example.org.", "a.b", "a.b.example.org."},
		{"example.org.", "*", "*.example.org."},
		{"example.org.", "*.a", "*.a.example.org."},
		{"example.org.", "*.a.example.org.", "*.a.example.org."},
		{"example.org.", "www.example.org", "www.example.org."},
		{"example.org.", "www.Example.ORG.", "www.example.org."},
		{"example.org.", "example.org", "example.org."},
		{"example.org.", "www.example.net", "www.example.net.example.org."},
		{"example.org.", "_dmarc", "_dmarc.example.org."},
		{"example.org.", label63, label63 + ".example.org."},
		{"example.org. example.net.", "www.example.net", "www.example.net."},
		{"example.org. sub.example.org.", "www.sub.example.org", "www.sub.example.org."},
		{"example.org. .", "example.net", "example.net."},
		{".", "@", "."},
		{".", "www", "www."},
		{".", "example.org", "example.org."},
		{".", "*", "*."},
		{".", "*.", "*."},
		{".", "*." + tooLong[:251], "*." + tooLong[:251] + "."}, // the longest
		{"2.0.192.in-addr.arpa.", "1", "1.2.0.192.in-addr.arpa."},
	} {
		zones, origins := zonesOf(tc.zones)
		if got, err := zones.ParseOwner(tc.arg, origins); err != nil || got != tc.want {
			t.Errorf("%s in %s: %s, %v; want %s", tc.arg, tc.zones, got, err, tc.want)
		}
	}
}

func TestParseOwnerErrors(t *testing.T) {
	for _, tc := range []struct{ zones, arg, want string }{
		{"example.org.", "www.example.net.", "'www.example.net.' is outside of example.org."},
		{"example.org.", "anexample.org.", "'anexample.org.' is outside of example.org."},
		{"example.org.", "org.", "'org.' is outside of example.org."},
		{"example.org.", ".", "'.' is outside of example.org."},
		{"example.org. example.net.", "Other.Example.", "'Other.Example.' is outside of example.org. example.net."},
		{"example.org. example.net.", "www", "'www' is relative, but there are 2 zones: write it in full, with a final dot"},
		{"example.org. example.net. example.", "@", "'@' is relative, but there are 3 zones: write it in full, with a final dot"},
		{"example.org. .", "@", "'@' is relative, but there are 2 zones: write it in full, with a final dot"},
		{"example.org.", "", "'' is not a host name"},
		{".", "", "'' is not a host name"},
		{"example.org.", "a.*.b", "'a.*.b.example.org.' is not a host name"},
		{"example.org.", "*.*", "'*.example.org.' is not a host name"},
		{"example.org.", "w%w", "'w%w.example.org.' is not a host name"},
		{"example.org.", "a..b", "'a..b.example.org.' is not a host name"},
		{"example.org.", "-a", "'-a.example.org.' is not a host name"},
		{"example.org.", "@.example.org.", "'@.example.org.' is not a host name"},
		{"example.org.", label63 + "x", "'" + label63 + "x.example.org.' has a label of more than 63 characters"},
		{"example.org.", tooLong + "example.org.", "'" + tooLong + "example.org.' is too long for a name"},
		{".", "*." + tooLong[:252] + ".", "'*." + tooLong[:252] + ".' is too long for a name"},
	} {
		zones, origins := zonesOf(tc.zones)
		if got, err := zones.ParseOwner(tc.arg, origins); err == nil || err.Error() != tc.want || got != "" {
			t.Errorf("%s in %s: %q, %v; want %s", tc.arg, tc.zones, got, err, tc.want)
		}
	}
}

func TestParseTarget(t *testing.T) {
	for arg, want := range map[string]string{
		"app.hosting.example":  "app.hosting.example.",
		"app.hosting.example.": "app.hosting.example.",
		"App.Hosting.EXAMPLE":  "app.hosting.example.",
		"localhost":            "localhost.",
		"1.2.0.192.example":    "1.2.0.192.example.",
		"_a-b_.example":        "_a-b_.example.",
		tooLong[:253]:          tooLong[:253] + ".", // the longest
	} {
		if got, err := records.ParseTarget(arg); err != nil || got != want {
			t.Errorf("%s: %s, %v; want %s", arg, got, err, want)
		}
	}
	for arg, want := range map[string]string{
		"":                "'' is not a host name",
		".":               "'.' is not a host name",
		"@":               "'@.' is not a host name",
		"a..example":      "'a..example.' is not a host name",
		"*.example":       "'*.example.' is not a host name",
		"-a.Example":      "'-a.example.' is not a host name",
		`a\.b.example`:    `'a\.b.example.' is not a host name`,
		"192.0.2.1":       "'192.0.2.1' is an address and no host name: give the owner an A or AAAA record instead",
		"192.0.2.1.":      "'192.0.2.1.' is an address and no host name: give the owner an A or AAAA record instead",
		"2001:db8::1":     "'2001:db8::1' is an address and no host name: give the owner an A or AAAA record instead",
		"fe80::1%eth0":    "'fe80::1%eth0' is an address and no host name: give the owner an A or AAAA record instead",
		label63 + "x.com": "'" + label63 + "x.com.' has a label of more than 63 characters",
		tooLong[:254]:     "'" + tooLong[:254] + ".' is too long for a name",
		tooLong:           "'" + tooLong + "' is too long for a name",
	} {
		if _, err := records.ParseTarget(arg); err == nil || err.Error() != want {
			t.Errorf("%s: %v, want %s", arg, err, want)
		}
	}
}

func TestCheckHostName(t *testing.T) {
	for _, name := range []string{
		"a", "a.", "example.org", "Example.Org.", "3com.example.", "a-b.c--d.example.", "_sip._tcp.example.", label63 + ".", tooLong[:253] + ".",
		"xn--mller-kva.example.",
	} {
		if err := records.CheckHostName(name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, want := range map[string]string{
		"":                  "is not a host name",
		".":                 "is not a host name",
		"..":                "is not a host name",
		".a.":               "is not a host name",
		"a..b":              "is not a host name",
		"-a.example.":       "is not a host name",
		"a-.example.":       "is not a host name",
		"a.-.example.":      "is not a host name",
		"a b.example.":      "is not a host name",
		"a/b.example.":      "is not a host name",
		"*.example.":        "is not a host name",
		"müller.example.":   "is not a host name",
		`a\098.example.`:    "is not a host name",
		label63 + "x.":      "has a label of more than 63 characters",
		tooLong[:254] + ".": "is too long for a name",
	} {
		if err := records.CheckHostName(name); err == nil || err.Error() != "'"+name+"' "+want {
			t.Errorf("%s: %v, want that it %s", name, err, want)
		}
	}
}
