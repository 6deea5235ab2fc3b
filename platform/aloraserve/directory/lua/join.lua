#!lua flags=allow-oom
local space, ttl_ms = unpack(ARGV)
local fleet = redis.call('GET', KEYS[1])
if fleet and fleet ~= space then return fleet end
if ttl_ms ~= '0' then
  redis.call('SET', KEYS[1], space, 'PX', ttl_ms)
  -- Of the applications under one namespace the first is shown to those who belong to none.
  local first = redis.call('GET', KEYS[2])
  if not first or first == space then redis.call('SET', KEYS[2], space, 'PX', ttl_ms) end
end
return space
