-- read-1.lua: reads blocks of one shard, each as one string. A client takes a few microseconds for every string of an answer, and a block has two
-- for each of its holders: this way a lookup costs the client a fifth of what HGETALL for each block does, and Redis twice as much.
--
-- KEYS[1]  seq of the shard (HASH: endpoint -> incarnation:fence:watermark)
-- ARGV[1]  what precedes the block key in the keys of the shard's blocks
-- ARGV[2]  block keys of 16 characters without separator
-- ARGV[3]  '1' to read seq as well
-- returns  seq, then the blocks in order; each as field, value, field, value ... with a line feed before each; '' when there is none, or not asked for

local call, concat, sub = redis.call, table.concat, string.sub

local function lines(key)
  local pairs = call('HGETALL', key)
  if #pairs == 0 then return '' end
  return '\n' .. concat(pairs, '\n')
end

local texts = {ARGV[3] == '1' and lines(KEYS[1]) or ''}
for i = 1, #ARGV[2], 16 do texts[#texts + 1] = lines(ARGV[1] .. sub(ARGV[2], i, i + 15)) end
return texts
