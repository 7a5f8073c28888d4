package alias

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	fake "github.com/coredns/alias/test/upstream"

	"github.com/coredns/coredns/plugin/metadata"

	"github.com/miekg/dns"
)

// A targetState is what is known of a target when the owner is queried, and what the upstream says of it then.
type targetState struct {
	name string
	warm bool   // an answer from before has expired
	now  string // what the upstream says now, see statesUpstream
	seen bool   // it was looked up just now, for another owner

	records status // of the answer, if the target were alone
	ede     uint16 // if it were alone
}

var targetStates = []targetState{
	{name: "cached", now: "well", seen: true, records: hit},
	{name: "looked up", now: "well", records: miss},
	{name: "back", warm: true, now: "well", records: miss},
	{name: "expired", warm: true, now: "fails", records: stale, ede: dns.ExtendedErrorCodeStaleAnswer},
	{name: "stale", warm: true, now: "fails", seen: true, records: stale, ede: dns.ExtendedErrorCodeStaleAnswer},
	{name: "stale, denied", warm: true, now: "denied", seen: true, records: stale, ede: dns.ExtendedErrorCodeStaleAnswer},
	{name: "failing", now: "fails", records: failed, ede: dns.ExtendedErrorCodeNoReachableAuthority},
	{name: "backing off", now: "fails", seen: true, records: failed, ede: dns.ExtendedErrorCodeNoReachableAuthority},
	{name: "denied", now: "denied", records: failed, ede: dns.ExtendedErrorCodeFiltered},
	{name: "NXDOMAIN", now: "gone", records: nodata},
	{name: "NODATA", now: "empty", seen: true, records: nodata},
	{name: "no longer", warm: true, now: "empty", records: nodata},
}

// statesUpstream is an upstream for targets t<i>.example: what it says of each is in says, or else it is well.
type statesUpstream struct {
	mu   sync.Mutex
	says map[string]string
}

func (u *statesUpstream) say(name, what string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.says[name] = what
}

func (u *statesUpstream) ServeDNS(w dns.ResponseWriter, r *dns.Msg) {
	name := r.Question[0].Name
	if name == "." { // a health check
		fake.Rcode(dns.RcodeSuccess)(w, r)
		return
	}
	u.mu.Lock()
	what := u.says[name]
	u.mu.Unlock()
	i := int(name[1] - '0')
	switch what {
	case "fails":
		fake.Rcode(dns.RcodeServerFailure)(w, r)
	case "denied":
		fake.Answer(name+" 60 IN A 0.0.0.0")(w, r)
	case "gone":
		fake.Rcode(dns.RcodeNameError)(w, r)
	case "empty":
		fake.Zone(name+" 60 IN TXT x")(w, r)
	case "silent":
	default: // each target has an address of its own, and one that all have
		fake.Zone(fmt.Sprintf("%s %d IN A 192.0.2.1%d", name, targetTTL(i), i), fmt.Sprintf("%s %d IN A 192.0.2.1", name, targetTTL(i)),
			fmt.Sprintf("%s %d IN AAAA 2001:db8::1%d", name, targetTTL(i), i))(w, r)
	}
}

// targetTTL is the TTL of the target with that number: the last one has the smallest.
func targetTTL(i int) int { return 60 - i }

// wantTargets returns the answer that the states make, its status, its targets, and the EDE, by the rules of several targets.
func wantTargets(states []targetState, failover bool) (answer []string, s status, targets []string, ede uint16) {
	which := func(is func(status) bool) (is_ []int) {
		for i, state := range states {
			if is(state.records) {
				is_ = append(is_, i)
			}
		}
		return is_
	}
	all := which(func(status) bool { return true })
	fresh := which(func(s status) bool { return s == hit || s == miss })
	old := which(func(s status) bool { return s == stale })
	failures := which(func(s status) bool { return s == failed })
	counted := fresh
	if len(fresh) == 0 {
		counted = old
	}
	if failover && len(counted) > 0 {
		counted = counted[:1]
	}
	var ttl int
	for n, i := range counted {
		s, ede = max(s, states[i].records), states[i].ede
		answer = append(answer, fmt.Sprintf("192.0.2.1%d", i))
		if n == 0 {
			answer = append(answer, "192.0.2.1")
		}
		if ttl = targetTTL(i); len(fresh) == 0 {
			ttl = 30
		}
	}
	switch {
	case len(counted) > 0:
	case len(failures) > 0:
		s, ede, counted = failed, states[failures[0]].ede, all
	default:
		s, counted = nodata, all
	}
	for i, address := range answer {
		answer[i] = fmt.Sprintf("example.org. %d IN A %s", ttl, address)
	}
	for _, i := range counted {
		targets = append(targets, fmt.Sprintf("t%d.example.", i))
	}
	return answer, s, targets, ede
}

// checkTargets checks the answer that targets in these states make, for a record, a failover, or ALIAS records of the zone.
func checkTargets(t *testing.T, kind string, states []targetState) {
	t.Helper()
	u := &statesUpstream{says: make(map[string]string)}
	up := fake.New(t, u.ServeDNS)
	var properties, targets, zone []string
	for i := range states {
		target := fmt.Sprintf("t%d.example.", i)
		targets = append(targets, target)
		properties = append(properties, fmt.Sprintf("record w%d %s", i, target)) // by which the test looks it up alone
		zone = append([]string{"example.org. 3600 IN ALIAS " + target}, zone...) // not in canonical order
	}
	if kind != "zone" {
		properties, zone = append(properties, fmt.Sprintf("%s @ %s", kind, strings.Join(targets, " "))), nil
	}
	a, c := newAlias(t, "example.org", "retries 0\nupstream "+up.Addr+"\n"+strings.Join(properties, "\n"), zoneFile(t, nil, zone...))
	lookUp := func(i int) { query(t, a, fmt.Sprintf("w%d.example.org.", i), dns.TypeA) }
	for i, state := range states {
		if state.warm {
			lookUp(i)
		}
	}
	c.Advance(61 * time.Second)
	for i, state := range states {
		u.say(targets[i], state.now)
		if state.seen {
			lookUp(i)
		}
	}
	ctx, status := withStatus()
	r := new(dns.Msg).SetQuestion("example.org.", dns.TypeA)
	r.SetEdns0(1232, false)
	m := exchange(t, ctx, a, r)
	answer, wantStatus, wantTarget, wantEDE := wantTargets(states, kind == "failover")
	wantText(t, "answer", m.Answer, answer...)
	if got := status(); got != wantStatus.String() {
		t.Errorf("status %s, want %s", got, wantStatus)
	}
	if got := metadata.ValueFunc(ctx, "alias/target")(); got != strings.Join(wantTarget, ",") {
		t.Errorf("target %s, want %s", got, strings.Join(wantTarget, ","))
	}
	if got := append(ede(m), 0)[0]; got != wantEDE {
		t.Errorf("EDE %d, want %d", got, wantEDE)
	}
	if m.Rcode != dns.RcodeSuccess || !m.Authoritative || len(answer) == 0 && len(m.Ns) != 1 {
		t.Errorf("got %v", m)
	}
}

// The table of what targets may be, for each two of them.
func TestTwoTargets(t *testing.T) {
	for _, kind := range []string{"record", "failover", "zone"} {
		for _, first := range targetStates {
			for _, second := range targetStates {
				t.Run(fmt.Sprintf("%s/%s and %s", kind, first.name, second.name), func(t *testing.T) {
					checkTargets(t, kind, []targetState{first, second})
				})
			}
		}
	}
}

func TestFiveTargets(t *testing.T) {
	random := rand.New(rand.NewPCG(17, 0))
	for _, kind := range []string{"record", "failover", "zone"} {
		for range 100 {
			var states []targetState
			var names []string
			for range 5 {
				from := targetStates
				if random.IntN(2) == 0 { // without fresh ones, which are most of the answer otherwise
					from = targetStates[3:]
				}
				state := from[random.IntN(len(from))]
				states, names = append(states, state), append(names, state.name)
			}
			t.Run(kind+"/"+strings.Join(names, " and "), func(t *testing.T) { checkTargets(t, kind, states) })
		}
	}
}
