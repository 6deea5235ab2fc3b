#!lua flags=allow-oom
local owners, lost, node = KEYS[1], KEYS[2], KEYS[3]
-- include: strings, entries
local name, cursor, page, is_kept = unpack(ARGV)
local holder = sub(name, 1, 8)
if is_kept == '1' or redis.call('ZSCORE', owners, holder) then
  redis.call('HDEL', lost, name)
  return 0
end
local found = redis.call('HSCAN', node, cursor, 'COUNT', page)
local set, drop, freed = {}, {}, 0
for i = 1, #found[2], 2 do
  local field, value = found[2][i], found[2][i + 1]
  local rest = without(value, holder)
  if rest ~= value then
    freed = freed + 1
    if rest == '' then
      drop[#drop + 1] = field
    else
      set[#set + 1] = field
      set[#set + 1] = rest
    end
  end
end
write(node, set, drop)
if found[1] == '0' then redis.call('HDEL', lost, name) else redis.call('HSET', lost, name, found[1]) end
return freed
