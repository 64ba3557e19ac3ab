"""Routes for what scales pools and does not read OTLP: a pool's tasks as a JSON number, and all pools as Prometheus reads them.

Invariant: a pool that has nothing to do is told as 0, also before anybody used it, so that who scales by it has a number from the first
day. Units are tasks, never frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from starlette.responses import Response

from stepmesh_broker.protocol.pools import PoolEntry
from stepmesh_gateway.http import messages
from stepmesh_gateway.http.registry import Asked, NoQuery, Route, Scope

PROMETHEUS = "text/plain; version=0.0.4; charset=utf-8"
_GAUGES: tuple[tuple[str, str, Callable[[PoolEntry], float]], ...] = (
    ("wanted", "Tasks that wait and tasks under way.", lambda pool: pool.wanted),
    ("queued", "Tasks that wait for a worker, or were begun less than a second ago.", lambda pool: pool.queued),
    ("leased", "Tasks that a worker claimed.", lambda pool: pool.in_flight),
    ("oldest_task_seconds", "How long the oldest task that waits does.", lambda pool: pool.oldest_ms / 1000),
    ("workers", "Live workers.", lambda pool: len(pool.workers)),
    ("capacity", "Tasks that the live workers take at once.", lambda pool: pool.capacity),
)


async def list_pools(asked: Asked[NoQuery, None]) -> messages.Pools:
    """Every pool that has tasks, or had a worker."""
    return messages.Pools(pools=[_view(pool) for pool in await asked.operations.pools()])


async def get_pool(asked: Asked[NoQuery, None]) -> messages.Pool:
    """One pool; zeros for one that nobody used yet."""
    return _view(await asked.operations.pool(asked.path["pool"]))


async def get_metrics(asked: Asked[NoQuery, None]) -> Response:
    """Pools in the text format of Prometheus. Everything else is told over OTLP."""
    lines = _exposition(await asked.operations.pools(), asked.operations.namespace)
    return Response("".join(f"{line}\n" for line in lines), media_type=PROMETHEUS)


def _view(pool: PoolEntry) -> messages.Pool:
    return messages.Pool(
        pool=pool.pool,
        wanted=pool.wanted,
        queued=pool.queued,
        leased=pool.in_flight,
        oldest_seconds=pool.oldest_ms / 1000,
        workers=len(pool.workers),
        capacity=pool.capacity,
    )


def _exposition(pools: Sequence[PoolEntry], namespace: str) -> Iterator[str]:
    """Names of pools and namespaces hold nothing that would have to be escaped."""
    for name, about, value in _GAUGES:
        yield f"# HELP stepmesh_pool_{name} {about}"
        yield f"# TYPE stepmesh_pool_{name} gauge"
        for pool in pools:
            yield f'stepmesh_pool_{name}{{namespace="{namespace}",pool="{pool.pool}"}} {value(pool):g}'


ROUTES = (
    Route(
        method="GET", path="/api/v1/pools", scope=Scope.READ, summary="Pools, their tasks and workers", handler=list_pools,
        answer=messages.Pools,
    ),
    Route(
        method="GET", path="/api/v1/pools/{pool}", scope=Scope.READ, summary="One pool, to scale by", handler=get_pool,
        answer=messages.Pool,
    ),
    Route(
        method="GET", path="/metrics", scope=Scope.READ, summary="Pools, for Prometheus", handler=get_metrics,
        answer=messages.Document, media=("text/plain",),
    ),
)  # fmt: skip
