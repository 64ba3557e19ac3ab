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
