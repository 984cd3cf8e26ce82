"""The Lua scripts. Each reads Redis' own clock, so no client's clock matters; all commands exist in Redis 6.2."""

from __future__ import annotations

from serve_app.store.redis_slot_scripts import NOW_MS, OFFER, SCOPES, TAKE_SLOT

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
    NOW_MS
    + _REPORT
    + """
return report(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3])
"""
)

# KEYS: beats, reports. Returns member, report, member, report ... of valid ones.
VALID_REPORTS = (
    NOW_MS
    + _REPORT
    + """
return valid(KEYS[1], KEYS[2])
"""
)

# All that a session replica says and asks every second. KEYS[4]: slots; KEYS[5], KEYS[6]: load reports; KEYS[7],
# KEYS[8]: demand reports. ARGV: replica id, capacity, ttl_ms as in OFFER_SLOTS, member, report, ttl_ms as in REPORT.
# Returns the used slots and the valid demand reports.
SESSION_BEAT = (
    OFFER
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
    NOW_MS
    + _LEASE
    + """
return lease(KEYS[1], KEYS[2], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5])
"""
)

# All calls of one process: their slots, and their leases. A slot that Redis forgot is taken again if there is room; if
# not, the call counts beside the others until it ends. In its scopes it counts in any case.
# KEYS[5]: all leases; KEYS[6] ...: the lease of each call. ARGV: slot_ttl_ms, lease_ttl_ms, memory_ms, then per call:
# slot id, call id, epoch, info, its scopes. Returns per call 1, or 0 where a newer epoch holds or held it.
HOLD_CALLS = (
    TAKE_SLOT
    + SCOPES
    + _LEASE
    + """
local held = {}
for n = 1, #KEYS - 5 do
  local at = 5 * n - 1
  take_slot(ARGV[at], tonumber(ARGV[1]))
  hold_in(named(ARGV[at + 4]), ARGV[at], tonumber(ARGV[1]))
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
    NOW_MS
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
    NOW_MS
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
    NOW_MS
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
