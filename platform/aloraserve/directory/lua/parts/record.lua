local function expiry_of(record) return tonumber(sub(record, 1, 13)) end
local function incarnation_of(record) return sub(record, 42, 41 + tonumber(sub(record, 39, 41))) end
local function write(replica, ttl_ms, incarnation, state, forget_ms)
  local version = redis.call('INCR', prefix .. 'version')
  if version == 1 then
    version = now * 1000
    redis.call('SET', prefix .. 'version', string.format('%.0f', version))
  end
  redis.call('PEXPIRE', prefix .. 'version', forget_ms)
  local head = string.format('%013.0f%09d%016.0f%03d', now + ttl_ms, ttl_ms, version, #incarnation)
  redis.call('HSET', prefix .. 'replicas', replica, head .. incarnation .. state)
  redis.call('ZADD', prefix .. 'versions', string.format('%.0f', version), replica)
  for _, name in ipairs({'replicas', 'versions'}) do redis.call('PEXPIRE', prefix .. name, forget_ms) end
end
