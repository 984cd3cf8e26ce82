"""The Lua scripts. Each reads Redis' own clock, so no client's clock matters; all commands exist in Redis 6.2."""

from __future__ import annotations

_NOW_MS = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# The slots of all replicas: their sum is kept, and only added up anew when it is five seconds old or lost, so that a
# reservation costs the same with ten replicas and with a thousand. Replicas that stopped beating leave it at once.
# Of every script that uses it: KEYS[1] beats (zset replica -> valid until), KEYS[2] capacities (hash), KEYS[3] the sum.
_TOTAL = (
    _NOW_MS
    + """
local function total()
  local lost = 0
  for _, replica in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
    lost = lost + tonumber(redis.call('HGET', KEYS[2], replica) or '0')
    redis.call('ZREM', KEYS[1], replica)
    redis.call('HDEL', KEYS[2], replica)
  end
  local sum = redis.call('GET', KEYS[3])
  if sum then
    if lost ~= 0 then return redis.call('DECRBY', KEYS[3], lost) end
    return tonumber(sum)
  end
  sum = 0
  for _, replica in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
    sum = sum + tonumber(redis.call('HGET', KEYS[2], replica) or '0')
  end
  redis.call('SET', KEYS[3], sum, 'PX', 5000)
  return sum
end
"""
)

# KEYS[4]: slots (zset slot -> valid until). 1 = the slot is held, 0 = full and nothing changed. Asking again for a held
# slot extends it.
_TAKE_SLOT = (
    _TOTAL
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
local function take_slot(slot, ttl_ms)
  if not redis.call('ZSCORE', KEYS[4], slot) and redis.call('ZCARD', KEYS[4]) >= total() then return 0 end
  redis.call('ZADD', KEYS[4], now + ttl_ms, slot)
  return 1
end
"""
)

# ARGV: slot id, ttl_ms.
RESERVE_SLOT = (
    _TAKE_SLOT
    + """
return take_slot(ARGV[1], tonumber(ARGV[2]))
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

# ARGV: replica id, capacity, ttl_ms; a ttl of 0 takes the replica out.
_OFFER = (
    _TOTAL
    + """
local function offer(replica, capacity, ttl_ms)
  total()
  local change = -tonumber(redis.call('HGET', KEYS[2], replica) or '0')
  if ttl_ms == '0' then
    redis.call('ZREM', KEYS[1], replica)
    redis.call('HDEL', KEYS[2], replica)
  else
    change = change + tonumber(capacity)
    redis.call('ZADD', KEYS[1], now + tonumber(ttl_ms), replica)
    redis.call('HSET', KEYS[2], replica, capacity)
  end
  if change ~= 0 then redis.call('INCRBY', KEYS[3], change) end
  return 1
end
"""
)

OFFER_SLOTS = (
    _OFFER
    + """
return offer(ARGV[1], ARGV[2], ARGV[3])
"""
)

# KEYS[4]: slots. Returns {total, used}.
CAPACITY = (
    _TOTAL
    + """
return {total(), redis.call('ZCOUNT', KEYS[4], '(' .. now, '+inf')}
"""
)

# Reports: beats (zset member -> valid until), reports (hash). Members that stopped reporting are forgotten.
_REPORT = """
local function report(beats, reports, member, text, ttl_ms)
  for _, gone in ipairs(redis.call('ZRANGEBYSCORE', beats, '-inf', now)) do
    redis.call('ZREM', beats, gone)
    redis.call('HDEL', reports, gone)
  end
  redis.call('ZADD', beats, now + tonumber(ttl_ms), member)
  redis.call('HSET', reports, member, text)
  return 1
end
local function valid(beats, reports)
  local found = {}
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', beats, '(' .. now, '+inf')) do
    local text = redis.call('HGET', reports, member)
    if text then
      found[#found + 1] = member
      found[#found + 1] = text
    end
  end
  return found
end
"""

# KEYS: beats, reports. ARGV: member, report, ttl_ms.
REPORT = (
    _NOW_MS
    + _REPORT
    + """
return report(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
"""
)

# KEYS: beats, reports. Returns member, report, member, report ... of valid ones.
VALID_REPORTS = (
    _NOW_MS
    + _REPORT
    + """
return valid(KEYS[1], KEYS[2])
"""
)

# All that a session replica says and asks every second. KEYS[4]: slots; KEYS[5], KEYS[6]: load reports; KEYS[7],
# KEYS[8]: demand reports. ARGV: replica id, capacity, ttl_ms as in OFFER_SLOTS, member, report, ttl_ms as in REPORT.
# Returns the used slots and the valid demand reports.
SESSION_BEAT = (
    _OFFER
    + _REPORT
    + """
offer(ARGV[1], ARGV[2], ARGV[3])
report(KEYS[5], KEYS[6], ARGV[4], ARGV[5], ARGV[6])
return {redis.call('ZCOUNT', KEYS[4], '(' .. now, '+inf'), valid(KEYS[7], KEYS[8])}
"""
)

# A call's lease (hash) and all leases (zset call -> valid until). 0 = a newer epoch holds or held the call. The hash
# outlives the lease, so that an older writer is refused and the last beat can be read long after the process died.
_LEASE = """
local function lease(hash, leases, call, epoch, ttl_ms, info, memory_ms)
  local held = redis.call('HGET', hash, 'epoch')
  if held and tonumber(held) > tonumber(epoch) then return 0 end
  redis.call('HSET', hash, 'epoch', epoch, 'seen', now, 'info', info)
  redis.call('PEXPIRE', hash, memory_ms)
  redis.call('ZADD', leases, now + tonumber(ttl_ms), call)
  return 1
end
"""

# KEYS: the call's lease, all leases. ARGV: call id, epoch, ttl_ms, info, memory_ms.
LEASE_CALL = (
    _NOW_MS
    + _LEASE
    + """
return lease(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
"""
)

# All calls of one process: their slots, and their leases. A slot that Redis forgot is taken again if there is room; if
# not, the call counts beside the others until it ends.
# KEYS[5]: all leases; KEYS[6] ...: the lease of each call. ARGV: slot_ttl_ms, lease_ttl_ms, memory_ms, then per call:
# slot id, call id, epoch, info. Returns per call 1, or 0 where a newer epoch holds or held it.
HOLD_CALLS = (
    _TAKE_SLOT
    + _LEASE
    + """
local held = {}
for n = 1, #KEYS - 5 do
  local at = 4 * n
  take_slot(ARGV[at], tonumber(ARGV[1]))
  held[n] = lease(KEYS[5 + n], KEYS[5], ARGV[at + 1], ARGV[at + 2], ARGV[2], ARGV[at + 3], ARGV[3])
end
return held
"""
)

# KEYS: the call's lease, all leases. ARGV: call id, epoch, memory_ms. 0 = a newer epoch holds the call, nothing
# dropped. The epoch stays, so that a session which was closed by somebody with a higher one cannot take the call back.
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
