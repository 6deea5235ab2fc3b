local function entries_after(cursor, page, ttl_ms)
  local start = cursor == '' and whole(now - ttl_ms) or '(' .. cursor
  return redis.call('XRANGE', claims, start, '+', 'COUNT', page)
end
