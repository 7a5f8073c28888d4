package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// catalogZone lists the zones of a provider (RFC 9432).
const catalogZone = "catalog.test"

// zonesPatch is the change of CoreDNS that catalogs measures.
const zonesPatch = "../docs/coredns-zones-by-name.patch"

// catalogContestants are the plugins behind each other, from which CoreDNS answers for the members of a catalog zone.
var catalogContestants = []string{"secondary", "alias secondary"}

// patchSides are the columns of the tables.
var patchSides = [2]string{"without", "with"}

// catalogQuestions are those of questions that are measured.
var catalogQuestions = questions[:2]

// measureCatalogs measures CoreDNS with and without zonesPatch, as a secondary for the members of a catalog zone, and returns the tables.
func (b *bench) measureCatalogs() (string, error) {
	numbers, err := parseSizes(b.zones)
	if err != nil {
		return "", err
	}
	var programs [2]string // without and with the patch
	if programs[0], err = b.buildBounded(); err != nil {
		return "", err
	}
	if programs[1], err = b.buildChanged("coredns-patched", func(dir string) error {
		if err := boundIn(dir); err != nil {
			return err
		}
		return b.applyZonesPatch(dir)
	}); err != nil {
		return "", err
	}
	resolver, err := b.launchHostedResolver()
	if err != nil {
		return "", err
	}
	var s strings.Builder
	for _, n := range numbers {
		figures, err := b.measureCatalog(n, programs, resolver.addr)
		if err != nil {
			return "", fmt.Errorf("%d members: %w", n, err)
		}
		b.stopBut(resolver)
		for q, question := range catalogQuestions {
			fmt.Fprintf(&s, "%s, members: %d\n\n%s\n", question.name, n, turnTables(patchSides, catalogContestants, figures[q]))
		}
	}
	b.stopAll()
	return s.String(), nil
}

// applyZonesPatch changes the copy of CoreDNS in dir.
func (b *bench) applyZonesPatch(dir string) error {
	path, err := filepath.Abs(zonesPatch)
	if err != nil {
		return err
	}
	return b.run(nil, "patch", "-p1", "-d", dir, "-i", path)
}

// measureCatalog measures the contestants with a catalog zone of n members. The figures are by question and contestant.
func (b *bench) measureCatalog(n int, programs [2]string, resolver string) ([][][2]turns, error) {
	h := hosted{filepath.Join(b.dir, fmt.Sprintf("catalog-%d", n)), n, n}
	defer os.RemoveAll(h.dir)
	if err := h.generate(0); err != nil {
		return nil, err
	}
	servers := make([][2]*server, len(catalogContestants))
	for i, plugins := range catalogContestants {
		for patched, program := range programs {
			s, err := b.launchCatalog(h, program, strings.HasPrefix(plugins, "alias"), resolver)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", plugins, err)
			}
			servers[i][patched] = s
			// The first A of each alias: afterwards all answers are fresh.
			a, err := b.perf(s, h.file(questions[0].name), questions[0].rcode, "-n", "1", "-t", "60", "-l", seconds(warmLimit))
			if err == nil && a.count != n {
				err = fmt.Errorf("answers %d of %d queries in %s", a.count, n, warmLimit)
			}
			if err != nil {
				return nil, fmt.Errorf("%s: %w", plugins, err)
			}
		}
	}
	figures := make([][][2]turns, len(catalogQuestions))
	for q := range figures {
		figures[q] = make([][2]turns, len(servers))
	}
	for range b.rounds {
		for q, question := range catalogQuestions {
			for i := range servers {
				for patched, s := range servers[i] {
					rate, cost, err := b.timed(s, h.file(question.name), question.rcode, "-t", "60")
					if err != nil {
						return nil, fmt.Errorf("%s, %s: %w", catalogContestants[i], question.name, err)
					}
					f := &figures[q][i][patched]
					f.rate, f.cost = append(f.rate, rate), append(f.cost, cost)
				}
			}
		}
	}
	return figures, nil
}

// launchCatalog starts a server that has nothing but the name of the catalog zone. It returns when all members are transferred.
func (b *bench) launchCatalog(h hosted, program string, alias bool, resolver string) (*server, error) {
	form, properties := "static", ""
	if alias {
		form, properties = "generic", h.hostedProperties(resolver)
	}
	if err := writeFile(filepath.Join(h.file(form), "db."+catalogZone), h.catalog); err != nil {
		return nil, err
	}
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	primary, err := b.launchNSD(clientCore, addr, h, form, catalogZone)
	if err != nil {
		return nil, err
	}
	defer b.stop(primary)
	transferred := &lineCounter{mark: []byte("Transferred: ")}
	_, port, _ := net.SplitHostPort(addr)
	s, err := b.startCorefile(serverCore, program, transferred, nil, "catalog-"+port, ".:PORT {\nbind 127.0.0.1\n"+aliasPlugin(properties, "")+
		"secondary "+catalogZone+" {\ntransfer from "+addr+"\ncatalog\n}\n}\n")
	if err != nil {
		return nil, err
	}
	if err := b.awaitAnswer(s, "mail."+h.zone(0)+"."); err != nil {
		return nil, err
	}
	return s, b.await("all members are transferred", 10*time.Millisecond, func() (bool, error) {
		return int(transferred.count.Load()) > h.zones, s.alive()
	})
}

// catalog writes the file of the catalog zone.
func (h hosted) catalog(w io.Writer) {
	fmt.Fprint(w, "$TTL 3600\n@ IN SOA invalid. invalid. 1 86400 7200 2419200 300\n@ IN NS invalid.\nversion IN TXT 2\n")
	for i := range h.zones {
		fmt.Fprintf(w, "m%d.zones IN PTR %s.\n", i, h.zone(i))
	}
}
