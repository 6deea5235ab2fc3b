local function extend(key, ttl_ms)
  redis.call('PEXPIRE', key, ttl_ms, 'NX')
  redis.call('PEXPIRE', key, ttl_ms, 'GT')
end
