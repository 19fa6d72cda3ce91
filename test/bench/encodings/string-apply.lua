-- A STRING per block with the values and arguments of apply-1.lua (packages/shared/lua): what a key per block costs. ARGV[2] is not used.
local call, sub, find = redis.call, string.sub, string.find
local position = call('HGET', KEYS[1], ARGV[3])
if position ~= ARGV[4] then return position end

local prefix, incarnation = ARGV[1], ARGV[6]
local reports = ARGV[7] == '1'
local order = {'gpu', 'cpu', 'storage', 'other'}
-- Of a longer value, what is dead is dropped whenever a holder is added: engines that restart again and again must not make it grow without end.
local LONG = 512
local unknown, emptied, live = 0, {}, nil

-- Copies by medium of a part such as 'gpu*2,cpu'.
local function decode(part)
  local copies = {}
  for medium, count in string.gmatch(part, '(%a+)%*?(%d*)') do copies[medium] = tonumber(count) or 1 end
  return copies
end

-- The part for these copies, best medium first; nil when there are none.
local function encode(copies)
  local parts = {}
  for _, medium in ipairs(order) do
    local count = copies[medium] or 0
    if count == 1 then parts[#parts + 1] = medium elseif count > 1 then parts[#parts + 1] = medium .. '*' .. count end
  end
  if #parts > 0 then return table.concat(parts, ',') end
end

-- From where to where `value` says what a holder (e.g. '7:' or '7#1:') holds, the holder included; nil when it does not.
-- `inner` is the holder with a space before it.
local function locate(value, holder, inner)
  local from = 1
  if sub(value, 1, #holder) ~= holder then
    from = find(value, inner, 1, true)
    if not from then return nil end
    from = from + 1
  end
  return from, (find(value, ' ', from, true) or #value + 1) - 1
end

local function withoutDead(value)
  if not live then
    live = {}
    for _, text in ipairs(call('HVALS', KEYS[1])) do live[string.match(text, '^%d+') or ''] = true end
  end
  local parts = {}
  for part in string.gmatch(value, '%S+') do
    if live[string.match(part, '^%d+')] then parts[#parts + 1] = part end
  end
  return table.concat(parts, ' ')
end

for run = 8, #ARGV, 2 do
  local op, medium, group = string.match(ARGV[run], '^([+-])(%a+)(.*)$')
  local keys, holder = ARGV[run + 1], incarnation .. group .. ':'
  local one, inner = holder .. medium, ' ' .. holder
  if op == '+' then
    for i = 1, #keys, 16 do
      local block = prefix .. sub(keys, i, i + 15)
      if call('SETNX', block, one) == 0 then
        local value = call('GET', block)
        local from, to = locate(value, holder, inner)
        if from then
          local copies = decode(sub(value, from + #holder, to))
          copies[medium] = (copies[medium] or 0) + 1
          value = sub(value, 1, from - 1) .. holder .. encode(copies) .. sub(value, to + 1)
        else
          if #value > LONG then value = withoutDead(value) end
          value = value == '' and one or value .. ' ' .. one
        end
        call('SET', block, value)
      end
      if reports then emptied[sub(keys, i, i + 15)] = nil end
    end
  else
    for i = 1, #keys, 16 do
      local block = prefix .. sub(keys, i, i + 15)
      local value = call('GET', block)
      local gone = false
      if value == one then
        call('DEL', block)
        value, gone = '', true
      else
        local from, to, left
        if value then from, to = locate(value, holder, inner) end
        if from and sub(value, from, to) ~= one then
          local copies = decode(sub(value, from + #holder, to))
          if copies[medium] then
            copies[medium] = copies[medium] - 1
            left = encode(copies)
          else
            from = nil
          end
        end
        if from then
          if left then
            value = sub(value, 1, from - 1) .. holder .. left .. sub(value, to + 1)
          elseif from > 1 then
            value, gone = sub(value, 1, from - 2) .. sub(value, to + 1), true
          else
            value, gone = sub(value, to + 2), true
          end
          if value == '' then call('DEL', block) else call('SET', block, value) end
        else
          unknown = unknown + 1
        end
      end
      if gone and reports and not (locate(value, incarnation .. ':', ' ' .. incarnation .. ':') or locate(value, incarnation .. '#', ' ' .. incarnation .. '#')) then
        emptied[sub(keys, i, i + 15)] = true
      end
    end
  end
end

call('HSET', KEYS[1], ARGV[3], ARGV[5])
local list = {}
for key in pairs(emptied) do list[#list + 1] = key end
return {unknown, table.concat(list)}
