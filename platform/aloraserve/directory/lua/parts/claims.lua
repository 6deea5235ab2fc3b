local MOST_ENTRIES = 10000
local function append(replica, ends, total, claim, ttl_ms)
  local fields = {'replica', replica, 'ends', whole(ends), 'totals', total, 'claim', claim}
  local entry = redis.call('XADD', claims, 'MAXLEN', '~', MOST_ENTRIES, '*', unpack(fields))
  extend(claims, ttl_ms)
  return entry
end
