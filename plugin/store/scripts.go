package store

import "github.com/redis/go-redis/v9"

// The scripts run in the store, each on the keys of one question, which a Cluster keeps together. All times are by the clock of
// the store, in milliseconds; callers say how long ago something was, so that their own clocks do not matter. A record is its
// version, a space, the time at which the answer came, a space, and the value. A record of another version is left alone.
const (
	common = `
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function read(record)
	if type(record) ~= 'string' then return nil end
	local version, stored, value = string.match(record, '^(%d+) (%d+) (.*)$')
	return version, tonumber(stored), value
end
`
)

// putScript writes an answer unless there is a newer one, ends the claim, and tells the others.
// KEYS: record, claim. ARGV: age, how long the record is kept, value, channel or nothing, sender, key, by how much a record that
// is there may be older and counts as newer.
var putScript = redis.NewScript(common + `
local stored = now - ARGV[1]
local version, last = read(redis.pcall('GET', KEYS[1]))
if version and (version ~= '1' or last > stored - ARGV[7] and last <= now) then return 0 end
redis.call('SET', KEYS[1], '1 ' .. string.format('%.0f', stored) .. ' ' .. ARGV[3], 'PX', ARGV[2])
redis.call('DEL', KEYS[2])
if ARGV[4] ~= '' then redis.call('PUBLISH', ARGV[4], ARGV[5] .. ' ' .. ARGV[1] .. ' ' .. ARGV[6] .. '\n' .. ARGV[3]) end
return 1
`)

// getScript returns the age and the value of a record, or nothing. KEYS: record.
var getScript = redis.NewScript(common + `
local version, stored, value = read(redis.pcall('GET', KEYS[1]))
if version ~= '1' then return {} end
return {string.format('%.0f', now - stored), value}
`)

// claimScript returns the age and the value of a record that is newer than what the caller has; otherwise it claims the
// question for the caller, and returns 0, or for how long another server has it claimed.
// KEYS: record, claim. ARGV: the age of what the caller has, how much newer counts, how long the claim holds, caller.
var claimScript = redis.NewScript(common + `
local version, stored, value = read(redis.pcall('GET', KEYS[1]))
if version == '1' and stored <= now and stored > now - ARGV[1] + ARGV[2] then return {string.format('%.0f', now - stored), value} end
if redis.call('SET', KEYS[2], ARGV[4], 'NX', 'PX', ARGV[3]) or redis.call('GET', KEYS[2]) == ARGV[4] then return {0} end
return {redis.call('PTTL', KEYS[2])}
`)
