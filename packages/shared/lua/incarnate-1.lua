-- incarnate-1.lua: begins an incarnation of an endpoint, if the caller's fence still holds it and the number is higher than the last.
--
-- KEYS[1]  meta of the endpoint (HASH)
-- ARGV[1]  fence      ARGV[2] incarnation      ARGV[3] sequence number at which it begins
-- returns  -1 when a later fence holds it or it was removed; -2 when the number has been passed; else the incarnation before, 0 for none

if redis.call('HGET', KEYS[1], 'fence') ~= ARGV[1] then return -1 end
local last = tonumber(redis.call('HGET', KEYS[1], 'incarnation') or '0')
if last >= tonumber(ARGV[2]) then return -2 end
redis.call('HSET', KEYS[1], 'incarnation', ARGV[2], 'from', ARGV[3])
return last
