#!lua flags=allow-oom
-- include: whole, bucket
-- ARGV: lease, then limit (0: none) and correction of each bucket.
redis.call('ZREM', KEYS[2], ARGV[1])
local changes, latest = {}, now
for index = 1, 3 do
  local limit, cost = tonumber(ARGV[2 * index]), tonumber(ARGV[1 + 2 * index])
  if limit > 0 then
    local full, rest = bucket(index, limit)
    if cost ~= 0 then
      full, rest = moved(full, rest, limit, cost)
      if full > now + LONGEST then full, rest = now + LONGEST, 0 end
      append(changes, index, full, rest, limit)
    end
    -- Also of a bucket that stays: the key holds all three, and expires with the last.
    latest = math.max(latest, full)
  end
end
store(changes, latest)
return 0
