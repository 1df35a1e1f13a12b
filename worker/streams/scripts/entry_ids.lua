-- What scripts share that look into streams: a reply's fields by name, and the order of entry ids.
local function fields(flat)
    local map = {}
    for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
    return map
end
-- Half an id has 64 bits, and a number of Lua 53: digits are compared as text.
local function after(a, b)
    local a_ms, a_seq = string.match(a, '^(%d+)-(%d+)$')
    local b_ms, b_seq = string.match(b, '^(%d+)-(%d+)$')
    if a_ms == b_ms then a_ms, b_ms = a_seq, b_seq end
    return #a_ms > #b_ms or (#a_ms == #b_ms and a_ms > b_ms)
end
