local function states(since)
  local claimed = {}
  for _, replica in ipairs(redis.call('SMEMBERS', prefix .. 'open')) do
    local tokens, claims = 0, 0
    for _, value in ipairs(redis.call('HVALS', prefix .. 't:' .. replica)) do
      local ends, amount = string.match(value, '^(%d+) (%d+)')
      if tonumber(ends) > now then tokens, claims = tokens + tonumber(amount), claims + 1 end
    end
    for _, part in ipairs({replica, tokens, claims}) do claimed[#claimed + 1] = part end
  end
  local version = tonumber(redis.call('GET', prefix .. 'version') or '0')
  local after = tonumber(since) > version and '-inf' or '(' .. since
  local names = redis.call('ZRANGEBYSCORE', prefix .. 'versions', after, '+inf')
  local records = #names > 0 and redis.call('HMGET', prefix .. 'replicas', unpack(names)) or {}
  return {now, version, names, records, claimed}
end
