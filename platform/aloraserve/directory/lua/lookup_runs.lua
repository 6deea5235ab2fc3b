#!lua flags=no-writes
-- include: strings, bisect, ends
local keys = ARGV[1]
local ranks_at_end = {}
local function field(place) return sub(keys, place * 16 + 1, place * 16 + 8) end
local function at_end(run)
  local ranks = ranks_at_end[run]
  if not ranks then
    reading = run
    ranks = ranks_of(redis.call('HGET', KEYS[run + 1], field(run + 1)))
    ranks_at_end[run] = ranks
  end
  return ranks
end
return ends_of(#KEYS, #KEYS, ranks_of(redis.call('HGET', KEYS[1], field(0))), at_end)
