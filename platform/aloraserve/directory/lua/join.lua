#!lua flags=allow-oom
-- include: head
local space, ttl_ms = unpack(ARGV)
local fleet = redis.call('GET', prefix .. 'space')
if fleet and fleet ~= space then return fleet end
redis.call('SET', prefix .. 'space', space, 'PX', ttl_ms)
return space
