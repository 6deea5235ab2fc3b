#!lua flags=no-writes
-- include: clock, strings, whole
local owners, lost = KEYS[1], KEYS[2]
local kept_ids, quiet_ms, limit, page = unpack(ARGV)
limit = tonumber(limit)
local kept, gone = {}, {}
for at = 1, #kept_ids, 8 do kept[sub(kept_ids, at, at + 7)] = true end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', owners, '-inf', whole(now - quiet_ms))) do
  if not kept[id] and #gone < limit then gone[#gone + 1] = id end
end
return {gone, redis.call('HRANDFIELD', lost, page, 'WITHVALUES')}
