"""Requests about the deployment: what it is, which pools it has, who works for them and what they offer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from stepmesh_broker.protocol import api
from stepmesh_broker.protocol.ids import Partition, Pool
from stepmesh_orchestrator.core.decide.offered import core_components
from stepmesh_orchestrator.runtime.partition import PartitionService
from stepmesh_orchestrator.runtime.presence import Presence
from stepmesh_orchestrator.runtime.readings import waiting_ms

_BUILTIN = Pool("builtin")


class DeploymentRequests:
    """Their answers. `queues`: the pools of the configuration; None = there is none, any name may be a pool."""

    def __init__(
        self,
        info: api.Info,
        queues: Sequence[api.Queue] | None,
        presence: Presence,
        partitions: Mapping[Partition, PartitionService],
        component_path: Callable[[Pool, str], str],
    ) -> None:
        self._info = info
        self._queues = queues
        self._presence = presence
        self._partitions = partitions
        self._component_path = component_path
        self.answers: dict[type, Callable[[Any], Awaitable[api.ApiAnswer]]] = {
            api.GetInfo: self._get_info,
            api.ListComponents: self._list_components,
            api.ListQueues: self._list_queues,
            api.ListPools: self._list_pools,
        }

    async def _get_info(self, request: api.GetInfo) -> api.ApiAnswer:
        return self._info

    async def _list_components(self, request: api.ListComponents) -> api.ApiAnswer:
        self._presence.forget_silent()
        found = [api.ComponentEntry(self._component_path(_BUILTIN, one.path), _BUILTIN, one, 1) for one in core_components()]
        for pool, components in self._presence.offered().items():
            for path, component in components.items():
                name = Pool(pool)
                found.append(api.ComponentEntry(self._component_path(name, path), name, component, self._presence.workers(pool)))
        return api.Components(sorted(found, key=lambda entry: entry.path), self._silent())

    def _silent(self) -> list[Pool]:
        """Pools that should have workers, of which none ever said hello."""
        wanted = {queue.pool for queue in self._queues or ()}
        wanted.update(Pool(pool) for service in self._partitions.values() for pool in service.shard.dispatcher.leases.by_pool)
        return sorted(wanted.difference(self._presence.pools()))

    async def _list_queues(self, request: api.ListQueues) -> api.ApiAnswer:
        return api.Queues(list(self._queues or ()), open=self._queues is None)

    async def _list_pools(self, request: api.ListPools) -> api.ApiAnswer:
        self._presence.forget_silent()
        held: dict[str, int] = {}
        flying: dict[str, int] = {}
        for service in self._partitions.values():
            leases = service.shard.dispatcher.leases
            for key, flight in leases.flights.items():
                counts = held if key in leases.held else flying
                counts[flight.pool] = counts.get(flight.pool, 0) + 1
        pools: list[api.PoolEntry] = []
        troubles = self._presence.troubles()
        waits = self._waits()
        for pool in sorted({*held, *flying, *self._presence.pools(), *troubles}):
            workers = [
                api.WorkerEntry(seen.hello.worker, seen.hello.capacity, seen.hello.running, seen.hello.version, seen.at_ms)
                for seen in self._presence.seen(pool)
            ]
            pools.append(
                api.PoolEntry(Pool(pool), flying.get(pool, 0), held.get(pool, 0), workers, troubles.get(pool, ""), waits.get(pool, 0))
            )
        return api.Pools(pools)

    def _waits(self) -> dict[str, int]:
        """Pool → how long its oldest task waits, ms."""
        found: dict[str, int] = {}
        for service in self._partitions.values():
            now_ms = service.ports.clock.now_ms()
            for pool in service.shard.dispatcher.leases.by_pool:
                found[pool] = max(found.get(pool, 0), waiting_ms(service.shard, pool, now_ms))
        return found
