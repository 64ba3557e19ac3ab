"""What the Redis journal does on the server, as Lua scripts: each one is a step that nobody sees half done.

KEYS of a partition, in one slot: `owner` (a hash: where the partition stands), `frames` (a stream: entry `<sequence>-0` holds a frame) and
`snapshots` (a hash by sequence). Numbers are compared as the texts that they are: Lua's own are not exact above 2^53.
"""

from __future__ import annotations

from stepmesh_orchestrator.redis import Script

_HEAD = "redis.call('HMGET', KEYS[1], 'epoch', 'head', 'chain', 'trimmed', 'trimmed_chain')"

LOOK = Script(f"""
local entries = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
return {{{_HEAD}, #entries}}
""")
"""Where the partition stands, and whether there are frames."""

ACQUIRE = Script(f"""
if redis.call('EXISTS', KEYS[1]) == 0 then
    local entries = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', 1)
    if #entries > 0 then
        return {{{_HEAD}, entries}}
    end
    redis.call('HSET', KEYS[1], 'epoch', '0', 'head', '0', 'chain', ARGV[2], 'trimmed', '0', 'trimmed_chain', ARGV[2])
end
redis.call('HINCRBY', KEYS[1], 'epoch', 1)
redis.call('HSET', KEYS[1], 'owner', ARGV[1])
return {{{_HEAD}, redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 2)}}
""")
"""ARGV: owner, first link. Raises the epoch; where the partition stands now, and its last two frames, newest first."""

APPEND = Script("""
local owner = redis.call('HMGET', KEYS[1], 'epoch', 'head', 'chain')
if owner[1] ~= ARGV[1] or owner[2] ~= ARGV[2] or owner[3] ~= ARGV[3] then
    return 0
end
redis.call('XADD', KEYS[2], ARGV[4] .. '-0', 'frame', ARGV[6])
redis.call('HSET', KEYS[1], 'head', ARGV[4], 'chain', ARGV[5])
return 1
""")
"""ARGV: epoch, last sequence and link; sequence, link and frame. 1 when it is there now, 0 when epoch, sequence or link are not those."""

READ = Script(f"""
local after = ARGV[1] .. '-0'
return {{{_HEAD}, redis.call('XRANGE', KEYS[2], after, after),
    redis.call('XRANGE', KEYS[2], '(' .. after, '+', 'COUNT', ARGV[2])}}
""")
"""ARGV: after, how many. Where the partition stands, the frame `after`, and those that follow it."""

SNAPSHOTS = Script(f"""
local kept = redis.call('HGETALL', KEYS[3])
local links = {{}}
for index = 1, #kept, 2 do
    local id = kept[index] .. '-0'
    links[#links + 1] = redis.call('XRANGE', KEYS[2], id, id)
end
return {{{_HEAD}, kept, links}}
""")
"""Where the partition stands, its snapshots (sequence, snapshot, …), and the frame of each."""

SAVE = Script("""
if redis.call('HGET', KEYS[1], 'epoch') ~= ARGV[1] or redis.call('HGET', KEYS[1], 'trimmed') ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[3], ARGV[3], ARGV[4])
local kept = redis.call('HKEYS', KEYS[3])
table.sort(kept, function(one, other) return tonumber(one) > tonumber(other) end)
for index = tonumber(ARGV[5]) + 1, #kept do
    redis.call('HDEL', KEYS[3], kept[index])
end
return 1
""")
"""ARGV: epoch, last trimmed, sequence, snapshot, how many stay. 0 when epoch or last trimmed are not those."""

TRIM = Script("""
if redis.call('HGET', KEYS[1], 'trimmed') ~= ARGV[1] then
    return 0
end
redis.call('HSET', KEYS[1], 'trimmed', ARGV[2], 'trimmed_chain', ARGV[3])
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[4] .. '-0')
return 1
""")
"""ARGV: last trimmed; through, its link, the first one that stays. 0 when the last trimmed one is another."""

KEEP = Script(f"""
local head = {_HEAD}
for index = 1, 5 do
    if (head[index] or '') ~= ARGV[index] then
        return 0
    end
end
redis.call('HSET', KEYS[1], 'owner', 'repair', 'epoch', ARGV[6], 'head', ARGV[7], 'chain', ARGV[8], 'trimmed', ARGV[9],
    'trimmed_chain', ARGV[10])
redis.call('XTRIM', KEYS[2], 'MINID', ARGV[11] .. '-0')
local after = '(' .. ARGV[7] .. '-0'
local entries = redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', 1000)
while #entries > 0 do
    for _, entry in ipairs(entries) do
        redis.call('XDEL', KEYS[2], entry[1])
    end
    entries = redis.call('XRANGE', KEYS[2], after, '+', 'COUNT', 1000)
end
if redis.call('EXISTS', KEYS[2]) == 1 then
    local id = ARGV[7] .. '-0'
    local set = redis.pcall('XSETID', KEYS[2], id, 'ENTRIESADDED', redis.call('XLEN', KEYS[2]), 'MAXDELETEDID', '0-0')
    if set.err then
        redis.call('XSETID', KEYS[2], id)
    end
end
local stays = {{}}
for index = 12, #ARGV do
    stays[ARGV[index]] = true
end
for _, sequence in ipairs(redis.call('HKEYS', KEYS[3])) do
    if not stays[sequence] then
        redis.call('HDEL', KEYS[3], sequence)
    end
end
return 1
""")
"""ARGV: where the partition stood, five values; where it stands from now on, five; the first frame that stays; the snapshots that do.
0 when it does not stand there any more. What was appended last is forgotten, too, so that the next frame can be."""
