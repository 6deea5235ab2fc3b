local function write(replica, ttl_ms, incarnation, state, forget_ms)
  local at = next_version(forget_ms)
  local head = string.format('%013.0f%09d%016.0f%03d', now + ttl_ms, ttl_ms, at, #incarnation)
  redis.call('HSET', replicas, replica, head .. incarnation .. state)
  redis.call('ZADD', versions, whole(at), replica)
  redis.call('PEXPIRE', replicas, forget_ms)
  redis.call('PEXPIRE', versions, forget_ms)
end
