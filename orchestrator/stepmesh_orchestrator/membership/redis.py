"""The Membership port over Redis: four keys in one slot beside the journal's; time is the server's clock.

Every call is one script, and so one step. What ran out is dropped by whichever call comes next. Must not know what holding a partition
means.
"""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.addresses import without_password
from stepmesh_orchestrator.ports import Member, Members, MembershipError, MembershipFull
from stepmesh_orchestrator.redis import Fault, RedisConnections, Script, classify, describe

TIMEOUT_S = 2.0
CONNECTIONS = 2

# KEYS: members and leases (what, by name), and until when (by name, ms)
_NOW = """
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
for _, pair in ipairs({{KEYS[1], KEYS[2]}, {KEYS[3], KEYS[4]}}) do
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', pair[2], '-inf', now)) do
        redis.call('HDEL', pair[1], name)
        redis.call('ZREM', pair[2], name)
    end
end
"""
_BEAT = Script(
    _NOW
    + """
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[2], now + ARGV[3], ARGV[1])
local leases = redis.call('HGETALL', KEYS[3])
for index = 1, #leases, 2 do
    if leases[index + 1] == ARGV[1] then
        redis.call('ZADD', KEYS[4], now + ARGV[3], leases[index])
    end
end
return {redis.call('HVALS', KEYS[1]), leases}
"""
)
_TAKE = Script(
    _NOW
    + """
local holder = redis.call('HGET', KEYS[3], ARGV[1])
if holder and holder ~= ARGV[2] then
    return 0
end
redis.call('HSET', KEYS[3], ARGV[1], ARGV[2])
redis.call('ZADD', KEYS[4], now + ARGV[3], ARGV[1])
return 1
"""
)
_RELEASE = Script("""
if redis.call('HGET', KEYS[3], ARGV[1]) == ARGV[2] then
    redis.call('HDEL', KEYS[3], ARGV[1])
    redis.call('ZREM', KEYS[4], ARGV[1])
end
return 0
""")
_LEAVE = Script("""
redis.call('HDEL', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
local leases = redis.call('HGETALL', KEYS[3])
for index = 1, #leases, 2 do
    if leases[index + 1] == ARGV[1] then
        redis.call('HDEL', KEYS[3], leases[index])
        redis.call('ZREM', KEYS[4], leases[index])
    end
end
return 0
""")
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Member).decode


class RedisMembership:
    """Of `namespace`, in the server that `url` names, or in its cluster. An answer that takes longer than `timeout_s` is an error."""

    def __init__(self, url: str, namespace: Namespace, timeout_s: float = TIMEOUT_S) -> None:
        self._where = f"{without_password(url)}, namespace {namespace}"
        self._connections = RedisConnections(url, self._translate, CONNECTIONS, timeout_s)
        prefix = f"stepmesh:{{{namespace}}}"
        self._keys = (f"{prefix}:members", f"{prefix}:members-until", f"{prefix}:leases", f"{prefix}:leases-until")

    async def open(self) -> None:
        """See the port."""
        await self._connections.open()

    async def close(self) -> None:
        """See the port."""
        await self._connections.close()

    async def beat(self, member: Member, ttl_s: float) -> Members:
        """See the port."""
        members, leases = await self._connections.run(_BEAT, self._keys, (member.node, _encode(member), _ms(ttl_s)))
        pairs = zip(leases[::2], leases[1::2], strict=True)
        return Members(
            {found.node: found for found in map(_decode, members)},
            {Partition(int(partition)): node.decode() for partition, node in pairs},
        )

    async def take(self, partition: Partition, node: str, ttl_s: float) -> bool:
        """See the port."""
        return bool(await self._connections.run(_TAKE, self._keys, (partition, node, _ms(ttl_s))))

    async def release(self, partition: Partition, node: str) -> None:
        """See the port."""
        await self._connections.run(_RELEASE, self._keys, (partition, node))

    async def leave(self, node: str) -> None:
        """See the port."""
        await self._connections.run(_LEAVE, self._keys, (node,))

    def _translate(self, error: Exception) -> Exception:
        message, hint = describe(error, f"the membership in {self._where}")
        return (MembershipFull if classify(error) is Fault.FULL else MembershipError)(message, hint=hint)


def _ms(seconds: float) -> int:
    return round(seconds * 1000)
