package store_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/store"
	fake "github.com/coredns/alias/test/redis"
)

// When the master is lost, Sentinel makes the replica one, and what was put meanwhile is written there.
func TestFleetSentinel(t *testing.T) {
	t.Parallel()
	master, _, sentinel := fake.StartSentinel(t)
	a, b := newMind(), newMind()
	args := []string{"redis://" + sentinel, "master=fleet"}
	first, second := share(t, a, args...), share(t, b, args...)
	a.learn(first, "before", "1")
	eventually(t, "the other server has what was put before", func() bool { return b.get("before") == "1" })
	master.Kill()
	a.learn(first, "meanwhile", "2")
	b.learn(second, "other", "3")
	eventually(t, "both have what was put meanwhile", func() bool { return b.get("meanwhile") == "2" && a.get("other") == "3" })
	c := newMind()
	share(t, c, args...)
	eventually(t, "a server that starts has all", func() bool { return c.len() == 3 })
}

// In a Cluster the records of each server count, and those of one that is lost come back with it.
func TestFleetCluster(t *testing.T) {
	t.Parallel()
	const n = 300
	servers := fake.StartCluster(t)
	args := []string{"redis://" + servers[0].Addr, "redis://" + servers[1].Addr, "redis://" + servers[2].Addr}
	a, b := newMind(), newMind()
	first, second := share(t, a, args...), share(t, b, args...)
	for i := range n {
		a.learn(first, fmt.Sprintf("}odd{%d", i), "value")
	}
	eventually(t, "the other server has all", func() bool { return b.len() == n })
	for i := range 50 {
		key := fmt.Sprintf("}odd{%d", i)
		if mine, _ := first.Claim(t.Context(), key, time.Now(), time.Minute); !mine {
			t.Errorf("%s: not claimed", key)
		}
		if mine, wait := second.Claim(t.Context(), key, time.Now(), time.Minute); mine || wait <= 0 {
			t.Errorf("%s: claimed twice", key)
		}
	}
	c := newMind()
	share(t, c, args...)
	eventually(t, "a server that starts has all", func() bool { return c.len() == n })
	l, err := store.ParseLocation(args)
	if err != nil {
		t.Fatal(err)
	}
	d := newMind()
	last := store.NewShared(l, "upstream", d, func(string, error) {})
	defer last.Close()
	for i := range n {
		if !last.Get(t.Context(), fmt.Sprintf("}odd{%d", i)) {
			t.Errorf("%d is not there on demand", i)
		}
	}
}
