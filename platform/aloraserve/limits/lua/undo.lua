#!lua flags=allow-oom
-- include: whole, bucket
-- ARGV: call, the lease that it took (empty: none), how long to know of it, then limit (0: none) and correction of each bucket.
if redis.call('ZREM', KEYS[3], ARGV[1]) == 0 then
  -- It may come yet, on another connection.
  redis.call('ZADD', KEYS[3], whole(now + ARGV[3]), '!' .. ARGV[1])
  redis.call('PEXPIRE', KEYS[3], math.ceil(ARGV[3] / 1000))
  return 0
end
redis.call('ZREM', KEYS[2], ARGV[2])
correct(3)
return 1
