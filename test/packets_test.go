package test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"net"
	"testing"
	"time"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// Every type, class and opcode gets a response. Only queries for A and AAAA of class IN get addresses.
func TestQuestions(t *testing.T) {
	for _, test := range []struct{ name, plugins string }{{"alone", ""}, {"with transfer", "transfer {\nto *\n}"}} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			testQuestions(t, test.plugins)
		})
	}
}

func testQuestions(t *testing.T, plugins string) {
	up := upstream.New(t, targets)
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n*.shop IN ALIAS app.hosting.example.\n",
		"upstream "+up.Addr, fromFile+"\n"+plugins)
	client := dns.Client{Timeout: 3 * time.Second}
	conn, err := dns.Dial("udp", server.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	check := func(r *dns.Msg) *dns.Msg {
		m, _, err := client.ExchangeWithConn(r, conn)
		q := r.Question[0]
		if err != nil {
			t.Errorf("%s, %s: %v", &q, dns.OpcodeToString[r.Opcode], err)
			return new(dns.Msg)
		}
		want := 0
		if r.Opcode == dns.OpcodeQuery && q.Qclass == dns.ClassINET && (q.Qtype == dns.TypeA || q.Qtype == dns.TypeAAAA) {
			want = 1
		}
		addresses := 0
		for _, rr := range m.Answer {
			if h := rr.Header(); h.Rrtype == dns.TypeA || h.Rrtype == dns.TypeAAAA {
				addresses++
			}
		}
		if addresses != want {
			t.Errorf("%s, %s: %d addresses in\n%v", &q, dns.OpcodeToString[r.Opcode], addresses, m)
		}
		return m
	}
	for _, name := range []string{"example.org.", "a.shop.example.org."} {
		rcodes := make(map[int]int)
		for qtype := range 1 << 16 {
			// All types that are assigned, and some of the others.
			if qtype > 300 && qtype < 1<<16-300 && qtype%101 > 0 {
				continue
			}
			rcodes[check(new(dns.Msg).SetQuestion(name, uint16(qtype))).Rcode]++
		}
		t.Logf("%s: response codes by type %v", name, rcodes)
		for _, qtype := range []uint16{dns.TypeA, dns.TypeANY, dns.TypeAXFR} {
			clear(rcodes)
			for _, qclass := range []uint16{0, 1, 2, 3, 4, 5, 254, 255, 256, 1<<16 - 1} {
				r := new(dns.Msg).SetQuestion(name, qtype)
				r.Question[0].Qclass = qclass
				rcodes[check(r).Rcode]++
			}
			t.Logf("%s %s: response codes by class %v", name, dns.Type(qtype), rcodes)
		}
		clear(rcodes)
		for opcode := range 16 {
			if opcode == dns.OpcodeNotify {
				continue // file does not answer a NOTIFY that is not from its primary
			}
			r := new(dns.Msg).SetQuestion(name, dns.TypeA)
			r.Opcode = opcode
			rcodes[check(r).Rcode]++
		}
		t.Logf("%s: response codes by opcode %v", name, rcodes)
	}
}

// The server survives broken packets of every kind, and answers the next query.
func TestBrokenPackets(t *testing.T) {
	t.Parallel()
	up := upstream.New(t, targets)
	page := local(freePort(t))
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\n*.shop IN ALIAS app.hosting.example.\n",
		"txt\nflatten all\nupstream "+up.Addr, fromFile+"\npprof "+page)
	checkQuick(t, server, "example.org.")
	before := footprintOf(t, server, page)

	rng := rand.New(rand.NewPCG(1, 2))
	conn, err := net.Dial("udp", server.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for i := range 5000 {
		conn.Write(brokenPacket(rng, 1000))
		if i%50 == 0 { // more at once would not fit into the buffer of the server's socket
			checkQuick(t, server, "example.org.")
		}
	}
	for i := range 300 {
		conn, err := net.Dial("tcp", server.addr)
		if err != nil {
			t.Fatal(err)
		}
		packet := brokenPacket(rng, 30_000)
		length := len(packet)
		if i%3 == 0 {
			length = rng.IntN(1 << 16) // not that of the message
		}
		conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(length)), packet...))
		if i%2 == 0 {
			conn.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
			conn.Read(make([]byte, 2))
		}
		conn.Close()
	}
	checkQuick(t, server, "example.org.")
	checkSettles(t, server, page, before, before.plus(footprint{slack, slack, 4 << 20}))
}

// brokenPacket returns a packet that no correct client sends. EDNS options in it are shorter than option.
func brokenPacket(rng *rand.Rand, option int) []byte {
	name := []string{"example.org.", "a.shop.example.org.", "www.example.org."}[rng.IntN(3)]
	r := new(dns.Msg).SetQuestion(name, []uint16{dns.TypeA, dns.TypeAAAA, dns.TypeTXT}[rng.IntN(3)])
	kind := rng.IntN(9)
	switch kind {
	case 0: // noise
		b := make([]byte, rng.IntN(600))
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		return b
	case 1:
		r.Question = nil
	case 2:
		r.Question = append(r.Question, r.Question[0])
	case 3: // records in sections where a query has none
		r.Answer = addressesOf(r.Question[0], 1+rng.IntN(3), 60)
		r.Ns = addressesOf(r.Question[0], rng.IntN(3), 60)
	case 4: // a large option, an EDNS version that does not exist, or two OPT records
		opt := &dns.OPT{Hdr: dns.RR_Header{Name: ".", Rrtype: dns.TypeOPT}}
		opt.SetVersion(uint8(rng.IntN(3)))
		opt.Option = []dns.EDNS0{&dns.EDNS0_LOCAL{Code: uint16(rng.IntN(20)), Data: make([]byte, rng.IntN(option))}}
		r.Extra = []dns.RR{opt, opt}[:1+rng.IntN(2)]
	}
	b, err := r.Pack()
	if err != nil {
		panic(err)
	}
	switch kind {
	case 5:
		return b[:rng.IntN(len(b))]
	case 6: // a compression pointer to itself, to the end of the message, or beyond it
		b[12], b[13] = 0xc0, []byte{12, byte(len(b) - 1), 0xff}[rng.IntN(3)]
	case 7: // a count of records that are not there
		binary.BigEndian.PutUint16(b[4+2*rng.IntN(4):], uint16(rng.Uint32()))
	case 8:
		for range 1 + rng.IntN(4) {
			b[2+rng.IntN(len(b)-2)] = byte(rng.Uint32())
		}
	}
	return b
}

// Clients that connect and send nothing, or a part of a query, or do not read the responses, do not delay the others.
// CoreDNS closes their connections after 10 seconds. Those of clients that do not read stay open until the client closes
// them.
func TestIdleClients(t *testing.T) {
	t.Parallel()
	const n = 100 // of each kind
	up := upstream.New(t, func(w dns.ResponseWriter, r *dns.Msg) {
		if r.Question[0].Name == "large.hosting.example." {
			manyAddresses(500, 300)(w, r)
			return
		}
		oneAddress(w, r)
	})
	page := local(freePort(t))
	server := serveZone(t, zoneFile+"@ IN ALIAS app.hosting.example.\nlarge IN ALIAS large.hosting.example.\n",
		"timeout 5s\nupstream "+up.Addr, fromFile+"\npprof "+page)
	query(t, server.addr, "tcp", "example.org.", dns.TypeA)
	query(t, server.addr, "tcp", "large.example.org.", dns.TypeA)
	before := footprintOf(t, server, page)

	whole := onTCP(t, "example.org.")
	for _, sent := range [][]byte{nil, whole[:1], whole[:20], whole} {
		for range n {
			conn, err := net.Dial("tcp", server.addr)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			conn.Write(sent)
		}
	}
	unread := make([]net.Conn, 3) // the responses are 12 MB, more than fits into the buffers of a connection
	for i := range unread {
		conn, err := net.Dial("tcp", server.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		unread[i] = conn
		conn.(*net.TCPConn).SetReadBuffer(4096)
		conn.Write(bytes.Repeat(onTCP(t, "large.example.org."), 1500))
	}
	t.Logf("%s before, %s with %d clients", before, footprintOf(t, server, page), 4*n+len(unread))
	for range 10 {
		began := time.Now()
		for _, network := range []string{"udp", "tcp"} {
			query(t, server.addr, network, "example.org.", dns.TypeA)
		}
		if took := time.Since(began); took > busy {
			t.Errorf("Two queries took %s", took)
		}
	}
	began := time.Now()
	eventually(t, 15*time.Second, "the connections are closed", func() bool { return files(t, server) <= before.files+len(unread)+slack })
	t.Logf("Closed after %s, all but %d", time.Since(began), goroutines(t, page, "dns.(*response).Write"))
	for _, conn := range unread {
		conn.Close()
	}
	checkSettles(t, server, page, before, before.plus(footprint{slack, slack, 4 << 20}))
}

// onTCP returns a query for the A records of name, with the length that precedes it over TCP.
func onTCP(t *testing.T, name string) []byte {
	t.Helper()
	wire, err := new(dns.Msg).SetQuestion(name, dns.TypeA).Pack()
	if err != nil {
		t.Fatal(err)
	}
	return append(binary.BigEndian.AppendUint16(nil, uint16(len(wire))), wire...)
}
