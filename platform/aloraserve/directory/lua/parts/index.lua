-- A holder's index lists the fields of its entries: the first 64 of a run under its anchor, further ones each under
-- anchor and field.
local LISTED = 64 * 8
local function listed(index, anchor, fields)
  if #fields == 0 then return end
  local list = redis.call('HGET', index, anchor)
  if not list and #fields * 8 <= LISTED then return redis.call('HSET', index, anchor, table.concat(fields)) end
  list = list or ''
  local new, set = {}, {}
  local room = (LISTED - #list) / 8
  for _, field in ipairs(fields) do
    if not place_of(list, field, 8) then
      if #new < room then
        new[#new + 1] = field
      else
        set[#set + 1] = anchor .. field
        set[#set + 1] = ''
      end
    end
  end
  if #new > 0 then
    set[#set + 1] = anchor
    set[#set + 1] = list .. table.concat(new)
  end
  write(index, set, {})
end
local function unlisted(index, anchor, fields)
  if #fields == 0 then return end
  local list = redis.call('HGET', index, anchor) or ''
  local rest, set, drop = list, {}, {}
  for _, field in ipairs(fields) do
    local at = place_of(rest, field, 8)
    if at then rest = sub(rest, 1, at - 1) .. sub(rest, at + 8) else drop[#drop + 1] = anchor .. field end
  end
  if rest == '' then
    drop[#drop + 1] = anchor
  elseif rest ~= list then
    set = {anchor, rest}
  end
  write(index, set, drop)
end
