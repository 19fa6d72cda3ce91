-- renew-2.lua: extends a lease that is still held, or gives it back.
--
-- KEYS[1]  lease (STRING with expiry: owner)      KEYS[2] meta of the endpoint (HASH)
-- ARGV[1]  owner      ARGV[2] fence      ARGV[3] time to live in ms; 0 to give it back
-- returns  1, or 0 when it has been lost

if redis.call('GET', KEYS[1]) ~= ARGV[1] or redis.call('HGET', KEYS[2], 'fence') ~= ARGV[2] then return 0 end
if ARGV[3] == '0' then redis.call('DEL', KEYS[1]) else redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return 1
