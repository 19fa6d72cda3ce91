-- renew-2.lua: extends a lease, or gives it back. One that has run out and that nobody else has taken since goes on: on a busy machine beats come late, and
-- an owner that began anew each time would get nothing done. Whoever takes a lease raises the fence, and so does giving it back.
--
-- KEYS[1]  lease (STRING with expiry: owner)      KEYS[2] meta of the endpoint (HASH)
-- ARGV[1]  owner      ARGV[2] fence      ARGV[3] time to live in ms; 0 to give it back
-- returns  1, or 0 when it has been lost

local holder = redis.call('GET', KEYS[1])
if (holder and holder ~= ARGV[1]) or redis.call('HGET', KEYS[2], 'fence') ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then
  redis.call('DEL', KEYS[1])
  redis.call('HINCRBY', KEYS[2], 'fence', 1)
else
  redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[3])
end
return 1
