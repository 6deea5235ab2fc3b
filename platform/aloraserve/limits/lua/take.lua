#!lua flags=allow-oom
-- include: whole, bucket
-- ARGV: lease, how long it lasts, concurrency (0: any), call (empty: not to be undone), then limit (0: none) and cost of each bucket.
local lease, lasts, concurrency, call = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local changes, before, after = {}, {}, {}
local latest, wait, by = now, 0, 0
for index = 1, 3 do
  local limit, cost = tonumber(ARGV[3 + 2 * index]), tonumber(ARGV[4 + 2 * index])
  before[index], after[index] = 0, 0
  if limit > 0 then
    local full, rest = bucket(index, limit)
    before[index] = full - now
    full, rest = moved(full, rest, limit, cost)
    after[index] = full - now
    local missing = full + (rest > 0 and 1 or 0) - MINUTE - now
    if missing > wait then wait, by = missing, index end
    append(changes, index, full, rest, limit)
    latest = math.max(latest, full)
  end
end
local running = 0
if concurrency > 0 then
  redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', whole(now))
  running = redis.call('ZCARD', KEYS[2])
  if by == 0 and running >= concurrency then by = 4 end
end
if by ~= 0 then return {by, whole(wait), whole(before[1]), whole(before[2]), whole(before[3]), running} end
if call ~= '' then
  -- Who asked does not wait any more.
  if redis.call('ZREM', KEYS[3], '!' .. call) == 1 then return {0, '0', whole(before[1]), whole(before[2]), whole(before[3]), running} end
  redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', whole(now))
  redis.call('ZADD', KEYS[3], whole(now + lasts), call)
  redis.call('PEXPIRE', KEYS[3], math.ceil(lasts / 1000))
end
if concurrency > 0 then
  redis.call('ZADD', KEYS[2], whole(now + lasts), lease)
  redis.call('PEXPIRE', KEYS[2], math.ceil(lasts / 1000))
  running = running + 1
end
store(changes, latest)
return {0, '0', whole(after[1]), whole(after[2]), whole(after[3]), running}
