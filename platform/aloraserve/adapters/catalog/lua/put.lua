#!lua
-- Without flags a server that is out of memory refuses it before its first write.
-- include: whole
local records, changed, deleted, about = unpack(KEYS)
local name, expected, content, is_deleted, epoch = unpack(ARGV)
local most, most_deleted = tonumber(ARGV[6]), tonumber(ARGV[7])
local known = redis.call('HGET', records, name)
if (known and string.match(known, '^%d+') or '0') ~= expected then return {'changed'} end
local was_live = known and not redis.call('ZSCORE', deleted, name)
if is_deleted == '0' and not was_live then
  if redis.call('HLEN', records) - redis.call('ZCARD', deleted) >= most then return {'full'} end
end
redis.call('HSETNX', about, 'epoch', epoch)
local revision = whole(redis.call('HINCRBY', about, 'revision', 1))
redis.call('HSET', records, name, revision .. ' ' .. content)
redis.call('ZADD', changed, revision, name)
if is_deleted == '0' then
  redis.call('ZREM', deleted, name)
else
  redis.call('ZADD', deleted, revision, name)
  while redis.call('ZCARD', deleted) > most_deleted do
    local oldest, last = unpack(redis.call('ZPOPMIN', deleted))
    redis.call('HDEL', records, oldest)
    redis.call('ZREM', changed, oldest)
    redis.call('HSET', about, 'floor', last)
  end
end
return {'kept', revision}
