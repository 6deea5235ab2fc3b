#!lua flags=allow-oom
local replicas, version, versions, known, totals, claimed, open = unpack(KEYS)
-- include: clock, strings, whole, record, write, totals
local replica, state, forget_ms = unpack(ARGV)
local record = redis.call('HGET', replicas, replica)
if record then write(replica, 0, incarnation_of(record), state, forget_ms) end
redis.call('ZREM', known, replica)
redis.call('DEL', open)
if totals_of(replica).count > 0 then set_totals(replica, no_totals(), forget_ms) end
