local NOBODY, known = {}, {}
local function ranks_of(value)
  if not value then return NOBODY end
  local ranks = known[value]
  if ranks then return ranks end
  ranks = {}
  each(value, function(id, kind, at)
    if kind < 255 then
      ranks[id] = kind == 0 and 0 or 1
    elseif expiry_at(value, at) > now then
      ranks[id] = 2
    end
  end)
  known[value] = ranks
  return ranks
end
-- Returns id, and how many leading places it has in the fast tier, in any, and with claims, for each id at the first
-- place. Where it stops is sought at the ends of the runs first, and then at the places inside(run) unless that is nil.
local function ends_of(runs, places, first, at_end, inside)
  local ends, levels, ids = {}, {}, {}
  for id, rank in pairs(first) do
    ends[id], levels[id], ids[#ids + 1] = {0, 0, 0}, rank, id
  end
  local function stop(id, rank, place)
    local level, found = levels[id], ends[id]
    if level == 0 then found[1] = place end
    if level <= 1 and rank > 1 then found[2] = place end
    if rank == ABSENT then found[3] = place end
  end
  local further
  local function stop_at(place, group, ranks, run)
    for _, id in ipairs(group) do
      local rank = ranks[id]
      stop(id, rank or ABSENT, place)
      if rank then
        levels[id] = rank
        further[run] = further[run] or {}
        table.insert(further[run], id)
      end
    end
  end
  local function stop_in(run, group, known)
    if run == runs then
      for _, id in ipairs(group) do stop(id, ABSENT, places) end
    elseif inside then
      local start, last, ranks_at = inside(run)
      first_misses(0, last, group, levels, known, ranks_at, function(place, part)
        stop_at(start + place, part, ranks_at(place), run)
      end)
    else
      stop_at(run, group, at_end(run), run)
    end
  end
  local going, known = {[0] = #ids > 0 and ids or nil}, first
  while next(going) do
    further = {}
    for from, group in pairs(going) do first_misses(from, runs, group, levels, known, at_end, stop_in) end
    going, known = further, nil
  end
  local reply = {}
  for id, found in pairs(ends) do
    local size = #reply
    reply[size + 1], reply[size + 2], reply[size + 3], reply[size + 4] = id, found[1], found[2], found[3]
  end
  return reply
end
local function overlaps(keys, anchor)
  local count = #keys / 16
  if count == 0 then return {} end
  local ends, pages = {}, {}
  local function node(run)
    return run == 0 and prefix .. 'b:' .. (anchor or sub(keys, 1, 16)) or node_of(keys, run * RUN)
  end
  local function at_end(run)
    local ranks = ends[run]
    if not ranks then
      local last = math.min(run * RUN + RUN, count) - 1
      ranks = ranks_of(redis.call('HGET', node(run), field_of(keys, last)))
      ends[run] = ranks
    end
    return ranks
  end
  local function inside(run)
    local start = run * RUN
    local last = math.min(start + RUN, count) - 1
    local values = pages[run]
    if not values then
      local _
      _, values = read_run(node(run), keys, start, last)
      pages[run] = values
    end
    return start, last - start, function(place) return ranks_of(values[place + 1]) end
  end
  local first = ranks_of(redis.call('HGET', node(0), field_of(keys, 0)))
  return ends_of(math.ceil(count / RUN), count, first, at_end, inside)
end
-- The same to whole runs: the keys are the first block's and the last one of each run.
local function overlapping_runs(keys)
  local count = #keys / 16 - 1
  local ends = {}
  local function at_end(run)
    local ranks = ends[run]
    if not ranks then
      ranks = ranks_of(redis.call('HGET', prefix .. 'b:' .. sub(keys, run * 16 + 1, run * 16 + 16), field_of(keys, run + 1)))
      ends[run] = ranks
    end
    return ranks
  end
  local first = ranks_of(redis.call('HGET', prefix .. 'b:' .. sub(keys, 1, 16), field_of(keys, 0)))
  return ends_of(count, count, first, at_end)
end
