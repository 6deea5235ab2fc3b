#!lua
-- Without flags a server that is out of memory refuses it before its first write.
-- include: whole
local records, changed, deleted, about = unpack(KEYS)
local name, expected, content, is_deleted, epoch = unpack(ARGV)
local most, most_deleted = tonumber(ARGV[6]), tonumber(ARGV[7])
local known = redis.call('HGET', records, name)
if (known and string.match(known, '^%d+') or '0') ~= expected then return {'changed'} end
local was_live = known and redis.call('HEXISTS', deleted, name) == 0
if is_deleted == '0' and not was_live then
  if redis.call('HLEN', records) - redis.call('HLEN', deleted) >= most then return {'full'} end
end
redis.call('HSETNX', about, 'epoch', epoch)
local revision = whole(redis.call('HINCRBY', about, 'revision', 1))
redis.call('HSET', records, name, revision .. ' ' .. content)
redis.call('ZADD', changed, revision, name)
if is_deleted == '0' then
  redis.call('HDEL', deleted, name)
else
  redis.call('HSET', deleted, name, revision)
  if redis.call('HLEN', deleted) > most_deleted then
    local all, oldest = redis.call('HGETALL', deleted), 1
    for i = 3, #all, 2 do
      if tonumber(all[i + 1]) < tonumber(all[oldest + 1]) then oldest = i end
    end
    redis.call('HDEL', deleted, all[oldest])
    redis.call('HDEL', records, all[oldest])
    redis.call('ZREM', changed, all[oldest])
    redis.call('HSET', about, 'floor', all[oldest + 1])
  end
end
return {'kept', revision}
