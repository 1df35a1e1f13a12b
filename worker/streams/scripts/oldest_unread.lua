-- KEYS: stream. ARGV: group. Returns the id of the oldest entry that nobody was given; false for none.
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = fields(flat)
    if group.name == ARGV[1] then
        local rows = redis.call('XRANGE', KEYS[1], '(' .. group['last-delivered-id'], '+', 'COUNT', 1)
        return rows[1] and rows[1][1]
    end
end
return false
