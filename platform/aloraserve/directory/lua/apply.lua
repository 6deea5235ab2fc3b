#!lua
local owners, index = KEYS[1], KEYS[2]
-- include: clock, strings, whole, entries, index
local holder, ttl_ms, fence, former, changes = unpack(ARGV)
local latest = redis.call('HGET', index, 'f')
if latest and tonumber(latest) > tonumber(fence) then return 1 end
if fence ~= '0' and latest ~= fence then redis.call('HSET', index, 'f', fence) end
local applied = redis.call('ZSCORE', owners, holder)
local earlier = {}
for i = 1, #former / 8 do
  if redis.call('EXISTS', KEYS[2 + i]) == 1 then
    earlier[#earlier + 1] = {id = sub(former, i * 8 - 7, i * 8), index = KEYS[2 + i]}
  end
end
local nodes = 2 + #former / 8
local at, size, group = 1, #changes, 0
while at <= size do
  group = group + 1
  local node, anchor = KEYS[nodes + group], sub(changes, at, at + 15)
  local stored, removed = struct.unpack('>I2I2', changes, at + 16)
  at = at + 20
  local fields, tiers, new, old = {}, {}, {}, {}
  for i = 1, stored do
    fields[i], tiers[i] = sub(changes, at, at + 7), sub(changes, at + 8, at + 8)
    new[i] = fields[i]
    at = at + 9
  end
  for i = stored + 1, stored + removed do
    fields[i] = sub(changes, at, at + 7)
    old[#old + 1] = fields[i]
    at = at + 8
  end
  local values = redis.call('HMGET', node, unpack(fields))
  local set, drop = {}, {}
  for _, one in ipairs(earlier) do one.struck = {} end
  for i, field in ipairs(fields) do
    local value = values[i] or ''
    local next = value
    for _, one in ipairs(earlier) do
      local rest = without(next, one.id)
      if rest ~= next then
        next = rest
        one.struck[#one.struck + 1] = field
      end
    end
    if i <= stored then next = with(next, holder, tiers[i]) else next = without(next, holder) end
    if next == '' then
      if value ~= '' then drop[#drop + 1] = field end
    elseif next ~= value then
      set[#set + 1] = field
      set[#set + 1] = next
    end
  end
  write(node, set, drop)
  if stored > 0 then redis.call('PEXPIRE', node, ttl_ms) end
  listed(index, anchor, new)
  unlisted(index, anchor, old)
  for _, one in ipairs(earlier) do unlisted(one.index, anchor, one.struck) end
end
redis.call('PEXPIRE', index, ttl_ms)
redis.call('ZADD', owners, whole(now), holder)
redis.call('PEXPIRE', owners, ttl_ms)
return applied and tonumber(applied) > 0 and 1 or 0
