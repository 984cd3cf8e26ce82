"""The Lua scripts of session slots and scopes. As `redis_scripts`: Redis' own clock, and commands of Redis 6.2."""

from __future__ import annotations

from collections.abc import Iterable

NOW_MS = """
local t = redis.call('TIME')
local now = t[1] * 1000 + math.floor(t[2] / 1000)
"""

# The slots of all replicas: their sum is kept, and only added up anew when it is five seconds old or lost, so that a
# reservation costs the same with ten replicas and with a thousand. Replicas that stopped beating leave it at once.
# Of every script that uses it: KEYS[1] beats (zset replica -> valid until), KEYS[2] capacities (hash), KEYS[3] the sum.
TOTAL = (
    NOW_MS
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
TAKE_SLOT = (
    TOTAL
    + """
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
local function take_slot(slot, ttl_ms)
  if not redis.call('ZSCORE', KEYS[4], slot) and redis.call('ZCARD', KEYS[4]) >= total() then return 0 end
  redis.call('ZADD', KEYS[4], now + ttl_ms, slot)
  return 1
end
"""
)

# Scopes: each a zset slot -> valid until, forgotten an hour after its last use, which is longer than any lease; and of
# each slot the names of its scopes, which end with it. `hold_in`: the slot counts in these scopes, and in no others.
SCOPES = """
local function places(scope) return 'parley:slots:' .. scope end
local function named(text)
  local names = {}
  for name in string.gmatch(text or '', '[^\\n]+') do names[#names + 1] = name end
  return names
end
local function scopes_of(slot) return named(redis.call('GET', 'parley:scopes:' .. slot)) end
local function hold_in(names, slot, ttl_ms)
  local held = {}
  for _, name in ipairs(names) do
    held[name] = true
    redis.call('ZADD', places(name), now + ttl_ms, slot)
    redis.call('PEXPIRE', places(name), math.max(ttl_ms, 3600000))
  end
  for _, name in ipairs(scopes_of(slot)) do
    if not held[name] then redis.call('ZREM', places(name), slot) end
  end
  if #names == 0 then
    redis.call('DEL', 'parley:scopes:' .. slot)
  else
    redis.call('SET', 'parley:scopes:' .. slot, table.concat(names, '\\n'), 'PX', ttl_ms)
  end
end
"""

COUNTED = -1
"""The limit of a scope in which a slot counts, however full it is."""


def joined(scopes: Iterable[str]) -> str:
    """Their names as one argument."""
    return "\n".join(scopes)


# ARGV: slot id, ttl_ms, then per scope: name, most (COUNTED: no limit). Returns the scope that is full, sessions last,
# and nothing has changed; or nothing, and the slot is held.
RESERVE_SLOT = (
    TAKE_SLOT
    + SCOPES
    + """
local slot, ttl_ms, names = ARGV[1], tonumber(ARGV[2]), {}
for n = 3, #ARGV, 2 do
  local key, most = places(ARGV[n]), tonumber(ARGV[n + 1])
  redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
  if most >= 0 and not redis.call('ZSCORE', key, slot) and redis.call('ZCARD', key) >= most then return ARGV[n] end
  names[#names + 1] = ARGV[n]
end
if take_slot(slot, ttl_ms) == 0 then return 'sessions' end
hold_in(names, slot, ttl_ms)
return false
"""
)

# KEYS: slots. ARGV: slot id, ttl_ms. 1 = extended with its places, 0 = the slot is gone.
KEEP_SLOT = (
    NOW_MS
    + SCOPES
    + """
local until_ms = redis.call('ZSCORE', KEYS[1], ARGV[1])
if not until_ms or tonumber(until_ms) <= now then return 0 end
redis.call('ZADD', KEYS[1], now + tonumber(ARGV[2]), ARGV[1])
hold_in(scopes_of(ARGV[1]), ARGV[1], tonumber(ARGV[2]))
return 1
"""
)

# KEYS: slots. ARGV: slot id.
RELEASE_SLOT = (
    NOW_MS
    + SCOPES
    + """
redis.call('ZREM', KEYS[1], ARGV[1])
hold_in({}, ARGV[1], 0)
return 1
"""
)

# ARGV: replica id, capacity, ttl_ms; a ttl of 0 takes the replica out.
OFFER = (
    TOTAL
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
    OFFER
    + """
return offer(ARGV[1], ARGV[2], ARGV[3])
"""
)

# KEYS[4]: slots. Returns {total, used}.
CAPACITY = (
    TOTAL
    + """
return {total(), redis.call('ZCOUNT', KEYS[4], '(' .. now, '+inf')}
"""
)
