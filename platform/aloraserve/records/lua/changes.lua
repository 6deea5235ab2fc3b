#!lua flags=no-writes
local records, changed, about = unpack(KEYS)
local seen_epoch, seen_floor, limit = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
local since = tonumber(ARGV[2])
local found = redis.call('HMGET', about, 'epoch', 'revision', 'floor')
local epoch, revision, floor = found[1] or '', found[2] or '0', found[3] or '0'
local lost = epoch ~= seen_epoch or since > tonumber(revision)
lost = lost or (since < tonumber(floor) and seen_floor < tonumber(floor))
if lost then since = 0 end
local names = redis.call('ZRANGEBYSCORE', changed, '(' .. since, '+inf', 'LIMIT', 0, limit + 1)
local reply = {epoch, revision, floor, lost and 1 or 0, #names > limit and 1 or 0}
for i = 1, math.min(#names, limit) do reply[#reply + 1] = redis.call('HGET', records, names[i]) end
return reply
