local function changed(index, content, since, latest, page)
  local after = tonumber(since) > latest and '-inf' or '(' .. since
  local found = redis.call('ZRANGEBYSCORE', index, after, '+inf', 'WITHSCORES', 'LIMIT', 0, page)
  local names, through = {}, latest
  for i = 1, #found, 2 do names[#names + 1] = found[i] end
  if #names == tonumber(page) then through = tonumber(found[#found]) end
  return {through, names, #names > 0 and redis.call('HMGET', content, unpack(names)) or {}}
end
