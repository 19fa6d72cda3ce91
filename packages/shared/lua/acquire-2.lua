-- acquire-2.lua: takes an endpoint's lease, if it is free or the caller's own, and raises the fence.
-- The fence is the time in microseconds, or one more than the last where that is higher: it grows even when the endpoint was removed, or Redis has
-- lost everything it knew, while an owner of before still runs.
--
-- KEYS[1]  lease (STRING with expiry: owner)      KEYS[2] meta of the endpoint (HASH)
-- ARGV[1]  owner      ARGV[2] time to live in ms
-- returns  the new fence as text, or nil while another owner's lease runs

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return false end
local time = redis.call('TIME')
local fence = time[1] * 1000000 + time[2]
local last = tonumber(redis.call('HGET', KEYS[2], 'fence') or '0')
if fence <= last then fence = last + 1 end
fence = string.format('%.0f', fence)
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
redis.call('HSET', KEYS[2], 'owner', ARGV[1], 'fence', fence)
return fence
