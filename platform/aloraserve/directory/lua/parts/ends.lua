local MAX_STRAYS = 16
local ends, strays, reading, parsed, NOBODY = nil, {}, 0, {}, {}
-- How each id has a block: 0 in the fast tier, 1 in another one.
local function ranks_of(value)
  if not value then return NOBODY end
  local ranks = parsed[value]
  if ranks then return ranks end
  ranks = {}
  for at = 1, #value, 9 do
    local id = sub(value, at, at + 7)
    ranks[id] = byte(value, at + 8) == 0 and 0 or 1
    if ends and not ends[id] and #strays < 2 * MAX_STRAYS then
      strays[#strays + 1] = id
      strays[#strays + 1] = reading
    end
  end
  parsed[value] = ranks
  return ranks
end
-- Returns, for each id at the first place, the id and how many leading places it has in the fast tier and in any; and
-- ids that are elsewhere only, with the run. Where an id stops is sought at the ends of the runs first, and then at the
-- places inside(run) unless that is nil.
local function ends_of(runs, places, first, at_end, inside)
  local levels, ids = {}, {}
  ends = {}
  for id, rank in pairs(first) do
    ends[id], levels[id], ids[#ids + 1] = {0, 0}, rank, id
  end
  local further
  local function stop_at(place, group, ranks, run)
    for _, id in ipairs(group) do
      local rank, found = ranks[id], ends[id]
      if levels[id] == 0 then found[1] = place end
      if rank then
        levels[id] = rank
        further[run] = further[run] or {}
        table.insert(further[run], id)
      else
        found[2] = place
      end
    end
  end
  local function stop_in(run, group, known)
    if run == runs then
      stop_at(places, group, NOBODY)
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
  local rows = {}
  for id, found in pairs(ends) do
    local size = #rows
    rows[size + 1], rows[size + 2], rows[size + 3] = id, found[1], found[2]
  end
  return {rows, strays}
end
