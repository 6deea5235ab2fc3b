#!lua flags=allow-oom
-- include: head, whole, record
local forget_ms, told_ms, window_ms = unpack(ARGV)
if not redis.call('SET', prefix .. 'rl', '1', 'PX', window_ms, 'NX') then return false end
local known = prefix .. 'known'
redis.call('ZREMRANGEBYSCORE', known, '-inf', whole(now - forget_ms))
local reply = {}
local records = redis.call('HGETALL', prefix .. 'replicas')
for i = 1, #records, 2 do
  local expiry = expiry_of(records[i + 1])
  if expiry > now or redis.call('ZSCORE', known, records[i]) then
    reply[#reply + 1] = records[i]
    reply[#reply + 1] = incarnation_of(records[i + 1])
  elseif expiry < now - told_ms then
    redis.call('HDEL', prefix .. 'replicas', records[i])
    redis.call('ZREM', prefix .. 'versions', records[i])
  end
end
for _, replica in ipairs(redis.call('SMEMBERS', prefix .. 'open')) do
  if redis.call('EXISTS', prefix .. 't:' .. replica) == 0 then redis.call('SREM', prefix .. 'open', replica) end
end
return reply
