#!lua flags=allow-oom
local replicas, version, versions, known, totals, claimed, open = unpack(KEYS)
-- include: clock, strings, whole, record, write, totals
local replica, ttl_ms, incarnation, state, forget_ms = unpack(ARGV)
write(replica, tonumber(ttl_ms), incarnation, state, math.max(ttl_ms, forget_ms))
redis.call('ZADD', known, whole(now), replica)
redis.call('PEXPIRE', known, forget_ms)
local total = totals_of(replica)
if total.count == 0 or (#ARGV == 5 and total.first > now) then return end
if #ARGV > 5 then redis.call('HDEL', open, unpack(ARGV, 6)) end
local left, all = no_totals(), redis.call('HGETALL', open)
for i = 1, #all, 2 do
  local ends, tokens = string.match(all[i + 1], '^(%d+) (%d+)$')
  ends = tonumber(ends)
  if ends <= now then
    redis.call('HDEL', open, all[i])
  else
    left.tokens, left.count, left.first = left.tokens + tokens, left.count + 1, math.min(left.first, ends)
  end
end
if left.tokens ~= total.tokens or left.count ~= total.count or left.first ~= total.first then
  set_totals(replica, left, forget_ms)
end
