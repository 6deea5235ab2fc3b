#!lua flags=allow-oom
-- include: clock, strings, entries
local owners, index = KEYS[1], KEYS[2]
local holder, quiet_ms, runs = ARGV[1], ARGV[2], ARGV[3]
local applied = redis.call('ZSCORE', owners, holder)
if applied and tonumber(applied) > now - quiet_ms then return 0 end
-- From now on it is one of which something is missing, should it come back.
if applied then redis.call('ZADD', owners, 0, holder) end
local freed, at, group = 0, 1, 0
while at <= #runs do
  group = group + 1
  local node, count = KEYS[2 + group], struct.unpack('>I2', runs, at)
  local fields = {}
  at = at + 2
  for i = 1, count do
    fields[i] = sub(runs, at, at + 7)
    at = at + 8
  end
  local set, drop = {}, {}
  for i, value in ipairs(redis.call('HMGET', node, unpack(fields))) do
    local rest = value and without(value, holder)
    if rest ~= value then
      freed = freed + 1
      if rest == '' then
        drop[#drop + 1] = fields[i]
      else
        set[#set + 1] = fields[i]
        set[#set + 1] = rest
      end
    end
  end
  write(node, set, drop)
end
if #ARGV > 3 then redis.call('HDEL', index, unpack(ARGV, 4)) end
if redis.call('HLEN', index) <= redis.call('HEXISTS', index, 'f') then
  redis.call('DEL', index)
  redis.call('ZREM', owners, holder)
end
return freed
