-- ARGV: names of commands. Returns those that the server does not have.
local missing = {}
for _, name in ipairs(ARGV) do
    if not redis.call('COMMAND', 'INFO', name)[1] then missing[#missing + 1] = name end
end
return missing
