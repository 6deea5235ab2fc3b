#!lua flags=allow-oom
local leaving = KEYS[1]
-- include: clock, whole, extend
local replica, ttl_ms = unpack(ARGV)
local marks = redis.call('HGETALL', leaving)
for i = 1, #marks, 2 do
  if tonumber(marks[i + 1]) <= now then redis.call('HDEL', leaving, marks[i]) end
end
if ttl_ms == '0' then
  redis.call('HDEL', leaving, replica)
  return
end
redis.call('HSET', leaving, replica, whole(now + ttl_ms))
extend(leaving, ttl_ms)
