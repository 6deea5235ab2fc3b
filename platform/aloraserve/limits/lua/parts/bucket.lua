local MINUTE, LONGEST = 60000000, 3600000000
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local fields = {'full1', 'rest1', 'limit1', 'full2', 'rest2', 'limit2', 'full3', 'rest3', 'limit3'}
local state = redis.call('HMGET', KEYS[1], unpack(fields))
-- A bucket as it is now: when it is full, and the rest in fractions of 1/limit of a microsecond.
local function bucket(index, limit)
  local full, rest = tonumber(state[3 * index - 2] or 0), tonumber(state[3 * index - 1] or 0)
  local old = tonumber(state[3 * index] or limit)
  if full < now then return now, 0 end
  if old == limit then return full, rest end
  return now + math.min(math.floor((full - now) * old / limit), LONGEST), 0
end
-- All numbers stay whole and below 2^53: a cost is at most 10^8.
local function moved(full, rest, limit, cost)
  local amount = cost * MINUTE
  local part = amount % limit
  full, rest = full + (amount - part) / limit, rest + part
  if rest >= limit then full, rest = full + 1, rest - limit end
  return full, rest
end
local function store(changes, latest)
  if #changes == 0 then return end
  redis.call('HSET', KEYS[1], unpack(changes))
  redis.call('PEXPIRE', KEYS[1], math.ceil((latest - now) / 1000) + 1000)
end
local function append(changes, index, full, rest, limit)
  local at = #changes
  changes[at + 1], changes[at + 2] = fields[3 * index - 2], whole(full)
  changes[at + 3], changes[at + 4] = fields[3 * index - 1], whole(rest)
  changes[at + 5], changes[at + 6] = fields[3 * index], whole(limit)
end
-- Move each bucket by its correction; ARGV has its limit (0: none) and correction from after 'first' on.
local function correct(first)
  local changes, latest = {}, now
  for index = 1, 3 do
    local limit, cost = tonumber(ARGV[first - 1 + 2 * index]), tonumber(ARGV[first + 2 * index])
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
end
