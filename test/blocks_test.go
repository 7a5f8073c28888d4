package test

import (
	"fmt"
	"testing"

	"github.com/coredns/alias/test/upstream"

	"github.com/miekg/dns"
)

// used is what a server uses after a garbage collection.
type used struct {
	memory     int // on the heap and for stacks, in bytes
	goroutines int // of alias
}

// usedOf returns what the server uses whose pprof page is at addr.
func usedOf(t *testing.T, addr string) used {
	t.Helper()
	heap(t, addr) // what has a finalizer goes with the next garbage collection
	return used{heap(t, addr) + stacks(t, addr), countGoroutines(t, addr, "github.com/coredns/alias")}
}

// usedByBlocks returns what a server uses with n server blocks that have these plugins, after a client has asked each of them
// for the A records of these names, and for AAAA records that are not there.
func usedByBlocks(t *testing.T, n int, plugins string, names ...string) used {
	t.Helper()
	port, page := freePort(t), local(freePort(t))
	blocks := []string{fmt.Sprintf("%s:%s {\nbind 127.0.0.1\npprof %s\n}\n", "localhost", port, page)}
	for i := range n {
		blocks = append(blocks, fmt.Sprintf("z%d.example:%s {\nbind 127.0.0.1\n%s\nfile zone {\nreload 0\n}\n}\n", i, port, plugins))
	}
	server := serve(t, port, blocks...)
	for i := range n {
		for _, name := range names {
			name = fmt.Sprintf("%sz%d.example.", name, i)
			if m, err := askAgain(server.addr, name); err != nil || len(m.Answer) != 1 {
				t.Fatalf("%s: %v\n%v", name, err, m)
			}
		}
		if m := query(t, server.addr, "udp", fmt.Sprintf("own.z%d.example.", i), dns.TypeAAAA); len(m.Answer) > 0 || len(m.Ns) != 1 {
			t.Fatalf("got %v", m)
		}
	}
	return usedOf(t, page)
}

// A server block with alias takes at most 15 kB more than the same without, and no goroutine: those of alias are as many for
// one block as for two thousand.
func TestManyBlocks(t *testing.T) {
	const most = 15_000
	up := upstream.New(t, oneAddress)
	alias := "alias {\nrecord @ app.hosting.example\nrecord www www.hosting.example\nupstream " + up.Addr + "\n}\n"
	for name, others := range map[string]string{"plain": "", "transfer": "transfer {\nto *\n}\n"} {
		t.Run(name, func(t *testing.T) {
			goroutines := usedByBlocks(t, 1, alias+others, "", "www.").goroutines
			for _, n := range []int{1000, 2000} {
				with, without := usedByBlocks(t, n, alias+others, "", "www.", "own."), usedByBlocks(t, n, others, "own.")
				each := (with.memory - without.memory) / n
				t.Logf("%d blocks: %d bytes for each, %d goroutines for all", n, each, with.goroutines)
				if each > most {
					t.Errorf("%d blocks: %d bytes for each, want at most %d", n, each, most)
				}
				if with.goroutines != goroutines {
					t.Errorf("%d blocks have %d goroutines, and one has %d", n, with.goroutines, goroutines)
				}
			}
		})
	}
}
