-- KEYS: stream. ARGV: the id before which entries are old enough.
local function fields(flat)
    local map = {}
    for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
    return map
end
local function parts(id)
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    return tonumber(ms), tonumber(seq)
end
local function lower(a, b)
    local a_ms, a_seq = parts(a)
    local b_ms, b_seq = parts(b)
    if a_ms < b_ms or (a_ms == b_ms and a_seq < b_seq) then return a end
    return b
end
local bound, groups = ARGV[1], redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then return 0 end
for _, flat in ipairs(groups) do
    local group = fields(flat)
    local pending = redis.call('XPENDING', KEYS[1], group.name)
    if pending[1] > 0 then
        bound = lower(bound, pending[2])
    else
        local ms, seq = string.match(group['last-delivered-id'], '^(%d+)-(%d+)$')
        bound = lower(bound, ms .. '-' .. string.format('%.0f', tonumber(seq) + 1))
    end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', bound)
