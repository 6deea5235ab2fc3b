#!lua flags=allow-oom
local version, totals, claimed, claims, open, first = unpack(KEYS)
-- include: clock, strings, whole, extend, record, totals, claims
local replica, claim_id, ttl_ms, forget_ms, claim = unpack(ARGV)
local taken = first and redis.call('GET', first)
if taken and cmsgpack.unpack(taken)[1] == claim_id then redis.call('DEL', first) end
local total, before = totals_of(replica), redis.call('HGET', open, claim_id)
if before then
  redis.call('HDEL', open, claim_id)
  subtract(total, before)
  append(replica, now, set_totals(replica, total, forget_ms), claim, ttl_ms)
else
  append(replica, now, total.text, claim, ttl_ms)
end
