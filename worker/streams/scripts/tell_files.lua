-- KEYS: hash. ARGV: worker, digest of all that it has, its files, for how many milliseconds this holds.
-- Workers whose time has run out go, and so do lists of files that no worker names any more.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('HSET', KEYS[1], 'worker ' .. ARGV[1], string.format('%.0f %s', now + ARGV[4], ARGV[2]))
redis.call('HSET', KEYS[1], 'files ' .. ARGV[2], ARGV[3])
local named, lists = {}, {}
for _, name in ipairs(redis.call('HKEYS', KEYS[1])) do
    if string.sub(name, 1, 7) == 'worker ' then
        local till, digest = string.match(redis.call('HGET', KEYS[1], name), '^(%d+) (%x+)$')
        if till and tonumber(till) > now then named['files ' .. digest] = true else redis.call('HDEL', KEYS[1], name) end
    else
        lists[#lists + 1] = name
    end
end
for _, name in ipairs(lists) do
    if not named[name] then redis.call('HDEL', KEYS[1], name) end
end
if redis.call('PTTL', KEYS[1]) < tonumber(ARGV[4]) then redis.call('PEXPIRE', KEYS[1], ARGV[4]) end
