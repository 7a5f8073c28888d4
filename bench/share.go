package main

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"time"
)

// shared are the Corefiles in which a server is compared with itself, with and without share: the plugins in front of alias.
var shared = []string{"errors", "errors prometheus"}

// measureShare compares fresh answers of the server without share and with it.
func (b *bench) measureShare() (string, error) {
	if err := b.writeZones(); err != nil {
		return "", err
	}
	defer b.stopAll()
	resolver, err := b.launchUnbound(60)
	if err != nil {
		return "", err
	}
	store, err := b.launchRedis()
	if err != nil {
		return "", err
	}
	servers := make([][2]*server, len(shared))
	for i, plugins := range shared {
		for j, more := range []string{"", "\nshare redis://" + store} {
			corefile := strings.ReplaceAll(aliasCorefile(resolver.addr, inFront(plugins)), "min_ttl 1s", "min_ttl 1s"+more)
			if servers[i][j], err = b.launchCoreDNS(fmt.Sprintf("share-%d-%d", i, j), zoneName(compareAddresses), corefile); err != nil {
				return "", err
			}
		}
	}
	figures, err := b.takeTurns(servers)
	if err != nil {
		return "", err
	}
	return turnTables([2]string{"without `share`", "with `share`"}, shared, figures), nil
}

// launchRedis starts a Redis whose data are in memory only, and returns its address.
func (b *bench) launchRedis() (string, error) {
	addr, err := freeAddr()
	if err != nil {
		return "", err
	}
	host, port, _ := net.SplitHostPort(addr)
	cmd := exec.CommandContext(b.ctx, "redis-server", "--bind", host, "--port", port, "--save", "", "--dir", b.dir)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	if err := cmd.Start(); err != nil {
		return "", err
	}
	go cmd.Wait()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			return addr, conn.Close()
		}
		if time.Now().After(end) {
			return "", err
		}
	}
}
