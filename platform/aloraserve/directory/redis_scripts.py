"""The Lua of :mod:`aloraserve.directory.redis`: each script is atomic and one round trip.

``KEYS[1]`` is a prefix that carries a hash tag, so every key that a script derives from it lies in one cluster slot.
Times are the server's own, in milliseconds. There are two kinds of prefix. Under the fleet's lie:

==================  ========  ===========================================================================
key                 type      content
==================  ========  ===========================================================================
``space``           string    JSON of the fleet's key space, living as long as somebody joins
``replicas``        hash      replica -> lease expiry (13 digits), its length (9), version (16), length of the
                              incarnation (3), incarnation, state JSON
``version``         string    counts publications, from the time it was first needed on
``versions``        zset      replica, by the version of its record
``known``           zset      replica, by when it last published
``t:<replica>``     hash      claim id -> "<expiry> <tokens>", dropped when the replica settles it
``open``            set       replicas that have such claims
``rl``              string    set while the fleet's share of reclaiming is used up
``processes``       hash      JSON of role and name -> "<expiry> " and the process as JSON
``epoch``           string    random; lost when the data is
==================  ========  ===========================================================================

and under the prefix of each shard of chains:

==================  ========  ===========================================================================
``b:<anchor>``      hash      a run: first 8 bytes of a block's key -> its entries
``o:<holder>``      set       anchors of the runs that have entries of the holder
``owners``          zset      holder, by when it last applied or claimed
``rc``              string    where the reclaiming of a run stopped
``epoch``           string    as above
==================  ========  ===========================================================================

A holder is 8 bytes that stand for a replica and an incarnation. An entry is a holder and one byte: the tier of its
holding; 255 is a claim's mark and goes on with its expiry (6 bytes) and 4 bytes that stand for the claim. A holder has
one entry a block.
"""

from __future__ import annotations

_HEAD = """
local prefix = KEYS[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local sub, byte, find = string.sub, string.byte, string.find
"""

_EXTEND = """
local function extend(key, ttl_ms)
  redis.call('PEXPIRE', key, ttl_ms, 'NX')
  redis.call('PEXPIRE', key, ttl_ms, 'GT')
end
"""

_WHOLE = """
local function whole(number) return string.format('%.0f', number) end
"""

_RECORD = """
local function expiry_of(record) return tonumber(sub(record, 1, 13)) end
local function incarnation_of(record) return sub(record, 42, 41 + tonumber(sub(record, 39, 41))) end
local function write(replica, ttl_ms, incarnation, state, forget_ms)
  local version = redis.call('INCR', prefix .. 'version')
  if version == 1 then
    version = now * 1000
    redis.call('SET', prefix .. 'version', string.format('%.0f', version))
  end
  redis.call('PEXPIRE', prefix .. 'version', forget_ms)
  local head = string.format('%013.0f%09d%016.0f%03d', now + ttl_ms, ttl_ms, version, #incarnation)
  redis.call('HSET', prefix .. 'replicas', replica, head .. incarnation .. state)
  redis.call('ZADD', prefix .. 'versions', string.format('%.0f', version), replica)
  for _, name in ipairs({'replicas', 'versions'}) do redis.call('PEXPIRE', prefix .. name, forget_ms) end
end
"""

_WRITES_ALWAYS = "#!lua flags=allow-oom\n"
_READS = "#!lua flags=no-writes\n"
_WRITES = "#!lua\n"

JOIN = (
    _WRITES_ALWAYS
    + _HEAD
    + """
local space, ttl_ms = unpack(ARGV)
local fleet = redis.call('GET', prefix .. 'space')
if fleet and fleet ~= space then return fleet end
redis.call('SET', prefix .. 'space', space, 'PX', ttl_ms)
return space
"""
)

PUBLISH = (
    _WRITES_ALWAYS
    + _HEAD
    + _WHOLE
    + _RECORD
    + """
local replica, ttl_ms, incarnation, state, forget_ms = unpack(ARGV)
write(replica, tonumber(ttl_ms), incarnation, state, math.max(ttl_ms, forget_ms))
redis.call('ZADD', prefix .. 'known', whole(now), replica)
redis.call('PEXPIRE', prefix .. 'known', forget_ms)
local claims = prefix .. 't:' .. replica
for i = 6, #ARGV do redis.call('HDEL', claims, ARGV[i]) end
local open = redis.call('HGETALL', claims)
for i = 1, #open, 2 do
  if tonumber(string.match(open[i + 1], '^%d+')) <= now then redis.call('HDEL', claims, open[i]) end
end
if redis.call('EXISTS', claims) == 0 then redis.call('SREM', prefix .. 'open', replica) end
"""
)

RETIRE = (
    _WRITES_ALWAYS
    + _HEAD
    + _RECORD
    + """
local replica, state, forget_ms = unpack(ARGV)
local record = redis.call('HGET', prefix .. 'replicas', replica)
if record then write(replica, 0, incarnation_of(record), state, forget_ms) end
redis.call('ZREM', prefix .. 'known', replica)
redis.call('DEL', prefix .. 't:' .. replica)
redis.call('SREM', prefix .. 'open', replica)
"""
)

_STATES_BODY = """
local function states(since)
  local claimed = {}
  for _, replica in ipairs(redis.call('SMEMBERS', prefix .. 'open')) do
    local tokens, claims = 0, 0
    for _, value in ipairs(redis.call('HVALS', prefix .. 't:' .. replica)) do
      local ends, amount = string.match(value, '^(%d+) (%d+)')
      if tonumber(ends) > now then tokens, claims = tokens + tonumber(amount), claims + 1 end
    end
    for _, part in ipairs({replica, tokens, claims}) do claimed[#claimed + 1] = part end
  end
  local version = tonumber(redis.call('GET', prefix .. 'version') or '0')
  local after = tonumber(since) > version and '-inf' or '(' .. since
  local names = redis.call('ZRANGEBYSCORE', prefix .. 'versions', after, '+inf')
  local records = #names > 0 and redis.call('HMGET', prefix .. 'replicas', unpack(names)) or {}
  return {now, version, names, records, claimed}
end
"""

STATES = _READS + _HEAD + _RECORD + _STATES_BODY + "return states(ARGV[1])\n"

KEPT = (
    _WRITES_ALWAYS
    + _HEAD
    + _WHOLE
    + _RECORD
    + """
local forget_ms, told_ms, window_ms = unpack(ARGV)
if not redis.call('SET', prefix .. 'rl', '1', 'PX', window_ms, 'NX') then return false end
local known = prefix .. 'known'
redis.call('ZREMRANGEBYSCORE', known, '-inf', whole(now - forget_ms))
local reply = {}
local records = redis.call('HGETALL', prefix .. 'replicas')
for i = 1, #records, 2 do
  local expiry = expiry_of(records[i + 1])
  if expiry > now or redis.call('ZSCORE', known, records[i]) then
    reply[#reply + 1] = records[i]
    reply[#reply + 1] = incarnation_of(records[i + 1])
  elseif expiry < now - told_ms then
    redis.call('HDEL', prefix .. 'replicas', records[i])
    redis.call('ZREM', prefix .. 'versions', records[i])
  end
end
for _, replica in ipairs(redis.call('SMEMBERS', prefix .. 'open')) do
  if redis.call('EXISTS', prefix .. 't:' .. replica) == 0 then redis.call('SREM', prefix .. 'open', replica) end
end
return reply
"""
)

CLAIM_TOKENS = (
    _WRITES
    + _HEAD
    + _WHOLE
    + _EXTEND
    + """
local replica, claim_id, tokens, ttl_ms = unpack(ARGV)
local claims = prefix .. 't:' .. replica
redis.call('HSET', claims, claim_id, whole(now + ttl_ms) .. ' ' .. tokens)
extend(claims, ttl_ms)
redis.call('SADD', prefix .. 'open', replica)
extend(prefix .. 'open', ttl_ms)
"""
)

WITHDRAW_TOKENS = (
    _WRITES_ALWAYS
    + _HEAD
    + """
redis.call('HDEL', prefix .. 't:' .. ARGV[1], ARGV[2])
"""
)

_RUNS = """
local RUN = 32
local function node_of(keys, start)
  local at = start == 0 and 1 or (start - 1) * 16 + 1
  return prefix .. 'b:' .. sub(keys, at, at + 15)
end
local function field_of(keys, block) return sub(keys, block * 16 + 1, block * 16 + 8) end
local function read_run(node, keys, start, last)
  local fields = {}
  for block = start, last do fields[#fields + 1] = field_of(keys, block) end
  return fields, redis.call('HMGET', node, unpack(fields))
end
"""

_ENTRIES = """
local function each(value, visit)
  local at, size = 1, #value
  while at <= size do
    local stop = at + (byte(value, at + 8) == 255 and 18 or 8)
    visit(sub(value, at, at + 7), byte(value, at + 8), at, stop)
    at = stop + 1
  end
end
local function expiry_at(value, at) return (struct.unpack('>I6', value, at + 9)) end
"""

APPLY = (
    _WRITES
    + _HEAD
    + _WHOLE
    + _ENTRIES
    + """
local holder, ttl_ms, changes = unpack(ARGV)
local function without(value)
  if not find(value, holder, 1, true) then return value end
  local kept = {}
  each(value, function(id, kind, from, to)
    if id ~= holder then kept[#kept + 1] = sub(value, from, to) end
  end)
  return table.concat(kept)
end
local at, size = 1, #changes
while at <= size do
  local anchor = sub(changes, at, at + 15)
  local node = prefix .. 'b:' .. anchor
  local stored, removed = struct.unpack('>I2I2', changes, at + 16)
  at = at + 20
  local fields, tiers = {}, {}
  for i = 1, stored do
    fields[i], tiers[i] = sub(changes, at, at + 7), sub(changes, at + 8, at + 8)
    at = at + 9
  end
  for i = stored + 1, stored + removed do
    fields[i] = sub(changes, at, at + 7)
    at = at + 8
  end
  local values = redis.call('HMGET', node, unpack(fields))
  local set, drop = {}, {}
  for i, field in ipairs(fields) do
    local value = values[i]
    local next = value and without(value) or ''
    if i <= stored then next = next .. holder .. tiers[i] end
    if next == '' then
      if value then drop[#drop + 1] = field end
    elseif next ~= value then
      set[#set + 1] = field
      set[#set + 1] = next
    end
  end
  if #set > 0 then redis.call('HSET', node, unpack(set)) end
  if #drop > 0 then redis.call('HDEL', node, unpack(drop)) end
  if stored > 0 then
    redis.call('PEXPIRE', node, ttl_ms)
    redis.call('SADD', prefix .. 'o:' .. holder, anchor)
  end
end
redis.call('PEXPIRE', prefix .. 'o:' .. holder, ttl_ms)
redis.call('ZADD', prefix .. 'owners', whole(now), holder)
redis.call('PEXPIRE', prefix .. 'owners', ttl_ms)
"""
)

_OVERLAPS_BODY = """
local function overlaps(keys)
  local count = #keys / 16
  if count == 0 then return {} end
  local known = {}
  local function ranks_of(value)
    if not value then return {} end
    local ranks = known[value]
    if ranks then return ranks end
    ranks = {}
    each(value, function(id, kind, at)
      if kind < 255 then
        ranks[id] = kind == 0 and 0 or 1
      elseif expiry_at(value, at) > now then
        ranks[id] = 2
      end
    end)
    known[value] = ranks
    return ranks
  end
  local ends, going, left = {}, {}, 0
  local function stop(id, level, through, block)
    local found = ends[id]
    if level <= 0 and through >= 0 then found[1] = block end
    if level <= 1 and through >= 1 then found[2] = block end
    if through == 2 then found[3] = block end
  end
  for id in pairs(ranks_of(redis.call('HGET', node_of(keys, 0), field_of(keys, 0)))) do
    going[id], ends[id], left = 0, {0, 0, 0}, left + 1
  end
  local start, same = 0, nil
  while start < count and left > 0 do
    local last = math.min(start + RUN, count) - 1
    local node = node_of(keys, start)
    local ranks = ranks_of(redis.call('HGET', node, field_of(keys, last)))
    local whole_run = ranks == same
    if not whole_run then
      whole_run = true
      for id, level in pairs(going) do
        local rank = ranks[id]
        if not rank or rank > level then whole_run = false break end
      end
    end
    if whole_run then
      same = ranks
    else
      same = nil
      local fields, values = read_run(node, keys, start, last)
      local before
      for i = 1, #fields do
        local block, here = start + i - 1, ranks_of(values[i])
        if here ~= before then
          before = here
          for id, level in pairs(going) do
            local rank = here[id]
            if not rank then
              stop(id, level, 2, block)
              going[id], left = nil, left - 1
            elseif rank > level then
              stop(id, level, rank - 1, block)
              going[id] = rank
            end
          end
        end
      end
    end
    start = start + RUN
  end
  for id, level in pairs(going) do stop(id, level, 2, count) end
  local reply = {}
  for id, found in pairs(ends) do
    for _, part in ipairs({id, found[1], found[2], found[3]}) do reply[#reply + 1] = part end
  end
  return reply
end
"""

LOOKUP = _READS + _HEAD + _RUNS + _ENTRIES + _OVERLAPS_BODY + "return overlaps(ARGV[1])\n"

LOOKUP_WITH_STATES = (
    _READS
    + _HEAD
    + _RECORD
    + _STATES_BODY
    + _RUNS
    + _ENTRIES
    + _OVERLAPS_BODY
    + "return {states(ARGV[2]), overlaps(ARGV[1])}\n"
)

CLAIM_BLOCKS = (
    _WRITES
    + _HEAD
    + _WHOLE
    + _EXTEND
    + _RUNS
    + _ENTRIES
    + """
local holder, tag, ttl_ms, unseen_from, node_ttl_ms, keys, live_ids = unpack(ARGV)
unseen_from = tonumber(unseen_from)
local count = #keys / 16
local renew_before = now + ttl_ms / 2
local function is_live(id)
  for at = 1, #live_ids, 8 do
    if sub(live_ids, at, at + 7) == id then return true end
  end
  return false
end
local function status(value)
  local mine, others, ends_soon = nil, {}, false
  if value then
    each(value, function(id, kind, at)
      local expiry = kind == 255 and expiry_at(value, at)
      if expiry and expiry <= now then return end
      if id == holder then
        mine, ends_soon = kind, expiry and expiry < renew_before
      else
        others[#others + 1] = id
      end
    end)
  end
  return mine, others, ends_soon
end
if unseen_from >= 0 and unseen_from < count then
  local node = node_of(keys, math.floor(unseen_from / RUN) * RUN)
  local _, others = status(redis.call('HGET', node, field_of(keys, unseen_from)))
  for _, id in ipairs(others) do
    if is_live(id) then return 0 end
  end
end
local mark = holder .. string.char(255) .. struct.pack('>I6', now + ttl_ms)
local function marked(value)
  local kept, own = {}, tag
  if value then
    each(value, function(id, kind, from, to)
      if kind == 255 and expiry_at(value, from) <= now then return end
      if id == holder then own = sub(value, from + 15, to) else kept[#kept + 1] = sub(value, from, to) end
    end)
  end
  kept[#kept + 1] = mark .. own
  return table.concat(kept)
end
for start = 0, count - 1, RUN do
  local last = math.min(start + RUN, count) - 1
  local node = node_of(keys, start)
  local mine = status(redis.call('HGET', node, field_of(keys, last)))
  if not mine or mine == 255 then
    local fields, values = read_run(node, keys, start, last)
    local set = {}
    for i, field in ipairs(fields) do
      local here, _, ends_soon = status(values[i])
      if not here or ends_soon then
        set[#set + 1] = field
        set[#set + 1] = marked(values[i])
      end
    end
    if #set > 0 then
      redis.call('HSET', node, unpack(set))
      extend(node, ttl_ms)
      redis.call('SADD', prefix .. 'o:' .. holder, sub(node, #prefix + 3))
    end
  end
end
extend(prefix .. 'o:' .. holder, node_ttl_ms)
redis.call('ZADD', prefix .. 'owners', whole(now), holder)
extend(prefix .. 'owners', node_ttl_ms)
return 1
"""
)

WITHDRAW_BLOCKS = (
    _WRITES_ALWAYS
    + _HEAD
    + _RUNS
    + _ENTRIES
    + """
local holder, tag, keys = unpack(ARGV)
local count = #keys / 16
for start = 0, count - 1, RUN do
  local last = math.min(start + RUN, count) - 1
  local node = node_of(keys, start)
  local fields, values = read_run(node, keys, start, last)
  for i, field in ipairs(fields) do
    local value = values[i]
    if value and find(value, tag, 1, true) then
      local kept = {}
      each(value, function(id, kind, from, to)
        if not (id == holder and kind == 255 and sub(value, from + 15, to) == tag) then
          kept[#kept + 1] = sub(value, from, to)
        end
      end)
      local rest = table.concat(kept)
      if rest == '' then redis.call('HDEL', node, field) else redis.call('HSET', node, field, rest) end
    end
  end
end
"""
)

RECLAIM = (
    _WRITES_ALWAYS
    + _HEAD
    + _WHOLE
    + _ENTRIES
    + """
local kept_ids, quiet_ms, limit, ttl_ms = unpack(ARGV)
limit = tonumber(limit)
local kept = {}
for at = 1, #kept_ids, 8 do kept[sub(kept_ids, at, at + 7)] = true end
local gone, order = {}, {}
local owners = prefix .. 'owners'
for _, id in ipairs(redis.call('ZRANGEBYSCORE', owners, '-inf', whole(now - quiet_ms))) do
  if not kept[id] then
    gone[id] = true
    order[#order + 1] = id
  end
end
local freed, seen = 0, 0
local function clean(node, field, value)
  local rest = {}
  each(value, function(id, kind, from, to)
    if gone[id] or (kind == 255 and expiry_at(value, from) <= now) then
      freed = freed + 1
    else
      rest[#rest + 1] = sub(value, from, to)
    end
  end)
  local left = table.concat(rest)
  if left == '' then
    redis.call('HDEL', node, field)
  elseif left ~= value then
    redis.call('HSET', node, field, left)
  end
end
for _, id in ipairs(order) do
  local runs = prefix .. 'o:' .. id
  while seen < limit do
    local at = redis.call('GET', prefix .. 'rc') or ''
    local anchor, cursor = sub(at, 1, 16), sub(at, 17)
    if cursor == '' or redis.call('SISMEMBER', runs, anchor) == 0 then
      anchor, cursor = redis.call('SRANDMEMBER', runs), '0'
    end
    if not anchor then
      redis.call('ZREM', owners, id)
      break
    end
    local node = prefix .. 'b:' .. anchor
    local page = redis.call('HSCAN', node, cursor, 'COUNT', 128)
    for i = 1, #page[2], 2 do clean(node, page[2][i], page[2][i + 1]) end
    seen = seen + #page[2] / 2 + 1
    if page[1] == '0' then
      redis.call('SREM', runs, anchor)
      redis.call('DEL', prefix .. 'rc')
    else
      redis.call('SET', prefix .. 'rc', anchor .. page[1], 'PX', ttl_ms)
    end
  end
  if seen >= limit then break end
end
return freed
"""
)

EPOCH = """#!lua flags=allow-oom
redis.call('SET', KEYS[1] .. 'epoch', ARGV[1], 'NX')
local info = redis.pcall('INFO', 'server')
local run = type(info) == 'string' and string.match(info, 'run_id:(%x+)') or ''
return redis.call('GET', KEYS[1] .. 'epoch') .. '.' .. run
"""

ANNOUNCE = (
    _WRITES_ALWAYS
    + _HEAD
    + _WHOLE
    + _EXTEND
    + """
local name, content, ttl_ms, most = unpack(ARGV)
local processes = prefix .. 'processes'
local known = redis.call('HGETALL', processes)
local count, is_new = 0, true
for i = 1, #known, 2 do
  if tonumber(string.match(known[i + 1], '^%d+')) <= now then
    redis.call('HDEL', processes, known[i])
  else
    count = count + 1
    if known[i] == name then is_new = false end
  end
end
if is_new and count >= tonumber(most) then return end
redis.call('HSET', processes, name, whole(now + ttl_ms) .. ' ' .. content)
extend(processes, ttl_ms)
"""
)

ANNOUNCED = (
    _READS
    + _HEAD
    + """
local found = {}
for _, record in ipairs(redis.call('HVALS', prefix .. 'processes')) do
  local ends, content = string.match(record, '^(%d+) (.*)$')
  if tonumber(ends) > now then found[#found + 1] = content end
end
return found
"""
)
