"""How many tasks of a pool may be in flight: what its workers take at once, twice, and about a second of their work beyond that.

More would only lie in the broker's queue, which is first come, first served, ahead of whoever is called later; less would let workers
wait. A pool without a worker that was heard has the window of the settings.
"""

from __future__ import annotations

from collections.abc import Mapping

from stepmesh_orchestrator.core.places import Places
from stepmesh_orchestrator.runtime.packing import PoolPace
from stepmesh_orchestrator.runtime.presence import Presence

AHEAD_US = 1_000_000.0
"""The work that lies ready for workers, in µs."""


def fit(places: Places, presence: Presence, paces: Mapping[str, PoolPace]) -> None:
    """Set the limits of all pools by what their workers said last, and how long their tasks took lately. The next decision calls those
    who wait where places became free by that."""
    for pool in {*presence.pools(), *places.pools}:
        capacity = sum(max(1, seen.hello.capacity) for seen in presence.seen(pool))
        places.limits[pool] = limit(capacity, paces.get(pool), places.window) if capacity else places.window
    for pool, of_pool in places.pools.items():
        of_pool.limit = places.limits[pool]
        if of_pool.waiting and of_pool.taken < of_pool.limit:
            places.vacant[of_pool] = None


def limit(capacity: int, pace: PoolPace | None, window: int) -> int:
    """Of a pool whose workers take `capacity` tasks at once."""
    average_us = (pace or PoolPace()).average_us
    return 2 * capacity + min(window, int(capacity * AHEAD_US / max(average_us, 1.0)))
