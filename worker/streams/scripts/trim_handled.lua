-- KEYS: stream. ARGV: the id before which entries are old enough.
local function lower(a, b)
    return after(a, b) and b or a
end
-- Counted as text, as ids are compared.
local function following(id)
    local ms, seq = string.match(id, '^(%d+)-(%d+)$')
    if seq == '18446744073709551615' then return id end
    local head, nines = string.match('0' .. seq, '^(%d-)(9*)$')
    seq = string.sub(head, 1, -2) .. (tonumber(string.sub(head, -1)) + 1) .. string.rep('0', #nines)
    return ms .. '-' .. string.gsub(seq, '^0(%d)', '%1')
end
local bound, groups = ARGV[1], redis.call('XINFO', 'GROUPS', KEYS[1])
if #groups == 0 then return 0 end
for _, flat in ipairs(groups) do
    local group = fields(flat)
    local pending = redis.call('XPENDING', KEYS[1], group.name)
    if pending[1] > 0 then
        bound = lower(bound, pending[2])
    else
        bound = lower(bound, following(group['last-delivered-id']))
    end
end
return redis.call('XTRIM', KEYS[1], 'MINID', '=', bound)
