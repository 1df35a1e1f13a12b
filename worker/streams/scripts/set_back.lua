-- KEYS: stream. ARGV: group, the id after which it reads again. Never forwards: what lies between was not read yet.
for _, flat in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
    local group = fields(flat)
    if group.name == ARGV[1] and after(group['last-delivered-id'], ARGV[2]) then
        redis.call('XGROUP', 'SETID', KEYS[1], ARGV[1], ARGV[2])
        return 1
    end
end
return 0
