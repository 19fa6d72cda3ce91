-- read-1.lua: reads blocks of one shard, each as one string, because a client takes a few microseconds for every string of an answer.
--
-- KEYS[1]  seq of the shard (HASH: endpoint -> incarnation:fence:watermark)
-- ARGV[1]  what precedes the bucket in the keys of the shard's buckets      ARGV[2] how many digits of a block key name its bucket
-- ARGV[3]  block keys of 16 characters without separator
-- ARGV[4]  '1' to read seq as well
-- returns  seq as line feed, field, line feed, value, line feed ..., '' when there is none or it was not asked for; then the blocks in order, ''
--          where there is none

local call, sub = redis.call, string.sub
local prefix, digits, keys = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local seq = ''
if ARGV[4] == '1' then
  local fields = call('HGETALL', KEYS[1])
  if #fields > 0 then seq = '\n' .. table.concat(fields, '\n') end
end
local texts = {seq}
for i = 1, #keys, 16 do
  texts[#texts + 1] = call('HGET', prefix .. sub(keys, i, i + digits - 1), sub(keys, i + digits, i + 15)) or ''
end
return texts
