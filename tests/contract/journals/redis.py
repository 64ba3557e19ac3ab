"""The journal in Redis, for its contract."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from redis import Redis

from stepmesh_broker.protocol.ids import Namespace, Partition
from stepmesh_orchestrator.journal.framing import StoredFrame, StoredSnapshot
from stepmesh_orchestrator.journal.redis import RedisJournal
from stepmesh_orchestrator.ports import Journal

Entries = list[tuple[bytes, dict[bytes, bytes]]]


def drop_keys(url: str, namespace: Namespace) -> None:
    """Forget all that a namespace has."""
    with Redis.from_url(url) as redis:
        for key in redis.scan_iter(f"stepmesh:{{{namespace}*"):
            redis.delete(key)


class RedisBackend:
    durability = "fsync"
    survives = "power loss, as long as the server's disk"
    lost_end = ""

    def __init__(self, url: str, namespace: Namespace) -> None:
        self.url = url
        self.namespace = namespace
        self.journal: Journal = RedisJournal(url, namespace)

    async def reopened(self) -> Journal:
        await self.journal.close()
        self.journal = RedisJournal(self.url, self.namespace)
        await self.journal.open()
        return self.journal

    def drop(self) -> None:
        """Forget all of it."""
        drop_keys(self.url, self.namespace)

    async def put_frame(self, partition: Partition, sequence: int, **fields: Any) -> None:
        def change(packed: bytes) -> bytes:
            frame = StoredFrame(sequence, *msgspec.msgpack.decode(packed))
            return msgspec.msgpack.encode(frame._replace(**fields)[1:])

        self._rewrite(partition, sequence, lambda entry: [(entry[0], {b"frame": change(entry[1][b"frame"])})])

    async def drop_frame(self, partition: Partition, sequence: int) -> None:
        self._rewrite(partition, sequence, lambda entry: [])

    async def put_snapshot(self, partition: Partition, sequence: int, **fields: Any) -> None:
        key = f"stepmesh:{{{self.namespace}:{partition}}}:snapshots"
        with Redis.from_url(self.url) as redis:
            snapshot = StoredSnapshot(sequence, *msgspec.msgpack.decode(redis.hget(key, str(sequence))))
            redis.hset(key, str(sequence), msgspec.msgpack.encode(snapshot._replace(**fields)[1:]))

    def _rewrite(self, partition: Partition, sequence: int, change: Callable[[tuple[bytes, dict[bytes, bytes]]], Entries]) -> None:
        """A stream's entries cannot be changed: it is made anew with one changed."""
        key = f"stepmesh:{{{self.namespace}:{partition}}}:frames"
        with Redis.from_url(self.url) as redis:
            entries: Entries = redis.xrange(key)
            index = [name for name, _ in entries].index(b"%d-0" % sequence)
            redis.delete(key)
            for name, values in [*entries[:index], *change(entries[index]), *entries[index + 1 :]]:
                redis.xadd(key, values, id=name)
