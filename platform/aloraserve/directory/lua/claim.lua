#!lua
local replicas, version, totals, claimed, claims, open, first = unpack(KEYS)
-- include: clock, strings, whole, extend, record, totals, tail, claims
local replica, incarnation, claim_id, tokens, ttl_ms, forget_ms, claim, cursor, page = unpack(ARGV)
local taken = first and redis.call('GET', first)
if taken then
  local other, start, entry = unpack(cmsgpack.unpack(taken), 2)
  if other ~= replica and is_alive(redis.call('HGET', replicas, other), start) then
    return {0, now, entries_after(cursor, page, ttl_ms), redis.call('XRANGE', claims, entry, entry)}
  end
end
local ends = now + ttl_ms
local is_empty = redis.call('EXISTS', open) == 0
local before = redis.call('HGET', open, claim_id)
redis.call('HSET', open, claim_id, whole(ends) .. ' ' .. tokens)
extend(open, ttl_ms)
local total = totals_of(replica)
if is_empty then total = no_totals() end
if before then subtract(total, before) end
total.tokens, total.count, total.first = total.tokens + tokens, total.count + 1, math.min(total.first, ends)
local entry = append(replica, ends, set_totals(replica, total, forget_ms), claim, ttl_ms)
if first then redis.call('SET', first, cmsgpack.pack({claim_id, replica, incarnation, entry}), 'PX', ttl_ms) end
local entries = entries_after(cursor, page, ttl_ms)
local is_shown = #entries > 0 and entries[#entries][1] == entry
return {1, now, entries, is_shown and {} or redis.call('XRANGE', claims, entry, entry)}
