//go:build linux

package test

import (
	"fmt"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

const (
	sidecarFiles = "../deploy/kubernetes/sidecar/"

	namespace  = "shop"
	podAddress = "10.244.0.2"
	clusterDNS = "10.96.0.10" // CLUSTER_DNS of the manifest

	partner = "api.partner.example.com" // the record in the Corefile
	backend = "backend"                 // a Service in the namespace
	service = "10.96.0.80"              // its address

	applicationUser = 65534
	resolverTimeout = 5 * time.Second // of glibc and of Go: a lookup that takes longer has sent its query again
)

// stale returns how many stale answers the sidecar has counted.
func (p *pod) stale(t *testing.T) int {
	t.Helper()
	_, body := p.page(t, "alias-metrics", "/metrics")
	sum := 0
	for _, m := range regexp.MustCompile(`(?m)^coredns_alias_answers_total{.*status="stale".*} (\d+)$`).FindAllStringSubmatch(body, -1) {
		n, err := strconv.Atoi(m[1])
		check(t, err)
		sum += n
	}
	return sum
}

// clients are the resolvers of an application: that of glibc, and that of Go.
var clients = [][]string{{"/usr/bin/getent", "ahosts"}, {"/lookup"}}

// resolve returns the addresses that a client gets for name, sorted, and how long that took. It runs in the container of the
// application.
func (p *pod) resolve(t *testing.T, client []string, name string) ([]string, time.Duration) {
	t.Helper()
	cmd := exec.Command("unshare", inContainer(applicationUser, applicationUser, append(slices.Clone(client), name)...)...)
	cmd.Dir = p.application
	begin := time.Now()
	out, err := cmd.CombinedOutput()
	took := time.Since(begin)
	if err != nil {
		t.Logf("%s %s: %v after %s\n%s", client[0], name, err, took, out)
		return nil, took
	}
	p.asked, p.slowest = p.asked+1, max(p.slowest, took)
	var addresses []string
	for line := range strings.Lines(string(out)) {
		addresses = append(addresses, strings.Fields(line)[0])
	}
	slices.Sort(addresses)
	return slices.Compact(addresses), took
}

// checkResolves checks that the application gets these addresses for name, with each resolver.
func (p *pod) checkResolves(t *testing.T, name string, addresses ...string) {
	t.Helper()
	for _, client := range clients {
		got, took := p.resolve(t, client, name)
		if !slices.Equal(got, addresses) || took > resolverTimeout {
			t.Fatalf("%s got %v for %s after %s, want %v", client[0], got, name, took, addresses)
		}
	}
}

// goesOn has the application look up its partner over and over, until done returns true. It must get the addresses each time.
func (p *pod) goesOn(t *testing.T, patience time.Duration, what string, done func() bool) {
	t.Helper()
	p.asked, p.slowest = 0, 0
	begin := time.Now()
	eventually(t, patience, what, func() bool {
		p.checkResolves(t, partner, appAddresses...)
		time.Sleep(100 * time.Millisecond) // leaves time for the other processes
		return done()
	})
	t.Logf("%s after %s; of %d lookups the slowest took %s", what, time.Since(begin).Round(time.Millisecond), p.asked,
		p.slowest.Round(time.Millisecond))
}

// goesStale has the application look up its partner until the sidecar has given a hundred stale answers.
func (p *pod) goesStale(t *testing.T) {
	t.Helper()
	before := p.stale(t)
	p.goesOn(t, time.Minute, "100 answers are stale", func() bool { return p.stale(t) >= before+100 })
}

// problem matches the lines of a log that an operator should look at.
var problem = regexp.MustCompile(`(?m)^.*(\[WARNING\]|\[ERROR\]|\[FATAL\]|panic).*\n`)

// expected matches those that an outage of cluster DNS causes.
var expected = regexp.MustCompile(`\[ERROR\] plugin/errors: 2 |\[WARNING\] plugin/alias: Target gateway\.partner\.example\.net\. A+ fails: `)

// checkLog checks that a sidecar logged no problem but the outage of cluster DNS.
func checkLog(t *testing.T, server *process) {
	t.Helper()
	for _, line := range problem.FindAllString(server.log(t), -1) {
		if !expected.MatchString(line) {
			t.Errorf("The log of the sidecar has %s", line)
		}
	}
}

// An application goes on resolving its partner's name in an outage of cluster DNS, also when the sidecar restarts. It gets the
// new addresses when cluster DNS is back.
func TestSidecar(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.checkResolves(t, partner, appAddresses...)
	p.checkResolves(t, backend, service)
	p.checkResolves(t, backend+"."+namespace+".svc", service)
	if lines := problem.FindAllString(p.server.log(t), -1); len(lines) > 0 {
		t.Errorf("All is well, but the log has %q", lines)
	}

	p.dns.signal(t, syscall.SIGSTOP) // it does not answer
	p.goesStale(t)
	p.checkResolves(t, backend, service) // a stale answer of the cache plugin
	p.checkResolves(t, backend+"."+namespace+".svc", service)
	p.restart(t)
	p.goesStale(t)
	unknown := 0
	eventually(t, 30*time.Second, "a name that is not cached fails at once", func() bool {
		slow := func(client []string) bool {
			unknown++
			_, took := p.resolve(t, client, fmt.Sprintf("www%d.example.org", unknown))
			return took > time.Second
		}
		return !slices.ContainsFunc(clients, slow)
	})

	p.dns.kill(t) // its port is closed
	p.goesStale(t)
	p.restart(t)
	p.goesStale(t)

	p.startDNS(t, otherAddresses)
	begin := time.Now()
	eventually(t, time.Minute, "the application has the new addresses", func() bool {
		renewed := true
		for _, client := range clients {
			got, _ := p.resolve(t, client, partner)
			renewed = renewed && slices.Equal(got, otherAddresses)
			for i, address := range got { // one family may have the new address before the other
				if len(got) != 2 || address != appAddresses[i] && address != otherAddresses[i] {
					t.Fatalf("%s got %v", client[0], got)
				}
			}
		}
		return renewed
	})
	t.Logf("the application has the new addresses after %s", time.Since(begin).Round(time.Millisecond))
	p.checkResolves(t, backend, service)
}

// A record that is added to the ConfigMap is resolved without a restart, also in an outage of cluster DNS.
func TestSidecarConfigMap(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.checkResolves(t, partner, appAddresses...)
	p.dns.kill(t)

	corefile := read(t, sidecarFiles+"Corefile")
	added := regexp.MustCompile(`(?m)^( *record )api(\..*\n)`).ReplaceAllString(corefile, "$0${1}www$2")
	if added == corefile {
		t.Fatal("The Corefile has no record for api")
	}
	project(t, p.configMap, map[string]string{"Corefile": added})
	p.goesOn(t, 45*time.Second, "the Corefile is reloaded", func() bool { return p.server.logged(t, "Reloading complete") > 0 })
	p.checkResolves(t, "www.partner.example.com", appAddresses...)
	p.checkResolves(t, partner, appAddresses...)
}
