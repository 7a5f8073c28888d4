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

	partner = "api.partner.example.com" // the alias in the Corefile
	backend = "backend"                 // a Service in the namespace
	service = "10.96.0.80"              // its address

	applicationUser = 65534
	resolverTimeout = 5 * time.Second // of glibc and of Go: what takes longer was lost, and asked again
)

// stale returns how many stale answers the sidecar has given.
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

// The resolvers of an application.
var clients = [][]string{{"/usr/bin/getent", "ahosts"}, {"/lookup"}}

// resolve returns the addresses that a client of the application gets for name, in order, and how long that took.
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

// checkResolves checks that the application has these addresses for name, with each resolver.
func (p *pod) checkResolves(t *testing.T, name string, addresses ...string) {
	t.Helper()
	for _, client := range clients {
		got, took := p.resolve(t, client, name)
		if !slices.Equal(got, addresses) || took > resolverTimeout {
			t.Fatalf("%s has %v for %s after %s, want %v", client[0], got, name, took, addresses)
		}
	}
}

// goesOn has the application look its partner up, again and again, until done. It always gets the addresses.
func (p *pod) goesOn(t *testing.T, patience time.Duration, what string, done func() bool) {
	t.Helper()
	p.asked, p.slowest = 0, 0
	begin := time.Now()
	eventually(t, patience, what, func() bool {
		p.checkResolves(t, partner, appAddresses...)
		time.Sleep(100 * time.Millisecond) // the processor is others' too
		return done()
	})
	t.Logf("%s after %s; of %d lookups the slowest took %s", what, time.Since(begin).Round(time.Millisecond), p.asked,
		p.slowest.Round(time.Millisecond))
}

// goesStale has the application look its partner up until the sidecar gives it stale answers.
func (p *pod) goesStale(t *testing.T) {
	t.Helper()
	before := p.stale(t)
	p.goesOn(t, time.Minute, "100 answers are stale", func() bool { return p.stale(t) >= before+100 })
}

// trouble matches the lines of a log that somebody should look at.
var trouble = regexp.MustCompile(`(?m)^.*(\[WARNING\]|\[ERROR\]|\[FATAL\]|DATA RACE|panic).*\n`)

// expected matches those that go with an outage of cluster DNS.
var expected = regexp.MustCompile(`\[ERROR\] plugin/errors: 2 |\[WARNING\] plugin/alias: Target gateway\.partner\.example\.net\. A+ fails: `)

// checkLog checks that a sidecar found nothing wrong but cluster DNS.
func checkLog(t *testing.T, server *process) {
	t.Helper()
	for _, line := range trouble.FindAllString(server.log(t), -1) {
		if !expected.MatchString(line) {
			t.Errorf("The log of the sidecar has %s", line)
		}
	}
}

// An application goes on resolving its partner's name when cluster DNS is gone, also when the sidecar is restarted
// meanwhile, and gets the new addresses when cluster DNS is back.
func TestSidecar(t *testing.T) {
	t.Parallel()
	p := newPod(t)
	p.checkResolves(t, partner, appAddresses...)
	p.checkResolves(t, backend, service)
	p.checkResolves(t, backend+"."+namespace+".svc", service)
	if lines := trouble.FindAllString(p.server.log(t), -1); len(lines) > 0 {
		t.Errorf("All is well, but the log has %q", lines)
	}

	p.dns.signal(t, syscall.SIGSTOP) // it is silent
	p.goesStale(t)
	p.checkResolves(t, backend, service) // the cache plugin, too, has stale answers
	p.checkResolves(t, backend+"."+namespace+".svc", service)
	p.restart(t)
	p.goesStale(t)
	unknown := 0
	eventually(t, 30*time.Second, "what nobody remembers fails at once", func() bool {
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
			for i, address := range got { // those of one family may be renewed before the others
				if len(got) != 2 || address != appAddresses[i] && address != otherAddresses[i] {
					t.Fatalf("%s has %v", client[0], got)
				}
			}
		}
		return renewed
	})
	t.Logf("the application has the new addresses after %s", time.Since(begin).Round(time.Millisecond))
	p.checkResolves(t, backend, service)
}

// A name that is added to the ConfigMap resolves without a restart, also while cluster DNS is gone.
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
