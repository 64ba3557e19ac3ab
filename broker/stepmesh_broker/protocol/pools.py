"""What is told of pools and of the workers that serve them: part of the api (see api.py)."""

from __future__ import annotations

import msgspec

from stepmesh_broker.protocol.ids import Pool, WorkerId


class ListPools(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="list_pools"):
    """Answer: `Pools`."""


class WorkerEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="worker_entry"):
    """A live worker. `functions`: the durable functions that it has, by path in its pool, with the version of their code."""

    worker: WorkerId
    capacity: int
    running: int
    version: str
    seen_ms: int
    functions: dict[str, str] = {}


class PoolEntry(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="pool_entry"):
    """Depth is in tasks, as all shards know them: `queued` wait or were just begun (< 1 s), the oldest for `oldest_ms`; `in_flight`
    are leased. `trouble`: why processes that were started for the pool did not stay; "" if they did, or a worker was heard since."""

    pool: Pool
    queued: int
    in_flight: int
    workers: list[WorkerEntry]
    trouble: str = ""
    oldest_ms: int = 0

    @property
    def wanted(self) -> int:
        """What a pool has to do: tasks that wait and tasks under way. To scale by."""
        return self.queued + self.in_flight

    @property
    def capacity(self) -> int:
        """Tasks that its workers take at once."""
        return sum(worker.capacity for worker in self.workers)


class Pools(msgspec.Struct, frozen=True, array_like=True, gc=False, tag="pools"):
    """All pools in use."""

    pools: list[PoolEntry]
