-- open-1.lua: takes an endpoint over in one shard. Raises its fence; a new incarnation begins at the position given, which makes every entry of
-- an earlier one dead; the current incarnation goes on where it was.
--
-- KEYS[1]  seq of the shard (HASH: endpoint -> incarnation:fence:watermark)
-- ARGV[1]  endpoint      ARGV[2] incarnation      ARGV[3] fence      ARGV[4] watermark at which the incarnation begins
-- ARGV[5]  '1' to open a shard of which nobody has a position
-- ARGV[6]  what precedes '<endpoint>:<incarnation>' in the keys of the shard's names: those of an incarnation that is over go with it
-- returns  the position now: of this incarnation and fence when taken; another, unchanged, when the shard has seen a higher fence or incarnation;
--          'new' when nobody has a position in the shard and the caller has not said to open it all the same: blocks may have survived their positions;
--          and when the endpoint's position was left by a call that broke off half-way ('!' at its end): what it holds is dead, and has to go first

if ARGV[5] ~= '1' and redis.call('EXISTS', KEYS[1]) == 0 then return 'new' end
local position = redis.call('HGET', KEYS[1], ARGV[1])
local mark = ARGV[4]
if position then
  local incarnation, fence, held, broken = string.match(position, '^(%d+):(%d+):([^!]+)(!?)$')
  if incarnation then
    if tonumber(fence) > tonumber(ARGV[3]) or tonumber(incarnation) > tonumber(ARGV[2]) then return position end
    if incarnation == ARGV[2] then
      if broken == '' then mark = held elseif ARGV[5] ~= '1' then return 'new' end
    else
      redis.call('UNLINK', ARGV[6] .. ARGV[1] .. ':' .. incarnation)
    end
  end
end
position = ARGV[2] .. ':' .. ARGV[3] .. ':' .. mark
redis.call('HSET', KEYS[1], ARGV[1], position)
return position
