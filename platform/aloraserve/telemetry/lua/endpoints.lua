#!lua flags=no-writes
-- include: head
local found = {}
for _, record in ipairs(redis.call('HVALS', prefix .. 'processes')) do
  local ends, content = string.match(record, '^(%d+) (.*)$')
  if tonumber(ends) > now then found[#found + 1] = content end
end
return found
