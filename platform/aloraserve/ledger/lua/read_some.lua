#!lua flags=no-writes
-- ARGV: fields. Those that are there, each before its amount, as HGETALL has them.
local found = {}
local amounts = redis.call('HMGET', KEYS[1], unpack(ARGV))
for index, field in ipairs(ARGV) do
  if amounts[index] then
    found[#found + 1] = field
    found[#found + 1] = amounts[index]
  end
end
return found
