package store

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

// registerLife is how long a register is kept after its last change. If it is still in use by then, the servers write it again.
const registerLife = 400 * 24 * time.Hour

// Registers has, in a Redis or Valkey, what the servers with one store have agreed on for each zone that they transfer. It
// implements Registers of package primary, and is safe for concurrent use.
//
// The register of a zone is a hash, PREFIX:1:zone:NAME. The table of servers is a hash, PREFIX:1:servers. Messages have the channel
// PREFIX:1:zones. The 1 is the version of all of them: what has another one is left alone. Each script has one key, so that the
// store may be a Cluster.
type Registers struct {
	client redis.UniversalClient
	prefix string
}

// NewRegisters returns the registers in a store. prefix begins the names of all keys. The client has to return when a context ends
// (ContextTimeoutEnabled). It is not closed by Registers.
func NewRegisters(client redis.UniversalClient, prefix string) *Registers {
	return &Registers{client: client, prefix: prefix + ":1:"}
}

func (r *Registers) key(zone string) string { return r.prefix + "zone:" + zone }
func (r *Registers) servers() string        { return r.prefix + "servers" }
func (r *Registers) channel() string        { return r.prefix + "zones" }

// swapScript changes a register if its number is the expected one, and tells the servers. What is there and is no hash is replaced.
// KEYS: register. ARGV: expected number or nothing, new number, channel, zone, how long to keep it in milliseconds, how many fields
// to set; their names and values; the names of fields to remove.
var swapScript = redis.NewScript(`
local kind = redis.call('TYPE', KEYS[1]).ok
local number = kind == 'hash' and redis.call('HGET', KEYS[1], 'number') or ''
if number ~= ARGV[1] then return 0 end
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', KEYS[1]) end -- of no key, it would make a full store take writes
local last = 6 + 2 * ARGV[6]
for i = 7, last, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
for i = last + 1, #ARGV do redis.call('HDEL', KEYS[1], ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('PUBLISH', ARGV[3], ARGV[2] .. ' ' .. ARGV[4])
return 1
`)

// setScript changes a field of a hash if it is the expected one. KEYS: hash. ARGV: field, expected value, new value; nothing stands
// for no field.
var setScript = redis.NewScript(`
if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 0 end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 1
`)

// Numbers returns the field "number" of the registers of zones, and "" for a zone without one.
func (r *Registers) Numbers(ctx context.Context, zones []string) ([]string, error) {
	replies := make([]*redis.StringCmd, len(zones))
	r.client.Pipelined(ctx, func(p redis.Pipeliner) error { // the error is that of one of them
		for i, zone := range zones {
			replies[i] = p.HGet(ctx, r.key(zone), "number")
		}
		return nil
	})
	numbers := make([]string, len(zones))
	for i, reply := range replies {
		var err error
		if numbers[i], err = reply.Result(); err != nil && !isNone(err) {
			return nil, err
		}
	}
	return numbers, nil
}

// isNone reports whether err, of a command for a hash, says that there is no such field, or something that is no hash.
func isNone(err error) bool {
	return errors.Is(err, redis.Nil) || redis.HasErrorPrefix(err, "WRONGTYPE")
}

// Load returns the fields of the register of zone. Without a register there are none.
func (r *Registers) Load(ctx context.Context, zone string) (map[string]string, error) {
	fields, err := r.client.HGetAll(ctx, r.key(zone)).Result()
	if err != nil && isNone(err) {
		return nil, nil
	}
	return fields, err
}

// Swap sets and removes fields of the register of zone if its field "number" is from, or missing if from is "". It reports whether
// it did. Then all that listen get a message that the number is to.
func (r *Registers) Swap(ctx context.Context, zone, from, to string, set map[string]string, remove []string) (bool, error) {
	args := make([]any, 0, 6+2*len(set)+len(remove))
	args = append(args, from, to, r.channel(), zone, registerLife.Milliseconds(), len(set))
	for name, value := range set {
		args = append(args, name, value)
	}
	for _, name := range remove {
		args = append(args, name)
	}
	return swapScript.Run(ctx, r.client, []string{r.key(zone)}, args...).Bool()
}

// Listen calls heard for the messages of Swap, until ctx ends. Those that come while there is no connection are lost.
func (r *Registers) Listen(ctx context.Context, heard func(zone, number string)) {
	messages := r.client.Subscribe(ctx, r.channel())
	defer messages.Close()
	for {
		select {
		case m, ok := <-messages.Channel():
			if !ok {
				return
			}
			if number, zone, ok := strings.Cut(m.Payload, " "); ok {
				heard(zone, number)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Servers returns the table of servers.
func (r *Registers) Servers(ctx context.Context) (map[string]string, error) {
	return r.client.HGetAll(ctx, r.servers()).Result()
}

// SetServer sets the entry of id to to if it is from, and reports whether it did. "" stands for no entry.
func (r *Registers) SetServer(ctx context.Context, id, from, to string) (bool, error) {
	return setScript.Run(ctx, r.client, []string{r.servers()}, id, from, to).Bool()
}
