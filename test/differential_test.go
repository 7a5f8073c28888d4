package test

import (
	"cmp"
	"context"
	"crypto/tls"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/lookup"
	client "github.com/coredns/alias/plugin/upstream"
	"github.com/coredns/alias/test/responses"
	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

const (
	// differentialVariable is the environment variable with the number of responses that TestDifferential tries, the seed of
	// the generator and the number of the first response, as 20000, 20000,7 or, to repeat one case, 1,7,123.
	differentialVariable = "ALIAS_DIFFERENTIAL"

	// batch is how many responses one Unbound and one BIND read.
	batch = 1000
)

// TestDifferential compares what the client makes of generated responses with what Unbound and BIND, which forward to the
// same upstream, make of them. Each difference must have a reason, see differential_reasons_test.go.
func TestDifferential(t *testing.T) {
	need(t, "unbound")
	need(t, "named")
	what := []uint64{1000, 1, 0}
	if v := os.Getenv(differentialVariable); v != "" {
		for i, number := range strings.Split(v, ",") {
			n, err := strconv.ParseUint(number, 10, 31)
			if err != nil || i == len(what) {
				t.Fatalf("%s is %q", differentialVariable, v)
			}
			what[i] = n
		}
	}
	seed, first, end := what[1], int(what[2]), int(what[2]+what[0]) // #nosec G115 -- of 31 bits
	tally := newTally()
	for ; first < end; first += batch {
		t.Run(fmt.Sprintf("from %d", first), func(t *testing.T) {
			var cases []*responses.Case
			for i := first; i < min(first+batch, end); i++ {
				cases = append(cases, responses.New(seed, i))
			}
			compare(t, cases, tally)
		})
	}
	t.Log(tally)
	tally.check(t)
}

// compare asks the client, Unbound and BIND for the name of each case.
func compare(t *testing.T, cases []*responses.Case, tally *tally) {
	upstreams := startUpstreams(t, cases)
	programs := map[string]string{
		"unbound": startUnboundForwarder(t, cases, upstreams).addr,
		"bind":    startBINDForwarder(t, cases, upstreams).addr,
	}
	// Those that take long come first.
	slices.SortStableFunc(cases, func(a, b *responses.Case) int { return -cmp.Compare(slowness(a), slowness(b)) })
	var wg sync.WaitGroup
	tokens := make(chan struct{}, 300)
	for _, c := range cases {
		tokens <- struct{}{}
		wg.Go(func() {
			defer func() { <-tokens }()
			mine, theirs := readAll(c, upstreams[c], programs)
			for program, r := range theirs {
				// On a busy machine, a program may have given up. It does so for some seconds then.
				for range 2 {
					if isClear(c, program, mine, r) {
						break
					}
					time.Sleep(6 * time.Second)
					mine, r = resolveCase(c, upstreams[c]), askForwarder(c, programs[program])
				}
				tally.add(t, c, program, mine, r)
			}
		})
	}
	wg.Wait()
}

// slowness says how long programs wait for a response that they accept: 0, 1 or 2.
func slowness(c *responses.Case) int {
	switch {
	case c.Has("only a forgery"):
		return 2
	case c.Has("no QR", "opcode", "TSIG", "no question", "question of another name", "question of another type", "question of another class", "header alone"):
		return 1
	}
	return 0
}

// isClear reports whether a program makes the same of the case as the client, or the difference has a reason.
func isClear(c *responses.Case, program string, mine, theirs reading) bool {
	return agree(mine, theirs) || explain(c, program, mine, theirs) >= 0
}

// readAll returns what the client and each of the programs make of the case.
func readAll(c *responses.Case, up netip.AddrPort, programs map[string]string) (mine reading, theirs map[string]reading) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	theirs = make(map[string]reading)
	for program, addr := range programs {
		wg.Go(func() {
			r := askForwarder(c, addr)
			mu.Lock()
			defer mu.Unlock()
			theirs[program] = r
		})
	}
	mine = resolveCase(c, up)
	wg.Wait()
	return mine, theirs
}

// startUpstreams starts an upstream for each case, and returns their addresses. A case has one of its own, because programs
// remember what an upstream is capable of.
func startUpstreams(t *testing.T, cases []*responses.Case) map[*responses.Case]netip.AddrPort {
	t.Helper()
	upstreams := make(map[*responses.Case]netip.AddrPort)
	for i, c := range cases {
		host := netip.AddrFrom4([4]byte{127, 77, byte(i / 250), byte(i%250 + 1)}) // #nosec G115 -- small
		s := upstream.NewAt(t, host.String(), func(w dns.ResponseWriter, r *dns.Msg) {
			messages := c.Messages(r, upstream.IsTCP(w))
			for _, b := range messages {
				w.Write(b)
			}
			if len(messages) == 0 {
				w.Close()
			}
		})
		addr, err := netip.ParseAddrPort(s.Addr)
		if err != nil {
			t.Fatal(err)
		}
		upstreams[c] = addr
	}
	return upstreams
}

// resolveCase returns what the client makes of the case.
func resolveCase(c *responses.Case, up netip.AddrPort) reading {
	us := client.New(client.Config{
		Addresses: []client.Address{{Protocol: "dns", HostPort: up.String()}},
		TLS:       new(tls.Config),
		Timeout:   3 * time.Second,
		Deny:      netip.Addr.IsUnspecified,
		Reporter:  func(string) client.Reporter { return func(string, time.Duration) {} },
	})
	us.Start()
	defer us.Stop()
	o, err := us.Resolve(context.Background(), lookup.Question{Name: c.Name, Type: c.Type}, 1)
	switch {
	case err != nil:
		return reading{class: "failure", ttl: -1, note: err.Error()}
	case len(o.Data) == 0:
		return reading{class: "negative", ttl: int64(o.TTL)}
	}
	var addrs []string
	for ip := range slices.Chunk(o.Data, lookup.AddrLen(c.Type)) {
		addr, _ := netip.AddrFromSlice(ip)
		addrs = append(addrs, addr.String())
	}
	slices.Sort(addrs)
	return reading{"addresses", strings.Join(addrs, " "), int64(o.TTL), int(o.Links), ""}
}

// askForwarder returns what the program at addr makes of the case.
func askForwarder(c *responses.Case, addr string) reading {
	ask := dns.Client{Net: "tcp", Timeout: 30 * time.Second}
	m, _, err := ask.Exchange(new(dns.Msg).SetQuestion(c.Name, c.Type), addr)
	if err != nil {
		return reading{class: "failure", ttl: -1, note: err.Error()}
	}
	rcode := dns.RcodeToString[m.Rcode]
	if m.Rcode != dns.RcodeSuccess && m.Rcode != dns.RcodeNameError {
		return reading{class: "failure", ttl: -1, note: rcode}
	}
	// These programs do not hand on what is not on the chain.
	ttl := int64(1 << 32)
	addrs := make(map[string]bool)
	links := 0
	for _, rr := range m.Answer {
		switch rr := rr.(type) {
		case *dns.A:
			addrs[rr.A.String()] = true
		case *dns.AAAA:
			addrs[rr.AAAA.String()] = true
		case *dns.CNAME:
			links++
		default:
			continue
		}
		ttl = min(ttl, int64(rr.Header().Ttl))
	}
	if len(addrs) > 0 && m.Rcode == dns.RcodeSuccess {
		return reading{"addresses", strings.Join(slices.Sorted(maps.Keys(addrs)), " "), ttl, links, rcode}
	}
	ttl = -1
	for _, rr := range m.Ns {
		if soa, ok := rr.(*dns.SOA); ok {
			ttl = int64(min(soa.Hdr.Ttl, soa.Minttl))
		}
	}
	return reading{"negative", "", ttl, links, rcode}
}

// startUnboundForwarder starts an Unbound that forwards the names of each case to its upstream. What a response means
// is left as it is by default; hardening and caching that would let one response change what becomes of another is off.
func startUnboundForwarder(t *testing.T, cases []*responses.Case, upstreams map[*responses.Case]netip.AddrPort) *process {
	t.Helper()
	var zones strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&zones, "forward-zone:\n    name: %q\n    forward-addr: %s@%d\n", c.Root, upstreams[c].Addr(), upstreams[c].Port())
	}
	unbound, at, dir := need(t, "unbound"), freePort(t), t.TempDir()
	conf := filepath.Join(dir, "unbound.conf")
	write(t, conf, fmt.Sprintf(`
server:
    interface: 127.0.0.1
    port: %s
    directory: %q
    chroot: ""
    username: ""
    pidfile: ""
    logfile: ""
    use-syslog: no
    do-daemonize: no
    do-ip6: no
    do-not-query-localhost: no
    module-config: "iterator"
    num-threads: 1
    num-queries-per-thread: 2000
    outgoing-range: 4000
    incoming-num-tcp: 1000
    outgoing-num-tcp: 500
    infra-cache-numhosts: 10000
    edns-buffer-size: 1232
    max-udp-size: 1232
    cache-min-ttl: 0
    cache-max-ttl: 2147483647
    cache-max-negative-ttl: 2147483647
    qname-minimisation: no
    harden-below-nxdomain: no
    aggressive-nsec: no
    minimal-responses: no
    rrset-roundrobin: no
remote-control:
    control-enable: no
%s`, at, dir, &zones))
	return launch(t, local(at), dir, nil, unbound, "-d", "-p", "-c", conf)
}

// startBINDForwarder is startUnboundForwarder for BIND.
func startBINDForwarder(t *testing.T, cases []*responses.Case, upstreams map[*responses.Case]netip.AddrPort) *process {
	t.Helper()
	var zones strings.Builder
	for _, c := range cases {
		fmt.Fprintf(&zones, "zone %q { type forward; forward only; forwarders { %s port %d; }; };\n", c.Root, upstreams[c].Addr(), upstreams[c].Port())
	}
	dir := t.TempDir()
	// launch asks for localhost, which BIND would ask the servers of the root for.
	write(t, filepath.Join(dir, "localhost"), "@ 60 IN SOA @ @ 1 7200 3600 1209600 60\n@ 60 IN NS @\n@ 60 IN A 127.0.0.1\n")
	return launchBIND(t, freePort(t), dir, `
	recursion yes;
	dnssec-validation no;
	empty-zones-enable no;
	qname-minimization off;
	resolver-query-timeout 4000;
	recursive-clients 5000;
	tcp-clients 1000;
	edns-udp-size 1232;
	max-udp-size 1232;
	min-cache-ttl 0;
	min-ncache-ttl 0;
	max-cache-ttl 2147483647;
	max-ncache-ttl 604800;
	prefetch 0;
	max-query-restarts 20;
	stale-answer-enable no;
	stale-cache-enable no;
	servfail-ttl 0;
	lame-ttl 0;
	max-records-per-type 0;
	max-types-per-name 0;
	minimal-responses no;
	notify no;
`, `
zone "localhost" { type primary; file "localhost"; };
`+zones.String())
}
