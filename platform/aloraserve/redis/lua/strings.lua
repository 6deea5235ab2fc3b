local sub, byte, find = string.sub, string.byte, string.find
