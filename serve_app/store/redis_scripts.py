"""The Lua scripts. Each reads Redis' own clock, so no client's clock matters; all commands exist in Redis 6.2."""

from __future__ import annotations

_NOW_MS = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# KEYS: beats (zset replica -> valid until), capacities (hash), slots (zset slot -> valid until).
# ARGV: slot id, ttl_ms. 1 = the slot is held, 0 = full and nothing changed. Asking again for a held slot extends it.
RESERVE_SLOT = (
    _NOW_MS
    + """
local total = 0
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  total = total + tonumber(redis.call('HGET', KEYS[2], replica) or '0')
end
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
if not redis.call('ZSCORE', KEYS[3], ARGV[1]) and redis.call('ZCARD', KEYS[3]) >= total then return 0 end
redis.call('ZADD', KEYS[3], now + tonumber(ARGV[2]), ARGV[1])
return 1
"""
)

# KEYS: slots. ARGV: slot id, ttl_ms. 1 = extended, 0 = the slot is gone.
KEEP_SLOT = (
    _NOW_MS
    + """
local until_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not until_ms or tonumber(until_ms) <= now then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
return 1
"""
)

# KEYS: beats, capacities. ARGV: replica id, capacity, ttl_ms. Replicas that stopped beating are forgotten here.
BEAT = (
    _NOW_MS
    + """
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], replica)
  redis.call('HDEL', KEYS[2], replica)
end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[3]), ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
return 1
"""
)

# KEYS: beats, capacities, slots. Returns {total, used}.
CAPACITY = (
    _NOW_MS
    + """
local total = 0
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  total = total + tonumber(redis.call('HGET', KEYS[2], replica) or '0')
end
return {total, redis.call('ZCOUNT', KEYS[3], '(' .. now, '+inf')}
"""
)

# KEYS: beats (zset member -> valid until), reports (hash). Returns member, report, member, report ... of valid ones.
VALID_REPORTS = (
    _NOW_MS
    + """
local found = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now, '+inf')) do
  local report = redis.call('HGET', KEYS[2], member)
  if report then
    found[#found + 1] = member
    found[#found + 1] = report
  end
end
return found
"""
)

# KEYS: the lease of one call (hash), all leases (zset call -> valid until). ARGV: call id, epoch, ttl_ms, info,
# memory_ms. 0 = a newer epoch holds or held the call. The hash outlives the lease, so that an older writer is refused
# and the last beat can be read long after the process died.
LEASE_CALL = (
    _NOW_MS
    + """
local held = redis.call('HGET', KEYS[1], 'epoch')
if held and tonumber(held) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2], 'seen', now, 'info', ARGV[4])
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('ZADD', KEYS[2], now + tonumber(ARGV[3]), ARGV[1])
return 1
"""
)

# KEYS as above. ARGV: call id, epoch, memory_ms. 0 = a newer epoch holds the call, nothing dropped. The epoch stays, so
# that a session which was closed by somebody with a higher one cannot take the call back.
DROP_CALL = """
local held = redis.call('HGET', KEYS[1], 'epoch')
if held and tonumber(held) > tonumber(ARGV[2]) then return 0 end
redis.call('HSET', KEYS[1], 'epoch', ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZREM', KEYS[2], ARGV[1])
return 1
"""

# KEYS: all leases. Returns the call ids whose lease is valid; forgets those that ran out.
LEASED_CALLS = (
    _NOW_MS
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
return redis.call('ZRANGE', KEYS[1], 0, -1)
"""
)

# KEYS: the key. ARGV: value, ttl_ms. Returns the value of the first writer.
FIRST_WRITER = """
local kept = redis.call('GET', KEYS[1])
if kept then return kept end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return ARGV[1]
"""

# KEYS: the call's inbox. ARGV: command, reply key, deadline_ms from now, life_ms of the stream. Returns the entry id.
POST_COMMAND = (
    _NOW_MS
    + """
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', 100, '*',
  'command', ARGV[1], 'reply', ARGV[2], 'deadline', now + tonumber(ARGV[3]))
redis.call('PEXPIRE', KEYS[1], ARGV[4])
return id
"""
)

# KEYS: the call's inbox. ARGV: entry id, deadline. Takes the command out: of two readers one gets it, and it is never
# executed twice. Returns the milliseconds left; 0 = somebody else took it, -1 = too late.
TAKE_COMMAND = (
    _NOW_MS
    + """
if redis.call('XDEL', KEYS[1], ARGV[1]) == 0 then return 0 end
local left = tonumber(ARGV[2]) - now
if left <= 0 then return -1 end
return left
"""
)

# GCRA with tau = 0 (ITU-T I.371), burst 1: a bucket of burst n lets 2n - 1 through in one rolling second.
# KEYS: the account. ARGV: T and the longest wait, in microseconds (-1: any). Reserves the next free slot, unless it is
# further away than that: then nothing changes. Returns {slot time, now} in microseconds.
GCRA = """
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local interval = tonumber(ARGV[1])
local longest = tonumber(ARGV[2])
local slot = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0'))
if longest >= 0 and slot - now > longest then
  return {string.format('%.0f', slot), string.format('%.0f', now)}
end
redis.call('SET', KEYS[1], string.format('%.0f', slot + interval),
  'PX', math.ceil((slot + interval - now) / 1000) + 1000)
return {string.format('%.0f', slot), string.format('%.0f', now)}
"""
