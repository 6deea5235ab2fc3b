#!lua flags=allow-oom
local latest, changes = KEYS[1], KEYS[2]
local record, latest_ms, is_change, kept_ms, most = unpack(ARGV)
redis.call('SET', latest, record, 'PX', latest_ms)
if is_change == '1' then
  redis.call('XADD', changes, 'MAXLEN', most, '*', 'record', record)
  redis.call('PEXPIRE', changes, kept_ms)
end
