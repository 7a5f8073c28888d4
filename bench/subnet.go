package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"strings"
	"time"

	"github.com/miekg/dns"
)

// manySubnets is how many networks of clients there are in the last column: as many as alias has answers for to one question.
const manySubnets = 1000

// subnetContestants are the servers that are measured with client subnets.
var subnetContestants = []contestant{
	{"*alias*, without `client_subnet`", func(b *bench, resolver string) (*server, error) {
		return b.launchCoreDNS("subnet-off", zoneName(2), aliasCorefile(resolver, ""))
	}},
	{"*alias*, `client_subnet`", func(b *bench, resolver string) (*server, error) {
		return b.launchCoreDNS("subnet-on", zoneName(2), strings.ReplaceAll(aliasCorefile(resolver, ""), "min_ttl 1s", "min_ttl 1s\nclient_subnet"))
	}},
	{"PowerDNS `expand-alias`, `edns-subnet-processing`", func(b *bench, resolver string) (*server, error) {
		named := fmt.Sprintf("options { directory %q; };\nzone %q { type master; file %q; };\n",
			b.dir, strings.TrimSuffix(zoneName(2), "."), zoneName(2)+"zone.alias")
		return b.launchExpanding(b.dir, zoneName(2), named, resolver, "edns-subnet-processing=yes\n")
	}},
}

// subnetColumns are the queries: all have EDNS, and come from so many networks.
var subnetColumns = []struct {
	title    string
	networks int
}{{"EDNS", 0}, {"1 network", 1}, {fmt.Sprint(manySubnets, " networks"), manySubnets}}

// subnetQueries returns queries for the A records of the zone apex with two addresses, with client subnets of so many networks.
func subnetQueries(networks int) []*dns.Msg {
	queries := make([]*dns.Msg, max(networks, 1))
	for i := range queries {
		m := new(dns.Msg).SetQuestion(zoneName(2), dns.TypeA)
		m.SetEdns0(4096, false)
		if networks > 0 {
			m.IsEdns0().Option = []dns.EDNS0{&dns.EDNS0_SUBNET{
				Code: dns.EDNS0SUBNET, Family: 1, SourceNetmask: 24, Address: net.IPv4(10, byte(i>>8), byte(i), 0), // #nosec G115 -- octets
			}}
		}
		queries[i] = m
	}
	return queries
}

// writeSubnetQueries writes queries in wire form, each after its length, as dnsperf reads them with -B.
func (b *bench) writeSubnetQueries(name string, queries []*dns.Msg) (string, error) {
	var stream []byte
	for _, m := range queries {
		wire, err := m.Pack()
		if err != nil {
			return "", err
		}
		stream = binary.BigEndian.AppendUint16(stream, uint16(len(wire))) // #nosec G115 -- a short query
		stream = append(stream, wire...)
	}
	return b.write(name, string(stream))
}

// measureSubnet measures fresh answers to queries with client subnets. The resolver answers for networks of 24 bits.
func (b *bench) measureSubnet() (string, error) {
	if err := b.writeZones(); err != nil {
		return "", err
	}
	defer b.stopAll()
	resolver, err := b.launchSubnetResolver()
	if err != nil {
		return "", err
	}
	servers := make([]*server, len(subnetContestants))
	for i, c := range subnetContestants {
		if servers[i], err = c.launch(b, resolver.addr); err != nil {
			return "", err
		}
	}
	figures := make([][]series, len(servers))
	for i := range figures {
		figures[i] = make([]series, len(subnetColumns))
	}
	for range b.rounds {
		for j, column := range subnetColumns {
			queries := subnetQueries(column.networks)
			path, err := b.writeSubnetQueries(fmt.Sprint("subnets-", column.networks), queries)
			if err != nil {
				return "", err
			}
			for i, s := range servers {
				if err := askAll(s.addr, queries); err != nil {
					return "", err
				}
				qps, err := b.throughput(s, path, "-B")
				if err != nil {
					return "", err
				}
				figures[i][j] = append(figures[i][j], qps)
			}
		}
	}
	return subnetTables(figures), nil
}

// askAll sends each query once, so that the answers are cached.
func askAll(addr string, queries []*dns.Msg) error {
	client := dns.Client{Timeout: 5 * time.Second}
	for _, m := range queries {
		if r, _, err := client.Exchange(m.Copy(), addr); err != nil || len(r.Answer) != 2 {
			return fmt.Errorf("%s does not answer with two addresses: %w\n%v", addr, err, r)
		}
	}
	return nil
}

// launchSubnetResolver starts the resolver on the core of the contestants.
func (b *bench) launchSubnetResolver() (*server, error) {
	addr, err := freeAddr()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return b.launch(serverCore, addr, targetName(2), nil, self, "subnets", addr)
}

// serveSubnets runs a resolver until ctx ends that answers A queries with two addresses, and has the scope of each client subnet.
func serveSubnets(ctx context.Context, addr string) error {
	conn, err := net.ListenPacket("udp", addr)
	if err != nil {
		return err
	}
	server := &dns.Server{PacketConn: conn, Handler: dns.HandlerFunc(answerSubnet)}
	stop := context.AfterFunc(ctx, func() { server.Shutdown() })
	defer stop()
	return server.ActivateAndServe()
}

func answerSubnet(w dns.ResponseWriter, r *dns.Msg) {
	m := new(dns.Msg).SetReply(r)
	if q := r.Question[0]; q.Qtype == dns.TypeA {
		for i := range 2 {
			hdr := dns.RR_Header{Name: q.Name, Rrtype: q.Qtype, Class: dns.ClassINET, Ttl: 3600}
			m.Answer = append(m.Answer, &dns.A{Hdr: hdr, A: net.IPv4(192, 0, 2, byte(i+1))}) // #nosec G115 -- 1 and 2
		}
	}
	if opt := r.IsEdns0(); opt != nil {
		m.SetEdns0(1232, false)
		for _, o := range opt.Option {
			if s, ok := o.(*dns.EDNS0_SUBNET); ok {
				s.SourceScope = s.SourceNetmask
				m.IsEdns0().Option = []dns.EDNS0{s}
			}
		}
	}
	w.WriteMsg(m)
}

// subnetTables returns the table of the figures, with their ratio to the first of the column without client subnets.
func subnetTables(figures [][]series) string {
	var s strings.Builder
	head, rule := "| Queries per second |", "| --- |"
	for _, c := range subnetColumns {
		head, rule = head+" "+c.title+" |", rule+" --- |"
	}
	fmt.Fprintf(&s, "%s\n%s\n", head, rule)
	for i, c := range subnetContestants {
		fmt.Fprintf(&s, "| %s |", c.name)
		for _, f := range figures[i] {
			fmt.Fprintf(&s, " %s |", f.format("%.0f"))
		}
		fmt.Fprintln(&s)
	}
	base := figures[0][0].median()
	fmt.Fprintf(&s, "\n%s\n%s\n", strings.Replace(head, "Queries per second", "Ratio to *alias* without `client_subnet`, EDNS", 1), rule)
	for i, c := range subnetContestants {
		fmt.Fprintf(&s, "| %s |", c.name)
		for _, f := range figures[i] {
			fmt.Fprintf(&s, " %.2f |", f.median()/base)
		}
		fmt.Fprintln(&s)
	}
	return s.String()
}
