local ABSENT = 2
-- Calls found(place, ids, known) with the first place from low on that each id lacks on its level, high if there is
-- none: in growing strides first, then by halves. Where the ranks are the known ones, all ids are on their level.
local function first_misses(low, high, ids, levels, known, ranks_at, found)
  local waiting, stride = {}, 1
  while true do
    while low < high do
      local middle = stride and math.min(low + stride, high) - 1 or math.floor((low + high) / 2)
      local ranks, having = ranks_at(middle), ids
      if ranks ~= known then
        having = {}
        for _, id in ipairs(ids) do
          if (ranks[id] or ABSENT) <= levels[id] then having[#having + 1] = id end
        end
      end
      if #having == 0 then
        high, stride = middle, nil
      else
        if #having < #ids then
          local lacking = {}
          for _, id in ipairs(ids) do
            if (ranks[id] or ABSENT) > levels[id] then lacking[#lacking + 1] = id end
          end
          waiting[#waiting + 1] = {low, middle, lacking, known}
        end
        low, ids, known, stride = middle + 1, having, ranks, stride and stride * 2
      end
    end
    found(low, ids, known)
    local search = table.remove(waiting)
    if not search then return end
    low, high, ids, known, stride = search[1], search[2], search[3], search[4], nil
  end
end
