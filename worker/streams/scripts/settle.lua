-- KEYS: scores, streams. ARGV: group, most scores kept (0: all), number of scores, scores, then for each stream how many
-- entries are acknowledged and their ids.
-- As one command: for the client, packing and parsing a command for each score costs several times what this does.
local group, most, last = ARGV[1], ARGV[2], 3 + tonumber(ARGV[3])
for at = 4, last do redis.call('XADD', KEYS[1], '*', 'data', ARGV[at]) end
if last > 3 and most ~= '0' then redis.call('XTRIM', KEYS[1], 'MAXLEN', '~', most) end
for at = 2, #KEYS do
    local count = tonumber(ARGV[last + 1])
    redis.call('XACK', KEYS[at], group, unpack(ARGV, last + 2, last + 1 + count))
    last = last + 1 + count
end
