#!lua flags=allow-oom
-- include: clock, whole, extend
local name, content, ttl_ms, most = unpack(ARGV)
local processes = KEYS[1]
local known = redis.call('HGETALL', processes)
local count, is_new = 0, true
for i = 1, #known, 2 do
  if tonumber(string.match(known[i + 1], '^%d+')) <= now then
    redis.call('HDEL', processes, known[i])
  else
    count = count + 1
    if known[i] == name then is_new = false end
  end
end
if is_new and count >= tonumber(most) then return end
redis.call('HSET', processes, name, whole(now + ttl_ms) .. ' ' .. content)
extend(processes, ttl_ms)
