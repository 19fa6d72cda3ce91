-- scope-1.lua: registers, changes or removes a scope, if it is still as the caller has read it.
--
-- KEYS[1]  scopes (HASH: scope -> JSON)
-- ARGV[1]  scope      ARGV[2] its value as read; '' for none      ARGV[3] its value from now on; '' to remove it
-- ARGV[4]  tag that no other scope may name; '' where it has not changed
-- returns  'done'; 'changed' when the value is another one by now; 'taken' when another scope names the tag

if (redis.call('HGET', KEYS[1], ARGV[1]) or '') ~= ARGV[2] then return 'changed' end
if ARGV[4] ~= '' then
  local fields = redis.call('HGETALL', KEYS[1])
  for i = 1, #fields, 2 do
    if fields[i] ~= ARGV[1] and string.find(fields[i + 1], '"tag":"' .. ARGV[4] .. '"', 1, true) then return 'taken' end
  end
end
if ARGV[3] == '' then redis.call('HDEL', KEYS[1], ARGV[1]) else redis.call('HSET', KEYS[1], ARGV[1], ARGV[3]) end
return 'done'
