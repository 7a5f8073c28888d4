package main

import (
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/miekg/dns"
)

// hosted is the data of a provider: z0.example, z1.example and so on, with an alias at each apex. If there are more aliases than
// zones, the others (c<number>) stand below the apexes. Each alias has a target of its own (t0.hosting.test and so on).
type hosted struct {
	dir            string
	zones, aliases int
}

// forms are the forms in which zone files state an alias, by the name of the directory that has them: as CoreDNS and PowerDNS read it,
// as a server reads it that does not know the type (RFC 3597), and as an address.
var forms = map[string]func(h hosted, i int) string{
	"alias":   func(_ hosted, i int) string { return "ALIAS " + hostedTarget(i) },
	"generic": func(_ hosted, i int) string { return genericAlias(hostedTarget(i)) },
	"static":  func(hosted, int) string { return "A " + hostedAddress },
}

const (
	hostedAddress  = "198.51.100.1" // of all targets
	hostedAddress6 = "2001:db8::1"
	typeAlias      = 65401
)

func hostedTarget(i int) string { return "t" + strconv.Itoa(i) + targets }

// zone returns the name of a zone, without the final dot as the names of the files have it.
func (h hosted) zone(i int) string { return "z" + strconv.Itoa(i) + ".example" }

// owner returns the owner of alias i. The first aliases are those of the apexes.
func (h hosted) owner(i int) string {
	if i < h.zones {
		return h.zone(i)
	}
	return "c" + strconv.Itoa(i) + "." + h.zone(i%h.zones)
}

// genericAlias returns an ALIAS record without its owner as RFC 3597 writes types that a server does not know.
func genericAlias(target string) string {
	packed := make([]byte, 256)
	n, err := dns.PackDomainName(target, packed, 0, nil, false)
	if err != nil {
		panic(err) // the names are generated
	}
	return fmt.Sprintf(`TYPE%d \# %d %x`, typeAlias, n, packed[:n])
}

// zoneText writes the file of a zone. The SOA record lets no secondary look for changes while the bench runs.
func (h hosted) zoneText(w io.Writer, i int, form func(h hosted, i int) string) {
	apex := h.zone(i) + "."
	fmt.Fprintf(w, `$ORIGIN %s
$TTL 3600
@ IN SOA ns1.hosting.test. hostmaster.hosting.test. 1 86400 7200 2419200 300
@ IN NS ns1.hosting.test.
@ IN NS ns2.hosting.test.
@ IN MX 10 mail
@ IN TXT "v=spf1 mx -all"
mail IN A 192.0.2.25
www IN CNAME @
`, apex)
	for j := i; j < h.aliases; j += h.zones {
		fmt.Fprintf(w, "%s. IN %s\n", h.owner(j), form(h, j))
	}
}

// catchAll writes a zone example, which has no data of the zones in it. If static, it has the address of each alias.
func (h hosted) catchAll(w io.Writer, static bool) {
	io.WriteString(w, zoneHead)
	for i := 0; static && i < h.aliases; i++ {
		fmt.Fprintf(w, "%s. 3600 IN A %s\n", h.owner(i), hostedAddress)
	}
}

// apexes writes a zone file with the answers of all zones, for prepacked: those to the queries for what exists.
func (h hosted) apexes(w io.Writer) {
	for i := range h.zones {
		apex := h.zone(i) + "."
		fmt.Fprintf(w, "%[1]s 3600 IN A %s\n%[1]s 3600 IN MX 10 mail.%[1]s\n", apex, hostedAddress)
		fmt.Fprintf(w, "%s 3600 IN SOA ns1.hosting.test. hostmaster.hosting.test. 1 86400 7200 2419200 300\n", apex)
		fmt.Fprintf(w, "mail.%s 3600 IN A 192.0.2.25\n", apex)
	}
	for i := h.zones; i < h.aliases; i++ {
		fmt.Fprintf(w, "%s. 3600 IN A %s\n", h.owner(i), hostedAddress)
	}
}

// questions are the queries that are measured, by the name of their file: for the apex of a zone, or for a name below it that does not
// exist.
var questions = []struct {
	name, prefix, qtype, rcode string
}{{"fresh A", "", "A", "NOERROR"}, {"MX", "", "MX", "NOERROR"}, {"SOA", "", "SOA", "NOERROR"}, {"NXDOMAIN", "nx.", "A", "NXDOMAIN"}}

// file returns the path of a generated file.
func (h hosted) file(name string) string {
	return filepath.Join(h.dir, strings.ReplaceAll(name, " ", "-"))
}

// coldFile returns the path of the queries of a turn for cold answers.
func (h hosted) coldFile(turn int) string { return h.file("cold-" + strconv.Itoa(turn)) }

// generate writes all files: a directory of zone files for each form, the zone example (catchall, and catchall.static), the queries for
// dnsperf, in random order, and in so many further files (turns), the queries for A that ask for each alias once.
func (h hosted) generate(turns int) error {
	for form, write := range forms {
		if err := os.MkdirAll(h.file(form), 0o700); err != nil {
			return err
		}
		for i := range h.zones {
			path := filepath.Join(h.file(form), "db."+h.zone(i))
			if err := writeFile(path, func(w io.Writer) { h.zoneText(w, i, write) }); err != nil {
				return err
			}
		}
	}
	random := rand.New(rand.NewPCG(3, 4)) // #nosec G404 -- the same each time
	files := map[string]func(w io.Writer){
		h.file("catchall"):        func(w io.Writer) { h.catchAll(w, false) },
		h.file("catchall.static"): func(w io.Writer) { h.catchAll(w, true) },
		h.file("apexes"):          h.apexes,
	}
	for _, q := range questions {
		files[h.file(q.name)] = func(w io.Writer) {
			for _, i := range random.Perm(h.zones) {
				fmt.Fprintf(w, "%s%s. %s\n", q.prefix, h.zone(i), q.qtype)
			}
		}
	}
	order := random.Perm(h.aliases)
	for turn := range turns {
		files[h.coldFile(turn)] = func(w io.Writer) {
			for _, i := range order[turn*len(order)/turns : (turn+1)*len(order)/turns] {
				fmt.Fprintf(w, "%s. A\n", h.owner(i))
			}
		}
	}
	for path, write := range files {
		if err := writeFile(path, write); err != nil {
			return err
		}
	}
	return nil
}
