#!lua flags=allow-oom
-- include: head, whole, record
local replica, ttl_ms, incarnation, state, forget_ms = unpack(ARGV)
write(replica, tonumber(ttl_ms), incarnation, state, math.max(ttl_ms, forget_ms))
redis.call('ZADD', prefix .. 'known', whole(now), replica)
redis.call('PEXPIRE', prefix .. 'known', forget_ms)
local claims = prefix .. 't:' .. replica
for i = 6, #ARGV do redis.call('HDEL', claims, ARGV[i]) end
local open = redis.call('HGETALL', claims)
for i = 1, #open, 2 do
  if tonumber(string.match(open[i + 1], '^%d+')) <= now then redis.call('HDEL', claims, open[i]) end
end
if redis.call('EXISTS', claims) == 0 then redis.call('SREM', prefix .. 'open', replica) end
