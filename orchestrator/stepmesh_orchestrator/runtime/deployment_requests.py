"""Requests about the deployment: what it is, which pools it has, who works for them and what they offer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Partition, Pool
from stepmesh_broker.protocol.messages import Failure
from stepmesh_broker.protocol.peers import TaskCounts
from stepmesh_broker.protocol.pools import ListPools, PoolEntry, Pools, WorkerEntry
from stepmesh_orchestrator.core.decide.offered import core_components
from stepmesh_orchestrator.runtime.partition import PartitionService
from stepmesh_orchestrator.runtime.presence import Presence, Seen
from stepmesh_orchestrator.runtime.readings import waiting_ms
from stepmesh_orchestrator.runtime.shard import Shard

_BUILTIN = Pool("builtin")


class DeploymentRequests:
    """Their answers. `info`: None while it is not known. `queues`: the pools of the configuration; None = there is none, any name may be
    a pool."""

    def __init__(
        self,
        info: Callable[[], api.Info | None],
        queues: Sequence[api.Queue] | None,
        presence: Presence,
        partitions: Mapping[Partition, PartitionService],
        component_path: Callable[[Pool, str], str],
    ) -> None:
        self.info = info
        self._queues = queues
        self._presence = presence
        self._partitions = partitions
        self._component_path = component_path
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {
            api.GetInfo: self._get_info,
            api.ListComponents: self._list_components,
            api.ListQueues: self._list_queues,
            ListPools: self._list_pools,
        }

    async def _get_info(self, request: api.GetInfo) -> api.ApiAnswer:
        info = self.info()
        if info is None:
            raise LookupError("no partition is owned here, and none was asked")
        return info

    async def _list_components(self, request: api.ListComponents) -> api.ApiAnswer:
        return self.components(self._counts())

    async def _list_pools(self, request: ListPools) -> api.ApiAnswer:
        return self.pools(self._counts())

    def _counts(self) -> list[TaskCounts]:
        return [count_tasks(service.shard, service.ports.clock.now_ms()) for service in self._partitions.values()]

    def components(self, counts: Iterable[TaskCounts]) -> api.Components:
        """What there is, by the tasks of all partitions."""
        self._presence.forget_silent()
        found = [api.ComponentEntry(self._component_path(_BUILTIN, one.path), _BUILTIN, one, 1) for one in core_components()]
        for pool, components in self._presence.offered().items():
            for path, component in components.items():
                name = Pool(pool)
                found.append(api.ComponentEntry(self._component_path(name, path), name, component, self._presence.workers(pool)))
        return api.Components(sorted(found, key=lambda entry: entry.path), self._silent(counts))

    def _silent(self, counts: Iterable[TaskCounts]) -> list[Pool]:
        """Pools that should have workers, of which none ever said hello."""
        wanted = {queue.pool for queue in self._queues or ()}
        wanted.update(pool for count in counts for pool in count.expected)
        return sorted(wanted.difference(self._presence.pools()))

    async def _list_queues(self, request: api.ListQueues) -> api.ApiAnswer:
        return api.Queues(list(self._queues or ()), open=self._queues is None)

    def pools(self, counts: Iterable[TaskCounts]) -> Pools:
        """Those in use, by the tasks of all partitions."""
        self._presence.forget_silent()
        held: dict[str, int] = {}
        flying: dict[str, int] = {}
        waits: dict[str, int] = {}
        breakers: dict[Pool, str] = {}
        for count in counts:
            _add(held, count.held)
            _add(flying, count.queued)
            for one, waited in count.waiting_ms.items():
                waits[one] = max(waits.get(one, 0), waited)
            breakers.update(count.breakers)
        pools: list[PoolEntry] = []
        troubles = {str(pool): said for pool, said in breakers.items()} | self._presence.troubles()
        for pool in sorted({*held, *flying, *self._presence.pools(), *troubles}):
            workers = [_worker(seen) for seen in self._presence.seen(pool)]
            pools.append(PoolEntry(Pool(pool), flying.get(pool, 0), held.get(pool, 0), workers, troubles.get(pool, ""), waits.get(pool, 0)))
        return Pools(pools)


def _worker(seen: Seen) -> WorkerEntry:
    hello = seen.hello
    functions = {one.path: one.version for one in hello.components if one.version}
    return WorkerEntry(hello.worker, hello.capacity, hello.running, hello.version, seen.at_ms, functions)


def count_tasks(shard: Shard, now_ms: int) -> TaskCounts:
    """Attempts in flight of one partition."""
    leases = shard.dispatcher.leases
    queued: dict[Pool, int] = {}
    held: dict[Pool, int] = {}
    for key, flight in leases.flights.items():
        _add(held if key in leases.held else queued, {Pool(flight.pool): 1})
    places = shard.session.places
    for pool, of_pool in {} if places is None else places.pools.items():
        if of_pool.waiting:
            _add(queued, {Pool(pool): of_pool.waiting})
    pools = [Pool(pool) for pool in leases.by_pool]
    waits = {pool: waiting_ms(shard, pool, now_ms) for pool in pools}
    return TaskCounts(queued, held, pools, waits, breakers=dict(_breakers(shard, now_ms)))


def _breakers(shard: Shard, now_ms: int) -> Iterator[tuple[Pool, str]]:
    for name, breaker in shard.session.state.permits.breakers.items():
        component, _, pool = name.partition(" in ")
        route = shard.session.router.route(component, b"null", pool or None)
        if not isinstance(route, Failure):
            seconds = max(0.0, (breaker.due_ms - now_ms) / 1000)
            yield Pool(route.pool), f"{component} said that what it needs is not available; one attempt tries it in {seconds:.0f} s"


def _add(sums: dict[str, int] | dict[Pool, int], counts: Mapping[Pool, int]) -> None:
    for pool, count in counts.items():
        sums[pool] = sums.get(pool, 0) + count
