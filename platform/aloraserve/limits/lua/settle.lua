#!lua flags=allow-oom
-- include: whole, bucket
-- ARGV: lease, call, then limit (0: none) and correction of each bucket.
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('ZREM', KEYS[3], ARGV[2])
correct(2)
return 0
