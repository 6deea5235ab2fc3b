#!lua flags=allow-oom
-- include: whole
-- ARGV: how long leases last, then the leases.
local time = redis.call('TIME')
local ends = whole(time[1] * 1000000 + time[2] + ARGV[1])
for index = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', ends, ARGV[index]) end
redis.call('PEXPIRE', KEYS[1], math.ceil(ARGV[1] / 1000))
return 0
