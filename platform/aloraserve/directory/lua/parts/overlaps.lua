local function overlaps(keys)
  local count = #keys / 16
  if count == 0 then return {} end
  local known = {}
  local function ranks_of(value)
    if not value then return {} end
    local ranks = known[value]
    if ranks then return ranks end
    ranks = {}
    each(value, function(id, kind) ranks[id] = kind == 0 and 0 or 1 end)
    known[value] = ranks
    return ranks
  end
  local ends, going, left = {}, {}, 0
  local function stop(id, level, through, block)
    local found = ends[id]
    if level <= 0 and through >= 0 then found[1] = block end
    if through == 1 then found[2] = block end
  end
  for id in pairs(ranks_of(redis.call('HGET', node_of(keys, 0), field_of(keys, 0)))) do
    going[id], ends[id], left = 0, {0, 0}, left + 1
  end
  local start, same = 0, nil
  while start < count and left > 0 do
    local last = math.min(start + RUN, count) - 1
    local node = node_of(keys, start)
    local ranks = ranks_of(redis.call('HGET', node, field_of(keys, last)))
    local whole_run = ranks == same
    if not whole_run then
      whole_run = true
      for id, level in pairs(going) do
        local rank = ranks[id]
        if not rank or rank > level then whole_run = false break end
      end
    end
    if whole_run then
      same = ranks
    else
      same = nil
      local fields, values = read_run(node, keys, start, last)
      local before
      for i = 1, #fields do
        local block, here = start + i - 1, ranks_of(values[i])
        if here ~= before then
          before = here
          for id, level in pairs(going) do
            local rank = here[id]
            if not rank then
              stop(id, level, 1, block)
              going[id], left = nil, left - 1
            elseif rank > level then
              stop(id, level, rank - 1, block)
              going[id] = rank
            end
          end
        end
      end
    end
    start = start + RUN
  end
  for id, level in pairs(going) do stop(id, level, 1, count) end
  local reply = {}
  for id, found in pairs(ends) do
    for _, part in ipairs({id, found[1], found[2]}) do reply[#reply + 1] = part end
  end
  return reply
end
