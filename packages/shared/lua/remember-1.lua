-- remember-1.lua: counts the last incarnation number up to one that is known to be in use.
-- The counter may have been lost (an empty Redis, a node of a cluster that failed over) while writers or shards still know later numbers.
--
-- KEYS[1]  incarnations (STRING: the last number given to anybody)
-- ARGV[1]  a number in use
-- returns  the last number now

local last = tonumber(redis.call('GET', KEYS[1]) or '0')
local used = tonumber(ARGV[1])
if last >= used then return last end
redis.call('SET', KEYS[1], ARGV[1])
return used
