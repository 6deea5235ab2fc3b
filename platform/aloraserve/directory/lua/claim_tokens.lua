#!lua
-- include: head, whole, extend
local replica, claim_id, tokens, ttl_ms = unpack(ARGV)
local claims = prefix .. 't:' .. replica
redis.call('HSET', claims, claim_id, whole(now + ttl_ms) .. ' ' .. tokens)
extend(claims, ttl_ms)
redis.call('SADD', prefix .. 'open', replica)
extend(prefix .. 'open', ttl_ms)
