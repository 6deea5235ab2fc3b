#!lua flags=no-writes
local latest, changes = KEYS[1], KEYS[2]
local kept = {}
for _, entry in ipairs(redis.call('XRANGE', changes, '-', '+')) do kept[#kept + 1] = entry[2][2] end
return {redis.call('GET', latest) or '', kept}
