#!lua flags=no-writes
local version, versions, replicas, claimed, totals, claims, leaving = unpack(KEYS)
-- include: clock, whole, pages, tail
local records_since, totals_since, cursor, page, ttl_ms = unpack(ARGV)
local latest = tonumber(redis.call('GET', version) or '0')
local marked, marks = {}, redis.call('HGETALL', leaving)
for i = 1, #marks, 2 do
  if tonumber(marks[i + 1]) > now then marked[#marked + 1] = marks[i] end
end
return {
  now,
  latest,
  changed(versions, replicas, records_since, latest, page),
  changed(claimed, totals, totals_since, latest, page),
  entries_after(cursor, page, ttl_ms),
  marked,
}
