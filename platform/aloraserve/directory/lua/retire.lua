#!lua flags=allow-oom
-- include: head, record
local replica, state, forget_ms = unpack(ARGV)
local record = redis.call('HGET', prefix .. 'replicas', replica)
if record then write(replica, 0, incarnation_of(record), state, forget_ms) end
redis.call('ZREM', prefix .. 'known', replica)
redis.call('DEL', prefix .. 't:' .. replica)
redis.call('SREM', prefix .. 'open', replica)
