#!lua flags=no-writes
-- include: clock
local found = {}
for _, record in ipairs(redis.call('HVALS', KEYS[1])) do
  local ends, demand = string.match(record, '^(%d+) (.*)$')
  if tonumber(ends) > now then found[#found + 1] = demand end
end
return found
