#!lua
local lost = KEYS[1]
local limit, ttl_ms = ARGV[1], ARGV[2]
for i = 3, #ARGV do
  if redis.call('HLEN', lost) >= tonumber(limit) then break end
  redis.call('HSETNX', lost, ARGV[i], '0')
end
redis.call('PEXPIRE', lost, ttl_ms)
