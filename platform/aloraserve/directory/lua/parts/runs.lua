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
