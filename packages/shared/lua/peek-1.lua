-- peek-1.lua: reads what some endpoints hold of blocks of one shard: of each block only the entries that decide something. A block's other holders would
-- cost Redis and the client several times as much as these.
--
-- KEYS[1]  seq of the shard, for its slot
-- ARGV[1]  what precedes the block key in the keys of the shard's blocks
-- then, once or more often:
--   block keys of 16 characters without separator
--   number of holder fields
--   the fields
-- returns  the values, block by block and field by field, with a line feed after each; '' where there is none

local call, sub = redis.call, string.sub
local values = {}

local at = 2
while at < #ARGV do
  local packed, count = ARGV[at], tonumber(ARGV[at + 1])
  local first, last = at + 2, at + 1 + count
  for i = 1, #packed, 16 do
    local key = ARGV[1] .. sub(packed, i, i + 15)
    if count == 1 then
      values[#values + 1] = call('HGET', key, ARGV[first]) or ''
    else
      local found = call('HMGET', key, unpack(ARGV, first, last))
      for n = 1, count do values[#values + 1] = found[n] or '' end
    end
  end
  at = last + 1
end

values[#values + 1] = ''
return table.concat(values, '\n')
