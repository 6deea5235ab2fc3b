"""The Lua of :mod:`aloraserve.directory.redis`: one script a method, each atomic and one round trip.

``KEYS[1]`` is the namespace's prefix. It carries the hash tag, so every key that a script derives from it
lies in the same cluster slot. Times are the server's own, in milliseconds. Under the prefix lie:

==================  ========  ===========================================================================
key                 type      content
==================  ========  ===========================================================================
``replicas``        hash      replica -> "<lease expiry> <length of incarnation> <incarnation><state JSON>"
``known``           zset      replica, by when it last published or applied
``b:<block key>``   hash      "r<replica>" -> incarnation; "c<claim id>" -> "<expiry> <replica>"
``t:<replica>``     hash      claim id -> "<expiry> <tokens>", dropped when the replica publishes
``epoch``           string    random; lost when the data is
==================  ========  ===========================================================================

Holdings and claims share a node so that a lookup reads one key a block. A holding is dropped when met only
once its replica is forgotten: a lease that lapses for a moment, or a state that is about to name the
holding's incarnation, must not lose it.
"""

from __future__ import annotations

_PRELUDE = """
local prefix = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local function whole(number) return string.format('%.0f', number) end
local function touch(replica, forget_ms)
  redis.call('ZADD', prefix .. 'known', whole(now), replica)
  redis.call('PEXPIRE', prefix .. 'known', forget_ms)
end
local function live_records()
  local live, names, states = {}, {}, {}
  local records = redis.call('HGETALL', prefix .. 'replicas')
  for i = 1, #records, 2 do
    local name, record = records[i], records[i + 1]
    local expiry, width, start = string.match(record, '^(%d+) (%d+) ()')
    if tonumber(expiry) > now then
      local stop = start + tonumber(width)
      names[#names + 1] = name
      states[#names] = string.sub(record, stop)
      live[name] = string.sub(record, start, stop - 1)
    else
      redis.call('HDEL', prefix .. 'replicas', name)
    end
  end
  return live, names, states
end
local function extend(key, ttl_ms)
  redis.call('PEXPIRE', key, ttl_ms, 'NX')
  redis.call('PEXPIRE', key, ttl_ms, 'GT')
end
"""

PUBLISH = (
    _PRELUDE
    + """
local replica, ttl_ms, incarnation, state, forget_ms = unpack(ARGV)
local record = whole(now + ttl_ms) .. ' ' .. #incarnation .. ' ' .. incarnation .. state
redis.call('HSET', prefix .. 'replicas', replica, record)
extend(prefix .. 'replicas', ttl_ms)
redis.call('DEL', prefix .. 't:' .. replica)
touch(replica, forget_ms)
"""
)

RETIRE = (
    _PRELUDE
    + """
redis.call('HDEL', prefix .. 'replicas', ARGV[1])
redis.call('ZREM', prefix .. 'known', ARGV[1])
redis.call('DEL', prefix .. 't:' .. ARGV[1])
"""
)

APPLY = (
    _PRELUDE
    + """
local replica, incarnation, stored, removed, node_ttl_ms, forget_ms = unpack(ARGV)
local field = 'r' .. replica
touch(replica, forget_ms)
for start = 1, #removed, 16 do
  local node = prefix .. 'b:' .. string.sub(removed, start, start + 15)
  if redis.call('HGET', node, field) == incarnation then redis.call('HDEL', node, field) end
end
for start = 1, #stored, 16 do
  local node = prefix .. 'b:' .. string.sub(stored, start, start + 15)
  redis.call('HSET', node, field, incarnation)
  redis.call('PEXPIRE', node, node_ttl_ms)
end
"""
)

LOOKUP = (
    _PRELUDE
    + """
local keys, forget_ms = ARGV[1], ARGV[2]
redis.call('ZREMRANGEBYSCORE', prefix .. 'known', '-inf', whole(now - forget_ms))
local live, names, states = live_records()
local held, claimed, known, by_field = {}, {}, {}, {}
for _, name in ipairs(names) do held[name], claimed[name], by_field['r' .. name] = 0, 0, name end
local function forgotten(name)
  if known[name] == nil then known[name] = redis.call('ZSCORE', prefix .. 'known', name) end
  return known[name] == false
end
local function claimant(node, field, value)
  local expiry, at = string.match(value, '^(%d+) ()')
  if tonumber(expiry) > now then return string.sub(value, at) end
  redis.call('HDEL', node, field)
end
local block, contiguous = 0, #names > 0
for start = 1, #keys, 16 do
  if not contiguous then break end
  contiguous = false
  local node = prefix .. 'b:' .. string.sub(keys, start, start + 15)
  local fields = redis.call('HGETALL', node)
  for i = 1, #fields, 2 do
    local field, value = fields[i], fields[i + 1]
    local owner = by_field[field]
    if owner then
      if live[owner] ~= value then
        owner = nil
      elseif held[owner] == block then
        held[owner] = block + 1
      end
    elseif string.byte(field) == 99 then
      owner = claimant(node, field, value)
    elseif forgotten(string.sub(field, 2)) then
      redis.call('HDEL', node, field)
    end
    if owner and claimed[owner] == block then
      claimed[owner] = block + 1
      contiguous = true
    end
  end
  block = block + 1
end
local reply = {}
for index, name in ipairs(names) do
  local tokens = 0
  for _, value in ipairs(redis.call('HVALS', prefix .. 't:' .. name)) do
    local expiry, amount = string.match(value, '^(%d+) (%d+)')
    if tonumber(expiry) > now then tokens = tokens + tonumber(amount) end
  end
  for _, part in ipairs({name, states[index], held[name], claimed[name], tokens}) do reply[#reply + 1] = part
  end
end
return reply
"""
)

CLAIM = (
    _PRELUDE
    + """
local claim_id, replica, keys, tokens, ttl_ms = unpack(ARGV)
local record = redis.call('HGET', prefix .. 'replicas', replica)
local incarnation
if record then
  local width, start = string.match(record, '^%d+ (%d+) ()')
  incarnation = string.sub(record, start, start + tonumber(width) - 1)
end
local expiry = whole(now + ttl_ms)
for start = 1, #keys, 16 do
  local node = prefix .. 'b:' .. string.sub(keys, start, start + 15)
  local holding = redis.call('HGET', node, 'r' .. replica)
  if not holding or holding ~= incarnation then
    redis.call('HSET', node, 'c' .. claim_id, expiry .. ' ' .. replica)
    extend(node, ttl_ms)
  end
end
redis.call('HSET', prefix .. 't:' .. replica, claim_id, expiry .. ' ' .. tokens)
extend(prefix .. 't:' .. replica, ttl_ms)
"""
)

WITHDRAW = (
    _PRELUDE
    + """
local claim_id, replica, keys = unpack(ARGV)
for start = 1, #keys, 16 do
  redis.call('HDEL', prefix .. 'b:' .. string.sub(keys, start, start + 15), 'c' .. claim_id)
end
redis.call('HDEL', prefix .. 't:' .. replica, claim_id)
"""
)

STATES = (
    _PRELUDE
    + """
local _, _, states = live_records()
return states
"""
)

EPOCH = """
redis.call('SET', KEYS[1] .. 'epoch', ARGV[1], 'NX')
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
return redis.call('GET', KEYS[1] .. 'epoch') .. '.' .. run
"""
