-- KEYS: stream. ARGV: group, consumer, least idle milliseconds, most entries.
-- Looking whether an entry still exists and claiming it must be one step: a trim between them would lose the loss.
local stream, group, me, idle, most = KEYS[1], ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])
local taken, from = {}, '-'
while true do
    local rows = redis.call('XPENDING', stream, group, 'IDLE', idle, from, '+', 256)
    for _, row in ipairs(rows) do
        if row[2] ~= me and #taken < most then
            local entry = redis.call('XRANGE', stream, row[1], row[1])
            if #entry > 0 then
                redis.call('XCLAIM', stream, group, me, idle, row[1])
                taken[#taken + 1] = {row[1], entry[1][2]}
            else
                taken[#taken + 1] = {row[1], false}
            end
        end
    end
    if #rows < 256 or #taken >= most then return taken end
    from = '(' .. rows[#rows][1]
end
