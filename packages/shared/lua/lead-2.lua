-- lead-2: takes or extends the right to watch pools for the whole fleet, and writes what was seen. Whoever has lost the right writes nothing, however
-- late it wakes up.
--
-- KEYS[1]  lease (STRING with expiry: owner)      KEYS[2] pools (HASH); its field #version is another one after every change, so that readers can tell
-- ARGV[1]  owner      ARGV[2] time to live in ms; 0 to give it back      ARGV[3..] pool, its record ('' to remove it), and so on
-- returns  1, or 0 while somebody else leads

local holder = redis.call('GET', KEYS[1])
if holder and holder ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[1])
  return 1
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
if #ARGV > 2 then
  local now = redis.call('TIME')
  redis.call('HSET', KEYS[2], '#version', now[1] .. '.' .. now[2])
end
for i = 3, #ARGV, 2 do
  if ARGV[i + 1] == '' then
    redis.call('HDEL', KEYS[2], ARGV[i])
  else
    redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 1])
  end
end
return 1
