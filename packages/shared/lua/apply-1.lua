-- apply-1.lua: applies operations of one endpoint to one shard, all of them or none, exactly once.
--
-- It runs only when the endpoint's position in the shard is the one the caller expects: the same incarnation, the same fence, the same
-- watermark. A paused former owner, a repeated call and a store that has lost writes all fail this one comparison; the caller reads from the
-- position it is given which of them it was.
--
-- KEYS[1]  seq of the shard (HASH: endpoint -> incarnation:fence:watermark)
-- ARGV[1]  what precedes the block key in the keys of the shard's blocks
-- ARGV[2]  endpoint
-- ARGV[3]  position expected            ARGV[4]  position afterwards
-- ARGV[5]  incarnation
-- ARGV[6]  where blocks have names of their own: what the engine calls them (HASH: engine hash -> block key); '' where they have none
-- ARGV[7..]  runs in order, two arguments each: '+' (one copy more), '-' (one less) or '=' (at least one), medium, '#group' unless 0
--            (e.g. '-cpu#1'); then block keys of 16 characters without separator. Where blocks have names, three: the names of those blocks, alike
-- returns  {removals of what was not held}             applied
--          the position found, nil when there is none  nothing was changed

local position = redis.call('HGET', KEYS[1], ARGV[2])
if position ~= ARGV[3] then return position end

local function apply()
  local call, sub = redis.call, string.sub
  local prefix, endpoint, mine = ARGV[1], ARGV[2], ARGV[5] .. ':'
  local names = ARGV[6]
  local order = {'gpu', 'cpu', 'storage', 'other'}
  local unknown = 0

  -- Copies by medium of an entry of this incarnation.
  local function decode(entry)
    local copies = {}
    for medium, count in string.gmatch(sub(entry, #mine + 1), '(%a+)%*?(%d*)') do copies[medium] = tonumber(count) or 1 end
    return copies
  end

  -- The entry for these copies, best medium first; nil when there are none.
  local function encode(copies)
    local parts = {}
    for _, medium in ipairs(order) do
      local count = copies[medium] or 0
      if count == 1 then parts[#parts + 1] = medium elseif count > 1 then parts[#parts + 1] = medium .. '*' .. count end
    end
    if #parts > 0 then return mine .. table.concat(parts, ',') end
  end

  -- Writes to the names what has been collected; a call takes a few thousand arguments at most.
  local function flush(command, list)
    for from = 1, #list, 2000 do call(command, names, unpack(list, from, math.min(from + 1999, #list))) end
  end

  for run = 7, #ARGV, names == '' and 2 or 3 do
    local op, medium, group = string.match(ARGV[run], '^([+=-])(%a+)(.*)$')
    local keys, field = ARGV[run + 1], endpoint .. group
    local called = names == '' and '' or ARGV[run + 2]
    -- A name and its block go together: what is held has its name, in every state that this shard has ever been in.
    local given, dropped = {}, {}
    local one = mine .. medium
    if op ~= '-' then
      for i = 1, #keys, 16 do
        local key = sub(keys, i, i + 15)
        local block = prefix .. key
        if call('HSETNX', block, field, one) == 0 then
          local entry = call('HGET', block, field)
          if entry == one then
            if op == '+' then call('HSET', block, field, one .. '*2') end
          elseif sub(entry, 1, #mine) == mine then
            local copies = decode(entry)
            if op == '+' or not copies[medium] then
              copies[medium] = (copies[medium] or 0) + 1
              call('HSET', block, field, encode(copies))
            end
          else
            call('HSET', block, field, one)
          end
        end
        if called ~= '' then
          given[#given + 1] = sub(called, i, i + 15) .. group
          given[#given + 1] = key
        end
      end
      flush('HSET', given)
    else
      for i = 1, #keys, 16 do
        local key = sub(keys, i, i + 15)
        local block = prefix .. key
        local entry = call('HGET', block, field)
        local gone = true
        if entry == one then
          call('HDEL', block, field)
        elseif not entry then
          unknown = unknown + 1
        elseif sub(entry, 1, #mine) == mine then
          local copies = decode(entry)
          if copies[medium] then
            copies[medium] = copies[medium] - 1
            entry = encode(copies)
            gone = not entry
            if gone then call('HDEL', block, field) else call('HSET', block, field, entry) end
          else
            unknown = unknown + 1
            gone = false
          end
        else
          -- Of another incarnation: dead, and in nobody's way any more.
          call('HDEL', block, field)
          unknown = unknown + 1
        end
        if gone and called ~= '' then dropped[#dropped + 1] = sub(called, i, i + 15) .. group end
      end
      flush('HDEL', dropped)
    end
  end
  call('HSET', KEYS[1], endpoint, ARGV[4])
  return {unknown}
end

-- A call that breaks off half-way (a slot of a cluster that is on its way, a key of another type) leaves a mark: the endpoint's entries are dead from
-- then on, and whoever opens the shard next begins it anew. Where the mark cannot be written, nothing else was: a server refuses for lack of memory,
-- or because it is a replica, before a script's first write, and the shard's seq was here a moment ago.
local applied, reply = pcall(apply)
if applied then return reply end
redis.pcall('HSET', KEYS[1], ARGV[2], position .. '!')
-- As Redis has put it: its code first.
local text = type(reply) == 'table' and reply.err or tostring(reply)
return redis.error_reply((string.gsub(text, '^@user_script: ?%d+: ', '')))
