package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	noisyAliases  = 10_000
	otherZones    = 100
	tenantsLength = 25 * time.Second // of the noise, and of the queries beside it
	tenantsExpire = 6 * time.Second  // after it, the answers with the least TTL have expired
	noisyZone     = "noisy.test."
)

// noise is what clients query beside the names that are measured: aliases of targets below one domain.
type noise struct {
	name   string
	domain string // of the targets; empty: there is no noise
	zones  bool   // each alias is in a zone of its own
}

var noises = []noise{
	{name: "nothing"},
	{"targets that answer, one zone", wellDomain, false},
	{"targets that never answer, one zone", deadDomain, false},
	{"a domain that drips, one zone", dripDomain, false},
	{"a domain that drips, 10,000 zones", dripDomain, true},
}

// owner returns the owner of a noisy alias.
func (n noise) owner(i int) string {
	if n.zones {
		return fmt.Sprintf("n%d.test.", i)
	}
	return fmt.Sprintf("n%d.%s", i, noisyZone)
}

// alias returns the line of a zone file for a noisy alias.
func (n noise) alias(i int) string {
	return fmt.Sprintf("%s IN ALIAS n%d%s\n", n.owner(i), i, n.domain)
}

// tenant is a kind of names in the zones of others, which are queried beside the noise.
type tenant struct {
	name    string
	aliases int
	fresh   bool // the answer has to be fresh; otherwise a stale one will do
	prime   bool // the names are queried before
	repeat  bool // the names are queried again and again, in random order
}

// tenants are the kinds of names. The resolver knows what their targets do by the first letter.
var tenants = []tenant{
	{"cold", tenantsRate * int(tenantsLength/time.Second), true, false, false},
	{"expiring", 3 * tenantsRate, true, true, true},
	{"stale", 2 * tenantsRate, false, true, true},
	{"fresh", 100, true, true, true},
}

// owner returns the owner of an alias of that kind, in one of the zones of others.
func (t tenant) owner(i int) string { return fmt.Sprintf("%s%d.%s", t.name, i, otherZone(i)) }

func otherZone(i int) string { return fmt.Sprintf("o%d.test.", i%otherZones) }

// otherLines returns the lines of the zone file of another zone for its aliases. The targets of the zone have a domain of their own.
func otherLines(zone int) string {
	var s strings.Builder
	for _, t := range tenants {
		for i := zone; i < t.aliases; i += otherZones {
			fmt.Fprintf(&s, "%s IN ALIAS %s%d.o%d.example.\n", t.owner(i), t.name, i, zone)
		}
	}
	return s.String()
}

// writeTenant writes the file of a zone into dir.
func writeTenant(dir, zone, aliases string) error {
	return writeFile(filepath.Join(dir, "db."+strings.TrimSuffix(zone, ".")), func(w io.Writer) {
		fmt.Fprintf(w, "$TTL 3600\n%s IN SOA ns1.hosting.test. hostmaster.hosting.test. 1 86400 7200 2419200 300\n", zone)
		fmt.Fprintf(w, "%s IN NS ns1.hosting.test.\n%s", zone, aliases)
	})
}

// writeTenants writes the zone files for a noise into dir/zones, and its queries, in random order, into dir/queries.
func (n noise) writeTenants(dir string) error {
	zones := filepath.Join(dir, "zones")
	if err := os.MkdirAll(zones, 0o700); err != nil {
		return err
	}
	for i := range otherZones {
		if err := writeTenant(zones, otherZone(i), otherLines(i)); err != nil {
			return err
		}
	}
	if n.domain == "" {
		return nil
	}
	var one strings.Builder
	for i := range noisyAliases {
		one.WriteString(n.alias(i))
		if n.zones {
			if err := writeTenant(zones, n.owner(i), n.alias(i)); err != nil {
				return err
			}
		}
	}
	if !n.zones {
		if err := writeTenant(zones, noisyZone, one.String()); err != nil {
			return err
		}
	}
	random := rand.New(rand.NewPCG(5, 6)) // #nosec G404 -- the same each time
	return writeFile(filepath.Join(dir, "queries"), func(w io.Writer) {
		for _, i := range random.Perm(2 * noisyAliases) {
			fmt.Fprintf(w, "%s %s\n", n.owner(i/2), []string{"A", "AAAA"}[i%2])
		}
	})
}

// tenantFigures are what the queries for one kind of names got.
type tenantFigures struct {
	P99     float64 // milliseconds, of those that got what they should
	Success float64 // percent
}

// measureTenants measures what the names of a zone cost its neighbours.
func (b *bench) measureTenants() (string, error) {
	figures := make([][]tenantSeries, len(noises))
	for i, n := range noises {
		figures[i] = make([]tenantSeries, len(tenants))
		if err := n.writeTenants(b.tenantsDir(i)); err != nil {
			return "", err
		}
	}
	for range b.rounds {
		for i := range noises {
			got, err := b.tenantsTurn(i)
			if err != nil {
				return "", err
			}
			for j := range tenants {
				s := &figures[i][j]
				s.p99, s.success = append(s.p99, got[j].P99), append(s.success, got[j].Success)
			}
		}
	}
	return tenantTables(figures), nil
}

func (b *bench) tenantsDir(noise int) string {
	return filepath.Join(b.dir, fmt.Sprint("tenants-", noise))
}

// tenantsTurn starts a resolver and a server, both of which know no target yet, and measures beside one noise.
func (b *bench) tenantsTurn(noise int) (figures []tenantFigures, err error) {
	defer b.stopAll()
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	if _, err := b.launch(clientCore, addr, "first"+wellDomain, nil, self, "tenants-resolver", addr); err != nil {
		return nil, err
	}
	dir := b.tenantsDir(noise)
	corefile := fmt.Sprintf(".:PORT {\nbind 127.0.0.1\nalias {\nupstream %s\n}\nauto {\ndirectory %s\nreload 0\n}\n}\n",
		addr, filepath.Join(dir, "zones"))
	s, err := b.launchCoreDNS("tenants", tenants[len(tenants)-1].owner(0), corefile)
	if err != nil {
		return nil, err
	}
	if err := primeTenants(s.addr); err != nil {
		return nil, err
	}
	if err := wait(b.ctx, tenantsExpire); err != nil {
		return nil, err
	}
	if noises[noise].domain != "" {
		load, err := b.load(s, filepath.Join(dir, "queries"), tenantsLength)
		if err != nil {
			return nil, err
		}
		defer load.Wait()
	}
	out, err := b.client(self, "tenants-probe", s.addr).Output()
	if err != nil {
		return nil, err
	}
	return figures, json.Unmarshal(out, &figures)
}

// primeTenants queries the names that are to be cached.
func primeTenants(addr string) error {
	for _, t := range tenants {
		for i := 0; t.prime && i < t.aliases; i++ {
			if m, err := ask(addr, t.owner(i)); err != nil || len(m.Answer) == 0 {
				return fmt.Errorf("%s is not answered: %w\n%v", t.owner(i), err, m)
			}
		}
	}
	return nil
}

// tenantSeries are the figures of all rounds.
type tenantSeries struct{ p99, success series }

// tenantTables returns the tables.
func tenantTables(figures [][]tenantSeries) string {
	row := func(title string, cell func(noise, tenant int) string) string {
		var s strings.Builder
		cells := []string{title}
		for _, t := range tenants {
			cells = append(cells, t.name)
		}
		s.WriteString(headRow(cells...))
		for i, n := range noises {
			fmt.Fprintf(&s, "| %s |", n.name)
			for j := range tenants {
				fmt.Fprintf(&s, " %s |", cell(i, j))
			}
			s.WriteString("\n")
		}
		return s.String()
	}
	return strings.Join([]string{
		row("p99, milliseconds, beside", func(i, j int) string { return figures[i][j].p99.format("%.2f") }),
		row("Ratio of medians, p99", func(i, j int) string {
			return fmt.Sprintf("%.2f", figures[i][j].p99.median()/figures[0][j].p99.median())
		}),
		row("Success, %, beside", func(i, j int) string { return figures[i][j].success.format("%.2f") }),
	}, "\n")
}
