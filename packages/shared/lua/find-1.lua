-- find-1.lua: how many leading blocks of a chain each endpoint holds, as far as the chain lies in one shard. Relies on residency being prefix-closed:
-- engines evict the tail of a chain first, so that "holds block i" is true up to some length and false from there on, and so is "holds block i in the
-- GPU", and so on down the media. All endpoints are searched for together by halving: about log2(blocks) blocks are looked at, not all.
--
-- KEYS[1]  seq of the shard (HASH: endpoint -> incarnation:fence:watermark)
-- ARGV[1]  what precedes the block key in the keys of the shard's blocks
-- ARGV[2]  the chain's block keys of 16 characters without separator
-- then, for each endpoint that holds a block only when several cache groups do:
--   the endpoint
--   number of holder fields
--   the fields
-- returns  for each endpoint that holds the first block: endpoint, incarnation, lengths, with a line feed after each; lengths are numbers of leading
--          blocks held in the best medium, in that or the next one, and so on, with a space between; one number when they are all the same

local call, sub, concat = redis.call, string.sub, table.concat
local prefix, packed = ARGV[1], ARGV[2]
local blocks = #packed / 16

-- By the first letter of a medium: gpu, cpu, storage, other. A value names an endpoint's best medium first.
local rankOf = {g = 0, c = 1, s = 2, o = 3}
local ABSENT = 4

-- From this many fields on a block is read whole: a small hash is searched from its beginning for each field that is asked for.
local WHOLE = 16

local function keyOf(i) return prefix .. sub(packed, i * 16 - 15, i * 16) end

local function mapOf(flat)
  local map = {}
  for i = 1, #flat, 2 do map[flat[i]] = flat[i + 1] end
  return map
end

-- What the holder's endpoint has of a block: the worst rank in its fields.
local function rankIn(holder, valueOf)
  local worst = 0
  for i = 1, #holder.fields do
    local value = valueOf[holder.fields[i]]
    if not value or sub(value, 1, #holder.beginning) ~= holder.beginning then return ABSENT end
    local at = #holder.beginning + 1
    local rank = rankOf[sub(value, at, at)] or ABSENT
    if rank > worst then worst = rank end
  end
  return worst
end

local function read(i, holders)
  local fields = {}
  for _, holder in ipairs(holders) do
    for n = 1, #holder.fields do fields[#fields + 1] = holder.fields[n] end
  end
  if #fields >= WHOLE then return mapOf(call('HGETALL', keyOf(i))) end
  local values, valueOf = call('HMGET', keyOf(i), unpack(fields)), {}
  for n = 1, #fields do valueOf[fields[n]] = values[n] end
  return valueOf
end

-- All these hold block `low` in a medium of `rank` or better, and none holds block `high`.
local function halve(low, high, holders, rank)
  if #holders == 0 then return end
  if high - low <= 1 then
    for _, holder in ipairs(holders) do holder.lengths[rank] = low end
    return
  end
  local middle = math.floor((low + high) / 2)
  local valueOf = read(middle, holders)
  local having, lacking = {}, {}
  for _, holder in ipairs(holders) do
    local found = rankIn(holder, valueOf)
    if found <= rank then
      having[#having + 1], holder.last = holder, found
    else
      lacking[#lacking + 1] = holder
    end
  end
  halve(middle, high, having, rank)
  halve(low, middle, lacking, rank)
end

-- Endpoints that hold the first block, with their current incarnations.
local first = call('HGETALL', keyOf(1))
local firstOf = mapOf(first)
local holders, named, endpoints = {}, {}, {}
local at = 3
while at < #ARGV do
  local fields = {}
  for i = 1, tonumber(ARGV[at + 1]) do fields[i] = ARGV[at + 1 + i] end
  named[ARGV[at]] = true
  endpoints[#endpoints + 1] = ARGV[at]
  holders[#holders + 1] = {fields = fields}
  at = at + 2 + #fields
end
for i = 1, #first, 2 do
  local field = first[i]
  if not named[field] and not string.find(field, '#', 1, true) then
    endpoints[#endpoints + 1] = field
    holders[#holders + 1] = {fields = {field}}
  end
end
if #holders == 0 then return '' end

local present = {}
for from = 1, #endpoints, 1000 do
  local positions = call('HMGET', KEYS[1], unpack(endpoints, from, math.min(from + 999, #endpoints)))
  for i = 1, #positions do
    local holder, position = holders[from + i - 1], positions[i]
    if position then
      holder.endpoint, holder.lengths = endpoints[from + i - 1], {}
      holder.incarnation = string.match(position, '^%d+')
      holder.beginning = holder.incarnation .. ':'
      holder.first = rankIn(holder, firstOf)
      holder.last = holder.first
      if holder.first < ABSENT then present[#present + 1] = holder end
    end
  end
end

-- In any medium; then in better ones than that of the last block.
halve(1, blocks + 1, present, ABSENT - 1)
local lines = {}
for _, holder in ipairs(present) do
  local lengths, rank = holder.lengths, ABSENT - 1
  while true do
    local length = lengths[rank]
    -- The last block is the worst.
    for better = holder.last, rank do lengths[better] = length end
    rank = holder.last - 1
    if rank < 0 then break end
    if holder.first > rank then
      for better = 0, rank do lengths[better] = 0 end
      break
    end
    holder.last = holder.first
    halve(1, length, {holder}, rank)
  end
  lines[#lines + 1] = holder.endpoint
  lines[#lines + 1] = holder.incarnation
  if lengths[0] == lengths[ABSENT - 1] then
    lines[#lines + 1] = lengths[0]
  else
    lines[#lines + 1] = lengths[0] .. ' ' .. concat(lengths, ' ', 1, ABSENT - 1)
  end
end
lines[#lines + 1] = ''
return concat(lines, '\n')
