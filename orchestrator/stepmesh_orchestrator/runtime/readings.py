"""A shard's gauges and counters as values, taken on the event loop between turns, so that nobody else need look into a live shard."""

from __future__ import annotations

from collections.abc import Iterator

from stepmesh_orchestrator.core.places import Places
from stepmesh_orchestrator.ports import Clock
from stepmesh_orchestrator.runtime.shard import Shard
from stepmesh_orchestrator.runtime.sweeper import Sweeper
from stepmesh_orchestrator.telemetry.departures import attempt_began_ms
from stepmesh_orchestrator.telemetry.observer import PoolReading, ShardReading

READ_EVERY_S = 5.0


def read_shard(shard: Shard, sweeper: Sweeper, clock: Clock) -> ShardReading:
    """Costs a look at each frame in flight and at each lease."""
    dispatcher, session, counters = shard.dispatcher, shard.session, shard.counters
    return ShardReading(
        partition=shard.partition,
        pools={pool: _pool(shard, pool, clock.now_ms()) for pool in dispatcher.leases.by_pool},
        runs=len(session.state.runs) + len(session.state.dormant),
        inbox_messages=len(shard.inputs.messages),
        outbox_frames=len(dispatcher.outbox),
        projection_rows=shard.projector.waiting,
        published=dispatcher.tasks_published,
        redispatched=sweeper.redispatched,
        stale_results=session.stale_results,
        malformed=counters.malformed,
        quarantined=counters.quarantined,
        breakers=len(session.state.permits.breakers),
        lanes={} if session.places is None else dict(_lanes(session.places, shard.namespace)),
    )


def _lanes(places: Places, own: str) -> Iterator[tuple[tuple[str, str], int]]:
    """A pool that nobody waits for has one of the deployment's own namespace, so that it is seen to be empty."""
    for pool, of_pool in places.pools.items():
        yield (pool, own), 0
        for namespace, lane in of_pool.lanes.items():
            yield (pool, namespace), lane.waiting


def _pool(shard: Shard, pool: str, now_ms: int) -> PoolReading:
    leases = shard.dispatcher.leases
    claimed = sum(1 for key in leases.held if (flight := leases.flights.get(key)) is not None and flight.pool == pool)
    unfinished = sum(max(0, flight.open) for flight in leases.by_pool[pool])
    oldest_ms = _oldest_ms(shard, pool)
    places = shard.session.places
    waiting = places.pools[pool].waiting if places is not None and pool in places.pools else 0
    return PoolReading(max(0, unfinished - claimed) + waiting, claimed, 0.0 if oldest_ms is None else max(0.0, (now_ms - oldest_ms) / 1000))


def waiting_ms(shard: Shard, pool: str, now_ms: int) -> int:
    """How long the oldest task of a pool that nobody claimed has waited; 0 when there is none."""
    since = _oldest_ms(shard, pool, claimed=False)
    return 0 if since is None else max(0, now_ms - since)


def _oldest_ms(shard: Shard, pool: str, *, claimed: bool = True) -> int | None:
    """When the oldest attempt in flight began, those that are claimed included or not: frames lie in order of their dispatch."""
    leases, runs = shard.dispatcher.leases, shard.session.state.runs
    for flight in leases.by_pool.get(pool, ()):
        for key in flight.keys if flight.open > 0 else ():
            if not claimed and key in leases.held:
                continue
            run = runs.get(key[0])
            item = None if run is None else run.items.get(key[1])
            if item is not None and leases.flights.get(key) is flight:
                return attempt_began_ms(item, key[2])
    return None
