package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// The generated aliases are c0.example, c1.example and so on. Each ten of them have one target (t0.hosting.test, t1.hosting.test and
// so on), which has two addresses of each family.
const (
	zone            = "example."
	targets         = ".hosting.test."
	aliasesATarget  = 10
	zoneHead        = zone + " 3600 IN SOA ns.example. hostmaster.example. 1 3600 600 86400 300\n" + zone + " 3600 IN NS ns.example.\n"
	upstreamTTL     = 3600
	addressesFamily = 2
)

func owner(i int) string { return "c" + strconv.Itoa(i) + "." + zone }

func target(i int) string { return "t" + strconv.Itoa(i/aliasesATarget) + targets }

// generate writes the files of so many aliases to dir: properties for a Corefile (records), zone files of example (alias.zone, and
// static.zone with an A record in place of each alias), a zone file of the targets (targets.zone), and queries for dnsperf in random
// order (queries for A; queries.both for A and AAAA).
func generate(dir string, aliases int) error {
	random := rand.New(rand.NewPCG(1, 2)) // #nosec G404 -- the same each time
	order := random.Perm(aliases)
	files := map[string]func(w io.Writer){
		"records": func(w io.Writer) {
			for i := range aliases {
				fmt.Fprintf(w, "record %s %s\n", strings.TrimSuffix(owner(i), "."+zone), target(i))
			}
		},
		"alias.zone": func(w io.Writer) {
			io.WriteString(w, zoneHead)
			for i := range aliases {
				fmt.Fprintf(w, "%s 3600 IN ALIAS %s\n", owner(i), target(i))
			}
		},
		"static.zone": func(w io.Writer) {
			io.WriteString(w, zoneHead)
			for i := range aliases {
				fmt.Fprintf(w, "%s 3600 IN A %s\n", owner(i), addressesOf(target(i), dns.TypeA, 0)[0].(*dns.A).A)
			}
		},
		"targets.zone": func(w io.Writer) {
			fmt.Fprintf(w, "hosting.test. 3600 IN SOA ns.example. hostmaster.example. 1 3600 600 86400 300\nhosting.test. 3600 IN NS ns.example.\n")
			for i := 0; i < aliases; i += aliasesATarget {
				for _, rr := range addressesOf(target(i), dns.TypeA, upstreamTTL) {
					fmt.Fprintln(w, rr)
				}
				for _, rr := range addressesOf(target(i), dns.TypeAAAA, upstreamTTL) {
					fmt.Fprintln(w, rr)
				}
			}
		},
		"queries": func(w io.Writer) {
			for _, i := range order {
				fmt.Fprintf(w, "%s A\n", owner(i))
			}
		},
		"queries.both": func(w io.Writer) {
			for _, i := range order {
				fmt.Fprintf(w, "%s A\n%[1]s AAAA\n", owner(i))
			}
		},
	}
	for name, write := range files {
		if err := writeFile(filepath.Join(dir, name), write); err != nil {
			return err
		}
	}
	return nil
}

// makeDir makes dir with the files of so many aliases, unless dir exists.
func makeDir(dir string, aliases int) error {
	if err := os.Mkdir(dir, 0o700); errors.Is(err, fs.ErrExist) {
		return nil
	} else if err != nil {
		return err
	}
	return generate(dir, aliases)
}

func writeFile(path string, write func(io.Writer)) error {
	f, err := os.Create(path) // #nosec G304 -- the user names it
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	write(w)
	if err := w.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// addressesOf returns the address records of a target. Those from t<lasting> on have the TTL upstreamTTL.
func addressesOf(target string, qtype uint16, ttl uint32) []dns.RR {
	label, _, _ := strings.Cut(strings.TrimPrefix(strings.ToLower(target), "t"), ".")
	number, err := strconv.Atoi(label)
	if err != nil {
		return nil
	}
	if number >= lasting {
		ttl = upstreamTTL
	}
	hdr := dns.RR_Header{Name: target, Rrtype: qtype, Class: dns.ClassINET, Ttl: ttl}
	rrs := make([]dns.RR, addressesFamily)
	for i := range rrs {
		n := uint32(number*addressesFamily + i) // #nosec G115 -- less than a million
		if qtype == dns.TypeA {
			ip := binary.BigEndian.AppendUint32(nil, 198<<24|18<<16|n&0x1FFFF) // RFC 2544
			rrs[i] = &dns.A{Hdr: hdr, A: ip}
		} else {
			rrs[i] = &dns.AAAA{Hdr: hdr, AAAA: binary.BigEndian.AppendUint32(net.ParseIP("2001:db8::")[:12:12], n)}
		}
	}
	return rrs
}

// serveTargets runs a resolver at addr that answers for the targets, until ctx ends. Their TTL is ttl. With countDown, it is what is
// left of ttl since the start, as with a resolver that has the answers in its cache.
func serveTargets(ctx context.Context, addr string, ttl time.Duration, countDown bool) error {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	end := time.Now().Add(ttl)
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(func(w dns.ResponseWriter, r *dns.Msg) {
		m := new(dns.Msg).SetReply(r)
		left := ttl
		if countDown {
			if left = time.Until(end); left < time.Second {
				left = ttl
			}
		}
		m.Answer = addressesOf(r.Question[0].Name, r.Question[0].Qtype, uint32(left.Round(time.Second)/time.Second)) // #nosec G115
		w.WriteMsg(m)
	})}
	stop := context.AfterFunc(ctx, func() { server.Shutdown() })
	defer stop()
	return server.ActivateAndServe()
}
