local function expiry_of(record) return tonumber(sub(record, 1, 13)) end
local function incarnation_of(record) return sub(record, 42, 41 + tonumber(sub(record, 39, 41))) end
local function is_alive(record, incarnation)
  return record and expiry_of(record) > now and incarnation_of(record) == incarnation
end
local function next_version(forget_ms)
  local next = redis.call('INCR', version)
  if next == 1 then
    next = now * 1000
    redis.call('SET', version, whole(next))
  end
  redis.call('PEXPIRE', version, forget_ms)
  return next
end
