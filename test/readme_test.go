package test

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/miekg/dns"
)

// Each Corefile in the README, and the example that needs the internet, starts a server, which serves the zone.
func TestDocumentedCorefiles(t *testing.T) {
	example, err := os.ReadFile("../examples/Corefile.resolver")
	if err != nil {
		t.Fatal(err)
	}
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	corefiles := []string{string(example)}
	for _, m := range regexp.MustCompile(`(?ms)^~~~ corefile\n(.*?)^~~~$`).FindAllStringSubmatch(string(readme), -1) {
		corefiles = append(corefiles, m[1])
	}
	if len(corefiles) < 5 {
		t.Fatalf("Found %d Corefiles", len(corefiles))
	}
	for i, corefile := range corefiles {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			t.Parallel()
			port := freePort(t)
			conf := filepath.Join(t.TempDir(), "Corefile")
			resolv := filepath.Join(t.TempDir(), "resolv.conf")
			write(t, resolv, "nameserver 127.0.0.1\n")
			key := filepath.Join(t.TempDir(), "key")
			newKey(t, "example.com.", key)
			write(t, conf, strings.NewReplacer("/etc/resolv.conf", resolv, "Kexample.com.+013+12345", key,
				"/var/lib/coredns/", t.TempDir()+"/").Replace(onLoopback(corefile, port)))
			server := startServer(t, port, "..", conf)
			if strings.Contains(corefile, "example.com.zone") {
				checkRecords(t, unsigned(query(t, server.addr, "udp", "example.com.", dns.TypeMX).Answer), "example.com. 3600 IN MX 10 mail.example.com.")
			}
		})
	}
}

// onLoopback returns corefile with changes: its servers listen at port of a loopback address, its other listeners at any port of
// it, and its TLS resolvers are on loopback.
func onLoopback(corefile, port string) string {
	corefile = regexp.MustCompile(`tls://[0-9.]+`).ReplaceAllString(corefile, "tls://127.0.0.1")
	corefile = regexp.MustCompile(`127\.0\.0\.1:(9153|8181)`).ReplaceAllString(corefile, "127.0.0.1:0")
	corefile = strings.ReplaceAll(corefile, "    bind 127.0.0.1\n", "")
	return regexp.MustCompile(`(?m)^[^#\s].*\{$`).ReplaceAllStringFunc(corefile, func(head string) string {
		zones := strings.Fields(strings.TrimSuffix(head, "{"))
		for i, zone := range zones {
			zone, _, _ = strings.Cut(zone, ":")
			zones[i] = zone + ":" + port
		}
		return strings.Join(zones, " ") + " {\n    bind 127.0.0.1"
	})
}
