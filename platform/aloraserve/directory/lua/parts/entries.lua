local function each(value, visit)
  local at, size = 1, #value
  while at <= size do
    local stop = at + (byte(value, at + 8) == 255 and 18 or 8)
    visit(sub(value, at, at + 7), byte(value, at + 8), at, stop)
    at = stop + 1
  end
end
local function expiry_at(value, at) return (struct.unpack('>I6', value, at + 9)) end
