-- Where a part of 8 bytes begins in a list of records of that width.
local function place_of(list, part, width)
  local at = find(list, part, 1, true)
  while at and (at - 1) % width ~= 0 do at = find(list, part, at + 1, true) end
  return at
end
local function without(value, id)
  local at = place_of(value, id, 9)
  return at and sub(value, 1, at - 1) .. sub(value, at + 9) or value
end
-- Entries are in the order of their holders, so that equal holders make equal values.
local function with(value, id, tier)
  if value == '' then return id .. tier end
  local at = place_of(value, id, 9)
  if at then return sub(value, 1, at + 7) .. tier .. sub(value, at + 9) end
  local rank = struct.unpack('>I6', id)
  local low, high = 0, #value / 9
  while low < high do
    local middle = math.floor((low + high) / 2)
    if struct.unpack('>I6', value, middle * 9 + 1) < rank then low = middle + 1 else high = middle end
  end
  return sub(value, 1, low * 9) .. id .. tier .. sub(value, low * 9 + 1)
end
local function write(node, set, drop)
  if #set > 0 then redis.call('HSET', node, unpack(set)) end
  if #drop > 0 then redis.call('HDEL', node, unpack(drop)) end
end
