#!lua flags=allow-oom
local replicas, versions, known, totals, claimed, turn = unpack(KEYS)
-- include: clock, strings, whole, record
local forget_ms, told_ms, window_ms = unpack(ARGV)
if not redis.call('SET', turn, '1', 'PX', window_ms, 'NX') then return false end
redis.call('ZREMRANGEBYSCORE', known, '-inf', whole(now - forget_ms))
local reply = {}
local records = redis.call('HGETALL', replicas)
for i = 1, #records, 2 do
  local expiry = expiry_of(records[i + 1])
  if expiry > now or redis.call('ZSCORE', known, records[i]) then
    reply[#reply + 1] = records[i]
    reply[#reply + 1] = incarnation_of(records[i + 1])
  elseif expiry < now - told_ms then
    redis.call('HDEL', replicas, records[i])
    redis.call('ZREM', versions, records[i])
  end
end
for _, replica in ipairs(redis.call('ZRANGEBYSCORE', claimed, '-inf', '+inf')) do
  if not redis.call('HGET', replicas, replica) then
    redis.call('ZREM', claimed, replica)
    redis.call('HDEL', totals, replica)
  end
end
return reply
