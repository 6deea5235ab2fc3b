#!lua flags=no-writes
local version, versions, replicas, claimed, totals, claims = unpack(KEYS)
-- include: clock, whole, pages, tail
local records_since, totals_since, cursor, page, ttl_ms = unpack(ARGV)
local latest = tonumber(redis.call('GET', version) or '0')
return {
  now,
  latest,
  changed(versions, replicas, records_since, latest, page),
  changed(claimed, totals, totals_since, latest, page),
  entries_after(cursor, page, ttl_ms),
}
