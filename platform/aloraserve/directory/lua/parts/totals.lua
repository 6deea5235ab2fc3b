local function no_totals() return {tokens = 0, count = 0, first = math.huge, text = ''} end
local function totals_of(replica)
  local text = redis.call('HGET', totals, replica)
  if not text then return no_totals() end
  local tokens, count, first = string.match(text, '^%d+ (%d+) (%d+) (%d+)$')
  return {tokens = tonumber(tokens), count = tonumber(count), first = tonumber(first), text = text}
end
local function subtract(total, claim)
  local tokens = tonumber(string.match(claim, ' (%d+)$'))
  total.tokens, total.count = math.max(0, total.tokens - tokens), math.max(0, total.count - 1)
end
local function set_totals(replica, total, forget_ms)
  local at = whole(next_version(forget_ms))
  local first = total.count > 0 and whole(total.first) or '0'
  local text = table.concat({at, whole(total.tokens), whole(total.count), first}, ' ')
  redis.call('HSET', totals, replica, text)
  redis.call('ZADD', claimed, at, replica)
  redis.call('PEXPIRE', totals, forget_ms)
  redis.call('PEXPIRE', claimed, forget_ms)
  return text
end
