#!lua flags=allow-oom
-- include: head, runs, entries
local holder, tag, keys = unpack(ARGV)
local count = #keys / 16
for start = 0, count - 1, RUN do
  local last = math.min(start + RUN, count) - 1
  local node = node_of(keys, start)
  local fields, values = read_run(node, keys, start, last)
  for i, field in ipairs(fields) do
    local value = values[i]
    if value and find(value, tag, 1, true) then
      local kept = {}
      each(value, function(id, kind, from, to)
        if not (id == holder and kind == 255 and sub(value, from + 15, to) == tag) then
          kept[#kept + 1] = sub(value, from, to)
        end
      end)
      local rest = table.concat(kept)
      if rest == '' then redis.call('HDEL', node, field) else redis.call('HSET', node, field, rest) end
    end
  end
end
