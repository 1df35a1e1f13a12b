-- KEYS: stream. ARGV: group, then pairs: the last id that was read, and the first of what was read next.
-- Returns, of each pair that has one, the last entry between the two that is not pending, and the first id of the pair.
local found = {}
for at = 2, #ARGV, 2 do
    local rows = redis.call('XREVRANGE', KEYS[1], '(' .. ARGV[at + 1], '(' .. ARGV[at], 'COUNT', 1)
    if #rows > 0 and #redis.call('XPENDING', KEYS[1], ARGV[1], rows[1][1], rows[1][1], 1) == 0 then
        found[#found + 1] = {rows[1][1], ARGV[at]}
    end
end
return found
