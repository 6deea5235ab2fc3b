#!lua flags=allow-oom
-- A writer sends its pieces in order, one at a time; one that it sends again is not added again.
local number, writer_ttl_ms, bucket_ttl_ms = tonumber(ARGV[1]), ARGV[2], ARGV[3]
if tonumber(redis.call('GET', KEYS[1]) or '0') >= number then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'PX', writer_ttl_ms)
for i = 4, #ARGV, 2 do redis.call('HINCRBY', KEYS[2], ARGV[i], ARGV[i + 1]) end
if bucket_ttl_ms ~= '0' then
  redis.call('PEXPIRE', KEYS[2], bucket_ttl_ms)
else
  -- What an earlier release wrote expires.
  redis.call('PERSIST', KEYS[2])
  redis.call('UNLINK', unpack(KEYS, 3))
end
return 1
