-- KEYS: stream. ARGV: what was noticed of it before, group, our clock in milliseconds, the id beyond which an id is far
-- ahead of it. The first is a key, and no declared one: a user's rights to streams and to other keys are two lists, and
-- all declared keys have to be in one of them.
-- Returns how many more entries are gone that the group had not read (-1: there is no group yet), and the stream's last
-- id where it is far ahead and was not when it was looked last.
-- Looking and remembering are one step, so that of several workers one tells.
local noticed, name, now, far = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function group_of(key)
    for _, flat in ipairs(redis.call('XINFO', 'GROUPS', key)) do
        local group = fields(flat)
        if group.name == name then return group end
    end
end

-- Entries that were added, and are neither read nor there: nil where the server cannot tell now.
local function missing_of(stream, group)
    local added, there, delivered = stream['entries-added'], stream.length, group['last-delivered-id']
    if not added then return nil end
    -- A group that has read nothing: what was gone when it was made counts too, and is taken for known.
    if delivered == '0-0' then return added - there end
    if not group['entries-read'] then return nil end
    if there == 0 or delivered == stream['last-generated-id'] then there = 0
    elseif not after(stream['recorded-first-entry-id'], delivered) then return nil end
    return math.max(0, added - group['entries-read'] - there)
end

-- Servers differ in whether their count of what was read catches up with what is missing when the group reads on.
local function newly_gone(known, missing, delivered)
    local told = tonumber(known.missing or '0')
    if delivered == '0-0' and known.delivered ~= delivered then return 0 end
    if known.delivered ~= delivered and (known.delivered == '0-0' or missing < told) then return missing end
    return math.max(0, missing - told)
end

local stream, group = fields(redis.call('XINFO', 'STREAM', KEYS[1])), group_of(KEYS[1])
local last, known = stream['last-generated-id'], fields(redis.call('HGETALL', noticed))
local newly_far = after(last, far) and not known.last_id and last or ''
if after(last, far) then
    redis.call('HSET', noticed, 'last_id', last)
elseif known.last_id then
    redis.call('HDEL', noticed, 'last_id')
end
if not group then
    redis.call('HDEL', noticed, 'delivered')
    return {-1, newly_far}
end
local missing = missing_of(stream, group)
if not missing then return {0, newly_far} end
local delivered = group['last-delivered-id']
local gone = newly_gone(known, missing, delivered)
if gone > 0 then
    redis.call('HINCRBY', noticed, 'gone', gone)
    redis.call('HSET', noticed, 'at', now)
end
if tostring(missing) ~= known.missing or delivered ~= known.delivered then
    redis.call('HSET', noticed, 'missing', missing, 'delivered', delivered)
end
return {gone, newly_far}
