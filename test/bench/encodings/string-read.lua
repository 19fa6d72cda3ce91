-- A STRING per block; see apply-1.lua and read-1.lua of packages/shared/lua for the arguments. ARGV[2] is not used.
local texts = {''}
for i = 1, #ARGV[3], 16 do texts[#texts + 1] = redis.call('GET', ARGV[1] .. string.sub(ARGV[3], i, i + 15)) or '' end
return texts
