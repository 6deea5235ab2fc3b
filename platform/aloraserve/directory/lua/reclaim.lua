#!lua flags=allow-oom
-- include: head, whole, entries
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
    if gone[id] then
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
