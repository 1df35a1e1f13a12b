-- KEYS: stream. ARGV: group, consumer, idle milliseconds to set, ids.
-- Claiming an entry that was trimmed or deleted would strike it off the pending list: it is left as it is, for whoever
-- reads it next to record. Looking and claiming must be one step.
local group, me, idle = ARGV[1], ARGV[2], ARGV[3]
for at = 4, #ARGV do
    if #redis.call('XRANGE', KEYS[1], ARGV[at], ARGV[at]) > 0 then
        redis.call('XCLAIM', KEYS[1], group, me, 0, ARGV[at], 'IDLE', idle, 'JUSTID')
    end
end
