-- route-1.lua: remembers that a request with this chain of blocks was sent to an endpoint, or takes that back.
--
-- KEYS[1]  where the first block's sending is remembered (ZSET: endpoint by routed-at, ms)
-- ARGV[1]  what precedes the block key in such keys
-- ARGV[2]  block keys of 16 characters without separator, all of one shard
-- ARGV[3]  endpoint
-- ARGV[4]  routed-at, ms since the epoch
-- ARGV[5]  milliseconds after which a key that nobody is sent to expires; 0 takes the sending back where no later one has replaced it
-- returns  number of blocks

local call, sub = redis.call, string.sub
local endpoint, at, ttl = ARGV[3], ARGV[4], tonumber(ARGV[5])
local MOST_ENDPOINTS = 1024

for i = 1, #ARGV[2], 16 do
  local key = ARGV[1] .. sub(ARGV[2], i, i + 15)
  if ttl == 0 then
    if tonumber(call('ZSCORE', key, endpoint) or -1) == tonumber(at) then call('ZREM', key, endpoint) end
  else
    if call('ZADD', key, 'GT', at, endpoint) == 1 and call('ZCARD', key) > MOST_ENDPOINTS then
      call('ZREMRANGEBYRANK', key, 0, -MOST_ENDPOINTS - 1)
    end
    call('PEXPIRE', key, ttl)
  end
end
return #ARGV[2] / 16
