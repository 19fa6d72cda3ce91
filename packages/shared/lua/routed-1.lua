-- routed-1.lua: how far requests that share the beginning of a chain of blocks were sent where.
--
-- Every sending leaves a mark at each block of its chain, so that an endpoint is marked up to some block and not beyond ("whole"): the ends are found by
-- halving wherever fewer endpoints are marked than before. Or at the first block and some others ("sparse"): these are read from the end, until all
-- endpoints that are marked at the first block have been found. Or at any ("scattered"), which are all read, once it is known that one is marked.
--
-- KEYS[1]  where the first block's sendings are remembered (ZSET: endpoint by routed-at, ms)
-- ARGV[1]  what precedes the block key in such keys
-- ARGV[2]  block keys of 16 characters without separator, all of one shard
-- ARGV[3]  the earliest routed-at that counts, ms since the epoch
-- ARGV[4]  'whole', 'sparse' or 'scattered'
-- returns  endpoint, number of the last key it is marked at (from 1), routed-at of that mark, endpoint ... with a line feed between; '' when there is none

local call, sub = redis.call, string.sub
local prefix, packed, since = ARGV[1], ARGV[2], ARGV[3]
local count = #packed / 16
local last, at = {}, {}

local function keyOf(i) return prefix .. sub(packed, i * 16 - 15, i * 16) end

-- Takes the marks of block i in; returns how many endpoints are marked there.
local function read(i)
  local marks = call('ZRANGEBYSCORE', keyOf(i), since, '+inf', 'WITHSCORES')
  for j = 1, #marks, 2 do
    local endpoint = marks[j]
    if i > (last[endpoint] or 0) then last[endpoint], at[endpoint] = i, marks[j + 1] end
  end
  return #marks / 2
end

local function halve(low, marksLow, high, marksHigh)
  if high - low <= 1 or marksLow == marksHigh then return end
  local middle = math.floor((low + high) / 2)
  local marks = read(middle)
  halve(low, marksLow, middle, marks)
  halve(middle, marks, high, marksHigh)
end

if ARGV[4] == 'sparse' then
  local missing = read(1)
  local awaited = last
  last, at = {}, {}
  for i = count, 1, -1 do
    if missing == 0 then break end
    read(i)
    for endpoint in pairs(last) do
      if awaited[endpoint] then awaited[endpoint], missing = nil, missing - 1 end
    end
  end
elseif ARGV[4] == 'scattered' then
  local keys = {}
  for i = 1, count do keys[i] = keyOf(i) end
  if call('EXISTS', unpack(keys)) == 0 then return '' end
  for i = 1, count do read(i) end
else
  local first = read(1)
  if first > 0 and count > 1 then halve(1, first, count, read(count)) end
end

local lines = {}
for endpoint, i in pairs(last) do lines[#lines + 1] = endpoint .. '\n' .. i .. '\n' .. at[endpoint] end
return table.concat(lines, '\n')
