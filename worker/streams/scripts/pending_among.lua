-- KEYS: stream. ARGV: group, ids. Returns those that are pending, whoever has them.
local pending = {}
for at = 2, #ARGV do
    if #redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[at], ARGV[at], 1) > 0 then pending[#pending + 1] = ARGV[at] end
end
return pending
