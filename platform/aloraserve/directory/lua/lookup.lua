#!lua flags=no-writes
-- include: strings, bisect, ends
local keys = ARGV[1]
local RUN, count = 32, #keys / 16
local ranks_at_end, pages = {}, {}
local function field(place) return sub(keys, place * 16 + 1, place * 16 + 8) end
local function last_of(run) return math.min(run * RUN + RUN, count) - 1 end
local function at_end(run)
  local ranks = ranks_at_end[run]
  if not ranks then
    reading = run
    ranks = ranks_of(redis.call('HGET', KEYS[run + 1], field(last_of(run))))
    ranks_at_end[run] = ranks
  end
  return ranks
end
local function inside(run)
  local start, last = run * RUN, last_of(run)
  local values = pages[run]
  if not values then
    local fields = {}
    for place = start, last do fields[#fields + 1] = field(place) end
    values = redis.call('HMGET', KEYS[run + 1], unpack(fields))
    pages[run] = values
  end
  return start, last - start, function(place)
    reading = run
    return ranks_of(values[place + 1])
  end
end
return ends_of(#KEYS, count, ranks_of(redis.call('HGET', KEYS[1], field(0))), at_end, inside)
