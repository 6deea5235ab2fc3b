#!lua
-- include: head, whole, extend, runs, entries
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
