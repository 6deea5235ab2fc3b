#!lua flags=allow-oom
-- include: head
redis.call('HDEL', prefix .. 't:' .. ARGV[1], ARGV[2])
