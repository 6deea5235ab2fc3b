local function each(value, visit)
  for at = 1, #value, 9 do visit(sub(value, at, at + 7), byte(value, at + 8), at, at + 8) end
end
