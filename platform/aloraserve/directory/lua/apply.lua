#!lua
-- include: head, whole, entries
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
