-- sweep-1.lua: drops the dead entries of some blocks of one shard, and dead names: those of another incarnation than the endpoint's current one.
--
-- KEYS[1]  seq of the shard (HASH: endpoint -> incarnation:fence:watermark)
-- ARGV[1]  what precedes the block key in the keys of the shard's blocks
-- ARGV[2]  block keys of 16 characters without separator
-- ARGV[3]  what precedes '<endpoint>:<incarnation>' in the keys of the shard's names        ARGV[4..] some of those
-- returns  number of entries and names dropped

local live = {}
local positions = redis.call('HGETALL', KEYS[1])
for i = 1, #positions, 2 do live[positions[i]] = string.match(positions[i + 1], '^(%d+):[^!]+$') end

local dropped = 0
for i = 1, #ARGV[2], 16 do
  local block = ARGV[1] .. string.sub(ARGV[2], i, i + 15)
  local entries = redis.call('HGETALL', block)
  for j = 1, #entries, 2 do
    local endpoint = string.match(entries[j], '^(.*)#%d+$') or entries[j]
    local current = live[endpoint]
    if current == nil or current ~= string.match(entries[j + 1], '^%d+') then
      redis.call('HDEL', block, entries[j])
      dropped = dropped + 1
    end
  end
end
for i = 4, #ARGV do
  local endpoint, incarnation = string.match(ARGV[i], '^(.*):(%d+)$')
  if endpoint and live[endpoint] ~= incarnation then dropped = dropped + redis.call('UNLINK', ARGV[3] .. ARGV[i]) end
end
return dropped
