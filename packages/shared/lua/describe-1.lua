-- describe-1.lua: writes fields of an endpoint's meta, if the caller's fence still holds it.
--
-- KEYS[1]  meta of the endpoint (HASH)
-- ARGV[1]  fence      ARGV[2..] fields and values
-- returns  0 when a later fence holds it or it was removed; 1 when nothing differed; 2 when something did

if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return 0 end
local changed = 1
for i = 2, #ARGV, 2 do
  if redis.call('HGET', KEYS[1], ARGV[i]) ~= ARGV[i + 1] then
    redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
    changed = 2
  end
end
return changed
