-- KEYS: stream. ARGV: group, our own consumer, least idle milliseconds ('': our own entries), first id ('(' before it: after
-- it), last id, most entries, most bytes together, most bytes of one entry, how many bytes are shown of one with more.
-- Returns, for each entry: its id; its fields, or false when it is gone; its size when it has more bytes than are read.
-- Looking whether an entry still exists and claiming it must be one step: a trim between them would lose the loss.
local stream, group, me, idle, from, last = KEYS[1], ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local most, room, each, shown = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])
local page = idle == '' and most or 256

local function pending()
    if idle == '' then return redis.call('XPENDING', stream, group, from, last, page, me) end
    return redis.call('XPENDING', stream, group, 'IDLE', idle, from, last, page)
end

local function measured(fields)
    local size, data = 0, ''
    for at = 1, #fields, 2 do
        size = size + #fields[at] + #fields[at + 1]
        if fields[at] == 'data' then data = fields[at + 1] end
    end
    return size, data
end

local taken = {}
while true do
    local rows = pending()
    for _, row in ipairs(rows) do
        if #taken >= most then return taken end
        if idle == '' or row[2] ~= me then
            local found = redis.call('XRANGE', stream, row[1], row[1])
            if #found == 0 then
                taken[#taken + 1] = {row[1], false}
            else
                local fields, size, data = found[1][2], measured(found[1][2])
                local held = size > each and shown or size + 32 * #fields
                if #taken > 0 and held > room then return taken end
                room = room - held
                redis.call('XCLAIM', stream, group, me, 0, row[1], 'RETRYCOUNT', row[4] + 1, 'JUSTID')
                if size > each then
                    taken[#taken + 1] = {row[1], {'data', string.sub(data, 1, shown)}, size}
                else
                    taken[#taken + 1] = {row[1], fields}
                end
            end
        end
    end
    if #rows < page then return taken end
    from = '(' .. rows[#rows][1]
end
