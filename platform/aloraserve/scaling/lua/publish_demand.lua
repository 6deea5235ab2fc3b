#!lua flags=allow-oom
local demands = KEYS[1]
-- include: clock, whole, extend
local gateway, demand, ttl_ms, most = unpack(ARGV)
local known = redis.call('HGETALL', demands)
local count, is_new = 0, true
for i = 1, #known, 2 do
  if tonumber(string.match(known[i + 1], '^%d+')) <= now then
    redis.call('HDEL', demands, known[i])
  else
    count = count + 1
    if known[i] == gateway then is_new = false end
  end
end
if is_new and count >= tonumber(most) then return end
redis.call('HSET', demands, gateway, whole(now + ttl_ms) .. ' ' .. demand)
extend(demands, ttl_ms)
