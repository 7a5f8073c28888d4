package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coredns/alias/plugin/primary"
	"github.com/coredns/alias/plugin/store"
	fake "github.com/coredns/alias/test/redis"

	"github.com/redis/go-redis/v9"
)

var _ primary.Registers = (*store.Registers)(nil)

// startRedis starts a Redis, and returns a client of it.
func startRedis(t testing.TB, args ...string) *redis.Client {
	t.Helper()
	server := fake.Start(t, args...)
	client := redis.NewClient(&redis.Options{Addr: server.Addr, MaxRetries: -1, ContextTimeoutEnabled: true, DialTimeout: time.Second})
	t.Cleanup(func() { client.Close() })
	for end := time.Now().Add(10 * time.Second); client.Ping(t.Context()).Err() != nil; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("redis-server does not answer")
		}
	}
	return client
}

// within returns a context for a call that is to succeed.
func within(t testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// A register is changed if its number is the expected one, and not otherwise.
func TestRegister(t *testing.T) {
	t.Parallel()
	client := startRedis(t)
	r := store.NewRegisters(client, "test")
	const zone = `a\ b.example.org.`
	if fields, err := r.Load(within(t), zone); len(fields) > 0 || err != nil {
		t.Errorf("no register: %v %v", fields, err)
	}
	for _, c := range []struct {
		from, to string
		set      map[string]string
		remove   []string
		swapped  bool
		want     map[string]string
	}{
		{"7", "8", map[string]string{"number": "8"}, nil, false, map[string]string{}},
		{"", "8", map[string]string{"number": "8", "A x": "1", "A y": "2"}, nil, true, map[string]string{"number": "8", "A x": "1", "A y": "2"}},
		{"", "9", map[string]string{"number": "9"}, nil, false, map[string]string{"number": "8", "A x": "1", "A y": "2"}},
		{"8", "9", map[string]string{"number": "9", "A z": "\x00\n"}, []string{"A x", "none"}, true, map[string]string{"number": "9", "A y": "2", "A z": "\x00\n"}},
		{"8", "10", map[string]string{"number": "10"}, []string{"A y"}, false, map[string]string{"number": "9", "A y": "2", "A z": "\x00\n"}},
	} {
		swapped, err := r.Swap(within(t), zone, c.from, c.to, c.set, c.remove)
		if swapped != c.swapped || err != nil {
			t.Errorf("from %s to %s: %v %v", c.from, c.to, swapped, err)
		}
		if fields, err := r.Load(within(t), zone); !maps.Equal(fields, c.want) || err != nil {
			t.Errorf("from %s to %s: %v %v, want %v", c.from, c.to, fields, err, c.want)
		}
	}
	numbers, err := r.Numbers(within(t), []string{"none.", zone})
	if err != nil || fmt.Sprint(numbers) != "[ 9]" {
		t.Errorf("numbers %q %v", numbers, err)
	}
	if life := client.PTTL(within(t), "test:1:zone:"+zone).Val(); life < 399*24*time.Hour {
		t.Errorf("the register is kept for %s", life)
	}
	other := store.NewRegisters(client, "other")
	if fields, err := other.Load(within(t), zone); len(fields) > 0 || err != nil {
		t.Errorf("with another prefix: %v %v", fields, err)
	}
}

// What is no register is replaced.
func TestRegisterOfAnotherType(t *testing.T) {
	t.Parallel()
	client := startRedis(t)
	r := store.NewRegisters(client, "test")
	client.Set(within(t), "test:1:zone:example.org.", "garbage", 0)
	if numbers, err := r.Numbers(within(t), []string{"example.org.", "example.net."}); err != nil || fmt.Sprint(numbers) != "[ ]" {
		t.Errorf("numbers %q %v", numbers, err)
	}
	if fields, err := r.Load(within(t), "example.org."); len(fields) > 0 || err != nil {
		t.Errorf("loaded %v %v", fields, err)
	}
	if swapped, err := r.Swap(within(t), "example.org.", "", "1", map[string]string{"number": "1"}, nil); !swapped || err != nil {
		t.Errorf("%v %v", swapped, err)
	}
	if fields, err := r.Load(within(t), "example.org."); fields["number"] != "1" || err != nil {
		t.Errorf("then loaded %v %v", fields, err)
	}
}

// Of many servers that change a register at the same time, one does.
func TestRegisterAtTheSameTime(t *testing.T) {
	t.Parallel()
	r := store.NewRegisters(startRedis(t), "test")
	for number := range 50 {
		from := ""
		if number > 0 {
			from = fmt.Sprint(number)
		}
		var all sync.WaitGroup
		var mu sync.Mutex
		swaps := 0
		for server := range 8 {
			all.Go(func() {
				to := fmt.Sprint(number + 1)
				swapped, err := r.Swap(within(t), "example.org.", from, to, map[string]string{"number": to, "A by": fmt.Sprint(server)}, nil)
				mu.Lock()
				defer mu.Unlock()
				if err != nil {
					t.Error(err)
				}
				if swapped {
					swaps++
				}
			})
		}
		all.Wait()
		if swaps != 1 {
			t.Fatalf("number %d: %d servers swapped", number, swaps)
		}
	}
}

// Who listens hears of each change, also after the connection was lost.
func TestRegisterMessages(t *testing.T) {
	t.Parallel()
	client := startRedis(t)
	r := store.NewRegisters(client, "test")
	ctx, cancel := context.WithCancel(t.Context())
	heard := make(chan string, 100)
	var listening sync.WaitGroup
	listening.Go(func() { r.Listen(ctx, func(zone, number string) { heard <- zone + "=" + number }) })
	number := 0
	await := func(what string) {
		t.Helper()
		for end := time.After(10 * time.Second); ; {
			from := ""
			if number > 0 {
				from = fmt.Sprint(number)
			}
			number++
			to := fmt.Sprint(number)
			if _, err := r.Swap(within(t), `a\ b.`, from, to, map[string]string{"number": to}, nil); err != nil {
				t.Fatal(err)
			}
			select {
			case got := <-heard:
				if !strings.HasPrefix(got, `a\ b.=`) {
					t.Errorf("heard %s", got)
				}
				return
			case <-time.After(50 * time.Millisecond):
			case <-end:
				t.Fatalf("nothing heard %s", what)
			}
		}
	}
	await("at first")
	if err := client.Do(within(t), "CLIENT", "KILL", "TYPE", "pubsub").Err(); err != nil {
		t.Fatal(err)
	}
	await("after the connection was lost")
	cancel()
	listening.Wait()
}

// An entry of the table of servers is changed if it is the expected one.
func TestServers(t *testing.T) {
	t.Parallel()
	r := store.NewRegisters(startRedis(t), "test")
	for _, c := range []struct {
		id, from, to string
		set          bool
		want         string
	}{
		{"3", "x", "y", false, "map[]"},
		{"3", "", "x", true, "map[3:x]"},
		{"3", "", "y", false, "map[3:x]"},
		{"4", "", "z", true, "map[3:x 4:z]"},
		{"3", "x", "", true, "map[4:z]"},
	} {
		set, err := r.SetServer(within(t), c.id, c.from, c.to)
		table, err2 := r.Servers(within(t))
		if set != c.set || err != nil || err2 != nil || fmt.Sprint(table) != c.want {
			t.Errorf("%s from %q to %q: %v %v, %v %v", c.id, c.from, c.to, set, err, table, err2)
		}
	}
}

// A store that does not answer is an error before the context ends, and so is one that takes no writes.
func TestRegistersFail(t *testing.T) {
	t.Parallel()
	full := store.NewRegisters(startRedis(t, "--maxmemory", "1", "--maxmemory-policy", "noeviction"), "test")
	if swapped, err := full.Swap(within(t), "example.org.", "", "1", map[string]string{"number": "1"}, nil); swapped || err == nil {
		t.Errorf("a full store: %v %v", swapped, err)
	}
	if _, err := full.Numbers(within(t), []string{"example.org."}); err != nil {
		t.Errorf("a full store can be read: %v", err)
	}
	client := startRedis(t)
	r := store.NewRegisters(client, "test")
	pause := redis.NewClient(&redis.Options{Addr: client.Options().Addr})
	defer pause.Close()
	if err := pause.Do(within(t), "CLIENT", "PAUSE", "3000", "ALL").Err(); err != nil {
		t.Fatal(err)
	}
	for what, call := range map[string]func(context.Context) error{
		"Numbers":   func(ctx context.Context) error { _, err := r.Numbers(ctx, []string{"example.org."}); return err },
		"Load":      func(ctx context.Context) error { _, err := r.Load(ctx, "example.org."); return err },
		"Swap":      func(ctx context.Context) error { _, err := r.Swap(ctx, "example.org.", "", "1", nil, nil); return err },
		"Servers":   func(ctx context.Context) error { _, err := r.Servers(ctx); return err },
		"SetServer": func(ctx context.Context) error { _, err := r.SetServer(ctx, "1", "", "x"); return err },
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		began := time.Now()
		err := call(ctx)
		cancel()
		var timeout net.Error
		if err == nil || !errors.Is(err, context.DeadlineExceeded) && !errors.As(err, &timeout) || time.Since(began) > time.Second {
			t.Errorf("%s: %v after %s", what, err, time.Since(began))
		}
	}
}
